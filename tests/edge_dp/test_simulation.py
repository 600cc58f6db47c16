import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift, spline_filter1d
from scipy.optimize import minimize_scalar
from scipy.signal import convolve2d

from edge_dp.simulation.capture import SensorConfig, SimulationConfig, add_sensor, simulate_capture
from edge_dp.simulation.psf import half_aperture_psf
from edge_dp.simulation.render import SideCamera, render_disparity, render_pinhole, render_side, render_view
from edge_dp.simulation.scenes import Layer, Scene, SceneConfig, random_scene

SMALL = SceneConfig(height=32, width=48, margin=8)
CANVAS = (96, 160)
CLEAN = {
    "alpha": (0.3, 0.3),
    "lens_blur": (0.0, 0.0),
    "full_well": (1e18, 1e18),
    "read_noise": (0.0, 0.0),
    "shading": 0.0,
}


def smooth_texture(seed, shape=CANVAS, sigma=3.0):
    """Band-limited texture in [0.1, 0.9]; sigma of the low pass, px, or (sigma_y, sigma_x)."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="wrap")
    return (0.5 + 0.4 * noise / abs(noise).max()).astype(np.float32)


def plane(texture, disparity, dx=0.0, dy=0.0, opacity=None):
    return Layer(texture, np.ones_like(texture) if opacity is None else opacity, (disparity, dx, dy))


def scene_of(*layers):
    return Scene(tuple(layers), -6.0, 6.0)


def views_of(scene, alpha, margin=24):
    return [render_view(scene, alpha, side, margin) for side in (-1, 1)]


def measured_disparity(left, right, limit=8.0, rows=slice(None), columns=slice(None)):
    """D with left(x) = right(x + d), from the least squared difference after a cubic-spline shift of the right view.

    ``columns`` count from the matcher's own border of ``limit`` + 2 px.
    """
    edge = int(limit) + 2
    left, coefficients = left[rows], spline_filter1d(right[rows].astype(np.float64), axis=1)

    def difference(d):
        error = left - shift(coefficients, (0, -d), order=3, mode="nearest", prefilter=False)
        return np.mean(error[:, edge:-edge][:, columns] ** 2)

    coarse = min(np.arange(-limit, limit + 0.1, 0.5), key=difference)
    return minimize_scalar(difference, bounds=(coarse - 0.6, coarse + 0.6), method="bounded", options={"xatol": 1e-4}).x


def digest(capture):
    arrays = (capture.views, capture.disparity, capture.reference, capture.side)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


DIGESTS_IN_A_NEW_PROCESS = """
import sys
sys.path.insert(0, sys.argv[1])
from test_simulation import SMALL, SimulationConfig, digest, simulate_capture
for index in (5, 2, 0):
    print(digest(simulate_capture(7, index, SimulationConfig(SMALL))))
"""


def test_capture_depends_on_seed_and_index_alone_in_any_process_and_order():
    config = SimulationConfig(SMALL)
    here = {index: digest(simulate_capture(7, index, config)) for index in (0, 2, 5)}
    command = [sys.executable, "-c", DIGESTS_IN_A_NEW_PROCESS, str(Path(__file__).parent)]
    there = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert there == [here[5], here[2], here[0]]
    others = {digest(simulate_capture(seed, index, config)) for seed, index in ((7, 1), (8, 0), (0, 7))}
    assert len(others | set(here.values())) == 6


def test_shapes_and_types_of_a_capture():
    capture = simulate_capture(0, 0, SimulationConfig(SMALL))
    assert capture.views.shape == (2, 32, 48)
    assert capture.disparity.shape == (32, 48)
    assert capture.reference.shape == capture.side.shape == (48, 64)  # margin on every side
    for array in (capture.views, capture.disparity, capture.reference, capture.side):
        assert array.dtype == np.float32
        assert np.isfinite(array).all()
    assert capture.views.min() >= 0 and capture.views.max() <= 1


def test_first_view_of_a_capture_is_the_left_one():
    """Whole captures matched: left(x) = right(x + d) with the sign of the truth."""
    scenes = SceneConfig(height=64, width=128, margin=16, layers=(1, 1), slant_share=0.0)
    config = SimulationConfig(scenes, SensorConfig(**CLEAN))
    captures = [simulate_capture(4, index, config) for index in range(24)]
    far = [capture for capture in captures if abs(capture.disparity.mean()) > 0.5]
    signs = [np.sign(measured_disparity(*capture.views)) == np.sign(capture.disparity.mean()) for capture in far]
    assert len(far) > 10
    assert np.mean(signs) > 0.8  # some textures, such as fine stripes, are ambiguous


@pytest.mark.parametrize("alpha", [0.2, 0.25, 0.424])
@pytest.mark.parametrize("disparity", [-4.0, -1.3, -0.25, 0.0, 0.6, 2.37, 5.0])
def test_rendered_plane_has_its_disparity_in_the_projects_sign(disparity, alpha):
    """So coarse a texture that even the largest blur moves it by the blur's centroid."""
    scene = scene_of(plane(smooth_texture(1, (64, 640), 30.0), disparity))
    left, right = views_of(scene, alpha, margin=16)
    assert measured_disparity(left, right) == pytest.approx(disparity, abs=0.05)
    np.testing.assert_array_equal(render_disparity(scene, 16), np.full_like(left, disparity))


