"""From the rig's inverse depth to dual-pixel disparity: both are affine in inverse depth, hence in each other.

d = offset + slope w with slope < 0: what is nearer has the larger w and the smaller d. Optics that are known give both numbers;
otherwise they are fitted to what matching the two dual-pixel views gives, capture by capture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, TrainingError
from edge_dp.optics import affine_of_inverse_depth
from edge_dp.sensors import SensorProfile
from edge_dp.sensors.matching import match_views
from edge_dp.simulation.rig import SideCamera
from edge_dp.training.labels.config import FitConfig

Array = NDArray[np.float32]


class NoLabelError(TrainingError):
    """A capture shows too little for a label: nothing is wrong, but there is nothing to learn from it either."""


@dataclass(frozen=True, slots=True)
class DualPixelMap:
    """d = offset + slope w, with the standard errors of a fit.

    Args:
        slope: px per unit of inverse depth, < 0.
        offset: px.
        variances: of slope and offset, and their covariance; zeros where the optics are known.
    """

    slope: float
    offset: float
    variances: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.slope < 0:
            raise InputError(
                f"dual-pixel map: expected a slope below 0, as d falls with inverse depth, found {self.slope}"
            )

    @classmethod
    def of_side_camera(cls, camera: SideCamera) -> DualPixelMap:
        """Of a rendered rig, whose unit of inverse depth is a px of the side camera's disparity."""
        return cls(-1 / camera.gain, camera.offset / camera.gain)

    @classmethod
    def of_optics(cls, sensor: SensorProfile, focus_m: float, px_per_px: float = 1.0) -> DualPixelMap:
        """Of a rig in metres: w = 1 / Z.

        Args:
            focus_m: distance of the dual-pixel camera's focus plane from the lens.
            px_per_px: px of the label per px of the sensor's files, below 1 for views made smaller.

        Raises:
            OpticsError: focal length, f-number, pitch or alpha of the sensor are unknown, or focus lies within the focal length.
        """
        slope, offset = affine_of_inverse_depth(sensor, focus_m)
        return cls(slope * px_per_px, offset * px_per_px)

    def __call__(self, inverse_depth: Array, sigma: Array) -> tuple[Array, Array]:
        """Disparity and its standard deviation, (H, W) px; NaN stays NaN.

        var d = slope^2 sigma^2 + w^2 var(slope) + var(offset) + 2 w cov, to first order.
        """
        of_slope, of_offset, together = self.variances
        variance = (self.slope * sigma) ** 2 + of_slope * inverse_depth**2 + of_offset + 2 * together * inverse_depth
        disparity = self.offset + self.slope * inverse_depth
        return disparity.astype(np.float32), np.sqrt(variance.clip(0)).astype(np.float32)


