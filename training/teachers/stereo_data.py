"""What the stereo network learns from: rendered rigs of three cameras.

Each capture is a function of its index, each batch of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import SchemaError
from edge_dp.simulation.render import render_disparity, render_pinhole
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import SceneConfig, random_scene

Array = NDArray[np.float32]
_SPREAD_OFFSET = 4.0  # px: how much farther than the farthest point a rig may converge


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How two cameras of one scene differ; each range is drawn for each view by itself."""

    gamma: tuple[float, float] = (0.8, 1.25)
    gain: tuple[float, float] = (0.75, 1.25)
    noise: tuple[float, float] = (0.0, 0.02)
    """Standard deviation, of light in [0, 1]."""
    blur_share: float = 0.3
    """Of views that are out of focus a little."""
    blur: tuple[float, float] = (0.3, 1.0)
    """Standard deviation of that blur, px."""

    def __post_init__(self) -> None:
        for name in ("gamma", "gain", "noise", "blur"):
            low, high = getattr(self, name)
            if not 0 <= low <= high or (name != "noise" and low == 0):
                raise SchemaError(f"{name}: expected least and largest above 0, found {low} and {high}")
        if not 0 <= self.blur_share <= 1:
            raise SchemaError(f"blur_share: expected a probability, found {self.blur_share}")


@dataclass(frozen=True, slots=True)
class StereoData:
    """The rendered rigs.

    captures: scenes for training; each is seen by three cameras, and so makes two pairs.
    held_out: scenes for evaluation, other ones.
    gain: least and largest stereo disparity per disparity of the scene (``SideCamera.gain``).
    crop: height and width of what a step sees, multiples of 4.
    """

    captures: int
    held_out: int = 32
    gain: tuple[float, float] = (2.0, 6.5)
    crop: tuple[int, int] = (128, 224)
    scene: SceneConfig = field(default_factory=lambda: SceneConfig(height=208, width=288, margin=0))
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        if self.captures < 1 or self.held_out < 1:
            raise SchemaError(f"expected at least one capture to train and one held out, found {self}")
        if not 0 < self.gain[0] <= self.gain[1]:
            raise SchemaError(f"gain: expected least and largest above 0, found {self.gain}")
        inside = self.crop[0] <= self.scene.height and self.crop[1] <= self.scene.width
        if any(side < 32 or side % 4 for side in self.crop) or not inside:
            raise SchemaError(
                f"crop: expected multiples of 4 from 32 to the scene's {self.scene.height} and {self.scene.width}, "
                f"found {self.crop}"
            )


@dataclass(frozen=True, slots=True, eq=False)
class RigCapture:
    """One scene seen by three cameras in a row, on the whole canvas.

    views: (3, H, W) uint8 gamma-encoded grey: the middle one, the right one, the left one.
    disparity: (H, W) float16 true disparity of the middle one, px; to either side.
    """

    views: NDArray[np.uint8]
    disparity: NDArray[np.float16]


@dataclass(frozen=True, slots=True, eq=False)
class StereoBatch:
    """What one step sees.

    views: (B, 3, H, W) float32 in [0, 1]: left view of the pair, right one, and one as far to the left.
    disparity: (B, 1, H, W) float32 px, the truth, which self-supervised training does not look at.
    """

    views: Array
    disparity: Array


@lru_cache(maxsize=4096)  # ~0.3 MB each; rendering one takes longer than a step's share of it
def render_capture(seed: int, index: int, data: StereoData) -> RigCapture:
    """Capture number ``index`` of the set with this seed, the same bytes in whichever process."""
    rng = np.random.default_rng([seed, index])
    scene = random_scene(rng, data.scene)
    gain = float(rng.uniform(*data.gain))
    camera = SideCamera(offset=float(rng.uniform(0.0, _SPREAD_OFFSET)) + gain * scene.farthest, gain=gain)
    opposite = SideCamera(offset=camera.offset, gain=gain, angle=math.pi)
    margin = data.scene.margin
    seen = (render_pinhole(scene, margin), render_side(scene, camera, margin), render_side(scene, opposite, margin))
    views = np.stack([np.clip(view.mean(axis=0), 0.0, 1.0) ** (1 / 2.2) for view in seen])
    disparity = camera.stereo_disparity(render_disparity(scene, margin))
    return RigCapture(np.round(255.0 * views).astype(np.uint8), disparity.astype(np.float16))


def draw_batch(seed: int, step: int, size: int, data: StereoData) -> StereoBatch:
    """The batch of one step, a function of its arguments alone; captures are numbered from ``data.held_out``."""
    rng = np.random.default_rng([seed, 1, step])
    height, width = data.crop
    views, disparity = np.empty((size, 3, height, width), np.float32), np.empty((size, 1, height, width), np.float32)
    for i in range(size):
        capture = render_capture(seed, data.held_out + int(rng.integers(data.captures)), data)
        top = int(rng.integers(capture.disparity.shape[0] - height + 1))
        left = int(rng.integers(capture.disparity.shape[1] - width + 1))
        crop = (..., slice(top, top + height), slice(left, left + width))
        seen, truth = capture.views[crop], capture.disparity[crop]
        if rng.uniform() < 0.5:  # mirrored, the camera on the left is one on the right
            seen, truth = seen[[0, 2, 1], :, ::-1], truth[:, ::-1]
        if rng.uniform() < 0.5:
            seen, truth = seen[:, ::-1], truth[::-1]
        views[i], disparity[i, 0] = _augmented(rng, seen, data.augmentation), truth
    return StereoBatch(views, disparity)


def _augmented(rng: np.random.Generator, views: NDArray[np.uint8], how: Augmentation) -> Array:
    seen = []
    for view in views.astype(np.float32) / 255:
        if rng.uniform() < how.blur_share:
            view = cv2.GaussianBlur(view, (0, 0), rng.uniform(*how.blur))  # noqa: PLW2901  # the same view, less sharp
        light = rng.uniform(*how.gain) * view ** rng.uniform(*how.gamma)
        noise = rng.uniform(*how.noise) * rng.standard_normal(view.shape, np.float32)
        seen.append(np.clip(light + noise, 0.0, 1.0))
    return np.stack(seen).astype(np.float32)