@pytest.mark.parametrize("disparity", [-3.0, 0.8, 4.4])
def test_light_of_a_spot_moves_by_half_the_disparity_in_each_view(disparity):
    opacity = np.zeros(CANVAS, np.float32)
    opacity[48, 80] = 1
    spot = plane(np.ones(CANVAS, np.float32), disparity, opacity=opacity)
    views = views_of(scene_of(plane(np.zeros(CANVAS, np.float32), 5.0), spot), 0.22, margin=0)
    left_x, right_x = ((view.sum(axis=0) * np.arange(160)).sum() / view.sum() for view in views)
    assert (left_x - 80, right_x - 80) == pytest.approx((-disparity / 2, disparity / 2), abs=0.01)


@pytest.mark.parametrize("slant", [(0.01, 0.0), (0.0, 0.008), (-0.006, 0.004)])
def test_slanted_plane_shows_its_disparity_at_every_place(slant):
    dx, dy = slant
    scene = scene_of(plane(smooth_texture(2, (340, 280), 8.0), 0.3, dx, dy))
    left, right = views_of(scene, 0.424, margin=20)
    truth = render_disparity(scene, 20)
    columns, rows = np.arange(240) - 119.5, np.arange(300) - 149.5
    np.testing.assert_allclose(truth, 0.3 + dx * columns + dy * rows[:, None], atol=1e-5)
    height, width = (300, 20) if dy == 0 else (20, 220) if dx == 0 else (60, 44)
    for top in range(0, 300, height):
        for start in range(10, 230, width):
            rows, columns = slice(top, top + height), slice(start - 10, start - 10 + width)
            measured = measured_disparity(left, right, rows=rows, columns=columns)
            assert measured == pytest.approx(truth[rows, start : start + width].mean(), abs=0.1)


@pytest.mark.parametrize("disparity", [-3.0, 0.0, 2.5])
def test_light_of_a_blurred_foreground_spreads_by_its_kernel_and_makes_no_halo(disparity):
    """Constant foreground F over constant background B: view = B + (F - B) * (opacity convolved with the kernel)."""
    opacity = np.zeros(CANVAS, np.float32)
    opacity[35:60, 60:95] = 1
    dark, bright = np.full(CANVAS, 0.1, np.float32), np.full(CANVAS, 0.9, np.float32)
    scene = scene_of(plane(dark, 3.0), plane(bright, disparity, opacity=opacity))
    for side in (-1, 1):
        view = render_view(scene, 0.3, side, 0)
        assert view.min() >= 0.1 - 1e-5 and view.max() <= 0.9 + 1e-5
        assert view.sum(dtype=float) == pytest.approx(0.1 * view.size + 0.8 * opacity.sum(), rel=1e-5)
        spread = convolve2d(opacity, half_aperture_psf(disparity, 0.3, side), mode="same")
        np.testing.assert_allclose(view, 0.1 + 0.8 * spread, atol=1e-5)


