"""The quantisation state of a model: one row per activation. Needs neither torch nor an engine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Quantisation of one activation: real = scale * (q - zero_point), q in [-128, 127].

    ``tensor`` is the name of the graph node that computes it.
    """

    tensor: str
    minimum: float
    maximum: float
    scale: float
    zero_point: int
