"""Which way, and how far, corners move from one view to the other: what a data set's promise is checked against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.sample import Array

_MOST_CORNERS = 500
_RETURNS_WITHIN = 0.2  # px: how near to where it came from a corner must be, followed to the right view and back
_WINDOWS_ACROSS = 24  # windows of the match, side by side, across the shorter side of the view
_LEAST_WINDOW = 15  # px


@dataclass(frozen=True, slots=True, eq=False)
class Shifts:
    """Corners of the left view that were found again in the right one.

    Attributes:
        points: (N, 2) float32, x and y in the left view.
        shifts: (N, 2) float32, px: left(p) = right(p + shift), along x and along y.
    """

    points: NDArray[np.float32]
    shifts: NDArray[np.float32]


def corner_shifts(left: Array, right: Array) -> Shifts:
    """Follow corners from the left view to the right one.

    A corner has texture both ways, so that neither axis is favoured, unlike a search along one of them. Views are made
    alike in local mean and contrast first, as shading and exposure of the two half pixels differ; a corner that does not
    come back to its place when followed back is dropped.

    Args:
        left: (H, W) float32, linear light in [0, 1].
        right: the same.

    Returns:
        Up to 500 corners; none in a view without texture or too small for a window.

    Source: Bouguet, "Pyramidal Implementation of the Lucas Kanade Feature Tracker" (OpenCV's calcOpticalFlowPyrLK).
    """
    nothing = np.empty((0, 2), dtype=np.float32)
    window = max(_LEAST_WINDOW, min(left.shape) // _WINDOWS_ACROSS) | 1
    if min(left.shape) < 2 * window:
        return Shifts(nothing, nothing)
    first, second = _flatten(left), _flatten(right)
    detected: Any = cv2.goodFeaturesToTrack(first, _MOST_CORNERS, 0.01, window / 2, blockSize=(window // 2) | 1)
    if detected is None:
        return Shifts(nothing, nothing)
    corners: NDArray[np.float32] = detected
    there, found = _follow(first, second, corners, window)
    back, found_again = _follow(second, first, there, window)
    good = found & found_again & (np.abs(back - corners).max(axis=(1, 2)) < _RETURNS_WITHIN)
    return Shifts(corners[good, 0], (there - corners)[good, 0])


def rank_correlation(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """Spearman's rank correlation of (N,) values, in [-1, 1]; 0 where one of both is constant. Ties go by position."""
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return 0.0
    ranks = [np.argsort(np.argsort(values, kind="stable")) for values in (x, y)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _flatten(view: Array) -> NDArray[np.uint8]:
    """(H, W) uint8 with about equal mean and contrast everywhere."""
    sigma = max(2.0, min(view.shape) / 50)
    tones = np.sqrt(view)  # makes photon noise about equal everywhere
    detail = tones - cv2.GaussianBlur(tones, (0, 0), sigma)
    contrast = np.sqrt(cv2.GaussianBlur(detail**2, (0, 0), sigma)) + np.float32(1e-3)
    return (128 + 48 * detail / contrast).clip(0, 255).astype(np.uint8)


def _follow(
    first: NDArray[np.uint8], second: NDArray[np.uint8], corners: NDArray[np.float32], window: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Where (N, 1, 2) corners of the first image lie in the second, and whether each was found."""
    criteria = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 30, 0.003)
    start = corners.copy()
    there, status, _ = cv2.calcOpticalFlowPyrLK(
        first, second, corners, start, winSize=(window, window), maxLevel=2, criteria=criteria
    )
    return np.asarray(there, dtype=np.float32), np.asarray(status).ravel() == 1
