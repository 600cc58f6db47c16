"""What published evaluations do to a map before they score it: crops and resizes, as data that can be called.

Each takes and returns (H, W) float64 and raises InputError for a map it does not fit. Its ``repr`` goes into reports.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol as Interface

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError

Map = NDArray[np.float64]

# Keys' cubic (a = -0.5) stretched to twice its width, at offsets of 3.5, 2.5 .. -3.5 px: exact in binary.
_HALVING_TAPS = np.array([-3, -9, 29, 111, 111, 29, -9, -3]) / 256


class Step(Interface):
    """One crop or resize."""

    def __call__(self, values: Map, /) -> Map:
        """(H, W) -> the (H', W') that goes on."""


@dataclass(frozen=True, slots=True)
class CentreCrop:
    """The ``height`` x ``width`` pixels in the middle; an odd rest leaves one more at the bottom or right."""

    height: int
    width: int

    def __call__(self, values: Map, /) -> Map:
        """(H, W) -> (height, width)."""
        rows, columns = values.shape
        if rows < self.height or columns < self.width:
            raise InputError(
                f"target: expected at least {self.height} x {self.width} (H x W) for {self}, found {rows} x {columns}. "
                "Pass the map as published."
            )
        top, left = (rows - self.height) // 2, (columns - self.width) // 2
        return values[top : top + self.height, left : left + self.width]


@dataclass(frozen=True, slots=True)
class Crop:
    """Rows [top, bottom) and columns [left, right) of a map of exactly ``frame`` = (height, width)."""

    top: int
    bottom: int
    left: int
    right: int
    frame: tuple[int, int]

    def __call__(self, values: Map, /) -> Map:
        """``frame`` -> (bottom - top, right - left)."""
        if values.shape != self.frame:
            raise InputError(
                f"target: expected {self.frame} (H, W) for {self}, found {values.shape}. Pass the map as published."
            )
        return values[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True)
class ResizeBilinear:
    """OpenCV's INTER_LINEAR to ``height`` x ``width``: no smoothing before it samples."""

    height: int
    width: int

    def __call__(self, values: Map, /) -> Map:
        """(H, W) -> (height, width)."""
        resized = cv2.resize(values, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(resized, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class HalveBicubic:
    """MATLAB's ``imresize(x, 0.5, 'bicubic')``: cubic with a = -0.5, anti-aliased, edges mirrored, sizes rounded up.

    OpenCV's INTER_CUBIC is neither: it has a = -0.75 and does not smooth.
    """

    def __call__(self, values: Map, /) -> Map:
        """(H, W) -> (ceil(H / 2), ceil(W / 2))."""
        return _halve_rows(_halve_rows(values).T).T


@dataclass(frozen=True, slots=True)
class PatchGridCrop:
    """The pixels for which a method that slides a ``patch`` by a ``stride`` (both odd) gives a result.

    Patch centres are ``first``, first + stride, .. as long as the patch fits; each stands for the stride x stride
    pixels around it.
    """

    patch: int
    stride: int
    first: int

    def __call__(self, values: Map, /) -> Map:
        """(H, W) -> (stride * patches down, stride * patches across)."""
        rows, columns = (self._range(size) for size in values.shape)
        return values[rows, columns]

    def _range(self, size: int) -> slice:
        centres = range(self.first, size - self.patch // 2, self.stride)
        if not centres:
            raise InputError(
                f"target: expected at least {self.first + self.patch // 2 + 1} px on either side for {self}, "
                f"found {size}. Pass the map as published."
            )
        half = self.stride // 2
        return slice(centres[0] - half, centres[-1] + half + 1)


@dataclass(frozen=True, slots=True)
class TrimBorder:
    """All but ``pixels`` on each side."""

    pixels: int

    def __call__(self, values: Map, /) -> Map:
        """(H, W) -> (H - 2 pixels, W - 2 pixels)."""
        if min(values.shape) <= 2 * self.pixels:
            raise InputError(
                f"target: expected more than {2 * self.pixels} px on either side for {self}, found {values.shape} "
                "(H, W) there. Pass the map as published."
            )
        return values[self.pixels : -self.pixels, self.pixels : -self.pixels]


def _halve_rows(values: Map) -> Map:
    rows = (values.shape[0] + 1) // 2
    odd = values.shape[0] % 2
    padded = np.pad(values, ((3, 3 + odd), (0, 0)), mode="symmetric")
    halved: Map = sum(tap * padded[first : first + 2 * rows - 1 : 2] for first, tap in enumerate(_HALVING_TAPS))
    return halved