def test_sharp_foreground_is_neither_veiled_nor_veils_what_is_behind():
    opacity = np.zeros(CANVAS, np.float32)
    opacity[30:70, 50:100] = 1
    back, front = smooth_texture(3), smooth_texture(4)
    scene = scene_of(plane(back, 4.0), plane(front, 0.0, opacity=opacity))
    behind = scene_of(plane(back, 4.0))
    for side in (-1, 1):
        view, alone = render_view(scene, 0.25, side, 0), render_view(behind, 0.25, side, 0)
        np.testing.assert_allclose(view[opacity == 1], front[opacity == 1], atol=1e-6)
        np.testing.assert_allclose(view[opacity == 0], alone[opacity == 0], atol=1e-6)


def test_scene_of_one_radiance_looks_the_same_whatever_its_layers():
    rng = np.random.default_rng(5)
    grey = np.full(CANVAS, 0.4, np.float32)
    layers = [plane(grey, 4.0, 0.02, -0.01)]
    for disparity in (2.0, 0.3, -1.0, -3.5):
        opacity = gaussian_filter((rng.uniform(size=CANVAS) < 0.5).astype(np.float32), rng.uniform(0, 3))
        layers.append(plane(grey, disparity, *rng.uniform(-0.02, 0.02, 2), opacity=opacity))
    scene = scene_of(*layers)
    images = [*views_of(scene, 0.2, 0), render_pinhole(scene, 0), render_side(scene, SideCamera(20.0, 5.0), 0)]
    for image in images:
        np.testing.assert_allclose(image, 0.4, atol=1e-5)


def test_front_most_layer_gives_pinhole_radiance_and_true_disparity():
    opacity = np.zeros(CANVAS, np.float32)
    opacity[40:60, 50:90] = 1
    back, front = smooth_texture(6), smooth_texture(7)
    scene = scene_of(plane(back, 2.0), plane(front, -1.5, opacity=opacity))
    covered = opacity[10:-10, 10:-10] == 1
    expected = np.where(covered, front[10:-10, 10:-10], back[10:-10, 10:-10])
    np.testing.assert_allclose(render_pinhole(scene, 10), expected, atol=1e-6)
    np.testing.assert_array_equal(render_disparity(scene, 10), np.where(covered, -1.5, 2.0))


@pytest.mark.parametrize("disparity", [-2.0, -0.33, 0.0, 1.5])
def test_side_camera_sees_stereo_disparity_offset_minus_gain_times_d(disparity):
    camera = SideCamera(offset=11.0, gain=4.0)
    scene = scene_of(plane(smooth_texture(8, (64, 200)), disparity))
    reference, side = render_pinhole(scene, 0), render_side(scene, camera, 0)
    # left(x) = right(x - D) for stereo, so the matcher of left(x) = right(x + d) finds -D.
    stereo = -measured_disparity(reference, side, limit=22.0)
    assert stereo == pytest.approx(11.0 - 4.0 * disparity, abs=0.05)
    assert camera.stereo_disparity(np.float32(disparity)) == pytest.approx(11.0 - 4.0 * disparity)
    assert camera.dual_pixel_disparity(np.float32(stereo)) == pytest.approx(disparity, abs=0.02)


def test_side_camera_sees_a_slanted_plane_where_its_disparity_says():
    """side(x - D(x, y)) = reference(x), compared point by point with D from the truth."""
    camera = SideCamera(offset=9.0, gain=4.0)
    scene = scene_of(plane(smooth_texture(9, (96, 240), 6.0), 0.4, 0.006, -0.008))
    reference, side = render_pinhole(scene, 0), render_side(scene, camera, 0)
    stereo = camera.stereo_disparity(render_disparity(scene, 0)).astype(np.float64)
    columns = np.arange(240.0)
    seen = np.stack([np.interp(columns - stereo[y], columns, side[y]) for y in range(96)])
    inside = (slice(None), slice(30, 220))
    error = np.abs(seen - reference)[inside]
    wrong = np.stack([np.interp(columns - stereo[y] - 0.3, columns, side[y]) for y in range(96)])
    assert error.mean() < 0.001
    assert error.mean() < 0.2 * np.abs(wrong - reference)[inside].mean()


