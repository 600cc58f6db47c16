"""Ground truth and all-in-focus images of data sets, checked against the views they belong to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.images import read_raw, read_view, to_sample_orientation
from edge_dp.data.sample import Array, DpSample
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile


def read_levels(path: Path, dtype: type[np.generic]) -> NDArray[Any]:
    """(H, W) levels of an image with one channel, as it lies in its file.

    Raises:
        InputError: the file is missing, truncated, of another dtype or has more channels.
    """
    levels = read_raw(path)
    if levels.dtype != dtype or levels.ndim != 2:
        raise InputError(
            f"{path}: expected {np.dtype(dtype)}, one channel, found {levels.dtype} {levels.shape}. Copy the file again."
        )
    return levels


def fit_to_views(values: NDArray[Any], sample: DpSample, path: Path, *, resize: bool = False) -> NDArray[Any]:
    """(H, W) ground truth as it lies in its file -> oriented as the views and of their size.

    Args:
        values: (h, w), the file's orientation.
        sample: the views.
        path: the file, for the message.
        resize: bring it to the size of the views by nearest neighbour, which makes no values up between two surfaces.

    Raises:
        InputError: another size than the views without ``resize``, or another shape with it.
    """
    turned = to_sample_orientation(values, sample.sensor)
    height, width = sample.left.shape[1:]
    if turned.shape == (height, width):
        return turned
    h, w = turned.shape
    if not resize:
        raise InputError(f"{path}: expected {width}x{height} as the views, found {w}x{h}. Copy the file again.")
    if abs(w * height - h * width) > max(h, w, height, width):  # more than a rounded pixel off
        raise InputError(
            f"{path}: expected the shape of the views, {width}x{height}, at any size, found {w}x{h}. Copy the file again."
        )
    resized: NDArray[Any] = cv2.resize(turned, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return resized


def read_picture(path: Path, sample: DpSample, sensor: SensorProfile, *, colour: bool) -> Array:
    """An image of the scene, such as the all-in-focus one, in linear light and oriented as the views: (C, H, W) float32.

    Args:
        path: the file.
        sample: the views.
        sensor: dtype and levels of the file, which need not be those of the views.
        colour: as for the views.

    Raises:
        InputError: as ``read_view``; another size than the views.
    """
    light = read_view(path, sensor, colour=colour)
    picture = to_sample_orientation(light.reshape(-1, *light.shape[-2:]), sample.sensor)
    if picture.shape[1:] != sample.left.shape[1:]:
        (height, width), (h, w) = sample.left.shape[1:], picture.shape[1:]
        raise InputError(f"{path}: expected {width}x{height} as the views, found {w}x{h}. Copy the file again.")
    return picture
