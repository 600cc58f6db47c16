"""Learning rate and momentum of a step, functions of the step alone, so that a resumed run needs no scheduler's state."""

from __future__ import annotations

import math

SCHEDULES = ("cosine", "one_cycle")
_START, _END = 1 / 25, 1e-4 / 25  # of one cycle, in units of the highest rate
_MOMENTUM = 0.85, 0.95
BETA = 0.9
"""AdamW's first momentum where the schedule leaves it alone."""


def rates(schedule: str, highest: float, warmup: float, steps: int, step: int) -> tuple[float, float]:
    """Learning rate and AdamW's first momentum of step ``step``, from 0.

    ``cosine``: a linear rise over the warm-up, then half a cosine down to zero (Loshchilov and Hutter, ICLR 2017).
    ``one_cycle``: half a cosine up from 1/25 of the highest rate, half a cosine down to 4e-6 of it, and momentum the other
    way between 0.95 and 0.85 (Smith and Topin, 2019, with the cosines and constants of PyTorch's OneCycleLR).

    Args:
        highest: learning rate.
        warmup: share of the steps over which it rises.
        steps: of the stage.
    """
    if schedule == "cosine":
        rise = max(1, round(warmup * steps))
        if step < rise:
            return highest * (step + 1) / rise, BETA
        return highest * 0.5 * (1.0 + math.cos(math.pi * (step - rise) / max(1, steps - rise))), BETA
    peak = warmup * steps - 1
    if step <= peak:
        done = step / peak if peak > 0 else 1.0
        return highest * _between(_START, 1.0, done), _between(_MOMENTUM[1], _MOMENTUM[0], done)
    done = (step - peak) / max(steps - 1 - peak, 1e-9)
    return highest * _between(1.0, _END, done), _between(_MOMENTUM[0], _MOMENTUM[1], done)


def _between(first: float, last: float, done: float) -> float:
    """Half a cosine from ``first`` to ``last``."""
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * done))
