"""The aperture as a set of points: what a light field's views, summed by halves, make of a point out of focus."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from edge_dp.errors import InputError
from edge_dp.optics.psf import Kernel, finish_kernel, splat

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class SampledAperture:
    """A half aperture that is open in a few points only, each of which sees the scene sharply from its own place.

    A point seen through (u, v) of the aperture lands d (u, v) / s px from where the middle of the lens sees it, with s the
    distance of the mean u of the two halves, so that the views' centroids are d apart.

    Args:
        left, right: (u, v) of the points of each half, in any one unit: u along the dual-pixel axis to the right, v down. The
            middle of the lens is (0, 0).

    Raises:
        InputError: a half without points, or the right one's mean not to the right of the left one's.

    Source: geometrical optics; half-aperture sums as in ``edge_dp.data.light_fields``.
    """

    left: Points
    right: Points
    step: ClassVar[float] = 1.0 / 64
    varies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.left or not self.right or not self.distance > 0:
            raise InputError(
                f"sampled aperture: expected points in both halves, the right ones' mean u above the left ones', found "
                f"{len(self.left)} and {len(self.right)} points. Exchange or complete them."
            )

    @classmethod
    def of_grid(cls, rows: int, columns: int) -> SampledAperture:
        """The views of a light field in ``rows`` x ``columns``: left of the middle column against right of it, all rows.

        Raises:
            InputError: fewer than one row or three columns, or an even number of either.
        """
        if rows < 1 or columns < 3 or rows % 2 == 0 or columns % 2 == 0:
            raise InputError(
                f"sampled aperture: expected odd rows and columns, 3 columns or more, found {rows}x{columns}"
            )
        across, down = columns // 2, rows // 2
        right = tuple((float(u), float(v)) for v in range(-down, down + 1) for u in range(1, across + 1))
        return cls(tuple((-u, v) for u, v in right), right)

    @property
    def distance(self) -> float:
        """Of the mean u of the right half from that of the left one, in the unit of the points."""
        left, right = (sum(u for u, _ in points) / max(len(points), 1) for points in (self.left, self.right))
        return right - left

    def kernel(self, disparity: float, side: int, x: float = 0.0, y: float = 0.0) -> Kernel:
        """As ``PsfModel.kernel``: points spread bilinearly, the same for each x, y; centroids ``disparity`` px apart."""
        del x, y
        return _kernel(self, float(disparity), side)


@lru_cache(maxsize=4096)
def _kernel(aperture: SampledAperture, disparity: float, side: int) -> Kernel:
    points = np.array(aperture.right if side > 0 else aperture.left) * (disparity / aperture.distance)
    return finish_kernel(splat(np.ones(len(points)), points[:, 0], points[:, 1]), blur_px=0.0)
