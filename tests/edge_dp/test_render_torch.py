"""The renderer on tensors against the one on arrays."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from edge_dp.errors import InputError
from edge_dp.optics.psf import Butterworth, HalfAperture, TranslatingDisc
from edge_dp.simulation.kernels import FieldWindow
from edge_dp.simulation.render import WHOLE_FIELD, render_views
from edge_dp.simulation.render_torch import SceneBatch, TorchRenderer
from edge_dp.simulation.scenes import SceneConfig, random_scene

MARGIN = 9
DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
WINDOWS = [
    WHOLE_FIELD,
    FieldWindow(-0.9, 0.1, 0.2, 0.8),
    FieldWindow(0.3, -1.0, 1.0, -0.4),
    FieldWindow(0, 0, 0.5, 0.5),
]


@dataclass(frozen=True)
class Uneven:
    """A model whose kernels shrink from left to right and grow from top to bottom."""

    growth: float = 0.2
    step: ClassVar[float] = 1 / 8
    varies: ClassVar[bool] = True

    def kernel(self, disparity, side, x=0.0, y=0.0):
        return HalfAperture(0.6, 0.25 * (1 + self.growth * (x - 0.5 * y))).kernel(disparity, side)


def random_scenes(seed, **changes):
    config = SceneConfig(**{"height": 43, "width": 60, "margin": MARGIN, "layers": (1, 7)} | changes)
    return [random_scene(np.random.default_rng([seed, index]), config) for index in range(4)]


def by_opencv(scenes, psfs, windows):
    triples = zip(scenes, psfs, windows, strict=True)
    return np.stack([render_views(scene, psf, MARGIN, window) for scene, psf, window in triples])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "psfs",
    [
        [HalfAperture(0.3, 0.2)] * 4,
        [Uneven()] * 4,
        [TranslatingDisc(), Uneven(0.1), HalfAperture(strength=0.424), Butterworth(0.5)],
    ],
    ids=["uniform", "varying", "mixed"],
)
def test_both_renderers_agree(device, seed, psfs):
    """Scenes of different layer counts, slanted or not, in one batch, with models and windows of their own."""
    scenes = random_scenes(seed, channels=1 + 2 * (seed % 2), slant_share=0.7)
    assert len({len(scene.layers) for scene in scenes}) > 1
    views = TorchRenderer(MARGIN)(SceneBatch.of(scenes, device), psfs, WINDOWS)
    assert views.device.type == device and views.dtype == torch.float32
    np.testing.assert_allclose(views.cpu().numpy(), by_opencv(scenes, psfs, WINDOWS), atol=1e-4)


def test_whole_field_is_meant_where_no_window_is_given():
    scenes, psfs = random_scenes(5), [Uneven()] * 4
    views = TorchRenderer(MARGIN)(SceneBatch.of(scenes, "cpu"), psfs)
    np.testing.assert_allclose(views.numpy(), by_opencv(scenes, psfs, [WHOLE_FIELD] * 4), atol=1e-4)


def test_renderer_kept_over_batches_gives_what_a_new_one_gives():
    """With room for a few spectra only, so that they are made, reused and dropped; and for other models of the same blurs."""
    kept = TorchRenderer(MARGIN, spectra_kept=3)
    for psf in (HalfAperture(0.3, 0.2), HalfAperture(0.3, 0.4), Uneven(), HalfAperture(0.3, 0.2)):
        batch = SceneBatch.of(random_scenes(6), "cpu")
        torch.testing.assert_close(kept(batch, [psf] * 4), TorchRenderer(MARGIN)(batch, [psf] * 4), atol=1e-6, rtol=0)


def test_many_blurs_at_once_and_one_scene_alone_agree():
    """Steep planes need more blurs than are convolved together."""
    scenes = random_scenes(7, slant_share=1.0, disparity=(-6.0, 12.0), layers=(5, 9))
    psf = HalfAperture(0.2, 0.3)
    renderer = TorchRenderer(MARGIN)
    together = renderer(SceneBatch.of(scenes, "cpu"), [psf] * 4)
    for scene, views in zip(scenes, together, strict=True):
        alone = renderer(SceneBatch.of([scene], "cpu"), [psf])
        torch.testing.assert_close(alone[0], views, atol=2e-5, rtol=0)
        np.testing.assert_allclose(views.numpy(), render_views(scene, psf, MARGIN), atol=1e-4)


def test_layers_without_opacity_are_left_out_whatever_else_there_is():
    scene = random_scenes(8)[0]
    layer = scene.layers[0]
    empty = dataclasses.replace(layer, opacity=np.zeros_like(layer.opacity))
    scenes = [dataclasses.replace(scene, layers=(layer, empty)), dataclasses.replace(scene, layers=(empty,))]
    views = TorchRenderer(MARGIN)(SceneBatch.of(scenes, "cpu"), [HalfAperture()] * 2)
    np.testing.assert_allclose(views[0].numpy(), render_views(scenes[0], HalfAperture(), MARGIN), atol=1e-4)
    assert (views[1] == 0).all() and (render_views(scenes[1], HalfAperture(), MARGIN) == 0).all()
    assert (TorchRenderer(MARGIN)(SceneBatch.of(scenes[1:], "cpu"), [HalfAperture()]) == 0).all()


def test_scenes_of_other_sizes_or_none_are_refused():
    with pytest.raises(
        InputError, match=r"scenes: expected one canvas size and channel count, found \[\(1, 61, 78\), "
    ):
        SceneBatch.of([random_scenes(0)[0], random_scenes(0, height=44)[0]], "cpu")
    with pytest.raises(InputError, match=r"found \[\(1, 61, 78\), \(3, 61, 78\)\]"):
        SceneBatch.of([random_scenes(0)[0], random_scenes(0, channels=3)[0]], "cpu")
    with pytest.raises(InputError, match="found none"):
        SceneBatch.of([], "cpu")
