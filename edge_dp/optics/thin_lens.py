"""The thin lens: signed circle of confusion, and dual-pixel disparity to and from metric depth.

With focal length f, aperture diameter A = f / N, focus distance g, depth Z and pitch p, all from the lens,

    c = A f / (g - f) * (Z - g) / Z        diameter of the circle of confusion on the sensor, > 0 behind the focus plane
    d = alpha c / p                        disparity in px, left(x) = right(x + d)

so that disparity is affine in inverse depth: d = offset + slope / Z with offset > 0 (the horizon's) and slope = -g offset.

Focus breathing is left out: f, and so the field of view, is taken to be the same at every focus distance. So are field
curvature and the thickness of the lens. What is left of them ends up in fitted numbers (``edge_dp.sensors.fit``).

Source: geometrical optics of the thin lens, as in Garg et al., "Learning Single Camera Depth Estimation using Dual-Pixels",
ICCV 2019, equations 1-3; sign as in this project's conventions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_dp.errors import OpticsError
from edge_dp.sensors import SensorProfile

Array = NDArray[np.floating[Any]]


def circle_of_confusion(depth: ArrayLike, focal_length_m: float, f_number: float, focus_m: float) -> Array:
    """Signed diameter of the circle of confusion on the sensor, in metres.

    c = A f / (g - f) * (Z - g) / Z with A = f / N; positive behind the focus plane, negative in front of it.

    Args:
        depth: (...) metres along the optical axis, > 0; inf is the horizon.
        focal_length_m: f, metres, > 0.
        f_number: N, > 0.
        focus_m: g, metres, > f; inf is focus at the horizon.

    Returns:
        (...) metres, in the depth's floating dtype (float64 for whole numbers).

    Raises:
        OpticsError: focus within the focal length, or a depth that is NaN or not positive (the first one is named).

    Source: as the module.
    """
    inverse, dtype = _inverse_depth(depth)
    scale, inverse_focus = _blur_at_infinity(focal_length_m, f_number, focus_m)
    return _as(dtype, scale * (inverse_focus - inverse))


def circle_of_confusion_px(depth: ArrayLike, sensor: SensorProfile, focus_m: float) -> Array:
    """``circle_of_confusion`` in px of the sensor's files.

    Raises:
        OpticsError: as ``circle_of_confusion``; focal length, f-number or pitch of the sensor are unknown.
    """
    focal_length, f_number, pitch = _lens(sensor)
    return circle_of_confusion(depth, focal_length, f_number, focus_m) / (pitch * 1e-6)


def affine_of_inverse_depth(sensor: SensorProfile, focus_m: float, alpha: float | None = None) -> tuple[float, float]:
    """(slope, offset) of disparity over inverse depth: d = offset + slope / Z, in px m and px.

    offset = alpha A f / ((g - f) p) and slope = -alpha A f / ((1 - f / g) p).

    Args:
        sensor: focal length, f-number, pitch and alpha.
        focus_m: g, metres, > f; inf is focus at the horizon.
        alpha: disparity per diameter of the circle of confusion, instead of the sensor's.

    Raises:
        OpticsError: focus within the focal length, or a number of the sensor is unknown or not positive.
    """
    focal_length, f_number, pitch = _lens(sensor)
    strength = float(_alpha(sensor, alpha))
    scale, inverse_focus = _blur_at_infinity(focal_length, f_number, focus_m)
    scale *= strength / (pitch * 1e-6)
    return -scale, scale * inverse_focus


def lens_of_affine(slope: float, offset: float, sensor: SensorProfile) -> tuple[float, float]:
    """(alpha, focus in metres) of a lens that shows d = offset + slope / Z: the inverse of ``affine_of_inverse_depth``.

    g = -slope / offset and alpha = -slope p (1 - f / g) / (A f).

    Args:
        slope: px m, < 0.
        offset: px, > 0; 0 is focus at the horizon.
        sensor: focal length, f-number and pitch; its alpha is not looked at.

    Raises:
        OpticsError: no lens does that (signs, or focus within the focal length), or a number of the sensor is unknown.
    """
    focal_length, f_number, pitch = _lens(sensor)
    if not (slope < 0 <= offset < np.inf and np.isfinite(slope)):
        raise OpticsError(
            f"disparity {offset:.4g} + {slope:.4g} / Z px: expected a falling slope and an offset of at least 0, as a lens "
            "gives. Are left and right exchanged (swap_views), or the depths wrong?"
        )
    focus = -slope / offset if offset > 0 else np.inf
    scale, _ = _blur_at_infinity(focal_length, f_number, focus)
    return -slope * pitch * 1e-6 / scale, float(focus)


def depth_to_disparity(
    depth: ArrayLike, sensor: SensorProfile, focus_m: float, alpha: ArrayLike | None = None
) -> Array:
    """Dual-pixel disparity of what lies at ``depth``, in px of the sensor's files; > 0 behind the focus plane.

    d = alpha c / p with the circle of confusion c above.

    Args:
        depth: (..., H, W) or any shape, metres along the optical axis, > 0; inf is the horizon.
        sensor: focal length, f-number, pitch and alpha.
        focus_m: g, metres, > f; inf is focus at the horizon.
        alpha: instead of the sensor's, one number or an array that goes with ``depth``, such as
            ``sensor.alpha_over_field(H, W)``.

    Returns:
        The shape of ``depth`` (and ``alpha``), px, in the depth's floating dtype (float64 for whole numbers).

    Raises:
        OpticsError: focus within the focal length, a number of the sensor is unknown, an alpha that is not positive, or a
            depth that is NaN or not positive (the first one is named).

    Source: as the module.
    """
    inverse, dtype = _inverse_depth(depth)
    focal_length, f_number, pitch = _lens(sensor)
    scale, inverse_focus = _blur_at_infinity(focal_length, f_number, focus_m)
    return _as(dtype, _alpha(sensor, alpha) * (scale / (pitch * 1e-6)) * (inverse_focus - inverse))


def disparity_to_depth(
    disparity: ArrayLike, sensor: SensorProfile, focus_m: float, alpha: ArrayLike | None = None
) -> Array:
    """Depth in metres of what shows ``disparity``: the inverse of ``depth_to_disparity``.

    Z = 1 / (1 / g - d p (1 - f / g) / (alpha A f)). A disparity of the horizon or beyond, which noise may give, is inf.

    Args:
        disparity: (..., H, W) or any shape, px of the sensor's files; NaN (invalid) stays NaN.
        sensor, focus_m, alpha: as ``depth_to_disparity``.

    Returns:
        The shape of ``disparity`` (and ``alpha``), metres, > 0, in the disparity's floating dtype.

    Raises:
        OpticsError: focus within the focal length, a number of the sensor is unknown, an alpha that is not positive, or an
            infinite disparity.
    """
    values, dtype = _floating(disparity)
    if np.isinf(values).any():
        raise OpticsError(f"disparity{_first(np.isinf(values))}: expected finite px, found infinity. Mask it as NaN.")
    focal_length, f_number, pitch = _lens(sensor)
    scale, inverse_focus = _blur_at_infinity(focal_length, f_number, focus_m)
    inverse = inverse_focus - values * (pitch * 1e-6) / (_alpha(sensor, alpha) * scale)
    with np.errstate(divide="ignore"):
        return _as(dtype, 1.0 / np.maximum(inverse, 0.0))


def _blur_at_infinity(focal_length_m: float, f_number: float, focus_m: float) -> tuple[float, float]:
    """(A f / (1 - f / g), 1 / g): c is their product at infinity, and less by the first times 1 / Z elsewhere."""
    for name, value in (("focal_length_m", focal_length_m), ("f_number", f_number)):
        if not 0 < value < np.inf:
            raise OpticsError(f"{name}: expected a number above 0, found {value}")
    if not focus_m > focal_length_m:  # NaN too
        raise OpticsError(
            f"focus_m: expected above the focal length {focal_length_m:g} m, found {focus_m:g}. Pass metres from the lens."
        )
    inverse_focus = 1.0 / focus_m
    return focal_length_m**2 / f_number / (1.0 - focal_length_m * inverse_focus), inverse_focus


def _lens(sensor: SensorProfile) -> tuple[float, float, float]:
    found = (sensor.focal_length_m, sensor.f_number, sensor.pitch_um)
    for name, value in zip(("focal_length_m", "f_number", "pitch_um"), found, strict=True):
        if value is None:
            raise OpticsError(
                f"sensor {sensor.name}: {name}: expected a number, found null (unknown). Use a profile that has it, or add it."
            )
    focal_length, f_number, pitch = found
    assert focal_length is not None and f_number is not None and pitch is not None
    return focal_length, f_number, pitch


def _alpha(sensor: SensorProfile, given: ArrayLike | None) -> NDArray[np.float64]:
    if given is None and sensor.alpha is None:
        raise OpticsError(
            f"sensor {sensor.name}: alpha: expected a number, found null (unknown). Pass alpha, or fit it: edge-dp sensors fit."
        )
    alpha = np.asarray(sensor.alpha if given is None else given, dtype=np.float64)
    bad = ~((alpha > 0) & np.isfinite(alpha))
    if bad.any():
        raise OpticsError(f"alpha{_first(bad)}: expected a number above 0, found {alpha[bad].flat[0]:g}.")
    return alpha


def _inverse_depth(depth: ArrayLike) -> tuple[NDArray[np.float64], np.dtype[Any]]:
    values, dtype = _floating(depth)
    bad = ~(values > 0)
    if bad.any():
        raise OpticsError(
            f"depth{_first(bad)}: expected metres above 0, found {values[bad].flat[0]:g}. Mask holes before converting."
        )
    return 1.0 / values, dtype


def _floating(values: ArrayLike) -> tuple[NDArray[np.float64], np.dtype[Any]]:
    """The values in float64, in which the formulas are computed, and the dtype to give back."""
    array = np.asarray(values)
    dtype = array.dtype if np.issubdtype(array.dtype, np.floating) else np.dtype(np.float64)
    return array.astype(np.float64), dtype


def _as(dtype: np.dtype[Any], values: NDArray[np.float64]) -> Array:
    """In the caller's dtype; a scalar for a scalar."""
    result: Array = np.asarray(values).astype(dtype)[()]
    return result


def _first(bad: NDArray[np.bool_]) -> str:
    """Where the first True lies, as an index; nothing for a scalar."""
    return f"[{', '.join(str(i) for i in np.argwhere(bad)[0])}]" if bad.ndim else ""
