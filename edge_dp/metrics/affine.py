"""Affine-invariant errors: a dual-pixel disparity is affine in inverse depth, and focus and gain are often unknown.

Source: Garg et al., "Learning Single Camera Depth Estimation using Dual-Pixels", ICCV 2019, and the protocol of its
published evaluation (github google-research/google-research, dual_pixels/eval). That asks the solver for an L2
regularisation of 1e-5 with ``fast=False``, where TensorFlow documents that it is ignored: so there is none here, and
the errors do not change under an affine map of the prediction.

All three take arrays of one shape, look only where ``mask`` is True and the weight is above 0, and return a float;
lower is better. They raise InputError for shapes that differ, nothing to look at, a weight that is negative or not
finite, and NaN or infinity there in prediction or target.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_dp.errors import InputError

IRLS_ITERATIONS = 5
IRLS_FLOOR = 1e-3  # residuals below weigh no more; in units of the target

Vector = NDArray[np.float64]


def ai1(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """AI(1): least weighted mean absolute error over all affine maps, min_{a,b} sum c |a p + b - t| / sum c.

    By iteratively reweighted least squares, five fits with weights c / max(1e-3, |r|) from the fit before; the error is
    that of the last fit. An upper bound of the minimum, in general within a few per cent of it. A constant prediction
    is allowed.
    """
    p, t, c = _valid(prediction, target, mask, weights)
    residual = np.ones_like(t)
    for _ in range(IRLS_ITERATIONS):
        residual = np.abs(_fit_residual(p, t, c / np.maximum(IRLS_FLOOR, residual)))
    return float(c @ residual / c.sum())


def ai2(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """AI(2): least weighted root mean square error over all affine maps, min_{a,b} sqrt(sum c (a p + b - t)^2 / sum c).

    A constant prediction gives the weighted standard deviation of the target.
    """
    p, t, c = _valid(prediction, target, mask, weights)
    return float(np.sqrt(c @ _fit_residual(p, t, c) ** 2 / c.sum()))


def one_minus_abs_spearman(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None = None, weights: ArrayLike | None = None
) -> float:
    """1 - |Spearman's rank correlation|, in [0, 1]; 1 where prediction or target is constant.

    Weighted Pearson correlation of ranks; equal values share the average of their ranks, and only the pixels looked at
    are ranked. (Google's evaluation breaks ties by position and ranks all pixels: on much-tied data another number.)
    """
    p, t, c = _valid(prediction, target, mask, weights)
    if np.ptp(p) == 0 or np.ptp(t) == 0:
        return 1.0
    x, y = _average_ranks(p), _average_ranks(t)
    x -= c @ x / c.sum()
    y -= c @ y / c.sum()
    correlation = float(c @ (x * y) / np.sqrt((c @ x**2) * (c @ y**2)))
    return max(0.0, 1 - abs(correlation))  # rounding may lead above 1


def _fit_residual(p: Vector, t: Vector, w: Vector) -> Vector:
    """Residual a p + b - t of the weighted least-squares fit, in closed form on centred values."""
    total = w.sum()
    p = p - w @ p / total
    t = t - w @ t / total
    variance = w @ p**2
    slope = w @ (p * t) / variance if variance > 0 else 0.0
    return slope * p - t


def _average_ranks(values: Vector) -> Vector:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last: NDArray[np.int64] = np.cumsum(count)
    ranks: Vector = (last - (count - 1) / 2)[group]
    return ranks


def _valid(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Vector, Vector, Vector]:
    """Prediction (scaled to span [0, 1]), target and weights as float64 vectors of the pixels that count."""
    p, t = np.asarray(prediction), np.asarray(target)
    c = np.ones(t.shape) if weights is None else np.asarray(weights, dtype=np.float64)
    m = np.ones(t.shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    for name, array in (("prediction", p), ("weights", c), ("mask", m)):
        if array.shape != t.shape:
            raise InputError(f"{name}: expected the shape of the target, {t.shape}, found {array.shape}. Resize it.")
    if not (np.isfinite(c[m]).all() and (c[m] >= 0).all()):
        raise InputError("weights: expected finite values, 0 or above, found others. Mask or mend them.")
    m = m & (c > 0)
    if not m.any():
        raise InputError("mask: expected at least one pixel with ground truth, found none. Leave the scene out.")
    p, t, c = p[m].astype(np.float64), t[m].astype(np.float64), c[m]
    for name, array in (("prediction", p), ("target", t)):
        bad = np.count_nonzero(~np.isfinite(array))
        if bad:
            raise InputError(f"{name}: expected finite values, found NaN or infinity in {bad} of {array.size} pixels.")
    p -= p.min()
    return p / (p.max() or 1.0), t, c
