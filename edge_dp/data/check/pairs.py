"""What dual-pixel pairs themselves say of their axis and sign."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_dp.data.check.corners import corner_shifts, rank_correlation
from edge_dp.data.registry import DatasetEntry
from edge_dp.data.sample import DpSample

LEAST_SHIFT_PX = 0.03  # below, corners do not move: there is no axis to tell
LEAST_RATIO = 2.0  # of the shift along one axis to that along the other, to tell the axis
LEAST_CORNERS = 30  # per sample, with ground truth, to correlate with it
LEAST_CORRELATION = 0.1  # to tell the sign


@dataclass(frozen=True, slots=True)
class PairMeasurement:
    """What the views themselves say. None: they do not tell."""

    samples: int  # read
    corners: int
    shift_along_px: float | None  # median of |shift| along the promised axis
    shift_across_px: float | None  # and along the other one
    dp_axis: str | None  # of the files
    correlation: float | None  # median over samples: rank correlation of shift and ground truth, both farther is larger
    lowest_light: float | None  # of the views, in linear light
    highest_light: float | None


class PairEvidence:
    """What the pairs that were read have shown so far."""

    def __init__(self, entry: DatasetEntry) -> None:
        self._entry = entry
        self._samples = 0
        self._shifts: list[NDArray[np.float32]] = []
        self._correlations: list[float] = []
        self._light: list[float] = []

    def add(self, sample: DpSample) -> None:
        """Match the views of a sample."""
        found = corner_shifts(sample.left.mean(axis=0), sample.right.mean(axis=0))
        self._samples += 1
        self._shifts.append(found.shifts)
        self._light += [float(value) for view in (sample.left, sample.right) for value in (view.min(), view.max())]
        truth = _farther_is_larger(sample)
        if truth is None:
            return
        height, width = truth.shape
        x, y = found.points.round().astype(np.intp).T.clip(0, np.array([[width - 1], [height - 1]]))
        known = np.isfinite(truth[y, x])
        if known.sum() >= LEAST_CORNERS and np.ptp(truth[y, x][known]) > 0:
            self._correlations.append(rank_correlation(found.shifts[known, 0], truth[y, x][known]))

    def measurement(self) -> PairMeasurement:
        """All of it in numbers."""
        shifts = np.concatenate([np.empty((0, 2), np.float32), *self._shifts])
        along, across = (float(value) for value in np.median(np.abs(shifts), axis=0)) if len(shifts) else (None, None)
        axis = None
        if along is not None and across is not None and max(along, across) >= LEAST_SHIFT_PX:
            if along >= LEAST_RATIO * across:
                axis = self._entry.dp_axis
            elif across >= LEAST_RATIO * along:
                axis = "x" if self._entry.dp_axis == "y" else "y"
        return PairMeasurement(
            samples=self._samples,
            corners=len(shifts),
            shift_along_px=along,
            shift_across_px=across,
            dp_axis=axis,
            correlation=float(np.median(self._correlations)) if self._correlations else None,
            lowest_light=min(self._light, default=None),
            highest_light=max(self._light, default=None),
        )

    def broken_promises(self) -> list[str]:
        """Where the measurement contradicts what the set promises."""
        measured, promised = self.measurement(), self._entry
        if measured.dp_axis not in (None, promised.dp_axis):
            return [
                f"dual-pixel axis: expected {promised.dp_axis}, found {measured.dp_axis} (median shift "
                f"{measured.shift_along_px:.2f} px along {promised.dp_axis}, {measured.shift_across_px:.2f} px across). The "
                "files have been turned, or pass a sensor with that dp_axis."
            ]
        if measured.correlation is not None and measured.correlation <= -LEAST_CORRELATION:
            return [
                f"sign: expected {promised.sign}, found shifts that run against the ground truth (rank correlation "
                f"{measured.correlation:.2f}). Left and right, or near and far, are swapped: pass a sensor with swap_views."
            ]
        return []


def _farther_is_larger(sample: DpSample) -> NDArray[np.float32] | None:
    """(H, W) ground truth that grows with depth as disparity does, NaN where unknown; None where there is none."""
    truth = sample.disparity if sample.disparity is not None else sample.affine_disparity
    if truth is None and sample.depth is not None:
        known = sample.depth > 0
        truth = np.where(known, -1 / np.where(known, sample.depth, 1), np.nan).astype(np.float32)
    if truth is None or sample.mask is None:
        return truth
    return np.where(sample.mask, truth, np.nan).astype(np.float32)
