"""Fitting a sensor profile to captures of known depth: alpha, how it varies over the field, focus distance, left/right gain.

The views are matched, and a lens is fitted to all disparities at once, robustly:

    d = s(x, y) (offset + slope / Z)        s: relative strength, mean 1 over the field

``optics.lens_of_affine`` turns offset and slope into alpha and focus distance, with the profile's focal length, f-number and
pitch; s becomes ``alpha_field``. It is a polynomial along the dual-pixel axis: off the axis the lens vignettes the outer
halves of the aperture, and the two centroids come closer. The gain is fitted to the smoothed ratio of the views.

What is fitted holds at the aperture and focus setting of the captures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.images import to_sample_orientation, to_sensor_orientation
from edge_dp.data.sample import Array, DpSample, Mask
from edge_dp.errors import InputError
from edge_dp.optics.thin_lens import depth_to_disparity, lens_of_affine
from edge_dp.sensors.matching import MatchConfig, match_views
from edge_dp.sensors.profile import FieldPolynomial, SensorProfile

Vector = NDArray[np.float64]

_ITERATIONS = 60
_HUBER_ITERATIONS = 20  # convex, to come near; then Tukey's weights, which forget what is far off, such as wrong depth
_HUBER, _TUKEY = 1.345, 4.685  # of standard deviations: 95 % as efficient as least squares where errors are Gaussian


@dataclass(frozen=True, slots=True)
class FitConfig:
    """How a sensor is fitted."""

    match: MatchConfig = field(default_factory=MatchConfig)
    largest_error_px: float = 0.1
    """Expected error of a match up to which it counts."""
    largest_depth_step: float = 0.15
    """Largest range of inverse depth in a match's window, relative to its mean: beyond it, the window spans an edge."""
    field_order: int = 2
    """Of alpha along the dual-pixel axis; 0: the same over the field."""
    gain_orders: tuple[int, int] = (3, 2)
    """Of the left/right gain, along and across the dual-pixel axis."""
    gain_captures: int = 4
    """Fewest captures that the gain is fitted to: in one capture, it is part of the scene."""
    points: int = 4000
    """Most matches per capture that are fitted to."""


@dataclass(frozen=True, slots=True, eq=False)
class Matched:
    """Disparity of one capture of known depth, in the orientation of its sample.

    disparity: (H, W) float32 px, as matched.
    error: (H, W) float32 px expected of it.
    usable: (H, W) bool: the match is good, and depth is known and without an edge all over its window.
    """

    sample: DpSample
    disparity: Array
    error: Array
    usable: Mask


@dataclass(frozen=True, slots=True)
class Residual:
    """Matched minus predicted disparity in one capture, where it is usable."""

    name: str
    coverage: float  # share of the pixels that is usable
    median_abs_px: float
    bias_px: float  # median
    matched_px: float  # median
    predicted_px: float  # median


@dataclass(frozen=True, slots=True)
class SensorFit:
    """What was found, and how well it describes the captures.

    slope, offset: d = offset + slope / Z, px m and px, as the mean over the field.
    sensor: the profile with alpha, alpha_field, focus_m and, from enough captures, right_gain; nothing else is changed.
    residuals: per capture.
    median_abs_px: over all captures, each counting alike.
    gain_error: root mean square of the relative error of the gain over the captures' smoothed ratios, or None.
    """

    slope: float
    offset: float
    sensor: SensorProfile
    residuals: tuple[Residual, ...]
    median_abs_px: float
    gain_error: float | None


def match_capture(sample: DpSample, config: FitConfig | None = None) -> Matched:
    """Match the views of a capture of known depth, and tell where the result may be used.

    Args:
        sample: with ``depth``; where its ``mask`` is False, the depth has holes.

    Raises:
        InputError: the depth is missing, or the views are smaller than a window.
    """
    config = config or FitConfig()
    if sample.depth is None:
        raise InputError(f"capture {sample.name}: depth: expected metres, found none. Fit to captures of known depth.")
    disparity, error = match_views(sample.left, sample.right, config.match)
    window = np.ones((config.match.window_px, config.match.window_px), np.uint8)
    known = np.ones(disparity.shape, bool) if sample.mask is None else sample.mask
    inverse = np.divide(1, sample.depth, out=np.zeros_like(sample.depth), where=known)
    step = cv2.dilate(inverse, window) - cv2.erode(inverse, window)
    flat = step <= config.largest_depth_step * cv2.blur(inverse, window.shape)
    whole = cv2.erode(known.astype(np.uint8), window) > 0
    return Matched(sample, disparity, error, whole & flat & (error <= config.largest_error_px))


