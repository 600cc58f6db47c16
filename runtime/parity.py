"""Parity: how far an artifact's outputs lie from the model's. Statistics here, thresholds beside them, judgement apart.

A saved run keeps the statistics, so it can be judged again with other thresholds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
_ROUNDING = 1e-3  # whole steps come out of float32 arithmetic a little more or less than whole


@dataclass(frozen=True, slots=True)
class ErrorStatistics:
    """One output of one artifact against its reference, over all golden cases.

    max_abs, mean_abs, p99_abs: absolute error in the output's unit.
    reference_range: largest minus smallest reference value.
    snr_db: 10 log10(sum r^2 / sum (r - y)^2); null where the error, or the reference, is exactly zero.
    step: the output's quantisation step, and the errors in steps.
    not_finite: how many values were NaN or infinite; they are left out of the other numbers.
    """

    max_abs: float
    mean_abs: float
    p99_abs: float
    reference_range: float
    snr_db: float | None
    step: float
    max_steps: float
    p99_steps: float
    not_finite: int


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a precision must reach; null where it is not asked for."""

    max_relative: float | None = None
    """Largest absolute error over the reference's range."""
    min_snr_db: float | None = None
    max_steps: float | None = None
    p99_steps: float | None = None


THRESHOLDS: dict[str, Threshold] = {
    "fp32": Threshold(max_relative=1e-5),
    "fp16": Threshold(min_snr_db=40.0),
    "w8a16": Threshold(min_snr_db=40.0),
    "int16x8": Threshold(min_snr_db=40.0),
    "int8": Threshold(min_snr_db=35.0, max_steps=8.0, p99_steps=2.0),
    # Core ML's program computes in halves between its quantise nodes: 11 bits for a value that is then rounded to 8.
    "w8a8": Threshold(min_snr_db=35.0, max_steps=16.0, p99_steps=6.0),
}
"""Integer precisions are compared with the converted quantised graph, the others with the float model. Steps are judged over all
golden cases, noise and constant images among them, which spread a rounding difference farthest."""


def compare(outputs: Sequence[Map], references: Sequence[Map], step: float) -> ErrorStatistics:
    """Statistics of one output over several cases.

    Args:
        outputs, references: arrays of equal shapes, one per case.
        step: the output's quantisation step, in its unit.
    """
    found = np.concatenate([array.ravel() for array in outputs]).astype(np.float64)
    wanted = np.concatenate([array.ravel() for array in references]).astype(np.float64)
    finite = np.isfinite(found)
    error = np.abs(found - wanted)[finite] if finite.any() else np.zeros(1)
    noise, signal = float((error**2).sum()), float((wanted[finite] ** 2).sum())
    largest, p99 = float(error.max()), float(np.quantile(error, 0.99))
    return ErrorStatistics(
        max_abs=largest,
        mean_abs=float(error.mean()),
        p99_abs=p99,
        reference_range=float(wanted.max() - wanted.min()),
        snr_db=10.0 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
        step=step,
        max_steps=largest / step,
        p99_steps=p99 / step,
        not_finite=int((~finite).sum()),
    )


def failures(name: str, statistics: ErrorStatistics, threshold: Threshold) -> list[str]:
    """What ``statistics`` of the output ``name`` miss, in words; empty where all is well."""
    missed = []
    if statistics.not_finite:
        missed.append(f"{name}: {statistics.not_finite} values are NaN or infinite")
    relative = statistics.max_abs / statistics.reference_range if statistics.reference_range else statistics.max_abs
    if threshold.max_relative is not None and relative > threshold.max_relative:
        missed.append(f"{name}: max error {relative:.2e} of the range, allowed {threshold.max_relative:.0e}")
    if threshold.min_snr_db is not None and statistics.snr_db is not None and statistics.snr_db < threshold.min_snr_db:
        missed.append(f"{name}: SNR {statistics.snr_db:.1f} dB, expected at least {threshold.min_snr_db:.0f}")
    if threshold.max_steps is not None and statistics.max_steps > threshold.max_steps + _ROUNDING:
        missed.append(f"{name}: max error {statistics.max_steps:.1f} steps, allowed {threshold.max_steps:g}")
    if threshold.p99_steps is not None and statistics.p99_steps > threshold.p99_steps + _ROUNDING:
        missed.append(f"{name}: p99 error {statistics.p99_steps:.1f} steps, allowed {threshold.p99_steps:g}")
    return missed
