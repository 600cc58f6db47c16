"""Where captures come from: from memory, or from the simulator at the moment when they are wanted."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edge_dp.errors import InputError, TrainingError
from edge_dp.simulation.capture import draw_capture, render_draws, render_rig, simulate_with_rig
from edge_dp.simulation.render_torch import TorchRenderer
from edge_dp.training.labels import Samples, labelled
from edge_dp.training.recipe import Recipe


class Source(Protocol):
    """Numbered captures.

    usable: numbers of those to train on.
    size: height and width of the views, px.
    """

    usable: NDArray[np.int64]
    size: tuple[int, int]

    def captures(self, numbers: Sequence[int]) -> Samples:
        """These captures, in this order; may be called from several threads."""
        ...


class InMemory:
    """Captures in memory; those whose mask is empty are not usable.

    Args:
        samples: all of them.
        use_mask: whether the mask will be used.

    Raises:
        TrainingError: no capture has a pixel to learn from.
    """

    def __init__(self, samples: Samples, *, use_mask: bool) -> None:
        self._samples = samples
        self.size = (samples.views.shape[2], samples.views.shape[3])
        labelled_at_all = samples.mask.any(axis=(1, 2)) | (not use_mask)
        self.usable = np.flatnonzero(labelled_at_all)
        self.left_out = len(samples) - len(self.usable)
        if not self.usable.size:
            raise TrainingError(
                f"labels: the mask is empty in each of {len(samples)} captures: nothing to learn from. Check the teacher."
            )

    def captures(self, numbers: Sequence[int]) -> Samples:
        """See ``Source``."""
        return part(self._samples, np.asarray(numbers))


class Simulated:
    """Captures that are simulated and labelled when they are wanted, and not kept.

    Torch renders the views on a GPU and OpenCV on a CPU, unless told otherwise: views agree within a level of the sensor. Scenes
    are drawn and the teacher looks at them on the CPU, in the thread that asks.

    Args:
        recipe: with ``data.captures`` different captures, after the held-out ones.
        device: that trains.
        by_torch: whether torch renders.
    """

    def __init__(self, recipe: Recipe, device: torch.device, *, by_torch: bool | None = None) -> None:
        scene = recipe.data.simulation.scene
        self._recipe, self._device = recipe, device
        self._renderer = (
            TorchRenderer(scene.margin) if (device.type == "cuda" if by_torch is None else by_torch) else None
        )
        self._one_at_a_time = threading.Lock()  # the renderer keeps spectra from call to call
        self.usable = np.arange(recipe.data.held_out, recipe.data.held_out + recipe.data.captures)
        self.size = (scene.height, scene.width)

    def captures(self, numbers: Sequence[int]) -> Samples:
        """See ``Source``."""
        recipe, config = self._recipe, self._recipe.data.simulation
        if self._renderer is None:
            seen = [simulate_with_rig(recipe.seed, number, config) for number in numbers]
            rows = [
                labelled(capture.views, capture.disparity, rig, recipe.teacher, recipe.labels) for capture, rig in seen
            ]
        else:
            draws = [draw_capture(recipe.seed, number, config) for number in numbers]
            with self._one_at_a_time:
                views, truth = (t.cpu().numpy() for t in render_draws(draws, config, self._renderer, str(self._device)))
            rigs = [render_rig(draw.scene, config) for draw in draws]
            rows = [labelled(*one, recipe.teacher, recipe.labels) for one in zip(views, truth, rigs, strict=True)]
        return Samples(*(np.stack(column) for column in zip(*rows, strict=True)))


def part(samples: Samples, chosen: slice | NDArray[np.int64]) -> Samples:
    """Some of the captures."""
    return Samples(*(getattr(samples, field.name)[chosen] for field in dataclasses.fields(samples)))


def join(sets: Sequence[Samples]) -> Samples:
    """All captures of several sets.

    Raises:
        InputError: they differ in size.
    """
    if len(sizes := {one.views.shape[2:] for one in sets}) > 1:
        raise InputError(f"captures: expected one size in all sets, found {' and '.join(map(str, sorted(sizes)))}")
    names = [field.name for field in dataclasses.fields(Samples)]
    return Samples(*(np.concatenate([getattr(one, name) for one in sets]) for name in names))