def fit_sensor(
    captures: Iterable[DpSample],
    sensor: SensorProfile,
    config: FitConfig | None = None,
    source: str = "captures of known depth",
    progress: Callable[[str], None] | None = None,
) -> SensorFit:
    """Estimate alpha, focus distance and left/right gain of a sensor.

    Args:
        captures: read one after the other; all by this sensor, lens, aperture and focus setting, showing the same field.
        sensor: focal length, f-number and pitch; the numbers to be fitted are not looked at.
        source: what the profile is to say of the captures.
        progress: called with the name of each capture once it is matched.

    Raises:
        InputError: no captures, of different sizes, without depth, with nothing usable, or all at about one depth, which
            leaves focus and alpha undetermined.
        OpticsError: no lens fits (such as with exchanged views), or focal length, f-number or pitch are unknown.
    """
    config = config or FitConfig()
    matched = []
    for sample in captures:
        matched.append(match_capture(sample, config))
        if progress is not None:
            progress(sample.name)
    if len({m.disparity.shape for m in matched}) != 1:
        sizes = sorted({f"{m.disparity.shape[1]}x{m.disparity.shape[0]}" for m in matched})
        raise InputError(f"captures: expected some, all of one size, found {', '.join(sizes) or 'none'}.")
    points = [_points(m, sensor, config) for m in matched]
    disparity, inverse, along, weight = (np.concatenate(columns) for columns in zip(*points, strict=True))
    near, middle, far = np.quantile(inverse, (0.02, 0.5, 0.98))
    if not far - near > 0.1 * middle:
        raise InputError(
            f"captures: expected depths that differ, found {1 / far:.3g} to {1 / near:.3g} m where views match. Add captures."
        )
    slope, offset, strength = _fit_lens(disparity, inverse, along, weight, config.field_order)
    alpha, focus = lens_of_affine(slope, offset, sensor)
    height, width = _file_size(matched[0].sample)
    described = f"Fit by edge-dp sensors fit on {source}: {len(matched)} captures"
    sources = sensor.sources | {
        "alpha": f"{described}, disparity = {offset:.4g} {slope:+.4g} / Z px (Z in metres). Rests on focal length, f-number "
        "and pitch.",
        "focus_m": f"{described}; from the lens, where disparity is 0.",
    }
    if not np.polynomial.polynomial.polyval(np.linspace(-1, 1, 101), strength).min() > 0:
        raise InputError(
            "captures: expected texture all over the field, to follow alpha to its edges, found too little. Add captures, or "
            "take alpha as the same everywhere (field_order 0)."
        )
    found = replace(sensor, alpha=_rounded(alpha), focus_m=_rounded(focus), alpha_field=None, sources=sources)
    if config.field_order > 0:
        rows = (strength,) if sensor.dp_axis == "x" else tuple((value,) for value in strength)
        sources["alpha_field"] = f"{described}; order {config.field_order} along the dual-pixel axis, mean 1."
        found = replace(found, alpha_field=FieldPolynomial(_round_rows(rows), (width, height)))
    gain_error = None
    if len(matched) >= config.gain_captures:
        gain, gain_error = _fit_gain([m.sample for m in matched], sensor, config)
        sources["right_gain"] = (
            f"{described}; ratio of the smoothed views, order {config.gain_orders[0]} along and {config.gain_orders[1]} across "
            f"the dual-pixel axis. Relative error {100 * gain_error:.2f} % rms."
        )
        found = replace(found, right_gain=FieldPolynomial(gain, (width, height)))
    residuals = tuple(residual(m, found) for m in matched)
    median = float(np.mean([r.median_abs_px for r in residuals]))
    return SensorFit(slope, offset, found, residuals, median, gain_error)


