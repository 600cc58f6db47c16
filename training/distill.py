"""The distillation run: simulate and label, train the float student, train it quantisation-aware, write the checkpoint.

Everything is a function of the recipe: captures of their index, batches and learning rates of the step. So the complete state of
a run is weights, optimiser moments and a step number, and a run killed at any moment goes on from its last save as if nothing
had happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import platform
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from edge_dp._version import VERSION
from edge_dp.errors import TrainingError
from edge_dp.files import atomic_write, json_dump, json_load
from edge_dp.models.checkpoint import Checkpoint, write_checkpoint
from edge_dp.models.registry import build_student, student_entry
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.simulation.shards import claim_folder
from edge_dp.training.labels import SHARD_SIZE, Samples, data_set_key, read_shards, write_shards
from edge_dp.training.losses import l1, laplace_nll
from edge_dp.training.recipe import Recipe, StageRecipe

Progress = Callable[[str, int, int, str], None]
"""Called with the stage's name, steps done, steps in all and a short text."""

TEACHER_LICENCE = "none: OpenCV semi-global matching has no weights (code Apache-2.0)"
DATA_LICENCE = "none: procedural scenes rendered by edge_dp"


def train(
    recipe: Recipe, folder: Path, *, resume: bool = False, workers: int | None = None, progress: Progress
) -> Path:
    """Run a recipe.

    Args:
        folder: of the run; holds the simulated captures, the state and in the end ``checkpoint/``.
        resume: go on with what ``folder`` holds; otherwise it must not hold a run.
        workers: processes that simulate; all cores unless given.
        progress: see ``Progress``.

    Returns:
        The checkpoint's folder.

    Raises:
        InputError: the folder holds another run or something else, or nothing to resume.
    """
    claim_folder(folder, "recipe.json", dataclasses.asdict(recipe), holds="run", resume=resume)
    clock = _Clock(folder / "seconds.json")
    with clock.measure("simulate"):
        samples, held_out = _samples(recipe, folder, workers or os.cpu_count() or 1, progress)
    torch.manual_seed(recipe.seed)
    student = build_student(recipe.student)
    run = _Run(recipe, folder, samples, progress)

    with clock.measure("float"):
        run.stage("float", 0, student, recipe.float_stage)
    student.eval()
    float_epe = evaluate(student, held_out)
    student.fold_batch_norm()

    from edge_dp.quantization import qat  # needs torchao, which the stages before do without

    height, width = samples.views.shape[2:]
    prepared = qat.prepare(student, (torch.zeros(1, 2, height, width),))
    stage = recipe.quantised_stage
    with clock.measure("quantised"), contextlib.ExitStack() as noise:

        def after(step: int) -> None:
            if step == stage.observe_steps:
                qat.freeze_ranges(prepared)
                qat.set_output_ranges(prepared, _output_limits(recipe))
                noise.enter_context(qat.rounding_noise(prepared, stage.rounding_noise))

        run.stage("quantised", 1, prepared, stage, after)
    qat.freeze_ranges(prepared)
    student.load_state_dict({name: prepared.get_parameter(name) for name in student.state_dict()})
    checkpoint = Checkpoint(
        student=recipe.student,
        input_size=student_entry(recipe.student).size,
        weights={name: tensor.detach().numpy().copy() for name, tensor in student.state_dict().items()},
        ranges=tuple(qat.read_ranges(prepared)),
        exposure=ExposureNormalisation(),
        training={
            "recipe": dataclasses.asdict(recipe),
            "data": "procedural layered scenes; uniform and field-varying point-spread functions; shading, noise, raw levels",
            "data_licence": DATA_LICENCE,
            "teacher": "opencv-sgbm with left-right check on simulated wide-baseline pairs to both sides",
            "teacher_licence": TEACHER_LICENCE,
            "ground_truth_used": False,
            "metrics": {
                "held_out_epe_px_float": round(float_epe, 4),
                "held_out_epe_px_quantised": round(evaluate(prepared, held_out), 4),
                "held_out_epe_px_teacher": _teacher_epe(held_out),
            },
            "minutes": round(sum(clock.seconds.values()) / 60, 1),
            "minutes_of_part": {name: round(seconds / 60, 1) for name, seconds in clock.seconds.items()},
            "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "versions": {"edge_dp": VERSION, "torch": torch.__version__},
        },
    )
    return write_checkpoint(checkpoint, folder / "checkpoint")


