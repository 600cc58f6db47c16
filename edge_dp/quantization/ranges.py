"""The quantisation state of a model: one row per activation. Needs neither torch nor an engine."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Quantisation of one activation: real = scale * (q - zero_point), q in [-128, 127].

    ``tensor`` is the name of the graph node that computes it. ``scale`` is exact in a half float. An activation of 16 bits has
    zero point 0, q in [-32768, 32767] and any scale; where a tensor has both, ``tensor`` ends in ``.int16`` for the second.
    """

    tensor: str
    scale: float
    zero_point: int

    @property
    def executable(self) -> bool:
        """Whether an integer engine can use it: a positive finite scale, a zero point that is an int8."""
        return math.isfinite(self.scale) and self.scale > 0 and -128 <= self.zero_point <= 127
