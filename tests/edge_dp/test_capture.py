"""Whole simulated captures: what is drawn, that it can be drawn again, and what the parts make of it together."""

import hashlib
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError
from edge_dp.optics.field_psf import FieldPsf
from edge_dp.optics.psf import ALPHA_HALF_DISC, Butterworth, HalfAperture, TranslatingDisc
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import (
    SimulationConfig,
    draw_capture,
    simulate_capture,
    simulate_views,
    simulate_with_rig,
)
from edge_dp.simulation.lens import LENSES, LensConfig, draw_lens
from edge_dp.simulation.render import render_disparity, render_pinhole, render_views
from edge_dp.simulation.render_torch import TorchRenderer
from edge_dp.simulation.rig import render_side
from edge_dp.simulation.scenes import SceneConfig, random_scene
from edge_dp.simulation.sensor import SensorConfig, SensorDraw, sense

SMALL = SceneConfig(height=32, width=48, margin=8)
EVERY_MODEL = dict.fromkeys([*LENSES, "sensor:pixel4"], 1.0)
CLEAN = SensorConfig(
    full_well=(1e18, 1e18), read_noise=(0.0, 0.0), shading=0.0, half_rows_share=0.0, bit_depth=(16, 16), black=(0.0, 0.0),
    tone_mapped_share=0.0,
)  # fmt: skip


def digest(capture, rig):
    arrays = (capture.views, capture.disparity, rig.reference, rig.side, rig.opposite)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


DIGESTS_IN_A_NEW_PROCESS = """
import hashlib, json, sys
from edge_dp.config import from_mapping
from edge_dp.simulation.capture import SimulationConfig, simulate_with_rig
config = from_mapping(SimulationConfig, json.loads(sys.argv[1]), "argument")
for index in (5, 2, 0):
    capture, rig = simulate_with_rig(7, index, config)
    arrays = (capture.views, capture.disparity, rig.reference, rig.side, rig.opposite)
    print(hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest())
"""


@pytest.mark.parametrize(
    "config",
    [SimulationConfig(SMALL), SimulationConfig(replace(SMALL, channels=3), LensConfig(EVERY_MODEL))],
    ids=["plain", "every"],
)
def test_capture_depends_on_seed_and_index_alone_in_any_process_and_order(config):
    here = {index: digest(*simulate_with_rig(7, index, config)) for index in (0, 2, 5)}
    command = [sys.executable, "-c", DIGESTS_IN_A_NEW_PROCESS, json.dumps(asdict(config))]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert there == [here[5], here[2], here[0]]
    others = {digest(*simulate_with_rig(seed, index, config)) for seed, index in ((7, 1), (8, 0), (0, 7))}
    assert len(others | set(here.values())) == 6


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_and_types_of_a_capture(channels):
    capture, rig = simulate_with_rig(0, 0, SimulationConfig(replace(SMALL, channels=channels)))
    assert capture.views.shape == (2, channels, 32, 48)
    assert capture.disparity.shape == (32, 48)
    assert rig.reference.shape == rig.side.shape == rig.opposite.shape == (channels, 48, 64)  # margin on every side
    assert rig.margin == 8
    for array in (capture.views, capture.disparity, rig.reference, rig.side, rig.opposite):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert capture.views.min() >= 0 and capture.views.max() <= 1
    assert rig.reference.min() >= 0


def test_first_view_of_a_capture_is_the_left_one(measured_disparity):
    """Whole captures matched: left(x) = right(x + d) with the sign of the truth."""
    scenes = SceneConfig(height=64, width=128, margin=16, layers=(1, 1), slant_share=0.0, textureless_share=0.0)
    config = SimulationConfig(scenes, sensor=CLEAN)
    captures = [simulate_capture(4, index, config) for index in range(24)]
    far = [capture for capture in captures if abs(capture.disparity.mean()) > 0.5]
    signs = [np.sign(measured_disparity(*capture.views[:, 0])) == np.sign(capture.disparity.mean()) for capture in far]
    assert len(far) > 10
    assert np.mean(signs) > 0.8  # some textures, such as fine stripes, are ambiguous


def test_a_capture_is_its_draw_rendered_and_sensed():
    config = SimulationConfig(SMALL, LensConfig(EVERY_MODEL))
    for index in range(6):
        draw, (capture, rig) = draw_capture(3, index, config), simulate_with_rig(3, index, config)
        clean = render_views(draw.scene, draw.psf, 8, draw.window)
        np.testing.assert_array_equal(capture.views, sense(clean, draw.sensor))
        np.testing.assert_array_equal(capture.disparity, render_disparity(draw.scene, 8))
        np.testing.assert_array_equal(rig.reference, render_pinhole(draw.scene, 0))
        np.testing.assert_array_equal(rig.side, render_side(draw.scene, rig.camera, 0))
        np.testing.assert_array_equal(rig.opposite, render_side(draw.scene, replace(rig.camera, angle=math.pi), 0))