def _output_limits(recipe: Recipe) -> list[tuple[float, float]]:
    """The scenes' disparity, a tenth wider, and confidence from 0 to 1, likewise: averages of batches would cut the ends."""
    low, high = recipe.data.simulation.scene.disparity
    margin = 0.1 * (high - low)
    return [(low - margin, high + margin), (-0.1, 1.1)]


def evaluate(module: nn.Module, samples: Samples) -> float:
    """Mean absolute disparity error against the simulated truth, px of the input, over every output pixel."""
    errors = []
    with torch.no_grad():
        for start in range(0, len(samples), 16):
            part = slice(start, start + 16)
            views = ExposureNormalisation()(samples.views[part].astype(np.float32))
            disparity, _ = module(torch.from_numpy(views))
            errors.append(np.abs(disparity.numpy()[:, 0] - samples.truth[part].astype(np.float32)).mean(axis=(1, 2)))
    return float(np.concatenate(errors).mean())


def draw_batch(
    samples: Samples, seed: int, stage: int, step: int, size: int, blank_share: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The batch of one step, a function of its arguments alone.

    Args:
        blank_share: of captures whose views give way to noise or constants while their labels stay. Where nothing can be
            matched the network then learns to expect the middle of all disparities, and to be unsure, instead of guessing
            wildly; a guess is what small differences in rounding disturb most.

    Returns:
        views (B, 2, H, W), label and mask (B, 1, H/2, W/2).
    """
    rng = np.random.default_rng([seed, stage, step])
    chosen = rng.integers(0, len(samples), size)
    views = samples.views[chosen].astype(np.float32)
    label, mask = samples.label[chosen].astype(np.float32), samples.mask[chosen]
    for i in range(size):
        if rng.uniform() < 0.5:  # upside down: nothing changes along the dual-pixel axis
            views[i], label[i], mask[i] = views[i, :, ::-1], label[i, ::-1], mask[i, ::-1]
        if rng.uniform() < 0.5:  # mirrored: left and right trade places, and the disparity keeps its sign
            views[i], label[i], mask[i] = views[i, ::-1, :, ::-1], label[i, :, ::-1], mask[i, :, ::-1]
    views = _expose(rng, views)
    if blank_share:
        for i in np.flatnonzero(rng.uniform(size=size) < blank_share).tolist():
            views[i] = _blank(rng, views[i].shape)
    return torch.from_numpy(views), torch.from_numpy(label)[:, None], torch.from_numpy(mask)[:, None]


def _expose(rng: np.random.Generator, views: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exposure as the deployed model sees it, scattered: a crop's mean is not the mean of the whole image."""
    scatter = np.exp(rng.uniform(-0.7, 0.7, (len(views), 1, 1, 1)))
    return np.clip(ExposureNormalisation()(views) * scatter, 0.0, 1.0).astype(np.float32)


def _blank(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Views (2, H, W) without a scene: a level each, often the same or clipped to black or white, and independent noise."""
    levels = rng.uniform(-0.5, 1.5, (1 if rng.uniform() < 0.5 else 2, 1, 1))
    noise = rng.uniform(-0.5, 0.5, shape) * rng.choice([0.0, rng.uniform(), 1.0])
    return np.clip(np.clip(levels, 0.0, 1.0) + noise, 0.0, 1.0).astype(np.float32)


def learning_rate(stage: StageRecipe, step: int) -> float:
    """One cycle: a linear rise over the first tenth, then half a cosine down to zero (Smith and Topin 2019)."""
    rise = max(1, stage.steps // 10)
    if step < rise:
        return stage.learning_rate * (step + 1) / rise
    return stage.learning_rate * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, stage.steps - rise)))


class _Clock:
    """Seconds spent in each part of the run, over all sessions that worked on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.seconds: dict[str, float] = json_load(path) if path.is_file() else {}

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[part] = round(self.seconds.get(part, 0.0) + time.monotonic() - start, 1)
            json_dump(self.seconds, self.path)


class _Run:
    """What the stages of one run share."""

    def __init__(self, recipe: Recipe, folder: Path, samples: Samples, progress: Progress) -> None:
        self.recipe, self.folder, self.samples, self.progress = recipe, folder, samples, progress

    def stage(
        self,
        name: str,
        index: int,
        module: nn.Module,
        stage: StageRecipe,
        after: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Train ``module`` in place for one stage, from its last save where there is one; ``after`` is called after each step."""
        parameters = dict(module.named_parameters())
        optimiser = torch.optim.AdamW(parameters.values(), lr=stage.learning_rate, weight_decay=stage.weight_decay)
        state = self.folder / f"{name}.safetensors"
        first = _load_state(state, module, parameters, optimiser) if state.is_file() else 0
        for step in range(1, first + 1):
            after(step)
        smooth = math.nan
        for step in range(first, stage.steps):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(stage, step)
            torch.manual_seed(hash((self.recipe.seed, index, step)))  # noise too is a function of the step alone
            views, label, mask = draw_batch(self.samples, self.recipe.seed, index, step, stage.batch, stage.blank_share)
            disparity, confidence = module(views.to(memory_format=torch.channels_last))
            error = l1(disparity, label, mask)
            loss = laplace_nll(disparity, confidence, label, mask) + error
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"{name} stage, step {step}: the loss is not finite; lower learning_rate in the recipe"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters.values(), 5.0)
            optimiser.step()
            value = error.item()
            smooth = value if math.isnan(smooth) else 0.98 * smooth + 0.02 * value
            after(step + 1)
            self.progress(name, step + 1, stage.steps, f"error against the teacher {smooth:.3f} px")
            if (step + 1) % self.recipe.save_every == 0 or step + 1 == stage.steps:
                _save_state(state, step + 1, module, parameters, optimiser)


def _save_state(
    path: Path, step: int, module: nn.Module, parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> None:
    tensors = {f"module/{name}": value for name, value in module.state_dict().items()}
    for name, parameter in parameters.items():
        tensors |= {f"optimiser/{name}/{key}": value for key, value in optimiser.state[parameter].items()}
    tensors = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata={"step": str(step)})


def _load_state(
    path: Path, module: nn.Module, parameters: dict[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: damaged state ({error}); delete it to start this stage again") from error
    modules = {name.removeprefix("module/"): value for name, value in tensors.items() if name.startswith("module/")}
    state: Any = OrderedDict(modules)
    versions: Any = module.state_dict()
    state._metadata = versions._metadata  # without them torchao resets each observer's eps
    _fit_buffers(module, modules)
    module.load_state_dict(state)
    for name, parameter in parameters.items():
        prefix = f"optimiser/{name}/"
        optimiser.state[parameter] = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return step


def _fit_buffers(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Observers start with empty buffers and take their shape from the first data; give them the saved shapes."""
    for name, buffer in module.named_buffers():
        if name in state and buffer.shape != state[name].shape:
            buffer.resize_(state[name].shape)


def _samples(recipe: Recipe, folder: Path, workers: int, progress: Progress) -> tuple[Samples, Samples]:
    """Training and held-out captures; the held-out ones come first in the set and are never trained on."""
    data = recipe.data
    total = data.captures + data.held_out
    key = data_set_key(recipe.seed, data.simulation, recipe.teacher)
    shards = write_shards(
        folder / f"captures_{key}",
        total,
        recipe.seed,
        data.simulation,
        recipe.teacher,
        workers,
        lambda done: progress("simulate", min(done, total), total, f"shards of {SHARD_SIZE} captures"),
    )
    everything = read_shards(shards)
    arrays = dataclasses.astuple(everything)
    held_out = Samples(*(array[: data.held_out] for array in arrays))
    return Samples(*(array[data.held_out : total] for array in arrays)), held_out


def _teacher_epe(samples: Samples) -> float | None:
    errors = np.abs(samples.label.astype(np.float32) - samples.truth.astype(np.float32))[samples.mask]
    return round(float(errors.mean()), 4) if errors.size else None
