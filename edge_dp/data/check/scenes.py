"""What scenes themselves say of their depth, their poses and the sign of their stereo disparity."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from edge_dp.data.registry import DatasetEntry
from edge_dp.data.sample import Array, Mask
from edge_dp.data.scenes.scene_sample import SceneSample

LEAST_RATIO = 1.5  # of the error with the sign turned to that with it as promised, to tell the sign


@dataclass(frozen=True, slots=True)
class SceneMeasurement:
    """What the samples that were read have shown. None: nothing of the kind is in them."""

    samples: int  # read
    with_depth: int
    nearest_m: float | None
    typical_m: float | None  # median over samples of the median
    farthest_m: float | None  # the horizon left out
    known: float | None  # median over samples: share of pixels whose depth or disparity is known
    with_stereo: int
    lowest_px: float | None  # stereo disparity
    highest_px: float | None
    error_as_promised: float | None  # median over samples of median |image(x) - right_image(x - D)|, linear light
    error_turned: float | None  # the same at x + D
    with_pose: int
    worst_rotation: float | None  # largest |R R^T - 1| of a camera-to-world pose


class SceneEvidence:
    """What the scenes that were read have shown so far."""

    def __init__(self, entry: DatasetEntry) -> None:
        self._entry = entry
        self._samples = 0
        self._problems: list[str] = []
        self._known: list[float] = []
        self._depths: list[tuple[float, float, float]] = []
        self._disparities: list[tuple[float, float]] = []
        self._errors: list[tuple[float, float]] = []
        self._rotations: list[float] = []

    def add(self, sample: SceneSample) -> None:
        """Measure a sample, which itself has refused depths, cameras and poses that are none."""
        self._samples += 1
        mask = np.ones(sample.image.shape[1:], dtype=np.bool_) if sample.mask is None else sample.mask
        if sample.depth is not None or sample.stereo_disparity is not None:
            self._known.append(float(mask.mean()))
            if not mask.any():
                self._problems.append(f"{sample.name}: depth: expected known pixels, found none. Copy its file again.")
                return
        if sample.depth is not None:
            depth = sample.depth[mask & np.isfinite(sample.depth)]
            if depth.size:
                self._depths.append((float(depth.min()), float(np.median(depth)), float(depth.max())))
        if sample.stereo_disparity is not None and sample.right_image is not None:
            disparity = sample.stereo_disparity
            self._disparities.append((float(disparity[mask].min()), float(disparity[mask].max())))
            errors = [_error(sample.image, sample.right_image, way * disparity, mask) for way in (-1, 1)]
            if not np.isnan(errors).any():
                self._errors.append((errors[0], errors[1]))
        if sample.camera_to_world is not None:
            rotation = sample.camera_to_world[:3, :3]
            self._rotations.append(float(np.abs(rotation @ rotation.T - np.eye(3)).max()))

    def measurement(self) -> SceneMeasurement:
        """All of it in numbers."""
        as_promised, turned = np.median(self._errors, axis=0).tolist() if self._errors else (None, None)
        return SceneMeasurement(
            samples=self._samples,
            with_depth=len(self._depths),
            nearest_m=min((nearest for nearest, _, _ in self._depths), default=None),
            typical_m=float(np.median([typical for _, typical, _ in self._depths])) if self._depths else None,
            farthest_m=max((farthest for _, _, farthest in self._depths), default=None),
            known=float(np.median(self._known)) if self._known else None,
            with_stereo=len(self._disparities),
            lowest_px=min((lowest for lowest, _ in self._disparities), default=None),
            highest_px=max((highest for _, highest in self._disparities), default=None),
            error_as_promised=as_promised,
            error_turned=turned,
            with_pose=len(self._rotations),
            worst_rotation=max(self._rotations, default=None),
        )

    def broken_promises(self) -> list[str]:
        """Where the measurement contradicts what the set promises."""
        measured, problems = self.measurement(), list(self._problems)
        promised = self._entry.depth_m
        if promised and measured.typical_m is not None and not promised[0] <= measured.typical_m <= promised[1]:
            problems.append(
                f"depth: expected a median of {promised[0]:g} to {promised[1]:g} m, found {measured.typical_m:.3g} m. Its "
                "levels are of another unit: is it this data set?"
            )
        right, turned = measured.error_as_promised, measured.error_turned
        if right is not None and turned is not None and right >= LEAST_RATIO * turned:
            problems.append(
                f"stereo sign: expected {self._entry.sign}, found the right image alike at x + D (median |difference| "
                f"{turned:.3f}, at x - D {right:.3f}). Left and right are swapped: rename them."
            )
        return problems


def _error(image: Array, other: Array, shift: Array, mask: Mask) -> float:
    """Median of |image(x) - other(x + shift)| over the pixels of the mask that land in ``other``; NaN where none does."""
    height, width = mask.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    inside = mask & (x + shift >= 0) & (x + shift <= width - 1)
    fetched = cv2.remap(other.mean(axis=0), x + shift, y, cv2.INTER_LINEAR)
    return float(np.median(np.abs(image.mean(axis=0) - fetched)[inside])) if inside.any() else float("nan")
