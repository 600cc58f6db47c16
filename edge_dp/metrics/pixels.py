"""Which pixels count: one check of prediction, target, mask and weights, shared by all metrics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_dp.errors import InputError

Vector = NDArray[np.float64]
Mask = NDArray[np.bool_]

MASK_OR_MEND = "Mask or mend them."


def counted_pixels(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Vector, Vector, Vector]:
    """Prediction, target and weights as float64 vectors of the pixels that count: mask True and weight above 0.

    Raises:
        InputError: as ``counted_weights``; NaN or infinity in a pixel that counts.
    """
    p, t = np.asarray(prediction), np.asarray(target)
    m, c = counted_weights(p, t, mask, weights)
    p, t = p[m].astype(np.float64), t[m].astype(np.float64)
    for name, array in (("prediction", p), ("target", t)):
        check_finite(name, array)
    return p, t, c


def counted_weights(
    prediction: ArrayLike, target: ArrayLike, mask: ArrayLike | None, weights: ArrayLike | None
) -> tuple[Mask, Vector]:
    """Where pixels count (shape of the target, bool), and their weights as a float64 vector.

    Raises:
        InputError: shapes that differ, a weight under the mask that is negative or not finite, nothing that counts.
    """
    shape = np.shape(target)
    c = np.ones(shape) if weights is None else np.asarray(weights, dtype=np.float64)
    m = np.ones(shape, bool) if mask is None else np.asarray(mask, dtype=bool)
    for name, found in (("prediction", np.shape(prediction)), ("weights", c.shape), ("mask", m.shape)):
        if found != shape:
            raise InputError(f"{name}: expected the shape of the target, {shape}, found {found}. Resize it.")
    if not (np.isfinite(c[m]).all() and (c[m] >= 0).all()):
        raise InputError("weights: expected finite values, 0 or above, found others. " + MASK_OR_MEND)
    m = m & (c > 0)
    if not m.any():
        raise InputError("mask: expected at least one pixel with ground truth, found none. Leave the scene out.")
    return m, c[m]


def check_finite(name: str, array: Vector, advice: str = MASK_OR_MEND) -> None:
    """Raise InputError where ``array``, called ``name``, holds NaN or infinity; ``advice`` says what to do."""
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise InputError(
            f"{name}: expected finite values, found NaN or infinity in {bad} of {array.size} pixels. {advice}"
        )


def weighted_mean(values: Vector | Mask, weights: Vector) -> float:
    """Mean of the values, sum c v / sum c; of a condition, the weighted fraction of pixels where it holds."""
    return float(weights @ values / weights.sum())
