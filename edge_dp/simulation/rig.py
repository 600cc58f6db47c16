"""Further cameras that see the same scene: what stereo and multi-view teachers look at.

Each is a pinhole camera beside the first, with occlusions of its own. Its disparity and the dual-pixel one are both affine in
inverse depth, hence in each other, so no metres are needed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.simulation.render import crop
from edge_dp.simulation.scenes import Layer, Map, Scene

_ITERATIONS = 24  # for where a side camera sees a relief


@dataclass(frozen=True, slots=True)
class SideCamera:
    """A second pinhole camera: a point at x of the first is seen at x - D (cos angle, sin angle), D = offset - gain * d px.

    Args:
        offset: D of a point in focus, px. Points nearer than focus (d < 0) move farther.
        gain: how many times wider the baseline is than the lens's own, > 0.
        angle: direction of the baseline from the first camera, rad: 0 to the right along the dual-pixel axis, pi / 2 down.
        turn_deg: rotation vector, axis times angle, that turns what is seen about the camera's x (right), y (down) and z
            (ahead); so y > 0 is a camera that looks to the left. (0, 0, 0) is a rectified view.
        focal_px: focal length for that rotation, px.
    """

    offset: float
    gain: float
    angle: float = 0.0
    turn_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    focal_px: float = 500.0

    def __post_init__(self) -> None:
        numbers = (self.offset, self.gain, self.angle, self.focal_px, *self.turn_deg)
        if not all(math.isfinite(number) for number in numbers) or self.gain <= 0 or self.focal_px <= 0:
            raise InputError(f"side camera: expected finite numbers, gain and focal_px above 0, found {self}")

    def stereo_disparity(self, dual_pixel_disparity: Map) -> Map:
        """Stereo disparity D, px, of a dual-pixel disparity d, px."""
        return self.offset - self.gain * dual_pixel_disparity

    def dual_pixel_disparity(self, stereo_disparity: Map) -> Map:
        """The inverse of ``stereo_disparity``."""
        return (self.offset - stereo_disparity) / self.gain

    def homography(self, plane: tuple[float, float, float], height: int, width: int) -> NDArray[np.float64]:
        """Where points of a plane are seen: (3, 3), from px of a (height, width) canvas to px of the same in this camera.

        Args:
            plane: disparity d0 + dx * x + dy * y, px, with x, y in px from the canvas centre, as ``Layer.plane``.
        """
        d0, dx, dy = plane
        # D is affine in x and y for a plane, so the whole move is one affine map.
        constant = self.offset - self.gain * (d0 - dx * (width - 1) / 2 - dy * (height - 1) / 2)
        moves = np.array([-self.gain * dx, -self.gain * dy, constant])
        shift = np.eye(3)
        shift[0] -= math.cos(self.angle) * moves
        shift[1] -= math.sin(self.angle) * moves
        if not any(self.turn_deg):
            return shift
        camera = np.array([[self.focal_px, 0, (width - 1) / 2], [0, self.focal_px, (height - 1) / 2], [0, 0, 1]])
        rotation = cv2.Rodrigues(np.deg2rad(self.turn_deg))[0]
        return camera @ rotation @ np.linalg.inv(camera) @ shift


def render_side(scene: Scene, camera: SideCamera, margin: int) -> Map:
    """What a side camera sees, (C, H, W) linear light."""
    _, height, width = scene.layers[0].radiance.shape
    result = np.zeros_like(scene.layers[0].radiance)
    for layer in scene.layers:
        planes = [*(layer.radiance * layer.opacity), layer.opacity]
        if layer.relief is None:
            matrix = camera.homography(layer.plane, height, width)
            *light, opacity = (
                cv2.warpPerspective(
                    plane, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
                )
                for plane in planes
            )
        else:
            seen = _seen_points(layer, camera)
            *light, opacity = (
                cv2.remap(plane, *seen, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT) for plane in planes
            )
        result = result * (1.0 - opacity) + np.stack(light)
    return crop(result.astype(np.float32), margin)


def _seen_points(layer: Layer, camera: SideCamera) -> tuple[Map, Map]:
    """Columns and rows, px on the canvas, of the points of a relief that each pixel of a side camera sees.

    The place of a point depends on its own disparity, so it is found by iteration. That converges wherever the surface is not
    so steep that the side camera cannot see it.
    """
    disparity = layer.disparity()
    height, width = disparity.shape
    pixels = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(np.float64)
    in_focus = np.linalg.inv(camera.homography((0.0, 0.0, 0.0), height, width))  # for points of disparity 0
    start = cv2.perspectiveTransform(pixels, in_focus).astype(np.float32)
    x, y = start[..., 0], start[..., 1]
    for _ in range(_ITERATIONS):
        move = camera.gain * cv2.remap(disparity, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        x, y = start[..., 0] - math.cos(camera.angle) * move, start[..., 1] - math.sin(camera.angle) * move
    return np.asarray(x, np.float32), np.asarray(y, np.float32)
