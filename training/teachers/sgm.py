"""The built-in stereo teacher: OpenCV semi-global matching both ways, kept where the two agree. It has no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, SchemaError
from edge_dp.training.teachers.base import Estimate, Licence, View
from edge_dp.training.teachers.pairs import Pair, grey, spread_of_difference


@dataclass(frozen=True, slots=True)
class SgmTeacher:
    """Semi-global matching (Hirschmueller 2008, OpenCV's variant) with left-right check.

    Args:
        disparities: how many integer disparities are searched, from 0; rounded up to a multiple of 16.
        block: side of the matching block, px, odd.
        agreement: largest difference between the two directions, px.
        sigma_floor: part of sigma that does not show in their difference, px; at 0.3, 7 of 10 errors on rendered rigs are below
            sigma (benchmarks/teachers.py).

    Raises:
        SchemaError: a floor that is not above 0.
    """

    disparities: int = 64
    block: int = 5
    agreement: float = 1.0
    sigma_floor: float = 0.3

    name: ClassVar[str] = "sgm"
    licence: ClassVar[Licence] = Licence("Apache-2.0 (OpenCV)", "none: no weights", commercial=True)
    views: ClassVar[int | None] = 2

    def __post_init__(self) -> None:
        if not self.sigma_floor > 0:
            raise SchemaError(f"sigma_floor: expected px above 0, found {self.sigma_floor}")

    @property
    def weights_file(self) -> None:
        """It has none."""
        return None

    def estimate(self, views: Sequence[View]) -> Estimate:
        """As ``Teacher``; sigma from how far the two directions differ (``spread_of_difference``)."""
        pair = Pair.of(views, self.name)
        left, right = (np.round(255 * grey(image)).astype(np.uint8) for image in (pair.left, pair.right))
        disparity, valid, difference = self._both_ways(left, right)
        sigma = spread_of_difference(difference, self.sigma_floor)
        return Estimate(pair.back(np.maximum(disparity, 0)), pair.back(sigma), pair.back(valid))

    def __call__(
        self, left: NDArray[np.uint8], right: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Match a rectified pair.

        Args:
            left, right: (H, W) uint8, left(x) = right(x - D), D >= 0.

        Returns:
            Disparity D (H, W) float32 px of the left view, and where it is valid.
        """
        if left.shape != right.shape or left.ndim != 2 or left.dtype != np.uint8 or right.dtype != np.uint8:
            raise InputError(
                f"stereo pair: expected two (H, W) uint8 views of one size, "
                f"found {left.shape} {left.dtype} and {right.shape} {right.dtype}"
            )
        disparity, valid, _ = self._both_ways(left, right)
        return disparity, valid

    def _both_ways(
        self, left: NDArray[np.uint8], right: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """Disparity of the left view, where it is valid, and how far the right view's differs there, px."""
        count = -(-self.disparities // 16) * 16
        # Border pixels see no partner inside the frame; repeated borders keep the arrays the size the matcher wants.
        pad = ((0, 0), (count, count))
        wide_left, wide_right = np.pad(left, pad, mode="edge"), np.pad(right, pad, mode="edge")
        from_left = self._match(wide_left, wide_right, count)
        # The same matcher sees the mirrored pair as a left view again.
        from_right = self._match(np.fliplr(wide_right), np.fliplr(wide_left), count)[:, ::-1]
        inside = slice(count, count + left.shape[1])
        columns = np.arange(wide_left.shape[1], dtype=np.float32)[None, :]
        rows = np.arange(left.shape[0], dtype=np.float32)[:, None] + 0 * columns
        partner = cv2.remap(
            np.ascontiguousarray(from_right), columns - from_left, rows, cv2.INTER_NEAREST, borderValue=-1
        )
        landing = columns - from_left - count
        difference = np.abs(from_left - partner)
        valid = (from_left > 0) & (partner > 0) & (difference <= self.agreement)
        valid &= (landing >= 0) & (landing <= left.shape[1] - 1)
        disparity, valid, difference = (
            np.ascontiguousarray(values[:, inside]) for values in (from_left, valid, difference)
        )
        return disparity, valid, difference

    def _match(self, left: NDArray[np.uint8], right: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        matcher = cv2.StereoSGBM.create(
            minDisparity=0,
            numDisparities=count,
            blockSize=self.block,
            P1=8 * self.block**2,
            P2=32 * self.block**2,
            uniquenessRatio=5,
            mode=cv2.STEREO_SGBM_MODE_SGBM_3WAY,
        )
        fixed_point = matcher.compute(np.ascontiguousarray(left), np.ascontiguousarray(right))
        return fixed_point.astype(np.float32) / 16.0
