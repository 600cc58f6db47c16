"""Captures of pictures of known geometry: the right part of the right picture, at disparities that its depth asks for."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, maximum_filter, minimum_filter
from scipy.stats import kstest

from edge_dp.data.scenes import SceneSample
from edge_dp.errors import InputError, OpticsError
from edge_dp.sensors import load_sensor
from edge_dp.sensors.matching import MatchConfig, match_views
from edge_dp.simulation.capture import (
    SimulationConfig,
    draw_capture,
    simulate_capture,
    simulate_views,
    simulate_with_rig,
)
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.pictures import MetricOptics, PictureSource, open_pictures
from edge_dp.simulation.render import render_disparity, render_pinhole
from edge_dp.simulation.render_torch import TorchRenderer
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import SensorConfig

HEIGHT, WIDTH = 60, 80
SMALL = SceneConfig(height=32, width=40, margin=8, channels=3)
WHOLE = replace(SMALL, height=HEIGHT, width=WIDTH)  # the whole picture, at its size
CLEAN = SensorConfig((1e9, 1e9), (0.0, 0.0), 0.0, 0.0, (16, 16), (0.0, 0.0), 0.0)
SHARP = LensConfig({"half_disc": 1.0}, blur=(0.0, 0.0), pool=1)
PIXEL4 = load_sensor("pixel4")
GRADUAL = np.meshgrid(np.linspace(0, 1, WIDTH, dtype=np.float32), np.linspace(0, 1, HEIGHT, dtype=np.float32))


@dataclass
class InMemory:
    """Pictures made by hand."""

    samples: list

    @property
    def names(self):
        return [sample.name for sample in self.samples]

    def read(self, name):
        return next(sample for sample in self.samples if sample.name == name)


def source(*samples, optics=None):
    return PictureSource("made", "none", InMemory(list(samples)), optics)


def picture(name="kitchen", **changes):
    """Its colours are its column and row, and so is its depth, 1 to 3 m: 1 / depth is affine in the column."""
    image = np.stack([*GRADUAL, np.zeros_like(GRADUAL[0])])
    fields = {"image": image, "depth": (1 / (1 / 3 + (2 / 3) * GRADUAL[0])).astype(np.float32)}
    return SceneSample(name=name, **(fields | changes))


def textured(seed, shape=(HEIGHT, WIDTH)):
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 1.5, mode="nearest")
    return (0.5 + 0.4 * noise / abs(noise).max()).astype(np.float32)[None].repeat(3, axis=0)


def drawn(pictures, config, index=0, seed=0):
    """Pinhole view and disparity of a capture's frame."""
    draw = draw_capture(seed, index, SimulationConfig(config), pictures)
    return render_pinhole(draw.scene, config.margin), render_disparity(draw.scene, config.margin), draw


# ---- which part of which picture ----


def test_captures_show_one_picture_after_the_other():
    flat = [picture(f"p{level}", image=np.full((3, HEIGHT, WIDTH), level / 10, np.float32)) for level in (1, 4, 8)]
    levels = [np.median(drawn(source(*flat), SMALL, index)[0]) for index in range(7)]
    assert levels == pytest.approx([0.1, 0.4, 0.8, 0.1, 0.4, 0.8, 0.1])