def predict_disparity(sample: DpSample, sensor: SensorProfile) -> Array:
    """(H, W) float32 disparity that the profile's lens shows at the capture's depth, px; NaN in its holes.

    Raises:
        InputError: the depth is missing, or the profile's focus is no single number.
        OpticsError: a number of the lens is unknown.
    """
    if sample.depth is None:
        raise InputError(f"capture {sample.name}: depth: expected metres, found none.")
    if not isinstance(sensor.focus_m, float | int):
        raise InputError(f"sensor {sensor.name}: focus_m: expected one distance, found {sensor.focus_m}. Fit it.")
    depth = sample.depth if sample.mask is None else np.where(sample.mask, sample.depth, np.float32(np.inf))
    alpha = to_sample_orientation(sensor.alpha_over_field(*_file_size(sample)), sample.sensor)
    disparity = depth_to_disparity(depth, sensor, sensor.focus_m, alpha)
    return (disparity if sample.mask is None else np.where(sample.mask, disparity, np.nan)).astype(np.float32)


def residual(matched: Matched, sensor: SensorProfile) -> Residual:
    """How far the profile's lens is from what was matched; InputError as ``predict_disparity``, and with nothing usable."""
    usable = matched.usable
    if not usable.any():
        raise _nothing_usable(matched.sample)
    predicted, found = predict_disparity(matched.sample, sensor)[usable], matched.disparity[usable]
    return Residual(
        name=matched.sample.name,
        coverage=float(usable.mean()),
        median_abs_px=float(np.median(np.abs(found - predicted))),
        bias_px=float(np.median(found - predicted)),
        matched_px=float(np.median(found)),
        predicted_px=float(np.median(predicted)),
    )


def _points(matched: Matched, sensor: SensorProfile, config: FitConfig) -> tuple[Vector, Vector, Vector, Vector]:
    """Disparity, inverse depth, place along the dual-pixel axis of the files (-1..1) and weight of some usable matches."""
    rows, columns = np.nonzero(matched.usable)
    if rows.size == 0:
        raise _nothing_usable(matched.sample)
    chosen = np.linspace(0, rows.size - 1, min(rows.size, config.points)).astype(np.intp)
    at = rows[chosen], columns[chosen]
    assert matched.sample.depth is not None
    width = matched.disparity.shape[1]
    along = (2 * at[1] + 1) / width - 1  # to_sample_orientation turns y into x and keeps its direction
    error = matched.error[at].astype(np.float64)
    weight = 1 / (error**2 + (config.largest_error_px / 2) ** 2)  # no match is as exact as noise alone would have it
    disparity, inverse = matched.disparity[at].astype(np.float64), 1 / matched.sample.depth[at].astype(np.float64)
    return disparity, inverse, along, weight / weight.sum()


def _nothing_usable(sample: DpSample) -> InputError:
    return InputError(
        f"capture {sample.name}: expected texture at places of known depth, found none that matches. Leave it out, or widen "
        "the range of disparities."
    )


def _fit_lens(
    disparity: Vector, inverse: Vector, along: Vector, weight: Vector, order: int
) -> tuple[float, float, tuple[float, ...]]:
    """(slope, offset, strength): d = s(x) (offset + slope / Z), robustly, lens and strength in turn.

    ``strength`` has order + 1 coefficients, from the constant on, and mean 1 over -1..1.
    """
    powers = along[:, None] ** np.arange(order + 1)
    means = np.array([0.0 if i % 2 else 1 / (i + 1) for i in range(order + 1)])  # of x**i over -1..1
    strength = np.eye(order + 1)[0]
    lens = np.zeros(2)
    robust = weight
    for iteration in range(_ITERATIONS):
        relative = powers @ strength
        lens = _least_squares(np.stack([relative, relative * inverse], axis=1), disparity, robust)
        mean_disparity = lens[0] + lens[1] * inverse
        strength = _least_squares(powers * mean_disparity[:, None], disparity, robust)
        scale = float(means @ strength)
        strength, lens = strength / scale, lens * scale
        error = disparity - (powers @ strength) * (lens[0] + lens[1] * inverse)
        robust = weight * _robust(error, tukey=iteration >= _HUBER_ITERATIONS)
    return float(lens[1]), float(lens[0]), tuple(float(value) for value in strength)


