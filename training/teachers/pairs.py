"""What every stereo teacher shares: two views turned so that the second camera is on the right, and checks of what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, TrainingError
from edge_dp.training.teachers.base import Array, Estimate, Mask, View

_ALONG = 0.02  # share of the baseline that may lie across it, or ahead: about 1 px of disparity in 50
_MOVED = 1.0  # px: a smaller median disparity has no sign that a warp could tell
_TELLING = 0.02  # spread of grey values, of views in [0, 1], below which no warp is better than another
_WORSE = 0.8  # a wrong sign is certain where the opposite one leaves less than this share of the error

T = TypeVar("T", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A rectified pair, left(x) = right(x - D), D >= 0, with how it was turned to be one.

    left, right: (C, H, W) float32 in [0, 1].
    """

    left: Array
    right: Array
    mirrored: bool
    transposed: bool

    @classmethod
    def of(cls, views: Sequence[View], teacher: str) -> Pair:
        """The two views, mirrored where the second camera is on the left, transposed where it is above or below.

        Raises:
            InputError: not two views of one size by like cameras side by side.
        """
        if len(views) != 2:
            raise InputError(
                f"{teacher}: a stereo teacher takes 2 views, found {len(views)}; call it once for each pair"
            )
        first, second = views
        if first.image.shape != second.image.shape:
            raise InputError(
                f"{teacher}: expected two views of one size, found {first.image.shape} and {second.image.shape}"
            )
        move = second.camera.position - first.camera.position
        length = float(np.abs(move).max())
        across = int(np.abs(move[:2]).argmax())
        others = np.delete(move, across)
        alike = np.allclose(first.camera.rotation, second.camera.rotation, atol=1e-4) and np.allclose(
            first.camera.intrinsics[:2, :2], second.camera.intrinsics[:2, :2], rtol=1e-3
        )
        if not (np.isfinite(length) and length > 0 and np.abs(others).max() <= _ALONG * length and alike):
            raise InputError(
                f"{teacher}: expected a rectified pair (cameras of one focal length and direction, apart along x or y), "
                f"found them {move.tolist()} apart{'' if alike else ' with different intrinsics or rotations'}. Rectify first."
            )
        mirrored, transposed = bool(move[across] < 0), across == 1
        left, right = (_turned(view.image, mirrored, transposed) for view in views)
        return cls(left, right, mirrored, transposed)

    def swapped(self) -> tuple[Array, Array]:
        """The right view as the left one of a mirrored pair, so that the same matcher sees it as before."""
        return _turned(self.right, True, False), _turned(self.left, True, False)

    def back(self, values: NDArray[T]) -> NDArray[T]:
        """A map (H, W) of the left view as a map of the first one."""
        if self.mirrored:
            values = values[:, ::-1]
        return np.ascontiguousarray(values.T if self.transposed else values)


def grey(image: Array) -> Array:
    """(C, H, W) to (H, W), the mean of the channels."""
    return np.asarray(image.mean(axis=0), np.float32)


def partner_difference(from_left: Array, from_right: Array) -> tuple[Array, Mask]:
    """|D_left(x) - D_right(x - D_left(x))|, px, and where x - D_left(x) lies within the right view.

    Args:
        from_left, from_right: (H, W) px, disparities of the two views, both positive.
    """
    width = from_left.shape[1]
    landing = np.arange(width, dtype=np.float32)[None, :] - from_left
    inside = (landing >= 0) & (landing <= width - 1)
    column = np.clip(np.rint(landing), 0, width - 1).astype(np.intp)
    return np.abs(from_left - np.take_along_axis(from_right, column, axis=1)), inside


def spread_of_difference(difference: Array, floor: float) -> Array:
    """Sigma of a disparity whose two directions differ by so much, px, for matchers that state none.

    sigma^2 = floor^2 + difference^2 / 2: two independent estimates of spread sigma differ by sqrt(2) sigma; the floor stands for
    what both get wrong alike.
    """
    return np.sqrt(floor**2 + difference**2 / 2).astype(np.float32)


def check_disparity(teacher: str, disparity: Array, left: Array, right: Array) -> None:
    """Refuse what is no disparity of this pair.

    Args:
        disparity: (H, W) px of the left view.
        left, right: (C, H, W) of the pair.

    Raises:
        TrainingError: not finite, negative throughout, or the views agree better if it is taken the other way.
    """
    if bad := int(np.count_nonzero(~np.isfinite(disparity))):
        raise TrainingError(
            f"{teacher}: {bad} of {disparity.size} disparities are not finite. Run it in float32, and check the preset's scale, "
            "mean and std against what it was trained with."
        )
    middle = float(np.median(disparity))
    if abs(middle) < _MOVED:
        return
    advice = "Set sign to the opposite of what it is, or give the views in the other order."
    if middle < 0:
        raise TrainingError(f"{teacher}: expected disparities >= 0, found a median of {middle:.1f} px. {advice}")
    seen, other = _levelled(grey(left)), _levelled(grey(right))
    right_way, wrong_way = _warp_error(seen, other, disparity), _warp_error(seen, other, -disparity)
    if right_way > _TELLING and wrong_way < _WORSE * right_way:
        raise TrainingError(
            f"{teacher}: the views agree better with -D than with D (mean error {wrong_way:.3f} against {right_way:.3f}): the "
            f"sign is wrong. {advice}"
        )


def checked_estimate(
    teacher: str, pair: Pair, from_left: Array, from_right: Array, agreement: float, floor: float
) -> Estimate:
    """The estimate of a matcher that states no sigma, from what it says of both views of a pair."""
    check_disparity(teacher, from_left, pair.left, pair.right)
    difference, inside = partner_difference(from_left, from_right)
    valid = inside & (from_left >= 0) & (difference <= agreement)
    sigma = spread_of_difference(difference, floor)
    return Estimate(pair.back(np.maximum(from_left, 0)), pair.back(sigma), pair.back(valid))


def _turned(image: Array, mirrored: bool, transposed: bool) -> Array:
    if transposed:
        image = image.transpose(0, 2, 1)
    return np.ascontiguousarray(image[..., ::-1] if mirrored else image)


def _levelled(image: Array) -> Array:
    """With mean 0.5 and the spread of a well exposed photograph, so that two cameras' exposures compare."""
    spread = float(image.std())
    return 0.5 + (image - image.mean()) * (0.2 / max(spread, _TELLING))


def _warp_error(left: Array, right: Array, disparity: Array) -> float:
    """Mean of |left(x) - right(x - D)| where x - D lies within the view; of sharp pictures, so blurred a little."""
    height, width = left.shape
    x = np.arange(width, dtype=np.float32)[None, :] - disparity
    y = np.repeat(np.arange(height, dtype=np.float32)[:, None], width, axis=1)
    soft_left, soft_right = (cv2.GaussianBlur(view, (0, 0), 1.0) for view in (left, right))
    warped = cv2.remap(soft_right, x.astype(np.float32), y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = (x >= 0) & (x <= width - 1)
    return float(np.abs(soft_left - warped)[inside].mean()) if inside.any() else 0.0
