"""Procedural scenes: textured, possibly slanted layers, each at a signed dual-pixel disparity.

A scene is described in dual-pixel disparity, not in metres: with the focus unknown the two are one affine map of inverse
depth apart, and the network never needs the metres.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.simulation.textures import random_texture

Map = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """Ranges from which scenes are drawn, uniformly unless said otherwise."""

    height: int = 192
    width: int = 256
    margin: int = 24
    """Canvas beyond the frame on every side, px: blur and side cameras look past the frame."""
    disparity: tuple[float, float] = (-4.0, 5.0)
    """Nearest and farthest dual-pixel disparity, px."""
    layers: tuple[int, int] = (2, 7)
    """Fewest and most layers, background included."""
    slant_share: float = 0.5
    """Share of layers that are slanted planes."""
    one_sided_share: float = 0.5
    """Share of scenes that lie wholly in front of or behind the focus plane, as most phone captures do."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A surface on the canvas (Hc, Wc).

    radiance: linear light, [0, 1], defined everywhere, so that there is something behind what covers it.
    opacity: coverage, [0, 1].
    plane: (d0, dx, dy): disparity d0 + dx * x + dy * y, px, with x, y in px from the canvas centre.
    """

    radiance: Map
    opacity: Map
    plane: tuple[float, float, float]

    def disparity(self) -> Map:
        """(Hc, Wc) px."""
        height, width = self.radiance.shape
        y, x = np.mgrid[0:height, 0:width].astype(np.float32)
        d0, dx, dy = self.plane
        return (d0 + dx * (x - (width - 1) / 2) + dy * (y - (height - 1) / 2)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers from back to front, with the limits of their disparities, px."""

    layers: tuple[Layer, ...]
    nearest: float
    farthest: float


def random_scene(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Draw a scene; the same generator state gives the same scene."""
    low, high = _disparity_range(rng, config)
    height, width = config.height + 2 * config.margin, config.width + 2 * config.margin
    count = int(rng.integers(config.layers[0], config.layers[1] + 1))
    front = np.zeros((height, width), np.float32)  # disparity of the front-most surface so far
    depths = np.sort(rng.uniform(low, high, count))[::-1]
    layers = []
    for index, depth in enumerate(depths):
        opacity = np.ones((height, width), np.float32) if index == 0 else _shape(rng, height, width)
        plane = _plane(rng, config, float(depth), (low, high), (height, width), background=index == 0)
        gamma_encoded = random_texture(rng, height, width)
        layer = Layer(gamma_encoded**2.2, opacity, plane)
        if index:
            layer = _before(layer, front, low)
        front = np.where(opacity > 0.5, layer.disparity(), front) if index else layer.disparity()
        layers.append(layer)
    return Scene(tuple(layers), low, high)


def _before(layer: Layer, front: Map, low: float) -> Layer:
    """``layer`` moved nearer, or turned fronto-parallel, so that it lies nowhere behind what it covers."""
    covered = layer.opacity > 0
    disparity = layer.disparity()
    excess = float((disparity - front)[covered].max(initial=0.0))
    d0, dx, dy = layer.plane
    plane = (d0 - excess, dx, dy)
    if float(disparity.min()) - excess < low:
        plane = (float(np.minimum(front, d0)[covered].min(initial=d0)), 0.0, 0.0)
    return replace(layer, plane=plane)


def _disparity_range(rng: np.random.Generator, config: SceneConfig) -> tuple[float, float]:
    low, high = config.disparity
    if low < -0.3 and high > 0.3 and rng.uniform() < config.one_sided_share:
        if rng.uniform() < 0.35:
            high = 0.3
        else:
            low = -0.3
    # A random stretch of it: shallow scenes are as common as deep ones.
    length = (high - low) * rng.uniform(0.15, 1.0)
    start = rng.uniform(low, high - length)
    return float(start), float(start + length)


def _plane(
    rng: np.random.Generator,
    config: SceneConfig,
    depth: float,
    limits: tuple[float, float],
    canvas: tuple[int, int],
    background: bool,
) -> tuple[float, float, float]:
    if rng.uniform() >= config.slant_share:
        return depth, 0.0, 0.0
    height, width = canvas
    angle = rng.uniform(0, 2 * np.pi)
    if background and rng.uniform() < 0.6:
        angle = -np.pi / 2 + rng.normal(0, 0.2)  # a floor or table: the lower, the nearer
    rise = rng.uniform(0.1, 1.0) * (limits[1] - limits[0])
    dx, dy = rise * np.cos(angle) / width, rise * np.sin(angle) / height
    # Kept inside the limits over the whole canvas by moving the plane, not by bending it.
    swing = (abs(dx) * width + abs(dy) * height) / 2
    shrink = min(1.0, (limits[1] - limits[0]) / (2 * swing + 1e-9))
    dx, dy, swing = dx * shrink, dy * shrink, swing * shrink
    return float(np.clip(depth, limits[0] + swing, limits[1] - swing)), float(dx), float(dy)


def _shape(rng: np.random.Generator, height: int, width: int) -> Map:
    """Opacity of a foreground object: ellipse, polygon, blob, bars or a fence, anti-aliased."""
    mask = np.zeros((height, width), np.uint8)  # OpenCV anti-aliases on 8-bit images only
    centre = np.array([rng.uniform(0, width), rng.uniform(0.1 * height, height)])
    size = np.exp(rng.uniform(np.log(0.08), np.log(0.6))) * height
    kind = rng.choice(["ellipse", "polygon", "blob", "bar", "fence"], p=[0.25, 0.3, 0.25, 0.14, 0.06])
    if kind == "ellipse":
        axes = (max(2, int(size)), max(2, int(size * rng.uniform(0.3, 1.0))))
        cv2.ellipse(
            mask, np.round(centre).astype(int).tolist(), axes, float(rng.uniform(0, 180)), 0, 360, 255, -1, cv2.LINE_AA
        )
    elif kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
        corners = (
            np.stack([np.cos(angles), np.sin(angles)], 1) * size * rng.uniform(0.6, 1.2, (len(angles), 1)) + centre
        )
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255, cv2.LINE_AA)
    elif kind == "blob":
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = (rng.uniform(0, 0.35 / k) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in range(1, 6))
        radius = 1.0 + sum(waves, start=np.zeros_like(angles))
        corners = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] * size + centre
        cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255, cv2.LINE_AA)
    else:
        angle = rng.uniform(0, np.pi)
        along, across = np.array([np.cos(angle), np.sin(angle)]) * 2 * height, np.array([-np.sin(angle), np.cos(angle)])
        thickness = int(rng.integers(2, 14))
        pitch = rng.uniform(2.5, 6.0) * thickness
        for k in range(-6, 7) if kind == "fence" else range(1):
            middle = centre + across * k * pitch
            ends = [tuple(int(v) for v in middle - along), tuple(int(v) for v in middle + along)]
            cv2.line(mask, ends[0], ends[1], 255, thickness, cv2.LINE_AA)
    return mask.astype(np.float32) / 255.0
