"""One stage of optimisation, from its last save where there is one."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from edge_dp.errors import TrainingError
from edge_dp.training.labels import Samples
from edge_dp.training.loop.average import MovingAverage
from edge_dp.training.loop.batches import Ahead, Batch
from edge_dp.training.loop.evaluate import predict
from edge_dp.training.loop.objective import objective
from edge_dp.training.loop.optimiser import optimiser
from edge_dp.training.loop.processes import Processes
from edge_dp.training.loop.record import Clock, Record
from edge_dp.training.loop.schedule import rates
from edge_dp.training.loop.state import load_state, save_state
from edge_dp.training.recipe import FloatStageRecipe, Recipe, StageRecipe

Progress = Callable[[str, int, int, str], None]
"""Called with the stage's name, steps done, steps in all and a short text."""

MakeBatch = Callable[[int, int, StageRecipe, range], Batch]
"""Gives those captures of a batch that are in the range, by number of the stage and step."""


@dataclass(frozen=True, slots=True)
class Loop:
    """What the stages of one run share.

    make: batches.
    threads: that make them.
    shown: captures to picture predictions of.
    record: None in processes other than the first.
    """

    recipe: Recipe
    folder: Path
    processes: Processes
    make: MakeBatch
    threads: int
    shown: Samples
    record: Record | None
    clock: Clock
    progress: Progress

    def run(
        self, name: str, module: nn.Module, *, after: Callable[[int], None] = lambda _: None, quiet_until: int = 0
    ) -> None:
        """Train ``module`` in place by the recipe's stage ``name``, and leave it with the weights to evaluate and ship.

        Args:
            after: called with the number of steps done after each step, those of a resumed run's earlier sessions too.
            quiet_until: steps before which nothing else than training may run the module.

        Raises:
            TrainingError: loss or gradient are not finite; the last save is from before that.
            InputError: a save cannot be written; the one before it is still there.
        """
        with self.clock.measure(name):
            try:
                _Stage(self, name, module, after, quiet_until).run()
            finally:
                if self.record is not None:
                    self.record.end()


class _Stage:
    def __init__(
        self, loop: Loop, name: str, module: nn.Module, after: Callable[[int], None], quiet_until: int
    ) -> None:
        self.loop, self.name, self.module, self.after, self.quiet_until = loop, name, module, after, quiet_until
        self.recipe, self.index = loop.recipe.stages[name], list(loop.recipe.stages).index(name)
        self.forward = _Forward(module, self.recipe, loop.processes.device)
        self.parameters = list(module.parameters())
        self.optimiser = optimiser(self.parameters, self.recipe)
        self.average = MovingAverage(module, self.recipe.ema)
        self.state = loop.folder / f"{name}.safetensors"
        self.smooth = math.nan

    def run(self) -> None:
        loop, recipe = self.loop, self.recipe
        first = load_state(self.state, self.module, self.average, self.optimiser) if self.state.is_file() else 0
        for step in range(1, first + 1):
            self.after(step)
        if first < recipe.steps:
            share = loop.processes.share(recipe.batch)
            ahead = Ahead(
                lambda step: loop.make(self.index, step, recipe, share), range(first, recipe.steps), loop.threads
            )
            if loop.record is not None:
                loop.record.begin(self.name, first)
            begun = time.monotonic()
            for step, batch in enumerate(ahead, first):
                numbers = self._step(step, batch)
                self.after(step + 1)
                numbers["seconds_per_step"] = (time.monotonic() - begun) / (step + 1 - first)
                self._note(step + 1, numbers)
                if (step + 1) % loop.recipe.save_every == 0 or step + 1 == recipe.steps:
                    loop.clock.add(f"{self.name}: waiting for data", ahead.waited())
                    self._save(step + 1)
        self.average.put_in()
        self.module.float()

    def _step(self, step: int, batch: Batch) -> dict[str, float]:
        recipe, processes = self.recipe, self.loop.processes
        planned = recipe.schedule_steps or recipe.steps
        rate, momentum = rates(recipe.schedule, recipe.learning_rate, recipe.warmup, planned, step)
        for group in self.optimiser.param_groups:
            group["lr"], group["betas"] = rate * group["per_rate"], (momentum, group["betas"][1])
        torch.manual_seed(_seed(self.loop.recipe.seed, self.index, step, processes.rank))
        disparity, confidence = self.forward(batch.views)
        total, parts = objective(recipe.loss, disparity, confidence, batch, processes.mean)
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        processes.add_gradients(self.parameters)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, recipe.clip_norm)
        losses = processes.total(torch.stack([total.detach(), *parts.values()]))
        values: list[float] = torch.cat([losses, norm[None]]).tolist()
        if not all(map(math.isfinite, values)):
            raise TrainingError(
                f"{self.name} stage, step {step}: the loss or its gradient is not finite; lower learning_rate in the recipe"
            )
        self.optimiser.step()
        self.average.update(step)
        return dict(zip(["loss", *parts, "gradient_norm"], values, strict=True)) | {"learning_rate": rate}

    def _note(self, done: int, numbers: dict[str, float]) -> None:
        recipe, record = self.loop.recipe, self.loop.record
        value = numbers.get("l1", numbers["loss"])
        self.smooth = value if math.isnan(self.smooth) else 0.98 * self.smooth + 0.02 * value
        what = f"error against the teacher {self.smooth:.3f} px" if "l1" in numbers else f"loss {self.smooth:.3f}"
        self.loop.progress(self.name, done, self.recipe.steps, what)
        if record is None:
            return
        if done % recipe.log.every == 0 or done == self.recipe.steps:
            record.numbers(self.name, done, numbers)
        if done % recipe.log.pictures_every == 0 and done > self.quiet_until:
            some = self.loop.shown
            with self.average.instead():
                maps = predict(self.module, some.views, self.loop.recipe.exposure, self.loop.processes.device)
            record.pictures(self.name, done, some, *maps)

    def _save(self, done: int) -> None:
        if self.loop.record is not None:
            save_state(self.state, done, self.module, self.average, self.optimiser)
        self.loop.clock.save()


class _Forward:
    """The module as the stage computes it: in its precision, compiled or not. Outputs are float32, or double in fp64."""

    def __init__(self, module: nn.Module, recipe: StageRecipe, device: torch.device) -> None:
        self.device = device
        self.precision, is_compiled = (
            (recipe.precision, recipe.compile) if isinstance(recipe, FloatStageRecipe) else ("fp32", False)
        )
        self.dtype = torch.float64 if self.precision == "fp64" else torch.float32
        # The layout in which convolutions are fastest, on CPUs as on GPUs.
        module.to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its annotations
        self.call: Callable[[Tensor], tuple[Tensor, Tensor]] = torch.compile(module) if is_compiled else module

    def __call__(self, views: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            disparity, confidence = self.call(views.to(self.dtype))
        return disparity.to(self.dtype), confidence.to(self.dtype)


def _seed(*numbers: int) -> int:
    """A seed from several numbers, so that what is drawn within a step is a function of the step alone."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
