"""Scenes from pictures: against scenes made by hand, the thin lens, and a real light field's sums."""

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter, map_coordinates

from edge_dp.data.light_fields import HciLightFields
from edge_dp.errors import InputError, OpticsError
from edge_dp.optics.psf import HalfAperture
from edge_dp.optics.sampled_aperture import SampledAperture
from edge_dp.sensors import load_sensor
from edge_dp.simulation.from_depth import scene_from_depth, scene_from_disparity, scene_from_stereo
from edge_dp.simulation.render import render_disparity, render_pinhole, render_views
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import Layer, Scene

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "light_field.py"
LENS = HalfAperture(0.5, 0.25)
MARGIN = 20


def texture(seed, shape=(90, 121), sigma=2.0):
    """(1, H, W) in [0.1, 0.9]."""
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), sigma, mode="nearest")
    return (0.5 + 0.4 * noise / abs(noise).max()).astype(np.float32)[None]


def psnr(one, two):
    return -10 * np.log10(max(np.mean((one - two) ** 2), 1e-12))


def two_planes(near, far, far_texture, shape=(90, 121)):
    """A square before a wall: the scene itself, on a canvas, and the picture and disparity of its frame."""
    canvas = (shape[0] + 2 * MARGIN, shape[1] + 2 * MARGIN)
    opacity = np.zeros(canvas, np.float32)
    opacity[45:85, 55:100] = 1
    wall = Layer(far_texture(canvas), np.ones(canvas, np.float32), (far, 0.0, 0.0))
    square = Layer(0.2 + texture(1, canvas) * 0.5, opacity, (near, 0.0, 0.0))
    scene = Scene((wall, square), near, far)
    return scene, render_pinhole(scene, MARGIN), render_disparity(scene, MARGIN)


@pytest.mark.parametrize(("near", "far"), [(-2.6, 1.9), (-4.0, 0.0), (0.3, 3.1), (0.0, 2.2)])
def test_blurred_edge_has_the_light_of_a_wall_that_is_really_behind_it(near, far):
    """Exactly, where the hidden part of the wall is like the rest."""
    scene, picture, disparity = two_planes(near, far, lambda canvas: np.full((1, *canvas), 0.9, np.float32))
    rebuilt = scene_from_disparity(picture, disparity, margin=MARGIN)
    np.testing.assert_allclose(
        render_views(rebuilt, LENS, MARGIN), render_views(scene, LENS, MARGIN), rtol=0, atol=2e-6
    )


@pytest.mark.parametrize("near", [-3.0, 0.5])
def test_hidden_background_is_guessed_from_what_is_around_it(near):
    scene, picture, disparity = two_planes(near, 3.0, lambda canvas: texture(2, canvas, 6.0))
    views, truth = (
        render_views(made, LENS, MARGIN) for made in (scene_from_disparity(picture, disparity, margin=MARGIN), scene)
    )
    # One layer, blurred as each pixel's own depth has it, is what rendering without occlusion would give.
    one_layer = Layer(picture, np.ones_like(disparity), (0.0, 0.0, 0.0), disparity)
    without = render_views(Scene((one_layer,), near, 3.0), LENS, 0)
    inner = np.s_[
        ..., 14:-14, 14:-14
    ]  # where the frame's border, beyond which the light is a guess too, does not reach
    assert psnr(views[inner], truth[inner]) > max(38, 6 + psnr(without[inner], truth[inner]))


@pytest.mark.parametrize("plane", [(0.5, 0.03, 0.0), (0.0, 0.0, -0.06), (-1.0, 0.02, 0.1)])
def test_slanted_plane_is_rendered_as_the_planar_layer(plane):
    wall = Layer(texture(3, sigma=1.0), np.ones((90, 121), np.float32), plane)
    scene = Scene((wall,), *(float(f(wall.disparity())) for f in (np.min, np.max)))
    rebuilt = scene_from_disparity(wall.radiance, wall.disparity(), margin=0)
    for lens in (LENS, HalfAperture(0.0, 0.18)):
        assert psnr(render_views(rebuilt, lens, 0), render_views(scene, lens, 0)) > 60


def test_ground_that_joins_near_and_far_is_cut_without_a_leak():
    """A wall, a floor that comes from it towards the camera, and a board on the floor: no light of other colours at the cuts."""
    rows = np.arange(120)[:, None] * np.ones((1, 140))
    disparity = np.where(rows < 50, 3.0, 3.0 - 0.08 * (rows - 50)).astype(np.float32)
    disparity[20:90, 50:90] = disparity[90, 0]
    picture = np.where(disparity == disparity[90, 0], 0.2, 0.8).astype(np.float32)[None]
    picture[0, 91:] = 0.8
    picture[0, 90] = np.where((np.arange(140) >= 50) & (np.arange(140) < 90), 0.2, 0.8)
    scene = scene_from_disparity(picture, disparity, margin=MARGIN)
    assert len(scene.layers) > 1
    views = render_views(scene, LENS, MARGIN)
    assert views.min() > 0.2 - 1e-4 and views.max() < 0.8 + 1e-4
    np.testing.assert_allclose(views[:, :, :, :30], 0.8, atol=1e-4)  # floor and wall left of the board's blur
    np.testing.assert_allclose(views[:, :, 45:65, 68:72], 0.2, atol=1e-4)  # its middle


