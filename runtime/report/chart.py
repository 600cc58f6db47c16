"""The latency chart: where each inference falls on one common axis, in percent of the width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_dp.runtime.latency import Latency

LOGARITHMIC_FROM = 8.0
"""Slowest over fastest inference from which the axis is logarithmic; below, it is linear and begins at zero."""


@dataclass(frozen=True, slots=True)
class Strip:
    """One timed artifact. marks: SVG path of a stroke per inference in a box 1000 wide and 24 high; p50, p90: 0 to 1000."""

    artifact: str
    latency: Latency
    marks: str
    p50: float
    p90: float


@dataclass(frozen=True, slots=True)
class Chart:
    """ticks: place on the axis, 0 to 1000, and its label in ms."""

    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]
    strips: tuple[Strip, ...]


def latency_chart(timed: Sequence[tuple[str, Latency]]) -> Chart | None:
    """A strip for each timed artifact, on one axis that holds every inference; None where nothing was timed."""
    if not timed:
        return None
    times = [value for _, latency in timed for value in latency.milliseconds]
    low, high = max(min(times), 1e-4), max(*times, 2e-4)
    logarithmic = high / low >= LOGARITHMIC_FROM
    place = _logarithmic(low, high) if logarithmic else _linear(high)
    ticks = tuple((place(value), f"{value:g}") for value in (_decades(low, high) if logarithmic else _even(high)))
    strips = tuple(
        Strip(
            artifact,
            latency,
            "".join(f"M{place(value):.1f} 4v16" for value in latency.milliseconds),
            round(place(latency.p50_ms), 1),
            round(place(latency.p90_ms), 1),
        )
        for artifact, latency in timed
    )
    return Chart(logarithmic, ticks, strips)


def _linear(high: float) -> Callable[[float], float]:
    return lambda value: 980 * value / high


def _logarithmic(low: float, high: float) -> Callable[[float], float]:
    span = math.log(high / low)
    return lambda value: 20 + 960 * math.log(max(value, low) / low) / span


def _even(high: float) -> list[float]:
    """Four to seven even ticks from zero."""
    power = 10.0 ** math.floor(math.log10(high))
    step = next(factor * power for factor in (2, 1, 0.5, 0.2, 0.1) if high / (factor * power) >= 3)
    return [round(index * step, 9) for index in range(math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``; powers of ten alone where those would crowd."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1, 2, 5) if high / low < 1e3 else (1,)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [round(value, 9) for value in ticks if low <= value <= high]
