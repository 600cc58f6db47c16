"""Disparity without training: matching, and matching made dense by confidence-weighted least squares, the bar to pass.

Both views are normalised in a window, so that shading and exposure do not count. ``match`` correlates them over whole shifts and
puts a parabola through the best three. ``match_wls`` refines that by windowed least squares, tells by gradient and residual where
to trust it, and fills the rest along the image's own edges.

Sources: least-squares shifts, Lucas and Kanade, IJCAI 1981; smoothing, weighted least squares of Farbman et al., SIGGRAPH 2008,
solved row by row and column by column as in Min et al., "Fast Global Image Smoothing Based on Weighted Least Squares", TIP 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

_LEAST_VARIANCE = 1e-9  # of a window, in linear light squared: below it, the noise of a dark frame is all there is
_LARGEST_STEP_PX = 0.5
_SWEEPS = 3  # of rows and columns in turn; more change nothing that can be seen


@dataclass(frozen=True, slots=True)
class WlsConfig:
    """How ``match_wls`` works; sizes and disparities in px of the images that it is given."""

    smoothing_px: float = 1.0
    """Standard deviation of the Gaussian on both views before all else: neither noise nor a pattern of pixels is matched."""
    window_px: int = 31
    shift_steps: int = 1
    smoothness: float = 300.0
    """lambda: of the squared difference of neighbours against the mean confidence of 1."""
    edge: float = 0.05
    """sigma: a step of the gamma-encoded image by which neighbours part."""
    reweightings: int = 2
    outlier_px: float = 1.0
    """Distance from the smooth solution at which a match loses half its weight."""


def match(left: Array, right: Array, search: tuple[int, int], window: int = 31) -> Array:
    """Windowed normalised correlation over whole shifts, and a parabola.

    Args:
        left, right: (H, W) float32, linear light.
        search: least and largest disparity tried, whole px.

    Returns:
        (H, W) float32 px, left(x) = right(x + d); of places without texture, any value of the range.
    """
    low, high = search
    size = (window, window)
    one, two = (view - float(view.mean()) for view in (left, right))
    mean, spread = _statistics(one, window)
    correlations = []
    for shift in range(low - 1, high + 2):
        moved = _moved(two, shift)
        moved_mean, moved_spread = _statistics(moved, window)
        correlations.append((cv2.blur(one * moved, size) - mean * moved_mean) / (spread * moved_spread))
    scores = np.stack(correlations)
    best = scores[1:-1].argmax(axis=0) + 1
    before, peak, after = (np.take_along_axis(scores, (best + i)[None], axis=0)[0] for i in (-1, 0, 1))
    bend = 2 * peak - before - after
    offset = np.divide(after - before, 2 * bend, out=np.zeros_like(bend), where=bend > 1e-6)
    return (best + (low - 1) + offset.clip(-0.5, 0.5)).astype(np.float32)


def match_wls(left: Array, right: Array, search: tuple[int, int], config: WlsConfig | None = None) -> Array:
    """``match``, refined, and made dense by what is certain; arguments and result as there."""
    config = config or WlsConfig()
    image = left
    left, right = (
        np.asarray(cv2.GaussianBlur(view, (0, 0), config.smoothing_px), np.float32) for view in (left, right)
    )
    disparity = match(left, right, search, config.window_px)
    confidence = np.ones_like(disparity)
    for _ in range(config.shift_steps):
        step, confidence = _shift_step(left, right, disparity, config.window_px)
        disparity = (disparity + step).clip(search[0] - 1, search[1] + 1)
    confidence /= confidence.mean()
    guide = np.power((image / max(float(np.percentile(image, 99)), 1e-6)).clip(0, 1), 1 / 2.2).astype(np.float32)
    smooth = weighted_least_squares(disparity, confidence, guide, config)
    for _ in range(config.reweightings):
        kept = confidence / (1 + ((disparity - smooth) / config.outlier_px) ** 2)
        smooth = weighted_least_squares(disparity, kept, guide, config)
    return smooth


def weighted_least_squares(values: Array, confidence: Array, guide: Array, config: WlsConfig) -> Array:
    """Minimise sum c (u - v)^2 + lambda sum w (u_i - u_j)^2 over neighbours, w = exp(-|difference of the guide| / sigma).

    Args:
        values, confidence: (H, W); confidence at least 0, and not 0 everywhere.
        guide: (H, W) image in [0, 1] whose edges the result keeps.

    Returns:
        (H, W) float32. Along rows and columns in turn, which is near the solution in two dimensions.
    """
    weights = [np.exp(-np.abs(np.diff(guide, axis=axis)) / config.edge).astype(np.float32) for axis in (0, 1)]
    both = np.stack([values * confidence, confidence]).astype(np.float32)
    for sweep in range(_SWEEPS):
        strength = 1.5 * config.smoothness * 4.0 ** (_SWEEPS - 1 - sweep) / (4.0**_SWEEPS - 1)
        both = _smooth_columns(both.swapaxes(1, 2), strength * weights[1].T).swapaxes(1, 2)
        both = _smooth_columns(both, strength * weights[0])
    smooth: Array = (both[0] / np.maximum(both[1], 1e-9)).astype(np.float32)
    return smooth


def _smooth_columns(planes: Array, weights: Array) -> Array:
    """Solve (1 + L) u = v down every column of (N, H, W) planes, L the Laplacian with weights (H - 1, W) between rows."""
    planes = np.ascontiguousarray(planes)
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    rows = planes.shape[1]
    diagonal = np.ones(planes.shape[1:], np.float32)
    diagonal[:-1] += weights
    diagonal[1:] += weights
    upper = np.zeros_like(weights)
    for row in range(rows):  # the tridiagonal matrix algorithm, all columns at once
        if row:
            pivot = diagonal[row] - weights[row - 1] * upper[row - 1]
            planes[:, row] = (planes[:, row] + weights[row - 1] * planes[:, row - 1]) / pivot
        else:
            pivot = diagonal[0]
            planes[:, 0] /= pivot
        if row < rows - 1:
            upper[row] = weights[row] / pivot
    for row in range(rows - 2, -1, -1):
        planes[:, row] += upper[row] * planes[:, row + 1]
    return planes


def _shift_step(left: Array, right: Array, disparity: Array, window: int) -> tuple[Array, Array]:
    """One windowed least-squares step of the disparity, and the confidence: gradient energy over residual energy."""
    height, width = disparity.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved = cv2.remap(right, x + disparity, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    one, two = _normalised(left, window), _normalised(np.asarray(moved, np.float32), window)
    residual = one - two
    gradient = cv2.Sobel(one + two, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 16)  # of the mean of both
    energy = cv2.blur(gradient**2, (window, window))
    step = cv2.blur(gradient * residual, (window, window)) / (energy + 1e-4)
    confidence = energy / (cv2.blur(residual**2, (window, window)) + 1e-2)
    return step.clip(-_LARGEST_STEP_PX, _LARGEST_STEP_PX), confidence


def _normalised(view: Array, window: int) -> Array:
    """Mean 0 and variance 1 as of the window around each pixel."""
    mean, spread = _statistics(view, window)
    normalised: Array = (view - mean) / spread
    return normalised


def _statistics(view: Array, window: int) -> tuple[Array, Array]:
    """Mean and standard deviation in the window around each pixel."""
    mean = np.asarray(cv2.blur(view, (window, window)), np.float32)
    variance = cv2.blur(view * view, (window, window)) - mean * mean
    return mean, np.sqrt(np.maximum(variance, 0) + np.float32(_LEAST_VARIANCE))


def _moved(view: Array, shift: int) -> Array:
    """View(x + shift), its edge column repeated."""
    columns = (np.arange(view.shape[1]) + shift).clip(0, view.shape[1] - 1)
    return np.ascontiguousarray(view[:, columns])
