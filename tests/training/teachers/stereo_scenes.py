"""Pairs whose disparity is known by construction, for the tests of teachers."""

import cv2
import numpy as np

from edge_dp.training.teachers.base import Camera, View


def texture(seed, height, width):
    """Smooth noise from exactly 0 to exactly 1."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width)), (0, 0), 1.2)
    return ((noise - noise.min()) / (noise.max() - noise.min())).astype(np.float32)


def steps(height=96, width=160, above=4, below=9, seed=0):
    """Two half planes, one above the other: left(x) = right(x - D). Left, right and D, (H, W)."""
    wide = texture(seed, height, width + 32)
    left, half = wide[:, :width].copy(), height // 2
    right = np.concatenate([wide[:half, above : above + width], wide[half:, below : below + width]])
    left[0, -1], right[0, 0] = 0.0, 0.0  # both keep the extremes, whatever was shifted out
    left[-1, -1], right[-1, 0] = 1.0, 1.0
    disparity = np.repeat(np.where(np.arange(height) < half, above, below)[:, None], width, 1).astype(np.float32)
    return left, right, disparity


def views(left, right, baseline=(1.0, 0.0)):
    """What the cameras of a rectified rig saw, (H, W) each; the second stands at ``baseline``."""
    places = ((0.0, 0.0), baseline)
    return [
        View(np.ascontiguousarray(image)[None], Camera.rectified(image.shape, place))
        for image, place in zip((left, right), places, strict=True)
    ]
