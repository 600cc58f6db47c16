"""What a renderer convolves with: at one disparity, a few kernels for the whole frame and how much of each a pixel takes.

A point-spread function that varies over the field would need another convolution for each place. Kernels of neighbouring places
are alike, so a few principal ones (the singular vectors of the grid of kernels) times smooth maps of coefficients are enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.optics.psf import PsfModel

FIELD_GRID = (5, 7)
"""Rows and columns of places at which a varying model is sampled, edges of the field included."""
_ENERGY_LEFT = 1e-4  # of the kernels' squared norm: an error of one per cent
_MOST = 8  # kernels of a basis, as each costs a convolution; a Pixel 4's then miss 6 % of their norm, and no centroid


_ONES = np.ones((1, *FIELD_GRID), np.float32)


@dataclass(frozen=True, slots=True)
class FieldWindow:
    """The part of the field that a frame shows, -1 to 1 being all of it: left to right, top to bottom."""

    left: float = -1.0
    top: float = -1.0
    right: float = 1.0
    bottom: float = 1.0

    def __post_init__(self) -> None:
        if not (-1 <= self.left < self.right <= 1 and -1 <= self.top < self.bottom <= 1):
            raise InputError(f"field window: expected -1 <= left < right <= 1 and top < bottom alike, found {self}")

    def interpolation(self, height: int, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Matrices A (height, rows) and B (width, columns): A g B^T samples a grid g of the field at a frame's pixels."""
        rows = np.linspace(self.top, self.bottom, 2 * height + 1)[1::2]
        columns = np.linspace(self.left, self.right, 2 * width + 1)[1::2]
        return _hats(rows, FIELD_GRID[0]), _hats(columns, FIELD_GRID[1])


@dataclass(frozen=True, slots=True, eq=False)
class PlaneKernels:
    """Kernels of one view at one disparity.

    basis: (R, K, K) float32. The point-spread function at a place is the sum over r of its coefficient times basis[r].
    coefficients: (R, rows, columns) float32 on ``FIELD_GRID``; those of basis[0] are 1.
    """

    basis: NDArray[np.float32]
    coefficients: NDArray[np.float32]


def _hats(positions: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """(N, count) weights of ``count`` nodes from -1 to 1 in a linear interpolation at N positions."""
    distance = np.abs((positions[:, None] + 1) / 2 * (count - 1) - np.arange(count))
    return np.maximum(1.0 - distance, 0.0).astype(np.float32)


def round_disparity(disparity: float, step: float) -> float:
    """The multiple of ``step`` nearest to a disparity."""
    return round(disparity / step) * step


def plane_kernels(psf: PsfModel, disparity: float, side: int) -> PlaneKernels:
    """Kernels of one view for points at ``disparity`` px, a multiple of ``psf.step``."""
    if psf.varies:
        return _principal_kernels(psf, disparity, side)
    return PlaneKernels(psf.kernel(disparity, side)[None], _ONES)


@lru_cache(maxsize=16384)  # costly, unlike the single kernels of other models, which would crowd them out
def _principal_kernels(psf: PsfModel, disparity: float, side: int) -> PlaneKernels:
    rows, columns = FIELD_GRID
    grid = [psf.kernel(disparity, side, x, y) for y in np.linspace(-1, 1, rows) for x in np.linspace(-1, 1, columns)]
    size = max(kernel.shape[0] for kernel in grid)
    samples = np.stack([np.pad(kernel, (size - kernel.shape[0]) // 2).ravel() for kernel in grid]).astype(np.float64)
    # The mean kernel stays whole, so that every combination sums to 1; what varies about it has sum 0.
    mean = samples.mean(axis=0)
    u, s, vt = np.linalg.svd(samples - mean, full_matrices=False)
    left = np.append(np.cumsum(s[::-1] ** 2)[::-1], 0.0)  # what a rank of 0, 1, ... leaves out
    rank = min(int(np.argmax(left <= _ENERGY_LEFT * float((samples**2).sum()))), _MOST - 1)
    basis = np.concatenate([mean[None], vt[:rank]]).reshape(-1, size, size)
    coefficients = np.concatenate([np.ones((len(grid), 1)), u[:, :rank] * s[:rank]], axis=1)
    return PlaneKernels(
        basis.astype(np.float32), np.ascontiguousarray(coefficients.T.reshape(-1, rows, columns), dtype=np.float32)
    )
