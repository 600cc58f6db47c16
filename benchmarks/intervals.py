"""Bootstrap over scenes: how far a mean, or the ratio of two methods' means on the same scenes, may be chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

DRAWS = 10_000
SEED = 7
LEVEL = 0.95


def interval_of_mean(values: Sequence[float]) -> tuple[float, float]:
    """The percentile interval of the mean over scenes, each drawn with replacement.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3.
    """
    means = _resampled(np.asarray(values, np.float64))
    return _percentiles(means)


def interval_of_ratio(values: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Of mean(values) / mean(reference), both of the same scenes in the same order: drawn together, so scenes do not count.

    Raises:
        ValueError: the two differ in length.
    """
    if len(values) != len(reference):
        raise ValueError(f"expected scores of the same scenes, found {len(values)} and {len(reference)}")
    means = _resampled(np.stack([values, reference], axis=1).astype(np.float64))
    return _percentiles(means[:, 0] / means[:, 1])


def _resampled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of ``DRAWS`` samples of the first axis."""
    chosen = np.random.default_rng(SEED).integers(0, len(values), (DRAWS, len(values)))
    means: NDArray[np.float64] = values[chosen].mean(axis=1)
    return means


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
