"""Arrays of a bundle, read without trust: a damaged or hostile ``.npy`` gives one clear error and takes no memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError


def read_array(path: Path, shape: tuple[int, ...], what: str) -> NDArray[np.float32]:
    """A float32 array of a known shape.

    Args:
        path: an ``.npy`` file; pickles are never loaded.
        shape: as the manifest says; the file's header may promise anything, and nothing is allocated for it.
        what: the tensor, for the messages.

    Raises:
        InputError: no such file, not an ``.npy``, cut short, of another type or shape, or with NaN or infinity in it.
    """
    if not path.is_file():  # a pipe would wait for ever
        raise InputError(f"{path}: {what}: expected an .npy file, found none. Export the bundle again.")
    try:
        with np.errstate(all="ignore"):
            stored = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # a damaged header makes numpy raise anything
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: {what}: not a readable .npy file: {words}. Export the bundle again.") from error
    if stored.dtype != np.float32 or stored.shape != shape:
        raise InputError(f"{path}: {what}: expected float32 {shape}, found {stored.dtype} {stored.shape}")
    array = np.array(stored, dtype=np.float32, order="C", subok=False)
    if bad := int((~np.isfinite(array)).sum()):
        raise InputError(f"{path}: {what}: expected finite values, found {bad} of {array.size} NaN or infinite")
    return array
