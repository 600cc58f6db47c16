"""One simulated capture: a random scene seen by a dual-pixel sensor and by a stereo rig, reproducible from two integers.

The scene is procedural, or drawn from pictures of known geometry (``edge_dp.simulation.pictures``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edge_dp.optics.psf import PsfModel
from edge_dp.simulation.kernels import FieldWindow
from edge_dp.simulation.lens import LensConfig, draw_lens
from edge_dp.simulation.render import Views, render_disparity, render_pinhole, render_views
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import Map, Scene, SceneConfig, random_scene
from edge_dp.simulation.sensor import SensorConfig, SensorDraw, draw_sensor, sense

if TYPE_CHECKING:
    from torch import Tensor

    from edge_dp.simulation.from_depth import Mask
    from edge_dp.simulation.pictures import PictureSource
    from edge_dp.simulation.render_torch import TorchRenderer

SIMULATOR = 3
"""Raised whenever the same seed and configuration give other captures than before, so that no data set mixes the two."""


@dataclass(frozen=True, slots=True)
class SimulationConfig:
    """Everything a simulated data set depends on, next to its seed."""

    scene: SceneConfig = field(default_factory=SceneConfig)
    lens: LensConfig = field(default_factory=LensConfig)
    sensor: SensorConfig = field(default_factory=SensorConfig)
    rig_gain: float = 6.0
    """Stereo disparity per dual-pixel disparity: the side camera's baseline in units of the lens's own."""


@dataclass(frozen=True, slots=True)
class CaptureDraw:
    """All that is random about one capture, before anything is rendered.

    mask: (H, W) bool, False where a picture's depth was not known and has been filled in; None for procedural scenes.
    """

    scene: Scene
    psf: PsfModel
    window: FieldWindow
    sensor: SensorDraw
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class SimulatedCapture:
    """What the dual-pixel sensor saw, and the truth.

    views: (2, C, H, W) left and right dual-pixel view, linear light in [0, 1], noisy.
    disparity: (H, W) true dual-pixel disparity, px, for evaluation only.
    mask: as of ``CaptureDraw``. The disparity is what was rendered everywhere; the picture's only where the mask holds.
    """

    views: Views
    disparity: Map
    mask: Mask | None


@dataclass(frozen=True, slots=True)
class SimulatedRig:
    """What pinhole cameras saw of the same scene: the stereo teacher's input.

    reference, side: (C, Hc, Wc) views of the whole canvas, linear light, rectified.
    opposite: as ``side``, from as far to the left as that is to the right: it sees what is hidden from the other.
    camera: relation between stereo and dual-pixel disparity; the same for both sides.
    margin: canvas beyond the dual-pixel frame, px.
    """

    reference: Map
    side: Map
    opposite: Map
    camera: SideCamera
    margin: int


def draw_capture(seed: int, index: int, config: SimulationConfig, pictures: PictureSource | None = None) -> CaptureDraw:
    """Draw capture number ``index`` of the set with this seed; the same in whichever process and order.

    Args:
        pictures: to draw the scene from one of them; None for a procedural one.

    Raises:
        InputError: what the scene needs, pictures or a folder of textures, cannot be read, or does not fit the configuration.
    """
    rng = np.random.default_rng([seed, index])
    mask = None
    if pictures is None:
        scene = random_scene(rng, config.scene)
    else:
        scene, mask = pictures.draw(rng, index, config.scene)
    psf = draw_lens(seed, int(rng.integers(config.lens.pool)), config.lens)
    share = rng.uniform(*config.lens.field_share, 2)
    left, top = (float(rng.uniform(-1.0, 1.0 - 2.0 * part)) for part in share)
    window = FieldWindow(left, top, min(left + 2.0 * float(share[0]), 1.0), min(top + 2.0 * float(share[1]), 1.0))
    return CaptureDraw(scene, psf, window, draw_sensor(rng, config.sensor), mask)


def simulate_capture(
    seed: int, index: int, config: SimulationConfig, pictures: PictureSource | None = None
) -> SimulatedCapture:
    """Capture number ``index`` of the set with this seed; the same bytes in whichever process and order it is made.

    Args:
        pictures: to draw the scene from one of them; None for a procedural one.

    Raises:
        InputError: as ``draw_capture``.
    """
    return _capture(draw_capture(seed, index, config, pictures), config)


def simulate_with_rig(
    seed: int, index: int, config: SimulationConfig, pictures: PictureSource | None = None
) -> tuple[SimulatedCapture, SimulatedRig]:
    """As ``simulate_capture``, the same bytes, and with it what a stereo rig sees of its scene."""
    draw = draw_capture(seed, index, config, pictures)
    return _capture(draw, config), render_rig(draw.scene, config)


def simulate_views(
    seed: int,
    indices: Sequence[int],
    config: SimulationConfig,
    renderer: TorchRenderer | None = None,
    device: str = "cpu",
    pictures: PictureSource | None = None,
) -> tuple[NDArray[np.float32] | Tensor, NDArray[np.float32] | Tensor]:
    """Views and true disparity of several captures of one set, on the CPU by OpenCV or on any device by torch.

    Args:
        indices: of the captures, at least one.
        renderer: keep one over the calls of a data set to render by torch on ``device``; None renders by OpenCV.
        pictures: to draw the scenes from; None for procedural ones.

    Returns:
        Views (B, 2, C, H, W) as in ``SimulatedCapture`` and disparity (B, H, W): numpy arrays, or tensors on ``device``. Both
        ways agree within 1e-4 of light, or one level of the sensor where that is more.
    """
    if renderer is None:
        captures = [simulate_capture(seed, index, config, pictures) for index in indices]
        return np.stack([capture.views for capture in captures]), np.stack([capture.disparity for capture in captures])
    return render_draws([draw_capture(seed, index, config, pictures) for index in indices], config, renderer, device)


def render_draws(
    draws: Sequence[CaptureDraw], config: SimulationConfig, renderer: TorchRenderer, device: str
) -> tuple[Tensor, Tensor]:
    """Views (B, 2, C, H, W) and true disparity (B, H, W) of drawn captures, by torch on ``device``; see ``simulate_views``."""
    import torch

    from edge_dp.simulation.render_torch import SceneBatch

    disparity = np.stack([render_disparity(draw.scene, config.scene.margin) for draw in draws])
    batch = SceneBatch.of([draw.scene for draw in draws], device)
    clean = renderer(batch, [draw.psf for draw in draws], [draw.window for draw in draws])
    seen = [sense(views, draw.sensor, torch) for views, draw in zip(clean, draws, strict=True)]
    return torch.stack(seen), torch.from_numpy(disparity).to(device)


def render_rig(scene: Scene, config: SimulationConfig) -> SimulatedRig:
    """What a stereo rig sees of a scene."""
    camera = SideCamera(offset=2.0 + config.rig_gain * scene.farthest, gain=config.rig_gain)
    return SimulatedRig(
        reference=render_pinhole(scene, 0),
        side=render_side(scene, camera, 0),
        opposite=render_side(scene, replace(camera, angle=math.pi), 0),
        camera=camera,
        margin=config.scene.margin,
    )


def _capture(draw: CaptureDraw, config: SimulationConfig) -> SimulatedCapture:
    margin = config.scene.margin
    return SimulatedCapture(
        views=sense(render_views(draw.scene, draw.psf, margin, draw.window), draw.sensor),
        disparity=render_disparity(draw.scene, margin),
        mask=draw.mask,
    )