def test_side_camera_uncovers_background_that_the_first_camera_cannot_see():
    opacity = np.zeros((64, 200), np.float32)
    opacity[:, 90:120] = 1
    back, front = smooth_texture(10, (64, 200)), np.full((64, 200), 0.95, np.float32)
    scene = scene_of(plane(back, 1.0), plane(front, -2.0, opacity=opacity))
    side = render_side(scene, SideCamera(offset=6.0, gain=3.0), 0)
    np.testing.assert_allclose(side[:, 90 - 12 + 1 : 120 - 12 - 1], 0.95, atol=1e-3)  # D = 6 + 3 * 2
    np.testing.assert_allclose(side[:, 110:180], back[:, 113:183], atol=1e-3)  # D = 3, part of it hidden at first


@pytest.mark.parametrize("index", range(25))
def test_random_scene_stays_within_its_limits_and_the_stereo_search(index):
    config = SimulationConfig(SceneConfig(height=32, width=48, margin=8, disparity=(-4.0, 5.0)))
    scene = random_scene(np.random.default_rng([3, index]), config.scene)
    assert -4 <= scene.nearest <= scene.farthest <= 5
    assert 2 <= len(scene.layers) <= 7
    camera = SideCamera(2.0 + config.rig_gain * scene.farthest, config.rig_gain)
    for layer in scene.layers:
        disparity = layer.disparity()
        assert disparity.min() >= scene.nearest - 1e-4 and disparity.max() <= scene.farthest + 1e-4
        stereo = camera.stereo_disparity(disparity)
        assert stereo.min() >= 2 - 1e-3 and stereo.max() <= 2 + 9 * config.rig_gain + 1e-3
        assert layer.radiance.min() >= 0 and layer.radiance.max() <= 1
        assert layer.opacity.min() >= 0 and layer.opacity.max() <= 1
    assert scene.layers[0].opacity.min() == 1  # there is always something behind


def test_no_layer_covers_what_is_nearer():
    config = SceneConfig(height=64, width=96, margin=16)
    covering = wrong = 0
    for index in range(40):
        layers = random_scene(np.random.default_rng(index), config).layers
        nearest = layers[0].disparity()
        for layer in layers[1:]:
            covered = layer.opacity > 0.5
            covering += covered.sum()
            wrong += (layer.disparity() > nearest + 0.1)[covered].sum()
            nearest = np.where(covered, layer.disparity(), nearest)
    assert wrong < 0.01 * covering, f"{wrong / covering:.0%} of the covering surface lies behind what it covers"


@pytest.mark.parametrize(("share", "straddling"), [(1.0, 0), (0.0, 1)])
def test_one_sided_scenes_lie_in_front_of_or_behind_focus(share, straddling):
    config = SceneConfig(height=16, width=16, margin=2, one_sided_share=share, layers=(2, 2))
    scenes = [random_scene(np.random.default_rng(i), config) for i in range(40)]
    both = sum(scene.nearest < -0.31 and scene.farthest > 0.31 for scene in scenes)
    assert (both > 0) == bool(straddling)
    assert any(scene.farthest < 0.31 for scene in scenes) and any(scene.nearest > -0.31 for scene in scenes)


def test_one_sided_scenes_stay_within_a_range_that_excludes_focus():
    config = SceneConfig(height=16, width=16, margin=2, disparity=(1.0, 2.0), one_sided_share=1.0, layers=(2, 2))
    for index in range(10):
        scene = random_scene(np.random.default_rng(index), config)
        assert 1 <= scene.nearest <= scene.farthest <= 2


def test_rims_of_foreground_objects_are_anti_aliased():
    scenes = (random_scene(np.random.default_rng(i), SceneConfig(height=64, width=64, layers=(7, 7))) for i in range(5))
    rims = [np.mean((layer.opacity > 0) & (layer.opacity < 1)) for scene in scenes for layer in scene.layers[1:]]
    assert np.mean(np.array(rims) > 0) > 0.5


