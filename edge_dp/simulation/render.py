"""From a scene to what cameras see of it: the two dual-pixel views, a pinhole view, and a side view for stereo.

Everything in linear light. Layers are blurred with opacity premultiplied and composited back to front ("over"), so a blurred
foreground lets the real background through at its rim and no halo arises.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.simulation.psf import half_aperture_psf
from edge_dp.simulation.scenes import Layer, Map, Scene

_PLANES = np.array([0.0, 0.125, 0.25, 0.5, *range(1, 65)])
"""Disparities, of either sign, of the blurs from which a slanted plane is interpolated, px. Interpolating two point-spread
functions interpolates their centroids exactly; near focus, where a small disc is unlike a point, they lie closer."""
_DISPARITY_GRID = 1.0 / 64  # disparities of point-spread functions are rounded to it, so that their cache is hit


def render_view(scene: Scene, alpha: float, side: int, margin: int) -> Map:
    """One dual-pixel view (H, W), linear light.

    Args:
        scene: layers on a canvas ``margin`` px larger than the frame on every side.
        alpha: disparity per circle-of-confusion diameter of the sensor.
        side: -1 for the left view, +1 for the right one.
    """

    def blur(layer: Layer) -> tuple[Map, Map]:
        premultiplied = np.dstack([layer.radiance * layer.opacity, layer.opacity])
        return _blur_plane(premultiplied, layer, alpha, side)

    return _crop(_composite(scene, blur), margin)


def render_pinhole(scene: Scene, margin: int) -> Map:
    """The all-in-focus view from the middle of the lens, (H, W)."""
    return _crop(_composite(scene, lambda layer: (layer.radiance * layer.opacity, layer.opacity)), margin)


def render_disparity(scene: Scene, margin: int) -> Map:
    """Ground-truth dual-pixel disparity of the front-most surface, (H, W) px."""
    result = scene.layers[0].disparity()
    for layer in scene.layers[1:]:
        result = np.where(layer.opacity > 0.5, layer.disparity(), result)
    return _crop(result, margin)


@dataclass(frozen=True, slots=True)
class SideCamera:
    """A second pinhole camera to the right of the first, rectified: left(x) = right(x - D), D = offset - gain * d px.

    Both disparities are affine in inverse depth, hence in each other; ``gain`` is how many times wider the baseline is than
    the lens's own.
    """

    offset: float
    gain: float

    def stereo_disparity(self, dual_pixel_disparity: Map) -> Map:
        """Stereo disparity D, px, of a dual-pixel disparity d, px."""
        return self.offset - self.gain * dual_pixel_disparity

    def dual_pixel_disparity(self, stereo_disparity: Map) -> Map:
        """The inverse of ``stereo_disparity``."""
        return (self.offset - stereo_disparity) / self.gain


def render_side(scene: Scene, camera: SideCamera, margin: int) -> Map:
    """What the side camera sees, (H, W), with its own occlusions."""

    def warp(layer: Layer) -> tuple[Map, Map]:
        height, width = layer.radiance.shape
        d0, dx, dy = layer.plane
        # right(x - D(x, y)) = left(x): for a plane D is affine in x and y, so the whole move is one affine map.
        offset = camera.offset - camera.gain * (d0 - dx * (width - 1) / 2 - dy * (height - 1) / 2)
        forward = np.array([[1 + camera.gain * dx, camera.gain * dy, -offset], [0, 1, 0]])
        premultiplied = np.dstack([layer.radiance * layer.opacity, layer.opacity])
        moved = cv2.warpAffine(
            premultiplied, forward, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
        return _as_map(moved[..., 0]), _as_map(moved[..., 1])

    return _crop(_composite(scene, warp), margin)


def _composite(scene: Scene, appearance: Callable[[Layer], tuple[Map, Map]]) -> Map:
    """Composite "over", back to front; ``appearance`` gives a layer's premultiplied radiance and its opacity."""
    result = np.zeros_like(scene.layers[0].radiance)
    for layer in scene.layers:
        radiance, opacity = appearance(layer)
        result = result * (1.0 - opacity) + radiance
    return result


def _blur_plane(image: Map, layer: Layer, alpha: float, side: int) -> tuple[Map, Map]:
    disparity = layer.disparity()
    low, high = float(disparity.min()), float(disparity.max())
    grid = np.concatenate([-_PLANES[:0:-1], _PLANES])
    planes = np.unique([low, *grid[(grid > low) & (grid < high)], high])
    result: Map = np.zeros_like(image)
    for plane, hat in zip(planes, np.eye(len(planes)), strict=True):
        kernel = half_aperture_psf(round(plane / _DISPARITY_GRID) * _DISPARITY_GRID, alpha, side)
        # filter2D correlates; a point-spread function convolves, hence the flip.
        blurred = _as_map(cv2.filter2D(image, -1, kernel[::-1, ::-1], borderType=cv2.BORDER_REFLECT))
        weight = np.interp(disparity, planes, hat).astype(np.float32)
        result += blurred * weight[..., None]
    return result[..., 0], result[..., 1]


def _as_map(image: NDArray[Any]) -> Map:
    return np.asarray(image, dtype=np.float32)


def _crop(image: Map, margin: int) -> Map:
    return np.ascontiguousarray(image[margin : image.shape[0] - margin, margin : image.shape[1] - margin])
