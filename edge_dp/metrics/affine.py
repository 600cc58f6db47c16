"""Affine-invariant errors: a dual-pixel disparity is affine in inverse depth, and focus and gain are often unknown.

Source: Garg et al., "Learning Single Camera Depth Estimation using Dual-Pixels", ICCV 2019, and the protocol of its
published evaluation (github google-research/google-research, dual_pixels/eval). That asks the solver for an L2
regularisation of 1e-5 with ``fast=False``, where TensorFlow documents that it is ignored: so there is none here, and
the errors do not change under an affine map of the prediction.

All three take arrays of one shape, look only where ``mask`` is True and the weight is above 0, and return a float;
lower is better. They raise InputError for shapes that differ, nothing to look at, a weight that is negative or not
finite, NaN or infinity there in prediction or target, and a keyword of unknown value. Published evaluations differ in
details, which are keywords here; ``edge_dp.metrics.protocols`` names their combinations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_dp.errors import InputError
from edge_dp.metrics.pixels import (
    MASK_OR_MEND,
    Vector,
    check_finite,
    counted_pixels,
    counted_weights,
    weighted_mean,
)

IRLS_FITS = 5
IRLS_FLOOR = 1e-3  # residuals below weigh no more; in units of the target

Ranks = Literal["average", "dense", "ordinal"]
RowWeight = Literal["sqrt(c)", "c"]


def ai1(
    prediction: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    fits: int = IRLS_FITS,
) -> float:
    """AI(1): least weighted mean absolute error over all affine maps, min_{a,b} sum c |a p + b - t| / sum c.

    By iteratively reweighted least squares: ``fits`` fits, the first with weights c, each later one with weights
    c / max(1e-3, |r|) from the fit before; the error is that of the last fit. An upper bound of the minimum, in general
    within a few per cent of it. A constant prediction is allowed.
    """
    if fits < 1:
        raise InputError(f"fits: expected 1 or more, found {fits}. Pass how often to fit; published are 5 and 6.")
    p, t, c = _spread(*counted_pixels(prediction, target, mask, weights))
    residual = np.ones_like(t)
    for _ in range(fits):
        residual = np.abs(_fit_residual(p, t, c / np.maximum(IRLS_FLOOR, residual)))
    return weighted_mean(residual, c)


def ai2(
    prediction: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    row_weight: RowWeight = "sqrt(c)",
) -> float:
    """AI(2): least weighted root mean square error over all affine maps, min_{a,b} sqrt(sum c (a p + b - t)^2 / sum c).

    A constant prediction gives the weighted standard deviation of the target.

    Args:
        row_weight: what each row of the least-squares system is multiplied by. "sqrt(c)" minimises the error that is
            returned; "c", found in copies of the evaluation, minimises sum c^2 r^2, so that the error is an upper bound,
            equal where all weights are 0 or one same number.
    """
    _check_choice("row_weight", row_weight, ("sqrt(c)", "c"))
    p, t, c = _spread(*counted_pixels(prediction, target, mask, weights))
    residual = _fit_residual(p, t, c if row_weight == "sqrt(c)" else c**2)
    return float(np.sqrt(weighted_mean(residual**2, c)))


def one_minus_abs_spearman(
    prediction: ArrayLike,
    target: ArrayLike,
    mask: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    *,
    ranks: Ranks = "average",
    rank_all: bool = False,
) -> float:
    """1 - |Spearman's rank correlation|, in [0, 1]; 1 where the ranks of prediction or target are constant.

    Weighted Pearson correlation of ranks.

    Args:
        ranks: of equal values. "average": the mean of their places; "dense": one rank per distinct value, without
            gaps; "ordinal": by position in the array, so that a constant prediction has ranks too. As ordinal ranks of p
            and -p do not mirror each other, the correlation is then the larger of both, in place of the absolute value
            (and the result may be above 1).
        rank_all: rank all pixels, also those that do not count; all must be finite then.
    """
    _check_choice("ranks", ranks, _RANKS)
    p, t = np.asarray(prediction, dtype=np.float64), np.asarray(target, dtype=np.float64)
    m, c = counted_weights(p, t, mask, weights)
    if not rank_all:
        p, t, m = p[m], t[m], np.ones_like(c, dtype=bool)
    for name, array in (("prediction", p), ("target", t)):
        check_finite(name, array, "All pixels are ranked: mend them." if rank_all else MASK_OR_MEND)
    rank, m = _RANKS[ranks], m.ravel()
    y = rank(t.ravel())[m]
    correlation = _correlation(rank(p.ravel())[m], y, c)
    mirrored = _correlation(rank(-p.ravel())[m], y, c) if ranks == "ordinal" else -correlation
    return max(0.0, 1 - max(correlation, mirrored))  # rounding may lead above 1


def _check_choice(name: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        raise InputError(f"{name}: expected one of {', '.join(choices)}, found {value}. Pass one of these.")


def _spread(p: Vector, t: Vector, c: Vector) -> tuple[Vector, Vector, Vector]:
    """As given, with the prediction scaled to span [0, 1]: of its scale the fits need to know nothing."""
    p = p - p.min()
    return p / (p.max() or 1.0), t, c


def _fit_residual(p: Vector, t: Vector, w: Vector) -> Vector:
    """Residual a p + b - t of the weighted least-squares fit, in closed form on centred values."""
    total = w.sum()
    p = p - w @ p / total
    t = t - w @ t / total
    variance = w @ p**2
    slope = w @ (p * t) / variance if variance > 0 else 0.0
    return slope * p - t


def _correlation(x: Vector, y: Vector, c: Vector) -> float:
    """Weighted Pearson correlation; 0 where one of both is constant."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    x = x - c @ x / c.sum()
    y = y - c @ y / c.sum()
    return float(c @ (x * y) / np.sqrt((c @ x**2) * (c @ y**2)))


def _average_ranks(values: Vector) -> Vector:
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    last: NDArray[np.int64] = np.cumsum(count)
    ranks: Vector = (last - (count - 1) / 2)[group]
    return ranks


def _dense_ranks(values: Vector) -> Vector:
    _, group = np.unique(values, return_inverse=True)
    return group.astype(np.float64)


def _ordinal_ranks(values: Vector) -> Vector:
    ranks = np.empty_like(values)
    ranks[np.argsort(values, kind="stable")] = np.arange(values.size)
    return ranks


_RANKS: dict[Ranks, Callable[[Vector], Vector]] = {
    "average": _average_ranks,
    "dense": _dense_ranks,
    "ordinal": _ordinal_ranks,
}
