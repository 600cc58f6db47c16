"""One dual-pixel capture in memory, with what is known of its scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class DpSample:
    """Left and right view, oriented so that the dual-pixel axis is x: ``left(x) = right(x + d)``.

    Attributes:
        left, right: (C, H, W) float32, linear light in [0, 1], shading already matched.
        sensor: the profile of the sensor that took them.
        name: what to call the capture in tables and messages.
        disparity: (H, W) float32 px at this resolution, > 0 farther than the focus plane.
        affine_disparity: (H, W) float32, disparity up to an unknown scale > 0 and offset per scene; larger is farther.
            Score with affine-invariant metrics only.
        depth: (H, W) float32 metres, > 0; inf is the horizon.
        confidence: (H, W) float32, >= 0: how far the ground truth may be trusted.
        mask: (H, W) bool, True where the ground truth holds. Elsewhere its values are not looked at.
        all_in_focus: (C, H, W) float32, linear light in [0, 1]: the same scene without defocus, where the set has it. Its
            brightness need not be that of the views.

    Raises:
        InputError: an array has another dtype or shape, or holds a value outside the range above; the array is named.
    """

    left: Array
    right: Array
    sensor: SensorProfile
    name: str
    disparity: Array | None = None
    affine_disparity: Array | None = None
    depth: Array | None = None
    confidence: Array | None = None
    mask: Mask | None = None
    all_in_focus: Array | None = None

    def __post_init__(self) -> None:
        self._check("left", np.float32, "(C, H, W)", self.left.ndim == 3 and self.left.size > 0)
        pictures = ["left", "right", *(["all_in_focus"] if self.all_in_focus is not None else [])]
        for field in pictures:
            alike = getattr(self, field).shape == self.left.shape
            self._check(field, np.float32, f"the shape of left, {self.left.shape}", alike)
            view = getattr(self, field)
            low, high = view.min(), view.max()
            if not (low >= 0 and high <= 1):  # NaN fails both
                raise self._error(field, "linear light in [0, 1], finite", f"{low} to {high}")
        size = self.left.shape[1:]
        for field in ("mask", "disparity", "affine_disparity", "depth", "confidence"):
            if getattr(self, field) is not None:
                dtype = np.bool_ if field == "mask" else np.float32
                self._check(field, dtype, f"(H, W) = {size}", getattr(self, field).shape == size)
        self._check_values("disparity", "finite values where the mask holds", np.isfinite)
        self._check_values("affine_disparity", "finite values where the mask holds", np.isfinite)
        self._check_values("depth", "metres above 0 where the mask holds", lambda v: v > 0)
        self._check_values("confidence", "finite values, 0 or above", lambda v: (v >= 0) & np.isfinite(v))

    def _check(self, field: str, dtype: type[np.generic], shape: str, shape_holds: bool) -> None:
        array = getattr(self, field)
        if array.dtype != dtype or not shape_holds:
            raise self._error(field, f"{np.dtype(dtype)}, {shape}", f"{array.dtype}, {array.shape}")

    def _check_values(self, field: str, expected: str, holds: Callable[[Array], Mask]) -> None:
        array = getattr(self, field)
        if array is None:
            return
        values = array if self.mask is None else array[self.mask]
        bad = ~holds(values)
        if bad.any():
            raise self._error(field, expected, f"{values[bad][0]} in {np.count_nonzero(bad)} places")

    def _error(self, field: str, expected: str, found: str) -> InputError:
        return InputError(f"sample {self.name}: {field}: expected {expected}, found {found}. Mask or mend the values.")