def test_torch_renders_a_picture_as_the_cpu_does():
    from edge_dp.simulation.render_torch import SceneBatch, TorchRenderer

    _, picture, disparity = two_planes(-1.5, 2.0, lambda canvas: texture(5, canvas))
    disparity = disparity + np.linspace(0, 1, disparity.shape[1], dtype=np.float32)
    scene = scene_from_disparity(picture, disparity, margin=MARGIN)
    (views,) = TorchRenderer(MARGIN)(SceneBatch.of([scene], "cpu"), [LENS]).numpy()
    np.testing.assert_allclose(views, render_views(scene, LENS, MARGIN), rtol=0, atol=1e-4)


@settings(max_examples=25)
@given(
    st.tuples(st.integers(1, 19), st.integers(1, 23)).flatmap(
        lambda shape: st.tuples(
            arrays(np.float32, shape, elements=st.floats(-6, 6, width=16)),
            arrays(np.float32, (2, *shape), elements=st.floats(0, 2, width=16)),
        )
    ),
    st.integers(0, 5),
)
def test_any_picture_of_any_size_is_shown_as_it_is_where_nothing_is_blurred(maps, margin):
    disparity, picture = maps
    scene = scene_from_disparity(picture, disparity, margin=margin)
    np.testing.assert_array_equal(render_pinhole(scene, margin), picture)
    np.testing.assert_array_equal(render_disparity(scene, margin), disparity)
    assert scene.layers[0].opacity.min() == 1
    views = render_views(scene, LENS, margin)
    assert views.shape == (2, *picture.shape)
    assert views.min() >= -1e-5 and views.max() <= picture.max() + 1e-4


def test_holes_are_filled_from_the_farther_side():
    disparity = np.full((7, 9), 2.0, np.float32)
    disparity[:, 4:] = -1.0
    mask = np.ones((7, 9), bool)
    mask[:, 3:6] = mask[2, :] = False  # an edge and a whole row
    holey = np.where(mask, disparity, np.nan).astype(np.float32)
    scene = scene_from_disparity(np.ones((1, 7, 9), np.float32), holey, mask, margin=3)
    expected = np.full((7, 9), 2.0)
    expected[:, 6:] = -1.0
    np.testing.assert_array_equal(render_disparity(scene, 3), expected)


def test_depth_becomes_the_disparity_of_the_thin_lens():
    """Pixel 4 class lens focused at 1 m, ideal half disc: the horizon is at +1.69 px."""
    sensor = replace(load_sensor("pixel4"), focal_length_m=0.00438, f_number=1.73, pitch_um=2.8)
    depth = np.full((5, 6), np.inf, np.float32)
    depth[2, 1:3] = 1.0
    depth[0, 0] = np.nan
    scene = scene_from_depth(
        np.ones((3, 5, 6), np.float32), depth, sensor, 1.0, ~np.isnan(depth), alpha=4 / (3 * np.pi), margin=2
    )
    found = render_disparity(scene, 2)
    assert found[4, 4] == pytest.approx(1.69, abs=0.01) and found[0, 0] == found[4, 4]
    assert found[2, 1] == pytest.approx(0.0, abs=1e-6)


def test_stereo_pair_becomes_a_scene_whose_side_view_is_the_other_image():
    """A smooth relief: a point at x of the first is at x - D in the other, by the definition of stereo disparity."""
    columns, rows = np.meshgrid(np.arange(121.0), np.arange(90.0))
    stereo = (6 + 3 * np.sin(columns / 17) + 2 * np.cos(rows / 11)).astype(np.float32)
    picture = texture(4, sigma=4.0)
    camera = SideCamera(offset=7.0, gain=5.0)
    scene = scene_from_stereo(picture, stereo, camera, margin=MARGIN)
    np.testing.assert_allclose(camera.stereo_disparity(render_disparity(scene, MARGIN)), stereo, atol=1e-4)
    side = render_side(scene, camera, MARGIN)
    seen_again = map_coordinates(side[0], [rows, columns - stereo], order=3)
    np.testing.assert_allclose(seen_again[:, 15:], picture[0, :, 15:], atol=0.02)


