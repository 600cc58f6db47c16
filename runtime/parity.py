"""Parity: how far an artifact's outputs lie from the model's, as statistics. What they must reach is in ``thresholds``.

A saved run keeps the statistics, so it can be judged again with other thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.runtime.thresholds import THRESHOLDS, Threshold, failures, read_thresholds

__all__ = [
    "QUANTILES",
    "THRESHOLDS",
    "ErrorStatistics",
    "Tally",
    "Threshold",
    "compare",
    "failures",
    "identical",
    "read_thresholds",
]

Map = NDArray[np.float32]
QUANTILES = (0.5, 0.99, 0.999)
"""Of the absolute error, in the order of ``ErrorStatistics``."""
_MOST_STEPS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorStatistics:
    """One output of one artifact against its reference, over all golden cases or captures of a data set.

    Only values that are finite on both sides count; quantiles interpolate linearly; all is zero where no value counts.

    max_abs, mean_abs, p50_abs, p99_abs, p999_abs: absolute error in the output's unit; p999 is the 99.9 % quantile.
    reference_range: largest minus smallest reference value.
    snr_db: 10 log10(sum r^2 / sum (r - y)^2); null where the error, or the reference, is exactly zero.
    cosine: sum r y / sqrt(sum r^2 sum y^2), in [-1, 1]; null where either is exactly zero.
    step: the output's quantisation step; max_steps to p999_steps are the errors over it.
    values: of the output, whether they count or not.
    not_finite: how many of them were NaN (``nan``) or infinite (``infinite``).
    reference_not_finite: how many reference values were either.
    histogram: how many errors round to 0, 1, ..., 14 steps, and to 15 or more.
    """

    max_abs: float
    mean_abs: float
    p50_abs: float
    p99_abs: float
    p999_abs: float
    reference_range: float
    snr_db: float | None
    cosine: float | None
    step: float
    max_steps: float
    p50_steps: float
    p99_steps: float
    p999_steps: float
    values: int
    not_finite: int
    nan: int
    infinite: int
    reference_not_finite: int
    histogram: tuple[int, ...]


def compare(outputs: Sequence[Map], references: Sequence[Map], step: float) -> ErrorStatistics:
    """Statistics of one output over several cases.

    Args:
        outputs, references: arrays of equal shapes, one per case; at least one.
        step: the output's quantisation step, in its unit, > 0.

    Raises:
        InputError: shapes that differ, no case, or a step that is not positive.
    """
    shapes, wanted_shapes = [array.shape for array in outputs], [array.shape for array in references]
    if not shapes or shapes != wanted_shapes:
        raise InputError(
            f"expected outputs and references of equal shapes, at least one, found {shapes} and {wanted_shapes}"
        )
    if not (math.isfinite(step) and step > 0):
        raise InputError(f"expected a positive quantisation step, found {step}")
    tally = Tally(step)
    error = np.concatenate([tally.add(*pair) for pair in zip(outputs, references, strict=True)])
    return tally.statistics(np.quantile(error, QUANTILES) if error.size else np.zeros(len(QUANTILES)))


class Tally:
    """Sums over any number of cases, from which ``ErrorStatistics`` follow.

    Args:
        step: the output's quantisation step, in its unit, > 0.
    """

    def __init__(self, step: float) -> None:
        self._step = step
        self._values = self._counted = self._nan = self._infinite = self._reference_not_finite = 0
        self._largest = self._sum = self._noise = self._signal = self._power = self._product = 0.0
        self._low, self._high = math.inf, -math.inf
        self._histogram = np.zeros(_MOST_STEPS + 1, np.int64)

    def add(self, output: Map, reference: Map) -> NDArray[np.float64]:
        """Count one case, arrays of one shape; the absolute errors of what counts, in one row."""
        found, wanted = (array.ravel().astype(np.float64) for array in (output, reference))
        self._values += found.size
        self._nan += int(np.isnan(found).sum())
        self._infinite += int(np.isinf(found).sum())
        self._reference_not_finite += int((~np.isfinite(wanted)).sum())
        counts = np.isfinite(found) & np.isfinite(wanted)
        found, wanted = found[counts], wanted[counts]
        error = np.abs(found - wanted)
        self._counted += error.size
        self._sum += float(error.sum())
        self._noise += float((error**2).sum())
        self._signal += float((wanted**2).sum())
        self._power += float((found**2).sum())
        self._product += float(found @ wanted)
        self._largest = max(self._largest, float(error.max(initial=0.0)))
        self._low = min(self._low, float(wanted.min(initial=math.inf)))
        self._high = max(self._high, float(wanted.max(initial=-math.inf)))
        rounded = np.minimum(np.rint(error / self._step), _MOST_STEPS).astype(np.int64)
        self._histogram += np.bincount(rounded, minlength=_MOST_STEPS + 1)
        return error

    def statistics(self, quantiles: Sequence[float] | NDArray[np.float64]) -> ErrorStatistics:
        """Of all that was added; ``quantiles`` of its errors, as of ``QUANTILES``."""
        p50, p99, p999 = map(float, quantiles)
        return ErrorStatistics(
            max_abs=self._largest,
            mean_abs=self._sum / self._counted if self._counted else 0.0,
            p50_abs=p50,
            p99_abs=p99,
            p999_abs=p999,
            reference_range=self._high - self._low if self._counted else 0.0,
            snr_db=10.0 * math.log10(self._signal / self._noise) if self._noise > 0 and self._signal > 0 else None,
            cosine=self._cosine(),
            step=self._step,
            max_steps=self._largest / self._step,
            p50_steps=p50 / self._step,
            p99_steps=p99 / self._step,
            p999_steps=p999 / self._step,
            values=self._values,
            not_finite=self._nan + self._infinite,
            nan=self._nan,
            infinite=self._infinite,
            reference_not_finite=self._reference_not_finite,
            histogram=tuple(map(int, self._histogram)),
        )

    def _cosine(self) -> float | None:
        if self._power == 0 or self._signal == 0:
            return None
        cosine = self._product / (math.sqrt(self._power) * math.sqrt(self._signal))
        return max(-1.0, min(1.0, cosine))  # rounding leads a little beyond


def identical(outputs: Sequence[Mapping[str, Map]], others: Sequence[Mapping[str, Map]]) -> dict[str, int]:
    """How many values differ to the bit, by output, over all cases: NaN equals the same NaN, 0 differs from -0.

    Args:
        outputs, others: float32 arrays by output, one mapping per case, as of ``Engine.infer_all``.

    Raises:
        InputError: another number of cases, other outputs or other shapes.
    """
    if len(outputs) != len(others):
        raise InputError(f"expected as many cases on both sides, found {len(outputs)} and {len(others)}")
    differing = {name: 0 for case in outputs for name in case}
    for one, two in zip(outputs, others, strict=True):
        shapes, wanted = ({name: array.shape for name, array in case.items()} for case in (one, two))
        if shapes != wanted:
            raise InputError(f"expected equal outputs on both sides, found {shapes} and {wanted}")
        for name, array in one.items():
            differing[name] += int((_bits(array) != _bits(two[name])).sum())
    return differing


def _bits(array: Map) -> NDArray[np.uint32]:
    return np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
