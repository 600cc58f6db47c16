"""One simulated capture: a random scene seen by a dual-pixel sensor and by a stereo rig, reproducible from two integers."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.simulation.psf import ALPHA_HALF_DISC
from edge_dp.simulation.render import SideCamera, render_disparity, render_pinhole, render_side, render_view
from edge_dp.simulation.scenes import Map, SceneConfig, random_scene

SIMULATOR = 1
"""Raised whenever the same seed and configuration give other captures than before, so that no data set mixes the two."""


@dataclass(frozen=True, slots=True)
class SensorConfig:
    """Ranges of what the sensor and lens do to clean light."""

    alpha: tuple[float, float] = (0.18, 0.424)
    """Disparity per circle-of-confusion diameter; real sensors lie between a Pixel 4 (0.21) and an ideal half disc."""
    lens_blur: tuple[float, float] = (0.0, 0.7)
    """Standard deviation of what blurs even focused light (lens, pixel aperture, resampling), px."""
    full_well: tuple[float, float] = (1000.0, 20000.0)
    """Photo-electrons of a half pixel at white, drawn log-uniformly: photon noise has variance x / full_well."""
    read_noise: tuple[float, float] = (0.0, 0.004)
    """Standard deviation, in units of the white level."""
    shading: float = 0.06
    """Largest relative left/right gain that the sensor's shading correction leaves; it varies linearly over the frame."""


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """Everything a simulated data set depends on, next to its seed."""

    scene: SceneConfig = field(default_factory=SceneConfig)
    sensor: SensorConfig = field(default_factory=SensorConfig)
    rig_gain: float = 6.0
    """Stereo disparity per dual-pixel disparity: the side camera's baseline in units of the lens's own."""


@dataclass(frozen=True, slots=True)
class SimulatedCapture:
    """What the cameras saw, and the truth.

    views: (2, H, W) left and right dual-pixel view, linear light, noisy.
    disparity: (H, W) true dual-pixel disparity, px, for evaluation only.
    reference, side: (Hc, Wc) pinhole views of the whole canvas, linear light, rectified: the stereo teacher's input.
    camera: relation between the two disparities.
    margin: canvas beyond the frame, px.
    """

    views: NDArray[np.float32]
    disparity: Map
    reference: Map
    side: Map
    camera: SideCamera
    margin: int


def simulate_capture(seed: int, index: int, config: SimulationConfig) -> SimulatedCapture:
    """Capture number ``index`` of the set with this seed; the same bytes in whichever process and order it is made."""
    rng = np.random.default_rng([seed, index])
    margin = config.scene.margin
    scene = random_scene(rng, config.scene)
    alpha = min(float(rng.uniform(*config.sensor.alpha)), ALPHA_HALF_DISC)
    clean = np.stack([render_view(scene, alpha, side, margin) for side in (-1, 1)])
    camera = SideCamera(offset=2.0 + config.rig_gain * scene.farthest, gain=config.rig_gain)
    return SimulatedCapture(
        views=add_sensor(rng, clean, config.sensor),
        disparity=render_disparity(scene, margin),
        reference=render_pinhole(scene, 0),
        side=render_side(scene, camera, 0),
        camera=camera,
        margin=margin,
    )


def add_sensor(rng: np.random.Generator, views: NDArray[np.float32], config: SensorConfig) -> NDArray[np.float32]:
    """Lens blur, left/right shading and noise on clean views (2, H, W); clipped to [0, 1] as a sensor clips."""
    _, height, width = views.shape
    if (sigma := float(rng.uniform(*config.lens_blur))) > 0.2:  # a narrower kernel is one pixel
        views = np.stack([cv2.GaussianBlur(view, (0, 0), sigma) for view in views])
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    tilt = rng.uniform(-1, 1, 3)
    shading = config.shading * (tilt[0] + tilt[1] * x + tilt[2] * y) / max(1.0, float(np.abs(tilt).sum()))
    shaded = views * np.stack([1.0 - shading / 2, 1.0 + shading / 2])
    full_well = np.exp(rng.uniform(*np.log(config.full_well)))
    noise = np.sqrt(shaded / full_well + rng.uniform(*config.read_noise) ** 2)
    return np.clip(shaded + noise * rng.standard_normal(views.shape), 0.0, 1.0).astype(np.float32)
