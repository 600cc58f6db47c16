"""Errors of a metric depth.

All take arrays of one shape, depth in metres, above 0; they look only where ``mask`` is True and the weight is above 0,
average with the weights, and return a float. They raise InputError for shapes that differ, nothing to look at, a weight
that is negative or not finite, and there in prediction or target NaN, infinity or a depth that is not above 0.

Source: Eigen, Puhrsch and Fergus, "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NIPS
2014, section 4 (with c = 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_dp.errors import InputError
from edge_dp.metrics.pixels import Vector, counted_pixels, weighted_mean

DELTA_BASE = 1.25


def abs_rel(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """Weighted mean of |p - t| / t; lower is better."""
    p, t, c = _counted_depths(prediction, target, mask, weights)
    return weighted_mean(np.abs(p - t) / t, c)


def sq_rel(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """Weighted mean of (p - t)^2 / t, metres; lower is better."""
    p, t, c = _counted_depths(prediction, target, mask, weights)
    return weighted_mean((p - t) ** 2 / t, c)


def rmse(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """Square root of the weighted mean of (p - t)^2, metres; lower is better."""
    p, t, c = _counted_depths(prediction, target, mask, weights)
    return float(np.sqrt(weighted_mean((p - t) ** 2, c)))


def log_rmse(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """Square root of the weighted mean of (ln p - ln t)^2; lower is better."""
    p, t, c = _counted_depths(prediction, target, mask, weights)
    return float(np.sqrt(weighted_mean((np.log(p) - np.log(t)) ** 2, c)))


def delta(
    prediction: ArrayLike,
    target: ArrayLike,
    power: int = 1,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> float:
    """Weighted fraction, in [0, 1], of pixels with max(p / t, t / p) < 1.25^``power``; HIGHER is better.

    Raises InputError also for a power that is not 1, 2 or 3, the published ones.
    """
    if power not in (1, 2, 3):
        raise InputError(f"power: expected 1, 2 or 3, found {power}. Pass the k of 1.25^k.")
    p, t, c = _counted_depths(prediction, target, mask, weights)
    return weighted_mean(np.maximum(p / t, t / p) < DELTA_BASE**power, c)


def _counted_depths(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Vector, Vector, Vector]:
    p, t, c = counted_pixels(prediction, target, mask, weights)
    for name, depth in (("prediction", p), ("target", t)):
        bad = np.count_nonzero(depth <= 0)
        if bad:
            raise InputError(
                f"{name}: expected depth above 0 m, found {depth.min():g} and in all {bad} of {depth.size} pixels that "
                "are not. Mask them."
            )
    return p, t, c
