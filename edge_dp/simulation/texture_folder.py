"""Textures cropped from a folder of images."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.images import read_raw
from edge_dp.errors import InputError
from edge_dp.srgb import LIGHT_OF_LEVEL

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm")
"""Files of a texture folder that are taken for images, in either case."""
_LONGEST_SIDE = 1024
"""Larger images are shrunk to it when read, px, so that what is cached stays below 16 * 3 MiB."""
_CACHED_IMAGES = 16


@lru_cache(maxsize=8)
def texture_files(folder: str) -> tuple[Path, ...]:
    """Every image below ``folder``, sorted by its path in it; hidden files and folders are passed over.

    The list is read once per process.

    Raises:
        InputError: there is no such folder, or no image in it.
    """
    if not Path(folder).is_dir():
        raise InputError(f"textures: {folder}: expected a folder of images, found none. Check the path.")
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    files = sorted((path for path in files if path.suffix.lower() in SUFFIXES), key=lambda path: path.parts)
    if not files:
        raise InputError(
            f"textures: {folder}: expected images ({', '.join(s[1:] for s in SUFFIXES)}), found no such file. "
            "Name a folder that holds some."
        )
    return tuple(files)


def folder_texture(
    rng: np.random.Generator, folder: str, height: int, width: int, channels: int
) -> NDArray[np.float32]:
    """A random crop of a random image of the folder, at a random scale, contrast and brightness, mirrored or not.

    Images are taken as sRGB. The same generator state and folder give the same texture, whatever was read before.

    Args:
        folder: searched as by ``texture_files``.
        channels: 3 for red, green and blue; 1 for green, which dual-pixel planes mostly are.

    Returns:
        (C, H, W) linear light, [0, 1].

    Raises:
        InputError: as ``texture_files``, or the image is truncated, no image, or not of 8 or 16 bit; it is named.
    """
    files = texture_files(folder)
    image = _read(files[int(rng.integers(len(files)))])
    if channels == 1:
        image = image[..., 1:2]
    scale = np.exp(rng.uniform(np.log(0.5), np.log(2.0)))  # image px per canvas px
    wanted = max(1, round(height * scale)), max(1, round(width * scale))
    missing = [max(0, want - have) for want, have in zip(wanted, image.shape, strict=False)]
    if any(missing):
        wider = np.asarray(cv2.copyMakeBorder(image, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT), np.uint8)
        image = wider.reshape(*wider.shape[:2], channels)  # OpenCV drops a single channel
    top, left = (int(rng.integers(0, have - want + 1)) for want, have in zip(wanted, image.shape, strict=False))
    crop = image[top : top + wanted[0], left : left + wanted[1]]
    if rng.uniform() < 0.5:
        crop = crop[:, ::-1]
    if rng.uniform() < 0.5:
        crop = crop[::-1]
    light = cv2.LUT(np.ascontiguousarray(crop), _tone_curve(rng))
    interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    light = cv2.resize(light, (width, height), interpolation=interpolation).reshape(height, width, channels)
    return np.ascontiguousarray(light.transpose(2, 0, 1), np.float32).clip(0.0, 1.0)  # cubic overshoots


def _tone_curve(rng: np.random.Generator) -> NDArray[np.float32]:
    """(256,) from the codes of an image to linear light: another contrast around a middle grey, and another exposure."""
    contrast, exposure = rng.uniform(0.6, 1.4), np.exp(rng.uniform(np.log(0.4), np.log(1.4)))
    return (exposure * 0.18 * (LIGHT_OF_LEVEL / 0.18) ** contrast).clip(0.0, 1.0).astype(np.float32)


@lru_cache(maxsize=_CACHED_IMAGES)
def _read(path: Path) -> NDArray[np.uint8]:
    """(H, W, 3) red, green, blue, at most ``_LONGEST_SIDE`` px wide and high."""
    image = read_raw(path)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path}: expected an image of 8 or 16 bit, found {image.dtype}. Convert or remove it.")
    if (shrink := _LONGEST_SIDE / max(image.shape[:2])) < 1:
        size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    planes = image.reshape(*image.shape[:2], -1)
    colour = planes[..., 2::-1] if planes.shape[2] >= 3 else planes[..., :1].repeat(3, axis=2)
    cached = np.ascontiguousarray(colour)
    cached.setflags(write=False)
    return cached