@pytest.mark.parametrize("margin", [0, 8, 40])
def test_light_and_disparity_come_from_one_place_and_pictures_are_never_enlarged(margin):
    """Light tells the place in the picture, so the scale and the depth that belong there."""
    config = replace(SMALL, margin=margin)
    scales, mirrored, starts = [], [], []
    for index in range(120):
        view, disparity, draw = drawn(source(picture()), config, index)
        column, row = view[0] * (WIDTH - 1), view[1] * (HEIGHT - 1)
        steps_x, steps_y = np.diff(column, axis=1), np.diff(row, axis=0)
        scales.append(abs(steps_x.mean()))
        assert steps_y.mean() == pytest.approx(scales[-1], rel=0.05)  # upright, and no wider than high
        assert steps_x.max() - steps_x.min() < 0.5  # everywhere the same, but for what a mean of whole px does
        mirrored.append(steps_x.mean() < 0)
        starts.append(row.min())
        # d is affine in 1 / depth, which is affine in the column, up to the half px to the depth that was picked
        fit = np.polynomial.Polynomial.fit(column.ravel(), disparity.ravel(), 1)
        assert fit.convert().coef[1] < 0  # nearer to the right
        assert np.abs(fit(column) - disparity).max() <= 1.01 * abs(fit.convert().coef[1])
        assert draw.mask.all() and draw.mask.shape == (32, 40)
    assert min(scales) > 0.97  # but for rounded sizes
    assert max(scales) <= 1.01 * min(HEIGHT / 32, WIDTH / 40)
    assert np.quantile(scales, 0.9) > 1.6 and np.quantile(scales, 0.1) < 1.1
    assert 0.3 < np.mean(mirrored) < 0.7
    assert max(starts) > HEIGHT / 3 and min(starts) < 1


def test_canvas_beyond_the_picture_repeats_its_border():
    draw = draw_capture(0, 0, SimulationConfig(WHOLE), source(picture()))
    canvas = render_pinhole(draw.scene, 0)
    assert canvas.shape == (3, HEIGHT + 16, WIDTH + 16)
    np.testing.assert_array_equal(canvas, np.pad(canvas[:, 8:-8, 8:-8], ((0, 0), (8, 8), (8, 8)), "edge"))


@pytest.mark.parametrize(
    ("shape", "channels", "planes"), [(3, 1, [1]), (1, 3, [0, 0, 0]), (3, 3, [0, 1, 2]), (1, 1, [0])]
)
def test_one_channel_is_green_and_grey_is_every_colour(shape, channels, planes):
    image = np.stack([np.full((HEIGHT, WIDTH), level, np.float32) for level in (0.2, 0.5, 0.7)[:shape]])
    view = drawn(source(picture(image=image)), replace(SMALL, channels=channels))[0]
    assert view.mean(axis=(1, 2)) == pytest.approx([(0.2, 0.5, 0.7)[plane] for plane in planes], abs=1e-4)


@given(seed=st.integers(0, 10**6), index=st.integers(0, 10**6))
def test_same_numbers_same_capture(seed, index):
    one, two = (draw_capture(seed, index, SimulationConfig(SMALL), source(picture(), picture("b"))) for _ in range(2))
    np.testing.assert_array_equal(render_pinhole(one.scene, 0), render_pinhole(two.scene, 0))
    np.testing.assert_array_equal(render_disparity(one.scene, 0), render_disparity(two.scene, 0))
    assert (one.psf, one.window, one.sensor) == (two.psf, two.window, two.sensor)


# ---- disparity between drawn limits ----


@pytest.mark.parametrize("field", ["depth", "stereo_disparity"])
def test_disparity_is_affine_in_inverse_depth_and_within_the_limits(field):
    values = np.random.default_rng(3).uniform(0.5, 20.0, (HEIGHT, WIDTH)).astype(np.float32)
    sample = picture(**{"depth": None, field: values})
    nearness = 1 / values if field == "depth" else values
    spans, one_sided = [], 0
    for index in range(100):
        _, disparity, draw = drawn(source(sample), WHOLE, index)
        candidates = (nearness, nearness[:, ::-1])
        fits = [np.polyfit(candidate.ravel(), disparity.ravel(), 1, full=True) for candidate in candidates]
        best = min(fits, key=lambda fit: fit[1][0])
        assert best[0][0] < 0  # nearer is less
        assert np.sqrt(best[1][0] / values.size) < 1e-4
        low, high = float(disparity.min()), float(disparity.max())
        assert -4.0 <= low < high <= 5.0
        assert (draw.scene.nearest, draw.scene.farthest) == pytest.approx((low, high))
        spans.append(high - low)
        one_sided += low >= -0.31 or high <= 0.31
    assert min(spans) < 1.5 and max(spans) > 6
    assert 50 < one_sided < 90  # half of them by intent, and others by chance


