"""Blame: the first layer at which an artifact leaves the converted graph. ``edge_dp.converters.blame`` finds it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Layer:
    """One activation that the artifact shows. Errors are in its own quantisation steps, against the converted graph.

    module: path in the network; operation: as the graph calls it. max_steps, mean_steps: of its output.
    tensor: what the artifact calls it.
    own_max_steps, own_mean_steps: of its output against that of the graph's layer for the very inputs that it has in the
    artifact: its own part of the error.
    """

    module: str
    operation: str
    max_steps: float
    mean_steps: float
    tensor: str = ""
    own_max_steps: float = 0.0
    own_mean_steps: float = 0.0


@dataclass(frozen=True, slots=True)
class Blame:
    """Where an artifact leaves the converted graph.

    guilty: the first layer whose error is not explained by what enters it; null where there is none.
    before: the largest error, in steps, among what enters it. layers: all that could be compared, in order.
    """

    guilty: Layer | None
    before: float
    layers: tuple[Layer, ...]
