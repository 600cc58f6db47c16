"""Histograms of errors in quantisation steps, as bars on a logarithmic axis: one wrong value among a million is still seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_dp.runtime.parity import ErrorStatistics

WIDTH, HEIGHT = 300, 90
"""Of the area that the bars are drawn in."""
_FEWEST_BARS = 5
_SHORTEST = 2.0
_MOST_LABELS = 11


@dataclass(frozen=True, slots=True)
class Bar:
    """How many errors round to so many steps. x, width, height: in the area; a count of zero has no height.

    below: the label where it is drawn; empty where it would crowd.
    """

    label: str
    below: str
    count: int
    x: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Errors of one output. exact, within_one: how many values round to no step, to at most one. ticks: height and label."""

    output: str
    total: int
    exact: int
    within_one: int
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, int], ...]


def histogram(output: str, statistics: ErrorStatistics) -> Histogram | None:
    """The histogram of one output; None where every error rounds to zero, which needs no picture."""
    counts = statistics.histogram
    if not any(counts[1:]):
        return None
    shown = max(max(index for index, count in enumerate(counts) if count) + 1, _FEWEST_BARS)
    decades = max(math.ceil(math.log10(max(counts))), 1)
    pitch = WIDTH / shown
    labels = [*map(str, range(len(counts) - 1)), f"{len(counts) - 1}+"]

    def height(count: int) -> float:
        return max(HEIGHT * math.log10(count) / decades, _SHORTEST) if count else 0.0

    return Histogram(
        output,
        sum(counts),
        counts[0],
        counts[0] + counts[1],
        tuple(
            Bar(
                label,
                label if shown <= _MOST_LABELS or index % 3 == 0 else "",
                count,
                round(pitch * (index + 0.12), 1),
                round(pitch * 0.76, 1),
                round(height(count), 1),
            )
            for index, (label, count) in enumerate(zip(labels, counts[:shown], strict=False))
        ),
        tuple((HEIGHT * power / decades, 10**power) for power in range(0, decades + 1, math.ceil(decades / 3))),
    )