def test_horizon_is_the_far_limit():
    depth = np.where(GRADUAL[1] < 0.5, np.inf, 2.0).astype(np.float32)
    _, disparity, draw = drawn(source(picture(depth=depth)), WHOLE)
    assert np.isfinite(disparity).all()
    assert (disparity[:25] == draw.scene.farthest).all() and (disparity[35:] == draw.scene.nearest).all()
    assert draw.scene.nearest < draw.scene.farthest


def test_flat_picture_has_one_disparity_and_its_side_view_is_moved():
    """D = offset - gain * d = 2 px for the farthest surface, here the only one: reference(x) = side(x - 2)."""
    flat = picture(image=textured(1), depth=np.full((HEIGHT, WIDTH), 2.0, np.float32))
    capture, rig = simulate_with_rig(0, 5, SimulationConfig(SMALL), source(flat))
    assert np.ptp(capture.disparity) == 0 and -4 <= capture.disparity[0, 0] <= 5
    assert rig.camera.stereo_disparity(capture.disparity[0, 0]) == pytest.approx(2.0, abs=1e-4)
    np.testing.assert_allclose(rig.reference[..., 10:-8], rig.side[..., 8:-10], atol=1e-3)


# ---- disparity through a lens ----


def test_metric_disparity_is_that_of_the_thin_lens():
    """Pixel 4, ideal half disc, focused at 1 m: +1.69 px at the horizon, -1.69 px at 0.5 m (numbers from the literature)."""
    depth = np.full((HEIGHT, WIDTH), 0.5, np.float32)
    depth[:, : WIDTH // 2] = np.inf
    optics = MetricOptics(replace(PIXEL4, alpha=4 / (3 * np.pi)), (1.0, 1.0))
    disparity = drawn(source(picture(depth=depth), optics=optics), WHOLE)[1]
    assert np.unique(disparity) == pytest.approx([-1.69, 1.69], abs=0.01)


@pytest.mark.parametrize("index", range(4))
def test_metric_disparity_of_a_slope_through_a_lens_focused_anywhere(index):
    """One focus distance explains all of it: d = alpha A f / (1 - f / g) / p * (1 / g - 1 / z)."""
    sample = picture()
    _, disparity, _ = drawn(source(sample, optics=MetricOptics(PIXEL4, (0.5, np.inf))), WHOLE, index)
    focal, aperture = 4.38e-3, 4.38e-3 / 1.73
    scale = 0.21 * aperture * focal / 2.8e-6
    inverse = 1 / sample.depth.astype(np.float64)
    lines = [np.polyfit(candidate.ravel(), disparity.ravel(), 1) for candidate in (inverse, inverse[:, ::-1])]
    slope, offset = min(lines, key=lambda line: line[0])  # the falling one
    dioptres = -offset / slope
    assert 0 <= dioptres <= 2
    assert slope == pytest.approx(-scale / (1 - focal * dioptres), rel=1e-4)


@pytest.mark.parametrize("farthest", [2.0, np.inf])
def test_focus_is_uniform_in_dioptres(farthest):
    optics, rng = MetricOptics(PIXEL4, (0.4, farthest)), np.random.default_rng(0)
    dioptres = np.array([1 / optics.draw_focus(rng) for _ in range(500)])
    assert kstest((dioptres - 1 / farthest) / (2.5 - 1 / farthest), "uniform").pvalue > 1e-3
    assert MetricOptics(PIXEL4, (np.inf, np.inf)).draw_focus(rng) == np.inf


# ---- what was rendered ----


def of_depth(seed):
    """A wall that recedes to the right, a box before it; with texture. Large enough to be cropped."""
    shape = (150, 200)
    x = np.linspace(0, 1, shape[1], dtype=np.float32)
    depth = np.broadcast_to(1 / (0.6 - 0.4 * x), shape).astype(np.float32).copy()
    depth[40:110, 60:140] = 1.0
    return SceneSample(textured(seed, shape), f"wall{seed}", depth=depth)


def test_measured_disparity_is_the_written_one():
    config = SimulationConfig(SceneConfig(height=128, width=160, disparity=(-3.0, 4.0)), SHARP, CLEAN)
    check_measured([simulate_capture(2, index, config, source(of_depth(0), of_depth(1))) for index in range(6)], 0.06)


def check_measured(captures, tolerance):
    """Where the matcher's window has one disparity and the matcher is sure."""
    for capture in captures:
        measured, error = match_views(*capture.views, MatchConfig(max_disparity_px=6.0, smoothing_px=1.0))
        truth = capture.disparity
        known = (error < 0.2) & (maximum_filter(truth, 21) - minimum_filter(truth, 21) < 1) & capture.mask
        assert known.mean() > 0.4
        assert np.median(np.abs(measured - truth)[known]) < tolerance
        if np.ptp(truth[known]) > 2:
            assert np.corrcoef(measured[known], truth[known])[0, 1] > 0.98


@pytest.mark.parametrize(("folder", "name"), [("rgbd/open3d/RGBD", "open3d"), ("stereo/motorcycle", "middlebury")])
def test_real_pictures(data_root, folder, name):
    pictures = open_pictures(data_root / folder)
    assert pictures.note().data_set == name
    config = SimulationConfig(SceneConfig(height=192, width=256, disparity=(-3.0, 4.0)), SHARP, CLEAN)
    captures = [simulate_capture(1, index, config, pictures) for index in range(4)]
    check_measured(captures, 0.08)
    for capture in captures:
        assert 0.5 < capture.mask.mean() <= 1
        assert capture.disparity.min() >= -3 and capture.disparity.max() <= 4


def test_real_depth_through_a_phones_lens(data_root):
    """All of that room is beyond 1 m, so behind the focus, and no farther than the horizon's 0.83 px."""
    pictures = open_pictures(data_root / "rgbd/open3d/RGBD", MetricOptics(PIXEL4, (1.0, 1.0)))
    capture = simulate_capture(1, 0, SimulationConfig(SceneConfig(height=192, width=256)), pictures)
    assert 0 < capture.disparity[capture.mask].min() < capture.disparity[capture.mask].max() < 0.835


def test_views_by_torch_are_those_by_opencv():
    config, pictures = SimulationConfig(SMALL, SHARP, CLEAN), source(picture(image=textured(4)), of_depth(2))
    views, disparity = simulate_views(3, [0, 1, 5], config, pictures=pictures)
    tensors, same = simulate_views(3, [0, 1, 5], config, TorchRenderer(8), pictures=pictures)
    np.testing.assert_allclose(tensors.numpy(), views, atol=1e-4)
    torch.testing.assert_close(same, torch.from_numpy(disparity), atol=0, rtol=0)


def test_procedural_captures_have_no_mask():
    assert simulate_capture(0, 0, SimulationConfig(SMALL)).mask is None


# ---- holes ----


@pytest.mark.parametrize("optics", [None, MetricOptics(PIXEL4, (0.6, 2.0))])
def test_holes_are_masked_where_they_are_and_filled(optics):
    hole = np.zeros((HEIGHT, WIDTH), np.bool_)
    hole[20:45, 30:60] = True
    image = np.stack([*GRADUAL, hole]).astype(np.float32)
    for unknown in (np.nan, 0.0, -3.0, np.inf):
        sample = picture(image=image, depth=np.where(hole, unknown, picture().depth).astype(np.float32), mask=~hole)
        for index in range(8):
            capture, rig = simulate_with_rig(0, index, SimulationConfig(SMALL), source(sample, optics=optics))
            seen = rig.reference[2, 8:-8, 8:-8]
            clear = (seen < 0.01) | (seen > 0.99)
            np.testing.assert_array_equal(capture.mask[clear], seen[clear] < 0.5)
            assert capture.mask.any()
            assert np.isfinite(capture.disparity).all() and np.isfinite(capture.views).all()
            known = capture.disparity[capture.mask]
            assert capture.disparity.min() >= -4 and capture.disparity.max() <= max(
                known.max(), capture.disparity[0].max()
            )


def test_every_capture_shows_some_of_what_is_known():
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[-10:, :12] = True
    for index in range(60):
        draw = draw_capture(1, index, SimulationConfig(SMALL), source(picture(mask=mask)))
        assert draw.mask.any()


# ---- refused ----


def draw(sample, optics=None, config=SMALL):
    return draw_capture(0, 0, SimulationConfig(config), source(sample, optics=optics))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.zeros((HEIGHT, WIDTH), np.bool_)}, r"mask: expected depth at 1% of the pixels or more, found 0 %"),
        ({"mask": np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) < 24}, "mask: expected depth .*, found 0.5 %"),
        ({"depth": None}, "expected depth or stereo disparity, found neither"),
    ],
)
def test_pictures_without_depth_are_named(changes, message):
    with pytest.raises(InputError, match=f"made: picture kitchen: {message}"):
        draw(picture(**changes))


