"""Latency as pictures: artifacts side by side on one axis, and one artifact's inferences in order and sorted.

Every inference counts, and the slowest and fastest are always drawn; what would fall on the same spot is drawn once, so that a
picture of many thousand inferences is no larger than one of some hundred. The numbers are all in ``report.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_dp.runtime.latency import Latency
from edge_dp.runtime.report.axis import Axis

WIDTH, HEIGHT = 280, 100
"""Of the area that a curve is drawn in."""
_SPOTS = 400  # strokes that can be told apart in a strip
_BUCKETS = 140  # of an ordered curve; each draws its fastest and its slowest
_RANKS = 200  # of a sorted curve
_LEAST_FOR_CURVES = 8  # inferences; fewer are told by their numbers


@dataclass(frozen=True, slots=True)
class Strip:
    """One timed artifact. marks: SVG path of strokes in a box 1000 wide and 24 high; p50, p90: 0 to 1000."""

    anchor: str
    title: str
    latency: Latency
    marks: str
    p50: float
    p90: float


@dataclass(frozen=True, slots=True)
class Chart:
    """What was timed on one device. ticks: place on the axis, 0 to 1000, and its label in ms."""

    device: str
    kind: str
    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]
    strips: tuple[Strip, ...]


@dataclass(frozen=True, slots=True)
class Curves:
    """One artifact's inferences in order and sorted by time: SVG paths in a box ``WIDTH`` by ``HEIGHT``, time upwards.

    ticks: height in the box, from its top, and label in ms.
    """

    logarithmic: bool
    ticks: tuple[tuple[float, str], ...]
    ordered: str
    ranked: str


def latency_chart(device: str, timed: Sequence[tuple[str, str, Latency]]) -> Chart:
    """A strip for each timed artifact on a device, on one axis that holds every inference.

    Args:
        timed: anchor, title and latency of each; at least one.
    """
    axis = Axis.of(value for _, _, latency in timed for value in latency.milliseconds)
    return Chart(
        device,
        timed[0][2].kind,
        axis.logarithmic,
        tuple((1000 * place, label) for place, label in axis.ticks()),
        tuple(
            Strip(
                anchor,
                title,
                latency,
                "".join(f"M{spot:g} 4v16" for spot in _spots(axis, latency.milliseconds)),
                round(1000 * axis.place(latency.p50_ms), 1),
                round(1000 * axis.place(latency.p90_ms), 1),
            )
            for anchor, title, latency in timed
        ),
    )


def latency_curves(milliseconds: Sequence[float]) -> Curves | None:
    """Both curves of one artifact; None for fewer than eight inferences."""
    if len(milliseconds) < _LEAST_FOR_CURVES:
        return None
    axis = Axis.of(milliseconds)

    def height(value: float) -> float:
        return HEIGHT * (1 - axis.place(value))

    last = len(milliseconds) - 1
    return Curves(
        axis.logarithmic,
        tuple((round(HEIGHT * (1 - place), 1), label) for place, label in axis.ticks(5)),
        _path([(WIDTH * index / last, height(milliseconds[index])) for index in thin(milliseconds)]),
        _path([(WIDTH * rank / last, height(value)) for rank, value in _ranks(milliseconds)]),
    )


def thin(values: Sequence[float]) -> list[int]:
    """Indices, rising, of a curve that looks the same: the smallest and the largest of each of 140 stretches, and both ends."""
    count = len(values)
    if count <= 2 * _BUCKETS:
        return list(range(count))
    kept = {0, count - 1}
    for bucket in range(_BUCKETS):
        stretch = range(bucket * count // _BUCKETS, (bucket + 1) * count // _BUCKETS)
        kept |= {min(stretch, key=values.__getitem__), max(stretch, key=values.__getitem__)}
    return sorted(kept)


def _spots(axis: Axis, milliseconds: Sequence[float]) -> list[float]:
    width = 1000 / _SPOTS
    return [spot * width for spot in sorted({round(_SPOTS * axis.place(value)) for value in milliseconds})]


def _ranks(milliseconds: Sequence[float]) -> list[tuple[int, float]]:
    """Rank and time of up to 200 inferences, fastest and slowest among them."""
    ranked = sorted(milliseconds)
    last = len(ranked) - 1
    return [(rank, ranked[rank]) for rank in sorted({round(step * last / (_RANKS - 1)) for step in range(_RANKS)})]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
