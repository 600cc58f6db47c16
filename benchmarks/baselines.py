"""Baselines that need no training, and how a method is scored on the Pixel 4 captures.

The constant stays in every table: scene layout alone scores well on this set.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data import DpSample
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.runtime.accuracy import score as scores_of

Array = NDArray[np.float32]

METRICS = ("AI(1)", "AI(2)", "1-|rho|")

MAX_DISPARITY = (
    8  # px of what is matched, either way: at quarter resolution, three times what the Pixel 4 captures hold
)
BLOCK = 15


def constant(left: Array, right: Array) -> Array:
    """Zeros: what a method scores that has seen nothing. (H, W) float32 as the views."""
    return np.zeros_like(left)


def sgbm_quarter(left: Array, right: Array) -> Array:
    """Semi-global block matching (OpenCV's SGBM) at quarter resolution, its cost cap left at the default.

    Args:
        left: (H, W) float32, linear light in [0, 1].
        right: the same, shading matched to the left view.

    Returns:
        (H // 4, W // 4) float32 px at quarter resolution, ``left(x) = right(x + d)``; no holes.
    """
    return sgbm(_quarter(left), _quarter(right))


def sgbm_quarter_tuned(left: Array, right: Array) -> Array:
    """As ``sgbm_quarter``, with settings picked on the Pixel 4 captures, which favours it there.

    All eight directions, and the highest cost cap at which the most a block can cost, (2 cap + 63) * 15 * 15, fits in
    OpenCV's 16 bits. Above it the sums overflow without a warning.
    """
    return sgbm(_quarter(left), _quarter(right), pre_filter_cap=41, mode=cv2.StereoSGBM_MODE_HH)


BASELINES: dict[str, Callable[[Array, Array], Array]] = {
    "constant": constant,
    "sgbm_quarter": sgbm_quarter,
    "sgbm_quarter_tuned": sgbm_quarter_tuned,
}


def score(predict: Callable[[DpSample], Array], captures: Xin2021) -> NDArray[np.float64]:
    """(scenes, 3) ``METRICS`` of one method at full resolution, its maps brought there bilinearly."""
    rows = []
    for sample in captures:
        target = sample.affine_disparity
        assert target is not None
        full = cv2.resize(predict(sample), target.shape[::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
        scores = scores_of(full, sample, "xin2021")
        rows.append([scores[metric] for metric in METRICS])
    return np.array(rows)


def sgbm(
    left: Array,
    right: Array,
    reach: int = MAX_DISPARITY,
    *,
    pre_filter_cap: int = 15,
    mode: int = cv2.StereoSGBM_MODE_SGBM,
) -> Array:
    """OpenCV's semi-global block matching of two views as they are.

    Args:
        left: (H, W) float32, linear light in [0, 1].
        right: the same, shading matched to the left view.
        reach: largest disparity, either way, px; a multiple of 8.

    Returns:
        (H, W) float32 px, ``left(x) = right(x + d)``; no holes.
    """
    brightest = max(float(view.max()) for view in (left, right))
    left_8bit, right_8bit = (np.rint(view * (255 / brightest)).astype(np.uint8) for view in (left, right))
    matcher = cv2.StereoSGBM.create(
        minDisparity=-reach,
        numDisparities=2 * reach,
        blockSize=BLOCK,
        P1=8 * BLOCK**2,
        P2=32 * BLOCK**2,
        preFilterCap=pre_filter_cap,
        mode=mode,
    )
    found = matcher.compute(left_8bit, right_8bit).astype(np.float32) / 16
    return _fill_from_nearest(-found, invalid=found < -reach)  # OpenCV has left(x) = right(x - d)


def _quarter(view: Array) -> Array:
    size = (view.shape[1] // 4, view.shape[0] // 4)
    return cv2.resize(view, size, interpolation=cv2.INTER_AREA).astype(np.float32)


def _fill_from_nearest(disparity: Array, invalid: NDArray[np.bool_]) -> Array:
    """SGBM leaves ``reach`` columns of either side unmatched; mirrored padding would mirror the disparity there."""
    _, labels = cv2.distanceTransformWithLabels(
        invalid.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label = np.zeros(labels.max() + 1, np.float32)
    by_label[labels[~invalid]] = disparity[~invalid]
    filled: Array = by_label[labels]
    return filled