@pytest.mark.parametrize("size", [{"height": HEIGHT + 1}, {"width": WIDTH + 1}])
def test_pictures_smaller_than_the_frame_are_named(size):
    with pytest.raises(
        InputError, match=r"picture kitchen: expected at least \d+x\d+ px .*, found 60x80\. Pass a smaller"
    ):
        draw(picture(), config=replace(SMALL, **size))


def test_depth_that_a_lens_needs():
    stereo = picture(depth=None, stereo_disparity=np.ones((HEIGHT, WIDTH), np.float32))
    with pytest.raises(InputError, match="picture kitchen: expected depth in metres, which a lens needs, found none"):
        draw(stereo, MetricOptics(PIXEL4, (1.0, 2.0)))


def test_disparity_beyond_the_configured_is_refused_at_whichever_focus_is_drawn():
    near = picture(depth=np.where(GRADUAL[0] < 0.1, 0.03, 3.0).astype(np.float32))
    for index in range(5):
        pictures = source(near, optics=MetricOptics(PIXEL4, (0.03, 5.0)))
        with pytest.raises(
            InputError,
            match=r"kitchen: expected disparities within scene.disparity, -4 to 5 px, found -27.* through pixel4 focused "
            r"from 0.03 to 5 m, for depths from 0.03 to 3 m",
        ):
            draw_capture(0, index, SimulationConfig(SMALL), pictures)


@pytest.mark.parametrize(
    ("sensor", "focus", "error", "message"),
    [
        ("pixel4", (0.001, 1.0), OpticsError, "focus_m: expected above the focal length 0.00438 m, found 0.001"),
        ("pixel4", (float("nan"), 1.0), OpticsError, "focus_m: expected above the focal length"),
        ("pixel4", (2.0, 1.0), InputError, "focus_m: expected nearest and farthest in rising order, found 2, 1"),
        ("pixel3", (1.0, 1.0), OpticsError, "sensor pixel3: focal_length_m: expected a number, found null"),
    ],
)
def test_lenses_that_cannot_be(sensor, focus, error, message):
    with pytest.raises(error, match=message):
        MetricOptics(load_sensor(sensor), focus)


def test_folders_of_another_kind(tmp_path):
    (tmp_path / "views").mkdir()
    (tmp_path / "defocus_map").mkdir()
    (tmp_path / "views" / "000_left.png").touch()
    with pytest.raises(
        InputError, match=r"expected sharp pictures with depth .*open3d.*, found xin2021\. Pass another"
    ):
        open_pictures(tmp_path)
    with pytest.raises(InputError, match="expected the folder of a data set, found nothing"):
        open_pictures(tmp_path / "nowhere")
