"""What a validation is asked to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge_dp.bundle.manifest import Bundle
from edge_dp.runtime.blame import Blame
from edge_dp.runtime.budgets import Budget
from edge_dp.runtime.dataset_parity import Reference
from edge_dp.runtime.engines.limits import Limits
from edge_dp.runtime.latency import PRESETS, Preset
from edge_dp.runtime.thresholds import THRESHOLDS, Threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Which cells of the matrix artifact x engine x device are filled, and what is measured in each.

    artifacts: names; all unless given.
    devices: addresses, as of ``edge_dp.runtime.devices.open_device``.
    engines: names; the first that executes an artifact's format on a device unless given.
    threads: CPU threads per inference.
    preset: how much is timed. Emulated devices are always timed by ``counted``: there every inference is alike.
    budgets: limits of latency, instructions and memory, for every row that has one.
    dataset: name and root folder of a data set to run; None for none. samples: at most so many of it; 0 for all.
    reference: makes the model of a bundle again, for parity over the data set; without it only the task's metric is told.
    blame: finds the guilty layer of an integer artifact, given the bundle and the name; run for those of the host. None
    where nobody asks.
    isolated: engines run in processes of their own.
    limits: of time and memory, per request.
    resume: take the finished rows of a run that was broken off, where nothing that they depend on has changed.
    """

    artifacts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("local",)
    engines: tuple[str, ...] = ()
    threads: int = 1
    preset: Preset = PRESETS["brief"]
    budgets: tuple[Budget, ...] = ()
    thresholds: Mapping[str, Threshold] = field(default_factory=lambda: dict(THRESHOLDS))
    dataset: tuple[str, Path] | None = None
    samples: int = 0
    reference: Callable[[Bundle], Reference] | None = None
    blame: Callable[[Bundle, str], Blame] | None = None
    isolated: bool = True
    limits: Limits = field(default_factory=Limits)
    resume: bool = False
