"""What a teacher is: it sees several cameras and says what disparity it believes in, how surely, and where it can tell.

Teachers are named in ``edge_dp.training.teachers.registry``; stereo teachers look at two views, multi-view ones at all they get.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Licence:
    """Under what terms a teacher may be used; every label and checkpoint made from it carries it.

    code, weights: SPDX identifiers, or words where there is none ("none: no weights").
    commercial: False where either forbids commercial use; such a teacher needs an explicit consent.
    """

    code: str
    weights: str
    commercial: bool


@dataclass(frozen=True, slots=True, eq=False)
class Camera:
    """A pinhole camera: a point X is seen at K R (X - position), up to scale.

    Args:
        intrinsics: K (3, 3), px.
        position: (3,) of its centre, x right, y down, z ahead; in metres, or in any unit that the rig's cameras share.
        rotation: R (3, 3) from the rig's axes to the camera's; the identity in a rectified rig.
    """

    intrinsics: NDArray[np.float64]
    position: NDArray[np.float64]
    rotation: NDArray[np.float64]

    @classmethod
    def rectified(
        cls, shape: tuple[int, int], baseline: tuple[float, float] = (0.0, 0.0), focal_px: float = 1.0
    ) -> Camera:
        """A camera that looks ahead from ``baseline`` (right, down), with its principal point in the middle of (H, W).

        With the focal length left at 1 px the rig is uncalibrated: inverse depths are px per unit of baseline.
        """
        height, width = shape
        intrinsics = np.array([[focal_px, 0, (width - 1) / 2], [0, focal_px, (height - 1) / 2], [0, 0, 1]], np.float64)
        return cls(intrinsics, np.array([*baseline, 0.0]), np.eye(3))


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """What one camera of the rig saw.

    Args:
        image: (C, H, W) float32 in [0, 1], gamma-encoded as photographs are, C = 1 or 3.
        camera: where it stood.

    Raises:
        InputError: the image has another dtype or shape, or values outside [0, 1].
    """

    image: Array
    camera: Camera

    def __post_init__(self) -> None:
        image = self.image
        if image.dtype != np.float32 or image.ndim != 3 or image.shape[0] not in (1, 3) or image.size == 0:
            raise InputError(f"view: expected (1 or 3, H, W) float32, found {image.shape} {image.dtype}")
        if not (image.min() >= 0 and image.max() <= 1):  # NaN fails both
            raise InputError(f"view: expected gamma-encoded values in [0, 1], found {image.min()} to {image.max()}")


@dataclass(frozen=True, slots=True, eq=False)
class Estimate:
    """What a teacher believes of the first view it was given.

    disparity: (H, W) float32 px: a point at x of the first view is seen at x - D in the second, x along the baseline from the
        first camera to the second; D >= 0, larger is nearer.
    sigma: (H, W) float32 px > 0, standard deviation of that belief, as the teacher itself states it.
    valid: (H, W) bool; elsewhere the other two mean nothing.
    """

    disparity: Array
    sigma: Array
    valid: Mask


class Teacher(Protocol):
    """Looks at the views of a rig.

    name: in the registry; goes into each label's provenance.
    views: how many views it takes: 2 for stereo; None for any number from 2.
    """

    name: str
    licence: Licence
    views: int | None

    @property
    def weights_file(self) -> Path | None:
        """The file that its answers depend on besides its options; its SHA-256 goes into each label's provenance."""
        ...

    def estimate(self, views: Sequence[View]) -> Estimate:
        """Disparity of ``views[0]`` against ``views[1]``, and whatever further ones it can use.

        Raises:
            InputError: the views do not fit each other or this teacher.
            TrainingError: what it computed is no disparity: NaN, or of the wrong sign.
        """
        ...
