"""Blame: the first layer at which an artifact leaves the converted graph."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """One activation that the artifact shows. Errors are in its own quantisation steps, against the converted graph.

    module: path in the network; operation: as the graph calls it. max_steps, mean_steps: of its output.
    """

    module: str
    operation: str
    max_steps: float
    mean_steps: float


@dataclass(frozen=True, slots=True)
class Blame:
    """Where an artifact leaves the converted graph.

    guilty: the first layer whose error is not explained by what enters it; null where there is none.
    before: the largest error, in steps, among what enters it. layers: all that could be compared, in order.
    """

    guilty: Layer | None
    before: float
    layers: tuple[Layer, ...]
