"""Batches: the one of a step is a function of seed, stage and step alone, whoever makes it, when, and in how many parts."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.training.loop.sources import Source
from edge_dp.training.recipe import StageRecipe, TargetRecipe

_AHEAD = 3  # batches that wait, at most
_EXPOSURE = 0.7  # largest scatter of ln exposure: a crop's mean is not the mean of the whole image


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step sees, on its device.

    views: (B, 2, H, W) exposed about as the deployed model sees them.
    label: (B, 1, H/2, W/2) px of the views.
    sigma: as ``label``, its standard deviation, px.
    mask: as ``label``, bool.
    """

    views: Tensor
    label: Tensor
    sigma: Tensor
    mask: Tensor

    def image(self) -> Tensor:
        """(B, 1, H/2, W/2) mean of the views, in units of its own mean: an edge is about 1."""
        image = nn.functional.avg_pool2d(self.views.mean(1, keepdim=True), 2)
        return image / image.mean((1, 2, 3), keepdim=True).clamp(min=1e-6)


@dataclass(frozen=True, slots=True)
class _Draw:
    """What is random about one capture of a batch."""

    number: int
    upside_down: bool
    mirrored: bool
    scatter: float
    corner: tuple[int, int]
    blank: NDArray[np.float32] | None


class BatchMaker:
    """Makes batches.

    Args:
        source: of captures.
        targets: what the labels are.
        exposure: of the deployed model.
        seed: of the run.
        device: where batches go.
    """

    def __init__(
        self, source: Source, targets: TargetRecipe, exposure: ExposureNormalisation, seed: int, device: torch.device
    ) -> None:
        self.source, self.targets, self.exposure, self.seed, self.device = source, targets, exposure, seed, device

    def __call__(self, stage: int, step: int, recipe: StageRecipe, share: range) -> Batch:
        """Captures ``share`` of the batch of one step.

        A share ``recipe.blank_share_at(step)`` of the captures has views of noise or constants in place of theirs; labels stay.
        Where nothing can be matched the network then learns to expect the middle of all disparities, and to be unsure,
        instead of guessing wildly; a guess is what small differences in rounding disturb most.
        """
        size = recipe.crop or self.source.size
        draws = [
            self._draw(np.random.default_rng([self.seed, stage, step, i]), size, recipe.blank_share_at(step))
            for i in share
        ]
        captures = self.source.captures([draw.number for draw in draws])
        target = captures.label if self.targets.supervision == "labels" else captures.truth
        known = np.isfinite(target)  # the truth of photographs is not
        mask = captures.mask & known if self.targets.use_mask else known
        views = self._exposed(self._cut(captures.views, draws, size, 2).float(), [draw.scatter for draw in draws])
        if self.exposure.transfer == "square_root" and step >= recipe.linear_steps:
            views.sqrt_()
        for i, draw in enumerate(draws):
            if draw.blank is not None:
                views[i] = torch.from_numpy(draw.blank).to(self.device)
        label, sigma, valid = (self._cut(maps[:, None], draws, size, 1) for maps in (target, captures.sigma, mask))
        views = views.contiguous(memory_format=torch.channels_last)
        return Batch(views, label.float(), sigma.float(), valid)

    def _draw(self, rng: np.random.Generator, size: tuple[int, int], blank_share: float) -> _Draw:
        number = int(rng.choice(self.source.usable))
        upside_down, mirrored = (bool(rng.uniform() < 0.5) for _ in range(2))
        scatter = float(np.exp(rng.uniform(-_EXPOSURE, _EXPOSURE)))
        row, column = (
            int(rng.integers((whole - side) // 2 + 1)) for whole, side in zip(self.source.size, size, strict=True)
        )
        blank = _blank(rng, (2, *size)) if rng.uniform() < blank_share else None
        return _Draw(number, upside_down, mirrored, scatter, (row, column), blank)

    def _cut(self, maps: NDArray[np.generic], draws: list[_Draw], size: tuple[int, int], scale: int) -> Tensor:
        """The drawn part of each map (B, C, H, W), turned as drawn, on the device.

        Args:
            scale: of the maps, in units of the network's output; C is the two views at 2 and one map at 1.
        """
        height, width = (side * scale // 2 for side in size)
        parts = []
        for whole, draw in zip(maps, draws, strict=True):
            row, column = (place * scale for place in draw.corner)
            cut = whole[:, row : row + height, column : column + width]
            if draw.upside_down:  # nothing changes along the dual-pixel axis
                cut = cut[:, ::-1]
            if draw.mirrored:  # left and right trade places, and the disparity keeps its sign
                cut = cut[::-1, :, ::-1]
            parts.append(cut)
        return torch.from_numpy(np.stack(parts)).to(self.device)

    def _exposed(self, views: Tensor, scatter: list[float]) -> Tensor:
        """Light, exposed as the deployed model sees it, scattered."""
        means = views.mean(dim=(1, 2, 3), dtype=torch.float64).tolist()
        gains = [float(self.exposure.gain(mean)) * by for mean, by in zip(means, scatter, strict=True)]
        return views.mul_(torch.tensor(gains, device=views.device)[:, None, None, None]).clamp_(0.0, 1.0)


def _blank(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Views (2, H, W) without a scene: a level each, often the same or clipped to black or white, and independent noise."""
    levels = rng.uniform(-0.5, 1.5, (1 if rng.uniform() < 0.5 else 2, 1, 1))
    noise = rng.uniform(-0.5, 0.5, shape) * rng.choice([0.0, rng.uniform(), 1.0])
    return np.clip(np.clip(levels, 0.0, 1.0) + noise, 0.0, 1.0).astype(np.float32)


class Ahead:
    """Makes batches in background threads while the steps before them are computed, and measures how long they were waited for.

    Args:
        make: the batch of a step; what it gives must depend on the step alone.
        steps: first, and one past the last.
        threads: that make batches.
    """

    def __init__(self, make: Callable[[int], Batch], steps: range, threads: int = 1) -> None:
        self._make, self._steps, self._threads = make, steps, threads
        self._waited = 0.0

    def waited(self) -> float:
        """Seconds since this was asked last."""
        seconds, self._waited = self._waited, 0.0
        return seconds

    def __iter__(self) -> Iterator[Batch]:
        # What a thread computes must not depend on how many cores the machine has.
        pool = ThreadPoolExecutor(self._threads, initializer=torch.set_num_threads, initargs=(1,))
        waiting = iter(self._steps)
        running: deque[Future[Batch]] = deque()
        try:
            running.extend(pool.submit(self._make, step) for step in islice(waiting, _AHEAD + self._threads - 1))
            while running:
                start = time.monotonic()
                batch = running.popleft().result()
                self._waited += time.monotonic() - start
                running.extend(pool.submit(self._make, step) for step in islice(waiting, 1))
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)
