"""Dual-pixel views from image files, turned into linear light as the sensor profile says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.pfm import read_pfm
from edge_dp.data.sample import Array, DpSample
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile
from edge_dp.srgb import srgb_to_linear

_GREEN = 1  # in BGR, BGRA and RGB alike
_RED = 2  # in BGR and BGRA, the order of OpenCV
_WHAT_TO_DO = {
    "uint8": "Pass --sensor generic_8bit for tone-mapped files.",
    "uint16": "Pass --sensor pixel4 for its 16-bit raw, or the path of your own profile.",
}
Scalar = TypeVar("Scalar", bound=np.generic)


def read_view(path: str | Path, sensor: SensorProfile, *, colour: bool = False) -> Array:
    """One view as it lies in its file, in linear light; without shading gain and rotation, which concern the pair.

    PNG, TIFF, JPEG and PGM hold levels of the sensor: (v - black) / (white - black), clipped at 0, then linearised
    where the profile says sRGB. A ``.pfm`` holds linear light already. Of colour files the green channel is used, which
    has twice the samples of the others on the sensor, unless ``colour`` asks for all three.

    Args:
        path: the file.
        sensor: dtype, levels and transfer curve of the files.
        colour: give red, green and blue.

    Returns:
        (H, W) float32, [0, 1]; with ``colour`` (3, H, W).

    Raises:
        InputError: the file is missing, truncated or no image; its dtype is not the sensor's; its levels lie all at or
            below black, or somewhere above white; a ``.pfm`` holds NaN, infinity or values outside [0, 1]; ``colour``
            of a file with one channel.
    """
    is_light = Path(path).suffix.lower() == ".pfm"
    values = read_pfm(path) if is_light else read_raw(path)
    if colour:
        if values.ndim == 2:
            raise InputError(f"{path}: expected three channels, found one. Read it without colour.")
        view = np.moveaxis(values if is_light else values[..., _RED::-1], -1, 0)
    else:
        view = values if values.ndim == 2 else values[..., _GREEN]
    if is_light:
        if not (view.min() >= 0 and view.max() <= 1):  # NaN fails both
            raise InputError(
                f"{path}: expected linear light in [0, 1], found {view.min()} to {view.max()}. Mend the values, or "
                "divide by the white level."
            )
        return np.ascontiguousarray(view, dtype=np.float32)
    return light_of_levels(view, sensor, str(path))


def light_of_levels(levels: NDArray[Any], sensor: SensorProfile, where: str) -> Array:
    """Levels of the sensor's files in linear light: (v - black) / (white - black), clipped at 0, linearised where they are sRGB.

    Args:
        levels: (...), dtype and levels as the profile says.
        where: the file or view, for the messages.

    Returns:
        The same shape, float32, [0, 1].

    Raises:
        InputError: another dtype; levels that all lie at or below black, or somewhere above white.
    """
    _check_levels(where, levels, sensor)
    light = (levels.astype(np.float32, order="C") - np.float32(sensor.black_level)).clip(0)
    light /= np.float32(sensor.white_level - sensor.black_level)
    return srgb_to_linear(light) if sensor.transfer == "srgb" else light


def read_pair(
    left: str | Path, right: str | Path, sensor: SensorProfile, *, colour: bool = False, centre: float = 1.0
) -> DpSample:
    """Both views as a sample: linear, in true left/right order, shading matched, dual-pixel axis along x.

    Args:
        left: the file called left; where the profile has ``swap_views`` it holds the right view.
        right: the file called right.
        sensor: the profile.
        colour: give red, green and blue in place of green alone.
        centre: share of each side of the files to keep, about their centre.

    Returns:
        A sample of shape (1, H, W), with ``colour`` (3, H, W), named after the left file. The right view is clipped at
        1 after its gain.

    Raises:
        InputError: as ``read_view``; the views differ in size, are one and the same, or show more than the field over
            which the profile's ``right_gain`` is known.
    """
    views = [_central(read_view(path, sensor, colour=colour), centre) for path in (left, right)]
    if views[0].shape != views[1].shape:
        sizes = [f"{view.shape[-1]}x{view.shape[-2]}" for view in views]
        raise InputError(f"{right}: expected {sizes[0]} as in {left}, found {sizes[1]}. Pass the views of one capture.")
    if np.array_equal(views[0], views[1]):
        raise InputError(f"{right}: expected the other view, found one view twice (same as {left}). Pass both views.")
    planes = match_views(views[0], views[1], sensor, str(right))
    return DpSample(left=planes[0], right=planes[1], sensor=sensor, name=Path(left).stem)


def match_views(left: Array, right: Array, sensor: SensorProfile, where: str) -> tuple[Array, Array]:
    """Views as they lie in the sensor's files -> true left and right of a sample, equally bright, dual-pixel axis along x.

    Args:
        left, right: (H, W) or (3, H, W) linear light; the views called so, which ``swap_views`` exchanges.
        where: the file or view, for the message.

    Returns:
        Both as (C, H, W); the right view is clipped at 1 after its gain.

    Raises:
        InputError: the views show more than the field over which the profile's ``right_gain`` is known.
    """
    if sensor.swap_views:
        left, right = right, left
    if sensor.right_gain is not None:
        height, width = right.shape[-2:]
        field = sensor.right_gain.field_px
        if width > field[0] or height > field[1]:
            raise InputError(
                f"{where}: expected at most {field[0]}x{field[1]}, where right_gain of sensor {sensor.name} is known, "
                f"found {width}x{height}. Crop the views to their centre."
            )
        right = (right * sensor.right_gain.sample(height, width)).clip(0, 1)
    planes = [to_sample_orientation(view.reshape(-1, *view.shape[-2:]), sensor) for view in (left, right)]
    return planes[0], planes[1]


def to_sample_orientation(array: NDArray[Scalar], sensor: SensorProfile) -> NDArray[Scalar]:
    """(..., H, W) as in the files -> dual-pixel axis along x. A rotation, so the scene is not mirrored.

    For axis "y" it is a quarter turn counter-clockwise, which takes the top of a file to the left: x then runs as y
    did, and disparity keeps its sign.
    """
    return np.ascontiguousarray(np.rot90(array, 1, (-2, -1))) if sensor.dp_axis == "y" else array


def to_sensor_orientation(array: NDArray[Scalar], sensor: SensorProfile) -> NDArray[Scalar]:
    """Inverse of ``to_sample_orientation``: (..., H, W) of a sample or prediction -> as in the files."""
    return np.ascontiguousarray(np.rot90(array, -1, (-2, -1))) if sensor.dp_axis == "y" else array


def correct_field(disparity: Array, sensor: SensorProfile) -> Array:
    """Disparity that a lens equally strong all over the field would show: affine in inverse depth, which the raw one is not.

    Off the axis the lens vignettes the outer halves of the aperture, the centroids of the views come closer, and the same
    defocus shows less disparity: d_corrected = d / s(x, y), where s is the profile's ``alpha_field``, with mean 1.

    Args:
        disparity: (H, W) px, in the orientation of a sample, of views that show the field of the profile.

    Returns:
        (H, W) px, float32, a fresh array: ``disparity`` again where the profile does not say how its strength varies.
    """
    strength = field_strength(sensor, *disparity.shape)
    return disparity.copy() if strength is None else np.asarray(disparity / strength, np.float32)


def field_strength(sensor: SensorProfile, height: int, width: int) -> Array | None:
    """s(x, y), the disparity that one defocus shows, relative to its mean over the field: (height, width) as samples lie.

    None where the profile does not say how it varies.
    """
    if sensor.alpha_field is None:
        return None
    shape = (width, height) if sensor.dp_axis == "y" else (height, width)
    return to_sample_orientation(sensor.alpha_field.sample(*shape), sensor)


def read_raw(path: str | Path) -> NDArray[Any]:
    """An image file as stored: (H, W) or (H, W, C) in BGR order, the file's dtype, EXIF orientation left alone.

    Raises:
        InputError: the file is missing, truncated, or no image that OpenCV reads.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected an image file, found: {error.strerror}. Check the path.") from error
    image: NDArray[Any] | None = None
    if data and not is_cut_jpeg(data):
        try:
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:  # larger than OpenCV's limits
            image = None
    if image is None:
        raise InputError(
            f"{path}: expected an image (png, tif, jpg, pgm), found {len(data)} bytes that do not decode. The file is "
            "truncated or of another kind: copy or convert it again."
        )
    return image


