"""One scene in memory: an image with what is known of its geometry, for the simulator and for multi-view teachers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_dp.data.sample import Array, Mask
from edge_dp.errors import InputError

Matrix = NDArray[np.float64]
_RIGID = 1e-2  # how far published rotations, rounded to a few digits, may be from orthonormal


@dataclass(frozen=True, slots=True, eq=False)
class SceneSample:
    """An ordinary, sharp photograph of a scene with its geometry. Axes of the camera: x right, y down, z forward.

    Attributes:
        image: (C, H, W) float32, linear light in [0, 1]; colours in the order red, green, blue.
        name: what to call the scene in tables and messages.
        right_image: the shape of ``image``: the second view of a rectified pair, ``image`` being the left one.
        stereo_disparity: (H, W) float32 px, D > 0: ``image(x) = right_image(x - D)``. Not dual-pixel disparity.
        depth: (H, W) float32 metres along the optical axis, > 0; inf is the horizon.
        mask: (H, W) bool, True where disparity and depth hold. Elsewhere their values are not looked at.
        intrinsics: (3, 3) float64 px: [[fx, skew, cx], [0, fy, cy], [0, 0, 1]], pixel centres at whole numbers.
        camera_to_world: (4, 4) float64, rigid; metres.

    Raises:
        InputError: an array has another dtype or shape, or holds a value outside the range above; the array is named.
    """

    image: Array
    name: str
    right_image: Array | None = None
    stereo_disparity: Array | None = None
    depth: Array | None = None
    mask: Mask | None = None
    intrinsics: Matrix | None = None
    camera_to_world: Matrix | None = None

    def __post_init__(self) -> None:
        self._check("image", np.float32, "(C, H, W)", self.image.ndim == 3 and self.image.size > 0)
        shapes: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "right_image": (np.float32, self.image.shape),
            "mask": (np.bool_, self.image.shape[1:]),
            "stereo_disparity": (np.float32, self.image.shape[1:]),
            "depth": (np.float32, self.image.shape[1:]),
            "intrinsics": (np.float64, (3, 3)),
            "camera_to_world": (np.float64, (4, 4)),
        }
        for field, (dtype, shape) in shapes.items():
            if getattr(self, field) is not None:
                self._check(field, dtype, str(shape), getattr(self, field).shape == shape)
        for view in ("image", "right_image"):
            self._check_values(view, "linear light in [0, 1], finite", lambda v: (v >= 0) & (v <= 1))
        for field, expected, holds in (
            ("stereo_disparity", "finite px above 0 where the mask holds", lambda v: (v > 0) & np.isfinite(v)),
            ("depth", "metres above 0 where the mask holds", lambda v: v > 0),
        ):
            self._check_values(field, expected, holds, self.mask)
        for field, problem in (("intrinsics", intrinsics_problem), ("camera_to_world", pose_problem)):
            matrix = getattr(self, field)
            if matrix is not None and (found := problem(matrix)):
                raise self._error(field, *found)

    def _check(self, field: str, dtype: type[np.generic], shape: str, shape_holds: bool) -> None:
        array = getattr(self, field)
        if array.dtype != dtype or not shape_holds:
            raise self._error(field, f"{np.dtype(dtype)}, {shape}", f"{array.dtype}, {array.shape}")

    def _check_values(
        self, field: str, expected: str, holds: Callable[[Array], Mask], mask: Mask | None = None
    ) -> None:
        array = getattr(self, field)
        if array is None:
            return
        values = array if mask is None else array[mask]
        bad = ~holds(values)
        if bad.any():
            raise self._error(field, expected, f"{values[bad][0]} in {np.count_nonzero(bad)} places")

    def _error(self, field: str, expected: str, found: str) -> InputError:
        return InputError(f"scene {self.name}: {field}: expected {expected}, found {found}. Mask or mend the values.")


def intrinsics_problem(matrix: Matrix) -> tuple[str, str] | None:
    """None for a (3, 3) pinhole camera; else what was expected of it and what was found."""
    expected = "finite [[fx, s, cx], [0, fy, cy], [0, 0, 1]] with fx, fy > 0"
    holds = np.isfinite(matrix).all() and matrix[0, 0] > 0 and matrix[1, 1] > 0
    if not holds or matrix[1, 0] != 0 or (matrix[2] != (0, 0, 1)).any():
        return expected, str(matrix.tolist())
    return None


def pose_problem(matrix: Matrix) -> tuple[str, str] | None:
    """None for a (4, 4) rigid motion; else what was expected of it and what was found."""
    rotation = matrix[:3, :3]
    if not np.isfinite(matrix).all():
        return "a finite pose", str(matrix.tolist())
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > _RIGID:
        return "a last row of 0 0 0 1", str(matrix[3].tolist())
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > _RIGID or np.linalg.det(rotation) < 0:
        return "a rotation, orthonormal with determinant 1", str(rotation.tolist())
    return None