GOOD = {"image": np.ones((1, 4, 5), np.float32), "disparity": np.zeros((4, 5), np.float32)}
HOLES = np.zeros((4, 5), np.float32)
HOLES[2, 3] = np.nan


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"disparity": HOLES}, r"disparity\[2, 3\]: expected finite px, found nan, 1 such value"),
        (
            {"disparity": np.zeros((5, 4), np.float32)},
            r"disparity: expected \(H, W\) = \(4, 5\) as the image, found \(5, 4\)",
        ),
        ({"mask": np.ones((4, 6), bool)}, r"mask: expected \(H, W\) = \(4, 5\)"),
        ({"mask": np.zeros((4, 5), bool)}, "mask: expected bool, True somewhere"),
        ({"mask": np.ones((4, 5), np.uint8)}, "mask: expected bool"),
        ({"image": np.ones((4, 5), np.float32)}, r"image: expected float32, \(C, H, W\)"),
        ({"image": np.ones((1, 4, 5), np.uint8)}, "image: expected float32"),
        ({"image": GOOD["image"] - 2}, r"image\[0, 0, 0\]: expected finite light, 0 or above, found -1"),
    ],
)
def test_bad_pictures_are_refused_by_name(bad, message):
    with pytest.raises(InputError, match=message):
        scene_from_disparity(**{**GOOD, **bad})


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.5])
def test_bad_depth_is_refused_with_its_place_unless_masked(value):
    depth = np.ones((4, 5), np.float32)
    depth[1, 2] = value
    sensor = load_sensor("canon_r6")
    with pytest.raises(InputError, match=r"depth\[1, 2\]: expected metres above 0, found"):
        scene_from_depth(GOOD["image"], depth, sensor, 1.2)
    scene = scene_from_depth(GOOD["image"], depth, sensor, 1.2, depth > 0, margin=0)
    assert np.ptp(render_disparity(scene, 0)) == 0


def test_lens_without_an_answer_is_refused():
    depth = np.ones((4, 5), np.float32)
    sensor = load_sensor("canon_r6")
    with pytest.raises(OpticsError, match="focus_m: expected above the focal length"):
        scene_from_depth(GOOD["image"], depth, sensor, 0.02)
    with pytest.raises(OpticsError, match=r"alpha: expected a number, found null"):
        scene_from_depth(GOOD["image"], depth, replace(sensor, alpha=None), 1.2)


@given(st.floats(-9, 9), st.sampled_from([(1, 3), (3, 5), (9, 9)]))
def test_kernels_of_a_sampled_aperture_are_its_points(disparity, grid):
    aperture = SampledAperture.of_grid(*grid)
    assert len(aperture.left) == len(aperture.right) == grid[0] * (grid[1] // 2)
    centres = []
    for side in (-1, 1):
        kernel = aperture.kernel(disparity, side).astype(np.float64)
        offsets = np.arange(len(kernel)) - len(kernel) // 2
        assert kernel.sum() == pytest.approx(1)
        assert kernel.sum(axis=1) @ offsets == pytest.approx(0, abs=1e-4)
        centres.append(kernel.sum(axis=0) @ offsets)
    assert centres == pytest.approx([-disparity / 2, disparity / 2], abs=1e-4)


def test_sampled_aperture_puts_each_view_where_a_light_field_has_it():
    """Nine columns: D = 2 px per view step is d = -10 px; the view du steps to the left sees a point 2 du px to the right."""
    kernel = SampledAperture.of_grid(9, 9).kernel(-10.0, -1)
    half = len(kernel) // 2
    expected = np.zeros_like(kernel)
    for du in range(-4, 0):
        for dv in range(-4, 5):
            expected[half - 2 * dv, half - 2 * du] = 1 / 36
    np.testing.assert_allclose(kernel, expected, atol=1e-6)


@pytest.mark.parametrize(
    "points", [((), ((1.0, 0.0),)), (((1.0, 0.0),), ((-1.0, 0.0),)), (((0.0, 1.0),), ((0.0, 2.0),))]
)
def test_aperture_without_a_left_and_right_is_refused(points):
    with pytest.raises(InputError, match="sampled aperture: expected points in both halves"):
        SampledAperture(*points)


@pytest.mark.parametrize("grid", [(2, 5), (5, 4), (3, 1), (0, 3)])
def test_grid_without_a_middle_is_refused(grid):
    with pytest.raises(InputError, match="sampled aperture: expected odd rows and columns"):
        SampledAperture.of_grid(*grid)


def test_occlusions_of_a_light_field_are_where_an_edge_moves_over_the_picture():
    """A square of D = 1 before a wall of D = 0: seen from up to 2 steps away it covers, or uncovers, 2 px around itself."""
    disparity = np.zeros((40, 50), np.float32)
    disparity[15:25, 20:32] = 1.0
    outside = runpy.run_path(str(BENCHMARK))["outside_occlusions"](disparity, 5, 5)
    assert outside[2:11, 2:-2].all() and outside[18:22, 24:28].all()
    assert not outside[13:15, 20:32].any() and not outside[15:25, 18:20].any() and not outside[15:25, 32:34].any()


def test_pair_simulated_from_one_view_is_that_of_the_light_field(data_root):
    """The views summed by half apertures, as they are and as simulated from the centre view and its true disparity."""
    benchmark = runpy.run_path(str(BENCHMARK))
    fields = HciLightFields(data_root / "lightfield" / "antinous")
    result = benchmark["compare"](fields.light_field(fields.names[0]))
    assert min(result.psnr) > benchmark["LEAST_PSNR"]
    assert min(result.psnr) > 10 + max(result.psnr_sharp)
    assert result.kept > 0.7
    assert result.difference < benchmark["LARGEST_DIFFERENCE"] and result.matched > 0.5
