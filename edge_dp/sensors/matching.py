"""Sub-pixel disparity of two dual-pixel views by classical matching, with its expected error: to calibrate and to check.

Windowed normalised correlation over a range of shifts, a parabola through the best three. Both views are shifted, by half
each, so that interpolation blurs them alike and leaves no bias; and both are smoothed before, as a dual pixel's disparity is
the distance of two centroids, which fine detail and a pattern common to both views do not show.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError

Array = NDArray[np.float32]
Plane = NDArray[np.float64]

_LEAST_VARIANCE = 1e-12  # of a window, in linear light squared: below it there is nothing to match
_LEAST_MISMATCH = 1e-4  # 1 - rho: the parabola's peak is not more exact than that


@dataclass(frozen=True, slots=True)
class MatchConfig:
    """How two views are matched."""

    window_px: int = 21
    """Side of the square that one disparity is found for; odd."""
    smoothing_px: float = 1.5
    """Standard deviation of the Gaussian on both views before matching; 0 for none."""
    max_disparity_px: float = 4.0
    """Shifts searched, either way."""
    step_px: float = 0.5
    """Distance of the shifts; between them, the parabola."""

    def __post_init__(self) -> None:
        if self.window_px < 3 or self.window_px % 2 == 0:
            raise InputError(f"window_px: expected an odd number from 3 on, found {self.window_px}")
        if not (self.smoothing_px >= 0 and self.step_px > 0 and self.max_disparity_px >= self.step_px):
            raise InputError(f"match: expected smoothing >= 0 and maximum disparity >= step > 0, found {self}")


def match_views(left: Array, right: Array, config: MatchConfig | None = None) -> tuple[Array, Array]:
    """Disparity and its expected error, for every pixel.

    Args:
        left, right: (C, H, W) float32, linear light, dual-pixel axis along x; the channels' mean is matched. Differences
            in brightness are of no account, as each window is normalised.
        config: the defaults where None.

    Returns:
        disparity: (H, W) px, ``left(x - d / 2) = right(x + d / 2)``: at the place between the views.
        error: (H, W) px, one standard deviation: sqrt(2 (1 - rho) / (n k)) with the correlation's peak rho and its curvature
            k there, and n independent samples in the window. inf where nothing can be told: no texture along x, the best
            shift at the end of the range, or less than half a window from the border.

    Raises:
        InputError: views of different shapes, or smaller than the window.

    Source: curvature and noise as in the Cramer-Rao bound of a shift.
    """
    config = config or MatchConfig()
    if left.shape != right.shape or left.ndim != 3 or min(left.shape[1:]) < config.window_px:
        raise InputError(
            f"views: expected two of one shape (C, H, W), at least {config.window_px} px a side, found {left.shape} and "
            f"{right.shape}."
        )
    views = [_smooth(view.mean(axis=0, dtype=np.float64), config.smoothing_px) for view in (left, right)]
    steps = math.ceil(config.max_disparity_px / config.step_px)
    best = np.full(left.shape[1:], -np.inf)
    index = np.zeros(best.shape)
    before, after = np.zeros_like(best), np.zeros_like(best)
    previous = middle = None
    for i in range(-steps, steps + 1):
        current = _correlation(views, i * config.step_px, config.window_px)
        if previous is not None and middle is not None:
            better = middle > best
            for target, values in ((best, middle), (before, previous), (after, current), (index, i - 1.0)):
                np.copyto(target, values, where=better)
        previous, middle = middle, current
    bend = 2 * best - before - after  # of the parabola, > 0 at a maximum
    peaked = (best >= before) & (best >= after) & (bend > 1e-9)
    offset = np.divide(after - before, 2 * bend, out=np.zeros_like(bend), where=peaked)
    rho = best + 0.25 * (after - before) * offset
    samples = max(1.0, config.window_px**2 / max(1.0, 4 * math.pi * config.smoothing_px**2))
    variance = np.full_like(best, np.inf)
    np.divide(2 * (1 - rho).clip(_LEAST_MISMATCH) * config.step_px**2, samples * bend, out=variance, where=peaked)
    edge = config.window_px // 2
    for border in (np.s_[:edge], np.s_[-edge:], np.s_[:, :edge], np.s_[:, -edge:]):
        variance[border] = np.inf
    return ((index + offset) * config.step_px).astype(np.float32), np.sqrt(variance).astype(np.float32)


def _smooth(view: Plane, sigma: float) -> Plane:
    return cv2.GaussianBlur(view, (0, 0), sigma).astype(np.float64) if sigma > 0 else view


def _correlation(views: list[Plane], disparity: float, window: int) -> Plane:
    """Normalised correlation, in [-1, 1], of left(x - d / 2) and right(x + d / 2) around each pixel."""
    left, right = (_shifted(view, sign * disparity / 2) for view, sign in zip(views, (-1, 1), strict=True))
    mean_left, mean_right = _box(left, window), _box(right, window)
    variances = [_box(a * a, window) - m**2 for a, m in ((left, mean_left), (right, mean_right))]
    covariance = _box(left * right, window) - mean_left * mean_right
    textured = np.minimum(*variances) > _LEAST_VARIANCE
    spread = np.sqrt(np.maximum(variances[0] * variances[1], _LEAST_VARIANCE**2))
    return np.where(textured, covariance / spread, 0.0).clip(-1, 1)


def _shifted(view: Plane, shift: float) -> Plane:
    """View(x + shift) by cubic convolution (Keys, 1981), mirrored beyond the border.

    OpenCV's own cubic warp (a = -0.75) moves even a ramp by up to 0.05 px too far.
    """
    reach = math.ceil(abs(shift)) + 2
    distance = np.abs(np.arange(-reach, reach + 1) - shift)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    kernel = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return cv2.filter2D(view, -1, kernel[None], borderType=cv2.BORDER_REFLECT_101).astype(np.float64)


def _box(values: Plane, window: int) -> Plane:
    return cv2.boxFilter(values, -1, (window, window)).astype(np.float64)
