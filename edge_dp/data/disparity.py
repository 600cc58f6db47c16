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
    _write_png(png, encoded)
    _write_png(preview, _colour(values, valid))
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


def _colour(values: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    far, near = np.percentile(values[valid], (98, 2))
    nearness = (far - np.where(valid, values, far)) / max(far - near, 1e-6)
    colours: NDArray[Any] = cv2.applyColorMap((255 * nearness.clip(0, 1)).astype(np.uint8), cv2.COLORMAP_TURBO)
    colours[~valid] = 0
    return colours


def _write_png(path: Path, image: NDArray[Any]) -> None:
    encoded = cv2.imencode(".png", image)[1]
    with atomic_write(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
