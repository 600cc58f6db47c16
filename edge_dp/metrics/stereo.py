"""Errors of a disparity in px, as stereo benchmarks score them.

All take arrays of one shape, disparity in px at one resolution; they look only where ``mask`` is True and the weight is
above 0, average with the weights, and return a float; lower is better. They raise InputError for shapes that differ,
nothing to look at, a weight that is negative or not finite, and NaN or infinity there in prediction or target.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from edge_dp.errors import InputError
from edge_dp.metrics.pixels import counted_pixels, weighted_mean

D1_PX = 3.0
D1_FRACTION = 0.05


def epe(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """End-point error: weighted mean of |p - t|, px."""
    p, t, c = counted_pixels(prediction, target, mask, weights)
    return weighted_mean(np.abs(p - t), c)


def bad_px(
    prediction: ArrayLike,
    target: ArrayLike,
    threshold_px: float,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
) -> float:
    """Weighted fraction, in [0, 1], of pixels with |p - t| > ``threshold_px``.

    Raises InputError also for a threshold that is negative or not finite. Source: Scharstein and Szeliski, "A Taxonomy
    and Evaluation of Dense Two-Frame Stereo Correspondence Algorithms", IJCV 2002, equation 2.
    """
    if not (np.isfinite(threshold_px) and threshold_px >= 0):
        raise InputError(f"threshold_px: expected a finite number, 0 or above, found {threshold_px}. Pass px.")
    p, t, c = counted_pixels(prediction, target, mask, weights)
    return weighted_mean(np.abs(p - t) > threshold_px, c)


def d1(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """D1 of KITTI 2015: weighted fraction, in [0, 1], of pixels with |p - t| > 3 px and |p - t| > 0.05 |t|.

    KITTI prints per cent. Source: Menze and Geiger, "Object Scene Flow for Autonomous Vehicles", CVPR 2015.
    """
    p, t, c = counted_pixels(prediction, target, mask, weights)
    error = np.abs(p - t)
    return weighted_mean((error > D1_PX) & (error > D1_FRACTION * np.abs(t)), c)