def test_slanted_plane_is_sharp_where_it_crosses_the_focus_plane():
    """Blur half a px of disparity wide per side is a disc of 2.8 px at alpha 0.18: far more than rounding to the grid."""
    fine = np.random.default_rng(0).uniform(size=(100, 161)).astype(np.float32)
    view = render_view(scene_of(plane(fine, 0.0, 1 / 161)), 0.18, -1, 0)
    centre = (slice(None), slice(78, 83))  # |d| < 0.02 px
    assert view[centre].std() > 0.9 * fine[centre].std()


@pytest.mark.parametrize(("level", "full_well", "read"), [(0.5, 2000, 0.0), (0.2, 1000, 0.004), (0.05, 1e12, 0.004)])
def test_noise_variance_is_photon_noise_plus_read_noise(level, full_well, read):
    sensor = SensorConfig(**CLEAN | {"full_well": (full_well, full_well), "read_noise": (read, read)})
    views = np.full((2, 200, 300), level, np.float32)
    noise = add_sensor(np.random.default_rng(0), views, sensor).astype(np.float64) - level
    assert noise.var() == pytest.approx(level / full_well + read**2, rel=0.03)
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)
    correlations = (noise[0] * noise[1]).mean(), (noise[:, :, 1:] * noise[:, :, :-1]).mean()  # white, views independent
    assert np.abs(correlations).max() < 0.02 * noise.var()


def test_noise_grows_with_the_light_of_each_pixel():
    sensor = SensorConfig(**CLEAN | {"full_well": (1000, 1000)})
    views = np.tile(np.repeat([0.1, 0.6], 150).astype(np.float32), (2, 200, 1))
    noise = add_sensor(np.random.default_rng(1), views, sensor) - views
    assert noise[..., 150:].var() / noise[..., :150].var() == pytest.approx(6, rel=0.06)


def test_sensor_clips_at_black_and_white():
    sensor = SensorConfig(**CLEAN | {"full_well": (1000, 1000), "read_noise": (0.004, 0.004)})
    views = np.stack([np.full((64, 64), 1.2, np.float32), np.zeros((64, 64), np.float32)])
    seen = add_sensor(np.random.default_rng(2), views, sensor)
    assert seen.dtype == np.float32
    assert (seen[0] == 1).mean() > 0.99
    assert seen[1].min() == 0 and 0.3 < (seen[1] == 0).mean() < 0.7  # half of the read noise lies below black
    assert seen.max() <= 1 and seen.min() >= 0


def test_shading_is_a_bounded_linear_gain_between_the_views():
    sensor = SensorConfig(**CLEAN | {"shading": 0.06})
    views = np.full((2, 40, 60), 0.5, np.float32)
    y, x = np.mgrid[0:40, 0:60]
    design = np.stack([np.ones(x.size), x.ravel(), y.ravel()], 1)
    largest = []
    for seed in range(30):
        left, right = add_sensor(np.random.default_rng(seed), views, sensor).astype(np.float64)
        np.testing.assert_allclose(left + right, 1.0, atol=1e-6)
        relative = (right - left) / 0.5
        residual = relative.ravel() - design @ np.linalg.lstsq(design, relative.ravel())[0]
        assert abs(residual).max() < 1e-5
        largest.append(abs(relative).max())
    assert max(largest) <= 0.06 + 1e-6
    assert max(largest) > 0.04 and np.std(largest) > 0.005


@pytest.mark.parametrize("sigma", [0.7, 1.0])
def test_lens_blur_spreads_a_point_by_its_standard_deviation_in_both_views(sigma):
    sensor = SensorConfig(**CLEAN | {"lens_blur": (sigma, sigma)})
    views = np.zeros((2, 31, 31), np.float32)
    views[:, 15, 15] = 0.8
    seen = add_sensor(np.random.default_rng(3), views, sensor).astype(np.float64)
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-6)
    assert seen[0].sum() == pytest.approx(0.8, rel=1e-5)
    offsets = np.arange(31) - 15
    for axis in (0, 1):
        assert (seen[0].sum(axis) * offsets**2).sum() / 0.8 == pytest.approx(sigma**2, rel=0.02)


def test_sensor_without_faults_changes_nothing():
    views = np.stack([smooth_texture(11), smooth_texture(12)])
    np.testing.assert_allclose(add_sensor(np.random.default_rng(4), views, SensorConfig(**CLEAN)), views, atol=1e-6)
