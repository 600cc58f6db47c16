"""The chain of layers that a blame compared, as bars: where the error begins and how it goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_dp.runtime.blame import Blame, Layer

WIDTH, HEIGHT = 600, 70
"""Of the area that the bars are drawn in."""
_AROUND = 3


@dataclass(frozen=True, slots=True)
class Link:
    """One layer. number: from 1. x, width, height: of its bar; equal ratios of 1 + error are equally high."""

    number: int
    layer: Layer
    guilty: bool
    x: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chain:
    """All links, those around the guilty one (all where none is or all are near), and the largest error in steps."""

    links: tuple[Link, ...]
    around: tuple[Link, ...]
    largest: float


def make_chain(blame: Blame) -> Chain:
    """The chain of ``blame``, which may be empty."""
    largest = max((layer.max_steps for layer in blame.layers), default=0.0)
    full = math.log1p(largest) or 1.0
    pitch = WIDTH / max(len(blame.layers), 1)
    guilty = blame.layers.index(blame.guilty) if blame.guilty in blame.layers else None
    links = tuple(
        Link(
            index + 1,
            layer,
            index == guilty,
            round(pitch * (index + 0.1), 1),
            round(pitch * 0.8, 1),
            round(max(HEIGHT * math.log1p(layer.max_steps) / full, 1.0), 1),
        )
        for index, layer in enumerate(blame.layers)
    )
    around = links if guilty is None else links[max(guilty - _AROUND, 0) : guilty + _AROUND + 1]
    return Chain(links, around, largest)