def fit_to_views(inverse_depth: Array, left: Array, right: Array, config: FitConfig, where: str) -> DualPixelMap:
    """Fit the map to a coarse dual-pixel disparity, measured by matching windows of the two views.

    Args:
        inverse_depth: (H, W) in the frame of the views; NaN where unknown.
        left, right: (C, H, W) linear light.
        where: the capture, for messages.

    Raises:
        NoLabelError, TrainingError: as ``fit_affine``.
    """
    disparity, error = match_views(left, right, config.matching())
    known = np.isfinite(inverse_depth)
    box = (config.window_px, config.window_px)
    share = cv2.boxFilter(known.astype(np.float32), -1, box)
    # The matcher sees a window, so it is compared with the mean over that.
    filled = np.where(known, inverse_depth, 0).astype(np.float64)
    mean, square = (cv2.boxFilter(values, -1, box) / np.maximum(share, 1e-6) for values in (filled, filled**2))
    spread = np.sqrt((square - mean**2).clip(0))
    low, high = np.percentile(inverse_depth[known], (2, 98)) if known.any() else (0.0, 0.0)
    # Where objects meet, the matcher sees the sharper one, and no mean over both.
    even = spread <= config.largest_window_spread * (high - low)
    usable = np.isfinite(error) & (share > 0.5) & known & even
    step = max(1, config.window_px // 2)  # windows that hardly overlap err independently
    grid = np.zeros_like(usable)
    grid[step // 2 :: step, step // 2 :: step] = True
    chosen = usable & grid
    return fit_affine(mean[chosen], disparity[chosen], error[chosen], config, where)


def fit_affine(
    inverse_depth: NDArray[np.floating],
    disparity: NDArray[np.floating],
    error: NDArray[np.floating],
    config: FitConfig,
    where: str,
) -> DualPixelMap:
    """Robust line through points (w, d): weighted least squares, reweighted until it stays.

    The weights are 1 / error^2 times, with the normalised residual r and its scale s, 1.4826 times the median of |r| and at least
    1, first Huber's min(1, k s / |r|), which has one solution, and from there Tukey's (1 - (r / (c s))^2)^2 within c s and 0
    beyond, which outliers on one side cannot pull. Standard errors are those of the last weighted fit, times s.

    Args:
        inverse_depth, disparity, error: (N,) points, and the standard deviation of their disparity, px.
        where: the capture, for messages.

    Raises:
        NoLabelError: too few points, or no slope can be told from these.
        TrainingError: the slope rises, which no camera's does.

    Source: Huber, "Robust Estimation of a Location Parameter", 1964; Beaton and Tukey, 1974; iteratively reweighted as Holland
    and Welsch, 1977.
    """
    if (count := len(disparity)) < config.least_points:
        raise NoLabelError(
            f"{where}: expected {config.least_points} windows with texture and depth to fit dual-pixel disparity to, found "
            f"{count}. Leave the capture out, or give the optics of the rig."
        )
    w, d = inverse_depth.astype(np.float64), disparity.astype(np.float64)
    centre = float(w.mean())  # slope and offset are then nearly independent, and the sums well conditioned
    design = np.stack([w - centre, np.ones_like(w)], axis=1)
    precision = 1 / (error.astype(np.float64) ** 2 + config.least_match_error_px**2)
    weights = precision
    solution: NDArray[np.floating] = np.zeros(2)
    covariance: NDArray[np.floating] = np.zeros((2, 2))
    redescending = False
    for _ in range(2 * config.iterations):
        normal = design.T @ (weights[:, None] * design)
        if np.linalg.cond(normal / np.sqrt(np.outer(np.diag(normal), np.diag(normal)).clip(1e-300))) > 1e12:
            raise _undetermined(where)
        previous, solution = solution, np.linalg.solve(normal, design.T @ (weights * d))
        residual = np.abs(d - design @ solution) * np.sqrt(precision)
        scale = max(1.0, 1.4826 * float(np.median(residual)))
        covariance = scale**2 * np.linalg.inv(normal)
        if np.allclose(previous, solution, rtol=1e-6, atol=1e-9):
            if redescending:
                break
            redescending = True
        if redescending:
            weights = precision * (1 - (residual / (config.tukey * scale)).clip(0, 1) ** 2) ** 2
        else:
            weights = precision * np.minimum(1, config.huber * scale / np.maximum(residual, 1e-12))
    slope, deviation = float(solution[0]), float(np.sqrt(covariance[0, 0]))
    if deviation > config.largest_relative_error * abs(slope):
        raise _undetermined(where)
    if slope > 0:
        raise TrainingError(
            f"{where}: expected dual-pixel disparity to fall as rig disparity rises, found it to rise by {slope:.3g} +- "
            f"{deviation:.2g} px per unit: the wrong sign. Exchange the left and right dual-pixel views (swap_views of the "
            "sensor), or the rig's cameras."
        )
    back = np.array([[1, 0], [-centre, 1]])
    covariance = back @ covariance @ back.T
    variances = (float(covariance[0, 0]), float(covariance[1, 1]), float(covariance[0, 1]))
    return DualPixelMap(slope, float(solution[1]) - slope * centre, variances)


def _undetermined(where: str) -> NoLabelError:
    return NoLabelError(
        f"{where}: expected depths and defocus that differ over the capture, to fit dual-pixel disparity to the rig's; found too "
        "little to tell. Leave the capture out, or give the optics of the rig."
    )
