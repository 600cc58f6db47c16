"""Portable float maps: "Pf" is one channel, "PF" three; rows run from the bottom up; a negative scale is little-endian.

Source: Debevec, "Portable FloatMap Image Format"; Middlebury stereo and MVS sets use it for disparity and depth.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edge_dp.errors import InputError
from edge_dp.files import atomic_write

_HEADER = re.compile(rb"(P[Ff])\s+(\d{1,9})\s+(\d{1,9})\s+([-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s")


def read_pfm(path: str | Path) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) float32, top row first. NaN and infinity, which some sets use for "unknown", are kept.

    Raises:
        InputError: the file is missing, is no PFM, or holds fewer values than its header promises.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a PFM file, found: {error.strerror}. Check the path.") from error
    header = _HEADER.match(data)
    if header is None:
        raise InputError(f"{path}: expected a PFM header (Pf, width, height, scale), found {data[:16]!r}.")
    width, height = int(header[2]), int(header[3])
    channels = 3 if header[1] == b"PF" else 1
    expected, found = width * height * channels * 4, len(data) - header.end()
    if expected == 0 or found < expected:
        raise InputError(
            f"{path}: expected {expected} bytes of {width}x{height} values, found {found}. The file is truncated or "
            "malformed: write it again."
        )
    order = "<f4" if header[4].startswith(b"-") else ">f4"
    values = np.frombuffer(data, order, width * height * channels, header.end())
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.ascontiguousarray(values.reshape(shape)[::-1], dtype=np.float32)


def write_pfm(path: str | Path, array: ArrayLike) -> None:
    """Write (H, W) values as float32 little-endian "Pf", atomically.

    Raises:
        InputError: the array is not (H, W), or ``path`` cannot be written.
    """
    values = np.asarray(array)
    if values.ndim != 2:
        raise InputError(f"{path}: expected an (H, W) array to write, found shape {values.shape}.")
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    with atomic_write(path) as temporary:
        temporary.write_bytes(header + values[::-1].astype("<f4").tobytes())