def _fit_gain(
    samples: list[DpSample], sensor: SensorProfile, config: FitConfig
) -> tuple[tuple[tuple[float, ...], ...], float]:
    """Coefficients of the right view's gain over the field as it lies in the files, and their relative error, rms."""
    along, across = config.gain_orders
    orders = (along, across) if sensor.dp_axis == "x" else (across, along)
    designs, ratios = [], []
    for sample in samples:
        ratio, known = _smoothed_ratio(sample, sensor)
        height, width = ratio.shape
        y, x = np.mgrid[0:height, 0:width]
        x, y = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
        designs.append(np.polynomial.polynomial.polyvander2d(y[known], x[known], orders[::-1]))
        ratios.append(ratio[known])
    design, target = np.concatenate(designs), np.concatenate(ratios)
    if len(target) < 10 * design.shape[1]:
        raise InputError("captures: expected views between dark and saturated to fit the gain to, found hardly any.")
    weight = np.ones_like(target)
    for _ in range(_HUBER_ITERATIONS):
        coefficients = _least_squares(design / target[:, None], np.ones_like(target), weight)
        error = design @ coefficients / target - 1
        weight = _robust(error, tukey=False)
    rows = coefficients.reshape(orders[1] + 1, orders[0] + 1)
    return _round_rows(rows.tolist()), float(np.sqrt(np.mean(error**2)))


def _smoothed_ratio(sample: DpSample, sensor: SensorProfile) -> tuple[Vector, Mask]:
    """Left over right, both averaged over a twentieth of the width, as in the files; and where it may be used."""
    cells = (24, max(8, round(24 * sample.left.shape[1] / sample.left.shape[2])))
    sums = []
    usable = (sample.left.max(axis=0) < 0.95) & (sample.right.max(axis=0) < 0.95)
    right = sample.right
    if sample.sensor.right_gain is not None:  # matched on reading: undo it
        gain = sample.sensor.right_gain.sample(*_file_size(sample))
        right = right / to_sample_orientation(gain, sample.sensor)
    for view in (sample.left, right):
        light = np.where(usable, view.mean(axis=0), 0).astype(np.float64)
        sums.append(cv2.resize(light, cells, interpolation=cv2.INTER_AREA))
    share = cv2.resize(usable.astype(np.float64), cells, interpolation=cv2.INTER_AREA)
    known = (share > 0.5) & (sums[0] > 0.01 * share) & (sums[1] > 0.01 * share)
    ratio = np.divide(sums[0], sums[1], out=np.ones_like(share), where=known)
    return to_sensor_orientation(ratio, sensor), to_sensor_orientation(known, sensor)


def _file_size(sample: DpSample) -> tuple[int, int]:
    """(height, width) of the capture's files."""
    height, width = sample.left.shape[1:]
    return (height, width) if sample.sensor.dp_axis == "x" else (width, height)


def _robust(error: Vector, tukey: bool) -> Vector:
    """Weights for least squares that bound (Huber) or end (Tukey) the pull of what lies far off."""
    scale = 1.4826 * max(float(np.median(np.abs(error))), 1e-9)
    if tukey:
        return (1 - np.minimum(1, (error / (_TUKEY * scale)) ** 2)) ** 2
    return 1 / np.maximum(1, np.abs(error) / (_HUBER * scale))


def _least_squares(design: Vector, target: Vector, weight: Vector) -> Vector:
    root = np.sqrt(weight)
    found: Vector = np.linalg.lstsq(design * root[:, None], target * root, rcond=None)[0].astype(np.float64)
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _round_rows(rows: Iterable[Iterable[float]]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(value, 5) for value in row) for row in rows)