def test_capture_without_its_rig_is_the_same_and_renders_no_rig(monkeypatch):
    config = SimulationConfig(SMALL)
    for index in range(3):
        capture, _ = simulate_with_rig(2, index, config)
        with monkeypatch.context() as patch:
            for name in ("render_pinhole", "render_side"):
                patch.setattr(f"edge_dp.simulation.capture.{name}", None)
            alone = simulate_capture(2, index, config)
        np.testing.assert_array_equal(alone.views, capture.views)
        np.testing.assert_array_equal(alone.disparity, capture.disparity)


def test_side_camera_sees_every_surface_within_the_matchers_search():
    """Stereo disparity from 2 px, for the farthest surface, upwards: no wider than the dual-pixel range times the gain."""
    config = SimulationConfig(SMALL, rig_gain=5.0)
    for index in range(30):
        scene, camera = draw_capture(6, index, config).scene, simulate_with_rig(6, index, config)[1].camera
        assert camera.gain == 5.0 and camera.angle == 0 and camera.turn_deg == (0, 0, 0)
        for layer in scene.layers:
            stereo = camera.stereo_disparity(layer.disparity()[layer.opacity > 0])
            assert stereo.min(initial=9) >= 2 - 0.2 and stereo.max(initial=0) <= 2 + 9 * 5.0 + 0.2


def test_frames_show_parts_of_the_field_of_the_configured_size():
    config = SimulationConfig(replace(SMALL, layers=(1, 1)), LensConfig(field_share=(0.3, 0.6)))
    windows = [draw_capture(1, index, config).window for index in range(200)]
    for low, high in (("left", "right"), ("top", "bottom")):
        starts, ends = (np.array([getattr(window, name) for window in windows]) for name in (low, high))
        shares = (ends - starts) / 2
        assert 0.3 - 1e-9 <= shares.min() < 0.35 and 0.55 < shares.max() <= 0.6 + 1e-9
        assert starts.min() < -0.95 and ends.max() > 0.95
    whole = SimulationConfig(replace(SMALL, layers=(1, 1)), LensConfig(field_share=(1.0, 1.0)))
    window = draw_capture(1, 0, whole).window
    assert (window.left, window.top, window.right, window.bottom) == pytest.approx((-1, -1, 1, 1))


# ---- by either renderer ----


@pytest.mark.parametrize("channels", [1, 3])
def test_views_by_torch_are_those_by_opencv(channels):
    config = SimulationConfig(
        replace(SMALL, channels=channels), LensConfig(EVERY_MODEL, pool=8), SensorConfig(half_rows_share=0.5)
    )
    indices = [4, 0, 9, 2, 7, 11]
    views, disparity = simulate_views(5, indices, config)
    assert views.shape == (6, 2, channels, 32, 48) and disparity.shape == (6, 32, 48)
    for number, index in enumerate(indices):
        capture = simulate_capture(5, index, config)
        np.testing.assert_array_equal(views[number], capture.views)
        np.testing.assert_array_equal(disparity[number], capture.disparity)
    tensors, same = simulate_views(5, indices, config, TorchRenderer(8))
    assert isinstance(tensors, torch.Tensor) and tensors.dtype == torch.float32
    torch.testing.assert_close(same, torch.from_numpy(disparity), atol=0, rtol=0)
    for number, index in enumerate(indices):
        sensor = draw_capture(5, index, config).sensor
        error = np.abs(tensors[number].numpy() - views[number])
        assert error.max() <= 1e-4 + coarsest_step(sensor)
        assert np.median(error) < 1e-4


def coarsest_step(sensor: SensorDraw) -> float:
    """Of light, between two neighbouring levels."""
    if sensor.tone_mapped:
        return 2.4 / 1.055 / 255
    highest = 2**sensor.bit_depth - 1
    return 1 / (highest - round(sensor.black * highest))


def test_clean_views_by_torch_are_those_by_opencv_within_1e_4():
    config = SimulationConfig(SMALL, LensConfig(EVERY_MODEL, pool=8), CLEAN)
    views, _ = simulate_views(8, range(8), config)
    tensors, _ = simulate_views(8, range(8), config, TorchRenderer(8))
    np.testing.assert_allclose(tensors.numpy(), views, atol=1e-4)


# ---- lenses ----


def test_lenses_are_drawn_as_often_as_configured_and_within_their_ranges():
    config = LensConfig(
        {"half_aperture": 2.0, "translating_disc": 1.0, "butterworth": 1.0}, alpha=(0.2, 0.3), blur=(0.1, 0.5)
    )
    lenses = [draw_lens(0, number, config) for number in range(800)]
    kinds = {
        kind: [lens for lens in lenses if isinstance(lens, kind)]
        for kind in (HalfAperture, TranslatingDisc, Butterworth)
    }
    for kind, share in zip(kinds, (0.5, 0.25, 0.25), strict=True):
        assert len(kinds[kind]) / 800 == pytest.approx(share, abs=0.06)
    alphas = np.array([lens.alpha for lens in kinds[HalfAperture]])
    blurs = np.array([lens.blur_px for lens in lenses])
    assert kstest((alphas - 0.2) / 0.1, "uniform").pvalue > 1e-3
    assert kstest((blurs - 0.1) / 0.4, "uniform").pvalue > 1e-3
    assert {lens.order for lens in kinds[Butterworth]} == {3, 6, 9}
    assert {lens.cutoff for lens in kinds[Butterworth]} == {0.8, 1.0}
    assert {lens.floor for lens in kinds[Butterworth]} == {0.1, 0.2}


