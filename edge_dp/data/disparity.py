"""Disparity maps as files: exact values for programs, 16-bit PNG for tools without PFM, and a preview for eyes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_dp.data.images import read_raw
from edge_dp.data.pfm import write_pfm
from edge_dp.errors import InputError
from edge_dp.files import atomic_write

PNG_ZERO = 32768  # the level of d = 0; level 0 means invalid
PNG_SCALE = 256  # levels per px


def write_disparity(stem: str | Path, disparity: ArrayLike) -> tuple[Path, Path, Path]:
    """Write ``<stem>.pfm``, ``<stem>.png`` and ``<stem>_preview.png``, each atomically.

    - PFM: float32 px as given, NaN where invalid.
    - 16-bit PNG: level = 32768 + round(256 d), 0 = invalid; so +-127.99 px in steps of 1/256 px.
    - preview: 8-bit colour, red near to blue far over the 2nd to 98th percentile; black = invalid. Not for measuring.

    Args:
        stem: path without suffix; for an existing folder the files are called ``disparity`` in it.
        disparity: (H, W) px, > 0 farther than the focus plane; NaN where invalid.

    Returns:
        The three paths, in the order above.

    Raises:
        InputError: not (H, W), nothing valid, infinite or beyond the PNG's range; or the files cannot be written.
    """
    stem = Path(stem) / "disparity" if Path(stem).is_dir() else Path(stem)
    values = np.asarray(disparity, dtype=np.float32)
    valid = ~np.isnan(values)
    if values.ndim != 2 or not valid.any():
        raise InputError(f"{stem}: expected an (H, W) disparity map, found shape {values.shape}, {valid.sum()} valid.")
    levels = PNG_ZERO + np.rint(PNG_SCALE * values.astype(np.float64))
    if not ((levels >= 1) & (levels <= 65535) | ~valid).all():
        raise InputError(
            f"{stem}: expected disparity within +-127.99 px, found {values[valid].min()} to {values[valid].max()}. "
            "Mask such values as NaN."
        )
    encoded = np.where(valid, levels, 0).astype(np.uint16)
    exact, png, preview = (stem.with_name(stem.name + ending) for ending in (".pfm", ".png", "_preview.png"))
    write_pfm(exact, values)
    write_png(png, encoded)
    write_png(preview, disparity_colours(values))
    return exact, png, preview


def read_disparity_png(path: str | Path) -> NDArray[np.float32]:
    """(H, W) float32 px from the 16-bit PNG of ``write_disparity``; NaN where invalid.

    Raises:
        InputError: the file is missing, no image, or not 16-bit with one channel.
    """
    levels = read_raw(path)
    if levels.dtype != np.uint16 or levels.ndim != 2:
        raise InputError(f"{path}: expected 16-bit disparity, one channel, found {levels.dtype} {levels.shape}.")
    return np.where(levels == 0, np.nan, (levels.astype(np.float32) - PNG_ZERO) / PNG_SCALE).astype(np.float32)


def colour_limits(disparity: NDArray[np.float32]) -> tuple[float, float]:
    """2nd and 98th percentile of the finite values: the ends of a preview's colours. (0, 0) where nothing is finite."""
    finite = disparity[np.isfinite(disparity)]
    near, far = np.percentile(finite, (2, 98)) if finite.size else (0.0, 0.0)
    return float(near), float(far)


def disparity_colours(disparity: NDArray[np.float32], limits: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Turbo colours for eyes: red near to blue far, black where not finite.

    Args:
        disparity: (H, W) px, > 0 farther than the focus plane.
        limits: the disparity of the reddest and of the bluest colour, px; ``colour_limits`` of the map unless given.

    Returns:
        (H, W, 3) uint8, in the order blue, green, red.
    """
    near, far = limits or colour_limits(disparity)
    valid = np.isfinite(disparity)
    nearness = (far - np.where(valid, disparity, far)) / max(far - near, 1e-6)
    colours = cv2.applyColorMap((255 * nearness.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO).astype(np.uint8)
    colours[~valid] = 0
    return colours


def write_png(path: Path, image: NDArray[Any]) -> None:
    """Write a PNG atomically: (H, W) grey or (H, W, 3) in the order blue, green, red; uint8 or uint16."""
    encoded = cv2.imencode(".png", image)[1]
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