def is_cut_jpeg(data: bytes) -> bool:
    """Whether these are the bytes of a JPEG without its end marker after the last scan.

    Older OpenCV fills what is missing with grey, so that nobody would notice.
    """
    return data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0


def _central(view: Array, share: float) -> Array:
    """The central ``share`` of each side of (..., H, W)."""
    height, width = (round(share * side) for side in view.shape[-2:])
    top, left = (view.shape[-2] - height) // 2, (view.shape[-1] - width) // 2
    return view[..., top : top + height, left : left + width]


def _check_levels(where: str, view: NDArray[Any], sensor: SensorProfile) -> None:
    kind = "tone-mapped (sRGB)" if sensor.transfer == "srgb" else "raw"
    expected = f"{sensor.dtype} {kind} with black level {sensor.black_level:g} (sensor {sensor.name})"
    if str(view.dtype) != sensor.dtype:
        advice = _WHAT_TO_DO.get(str(view.dtype), f"Convert it to {sensor.dtype}, or to .pfm of linear light.")
        raise InputError(f"{where}: expected {expected}, found {view.dtype}. {advice}")
    if view.max() <= sensor.black_level:
        raise InputError(
            f"{where}: expected {expected}, found no value above {view.max()}. The file is black, or of another sensor."
        )
    if view.max() > sensor.white_level:
        raise InputError(
            f"{where}: expected {expected} and white level {sensor.white_level:g}, found {view.max()}. Pass the "
            "--sensor that took it."
        )