@pytest.mark.parametrize(
    ("name", "alpha"), [("half_disc", 4 / (3 * np.pi)), ("ramp", 0.25), ("translating_disc", 3 * np.pi / 32)]
)
def test_named_lenses_have_their_alpha(name, alpha):
    assert draw_lens(0, 0, LensConfig({name: 1.0})).alpha == pytest.approx(alpha)


def test_lens_of_a_sensor_is_its_field_with_more_blur():
    lens = draw_lens(0, 3, LensConfig({"sensor:pixel4": 1.0}, blur=(0.6, 0.6)))
    field = load_sensor("pixel4").psf
    assert isinstance(lens, FieldPsf)
    assert lens.field == replace(field, blur_px=np.hypot(field.blur_px, 0.6))


def test_captures_share_the_lenses_of_a_pool():
    config = SimulationConfig(replace(SMALL, layers=(1, 1)), LensConfig(EVERY_MODEL, pool=5))
    lenses = {draw_capture(2, index, config).psf for index in range(80)}
    assert lenses == {draw_lens(2, number, config.lens) for number in range(5)}
    assert len(lenses) == 5
    assert lenses != {draw_lens(3, number, config.lens) for number in range(5)}  # another seed, other lenses


def test_order_of_the_models_in_a_file_means_nothing():
    models = {"ramp": 1.0, "butterworth": 0.5, "half_disc": 2.0}
    config, turned = LensConfig(models), LensConfig(dict(reversed(models.items())))
    assert config == turned and hash(config) == hash(turned)
    drawn = [draw_lens(1, number, config) for number in range(20)]
    draw_lens.cache_clear()
    assert [draw_lens(1, number, turned) for number in range(20)] == drawn


def test_unchanged_range_of_alpha_may_end_at_the_half_disc():
    lens = draw_lens(0, 0, LensConfig(alpha=(ALPHA_HALF_DISC, ALPHA_HALF_DISC)))
    assert lens.alpha == pytest.approx(ALPHA_HALF_DISC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {"half_moon": 1.0}}, "models: expected half_aperture, .* or sensor:NAME, found 'half_moon'"),
        ({"models": {"ramp": -1.0}}, "models: ramp: expected a share, 0 or above, found -1.0"),
        ({"models": {"ramp": 0.0}}, "expected some model with a share above 0"),
        ({"models": {}}, "expected some model with a share above 0"),
        ({"models": ["ramp"]}, "models: expected a mapping"),
        ({"pool": 0}, "a pool of at least 1"),
        ({"alpha": [0.0, 0.4]}, r"alpha: expected a rising range within \(0, 0.424\], found"),
        ({"alpha": [0.3, 0.2]}, "alpha: expected a rising range"),
        ({"alpha": [0.3, 0.43]}, "alpha: expected a rising range"),
        ({"blur": [-0.1, 0.4]}, "blur from 0"),
        ({"blur": [0.5, 0.4]}, "expected rising ranges"),
        ({"field_share": [0.0, 0.4]}, r"field_share within \(0, 1\]"),
        ({"field_share": [0.5, 1.1]}, r"field_share within \(0, 1\]"),
    ],
)
def test_lenses_that_cannot_be_are_refused(changes, message):
    with pytest.raises(SchemaError, match=f"mine.yaml: lens: .*{message}"):
        from_mapping(SimulationConfig, {"lens": changes}, "mine.yaml")


def test_sensor_without_a_measured_point_spread_function_is_named():
    with pytest.raises(SchemaError, match="models: sensor:generic_8bit: expected a profile with psf, found none in it"):
        draw_lens(0, 0, LensConfig({"sensor:generic_8bit": 1.0}))


def test_scene_of_a_capture_does_not_depend_on_lens_and_sensor():
    other = SimulationConfig(SMALL, LensConfig({"butterworth": 1.0}), CLEAN)
    for index in range(5):
        plain, plain_rig = simulate_with_rig(9, index, SimulationConfig(SMALL))
        changed, changed_rig = simulate_with_rig(9, index, other)
        np.testing.assert_array_equal(plain_rig.reference, changed_rig.reference)
        np.testing.assert_array_equal(plain.disparity, changed.disparity)
        alone = random_scene(np.random.default_rng([9, index]), SMALL)
        np.testing.assert_array_equal(plain_rig.reference, render_pinhole(alone, 0))
