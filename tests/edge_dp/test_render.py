"""The renderer against formulas and against a plain one made of scipy's convolutions."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d, fftconvolve

from edge_dp.optics.psf import Butterworth, HalfAperture, TranslatingDisc
from edge_dp.simulation.kernels import FIELD_GRID, FieldWindow
from edge_dp.simulation.render import (
    WHOLE_FIELD,
    hat,
    layer_planes,
    render_disparity,
    render_pinhole,
    render_views,
)
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import Layer, Scene, SceneConfig, random_scene

CANVAS = (96, 160)


@dataclass(frozen=True)
class Uneven:
    """A model whose kernels shrink from left to right and grow from top to bottom."""

    growth: float = 0.05
    step: ClassVar[float] = 1 / 8
    varies: ClassVar[bool] = True

    def kernel(self, disparity, side, x=0.0, y=0.0):
        return HalfAperture(0.8, 0.25 * (1 + self.growth * (x - 0.5 * y))).kernel(disparity, side)


@dataclass(frozen=True)
class Drifting:
    """Against the promise of ``PsfModel``, centroids draw apart from left to right: what is where in the field shows."""

    step: ClassVar[float] = 1 / 8
    varies: ClassVar[bool] = True

    def kernel(self, disparity, side, x=0.0, y=0.0):
        return HalfAperture(0.8, 0.3).kernel(disparity * (1 + 0.15 * x - 0.1 * y), side)


def views_of(scene, alpha, margin=24):
    """Left and right view, (H, W) each, of a scene without colour."""
    return render_views(scene, HalfAperture(strength=alpha), margin)[:, 0]


def convolved(image, kernel):
    """Same size, as if the border went on for ever."""
    half = kernel.shape[0] // 2
    return fftconvolve(np.pad(image.astype(np.float64), half, mode="edge"), kernel, mode="valid")


def plain_render(scene, psf, margin, window=WHOLE_FIELD):
    """(2, C, H, W) of fronto-parallel layers at multiples of the model's step, with every kernel of the field's grid."""
    channels, height, width = scene.layers[0].radiance.shape
    frame = (slice(margin, height - margin), slice(margin, width - margin))
    height, width = height - 2 * margin, width - 2 * margin
    places = [(y, x) for y in np.linspace(-1, 1, FIELD_GRID[0]) for x in np.linspace(-1, 1, FIELD_GRID[1])]
    unit = np.eye(len(places)).reshape(*FIELD_GRID, -1)
    y = window.top + (np.arange(height) + 0.5) / height * (window.bottom - window.top)
    x = window.left + (np.arange(width) + 0.5) / width * (window.right - window.left)
    interpolator = RegularGridInterpolator([np.linspace(-1, 1, count) for count in FIELD_GRID], unit)
    shares = interpolator(np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1))
    views = np.zeros((2, channels, height, width))
    for layer in scene.layers:
        for index, side in enumerate((-1, 1)):
            blurred = np.zeros((channels + 1, height, width))
            for (place_y, place_x), share in zip(places, np.moveaxis(shares, 2, 0), strict=True):
                if not psf.varies:
                    place_y, place_x, share = 0.0, 0.0, 1 / len(places)  # noqa: PLW2901  # the same everywhere
                kernel = psf.kernel(layer.plane[0], side, place_x, place_y)
                for k, source in enumerate([*(layer.radiance * layer.opacity), layer.opacity]):
                    blurred[k] += share * convolved(source, kernel)[frame]
            views[index] = views[index] * (1 - blurred[-1]) + blurred[:-1]
    return views


def flat_scene(rng, canvas, channels=1, layers=3, step=1 / 8):
    """Fronto-parallel layers of noise, back to front, with ragged and with soft rims, some of them at the canvas's edge."""
    found = []
    for index, disparity in enumerate(sorted(np.round(rng.uniform(-3, 4, layers) / step) * step, reverse=True)):
        radiance = rng.uniform(0, 1, (channels, *canvas)).astype(np.float32)
        opacity = np.ones(canvas, np.float32)
        if index:
            top, left = rng.integers(0, canvas[0] - 4), rng.integers(0, canvas[1] - 4)
            opacity[:] = 0
            opacity[top : top + rng.integers(3, canvas[0]), left : left + rng.integers(3, canvas[1])] = 1
            opacity *= rng.uniform(size=canvas) < 0.9
            opacity = gaussian_filter(opacity, rng.uniform(0, 2)).clip(0, 1)
        found.append(Layer(radiance, opacity, (float(disparity), 0.0, 0.0)))
    return Scene(tuple(found), -3.0, 4.0)


# ---- against the plain renderer ----


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("canvas", "margin"), [((41, 53), 9), ((37, 64), 2), ((48, 31), 0)])
def test_views_are_those_of_plain_convolution_and_compositing(seed, canvas, margin):
    """Odd sizes, margins smaller than the kernels (radius up to 10 px) and layers whose light comes from beyond the frame."""
    rng = np.random.default_rng(seed)
    scene = flat_scene(rng, canvas, channels=1 + 2 * (seed % 2))
    models = HalfAperture(0.5, 0.2), HalfAperture(strength=0.424), TranslatingDisc(0.7), Butterworth()
    views = render_views(scene, models[seed], margin)
    assert views.dtype == np.float32
    np.testing.assert_allclose(views, plain_render(scene, models[seed], margin), atol=2e-5)


@pytest.mark.parametrize("window", [WHOLE_FIELD, FieldWindow(0.1, -0.9, 0.7, -0.2)], ids=["whole", "part"])
def test_views_of_a_varying_model_are_those_of_all_its_kernels(window):
    rng = np.random.default_rng(9)
    scene = flat_scene(rng, (44, 57))
    views, expected = render_views(scene, Uneven(), 6, window), plain_render(scene, Uneven(), 6, window)
    np.testing.assert_allclose(views, expected, atol=6e-3)
    elsewhere = render_views(scene, Uneven(), 6, FieldWindow(-1, 0.5, -0.5, 1))
    error, change = (np.sqrt(np.mean((image - expected) ** 2)) for image in (views, elsewhere))
    assert error < 1e-3
    assert change > 5 * error  # so the comparison means something


def test_disparity_follows_the_field(smooth_texture, plane, scene_of, measured_disparity):
    scene = scene_of(plane(smooth_texture(1, (200, 330), 10.0), 3.0))
    for window in (WHOLE_FIELD, FieldWindow(0.0, -1.0, 1.0, 0.0)):
        left, right = render_views(scene, Drifting(), 15, window)[:, 0]
        for top in (0, 70, 130):
            for start in (10, 120, 230):
                x = window.left + (window.right - window.left) * (start + 30) / 300
                y = window.top + (window.bottom - window.top) * (top + 20) / 170
                part = {"rows": slice(top, top + 40), "columns": slice(start - 10, start + 50)}
                assert measured_disparity(left, right, **part) == pytest.approx(3 * (1 + 0.15 * x - 0.1 * y), abs=0.1)


@pytest.mark.parametrize(("row", "column"), [(12, 20), (12, 140), (80, 75), (85, 145)])
def test_spot_is_seen_through_the_kernel_of_its_place(row, column, plane, scene_of):
    opacity = np.zeros(CANVAS, np.float32)
    opacity[row, column] = 1
    scene = scene_of(plane(np.zeros(CANVAS, np.float32), 5.0), plane(np.ones(CANVAS, np.float32), 2.0, opacity=opacity))
    left, right = (view.sum(axis=0) @ np.arange(160) / view.sum() for view in render_views(scene, Drifting(), 0)[:, 0])
    x, y = (2 * column + 1) / 160 - 1, (2 * row + 1) / 96 - 1
    assert right - left == pytest.approx(2 * (1 + 0.15 * x - 0.1 * y), abs=0.04)


def test_colours_are_rendered_each_by_itself():
    config = SceneConfig(height=49, width=70, margin=10, channels=3, layers=(4, 6))
    scene = random_scene(np.random.default_rng(3), config)
    together = render_views(scene, HalfAperture(0.4, 0.2), 10)
    assert together.shape == (2, 3, 49, 70)
    for channel in range(3):
        layers = [Layer(layer.radiance[channel, None], layer.opacity, layer.plane) for layer in scene.layers]
        alone = Scene(tuple(layers), scene.nearest, scene.farthest)
        np.testing.assert_allclose(
            together[:, channel], render_views(alone, HalfAperture(0.4, 0.2), 10)[:, 0], atol=1e-6
        )
        np.testing.assert_allclose(render_pinhole(scene, 10)[channel], render_pinhole(alone, 10)[0], atol=1e-6)
    assert np.ptp(together, axis=1).max() > 0.05


def test_layers_that_no_light_reaches_the_frame_from_change_nothing(smooth_texture, plane, scene_of):
    back = plane(smooth_texture(2), 2.0)
    nothing, outside = np.zeros(CANVAS, np.float32), np.zeros(CANVAS, np.float32)
    outside[:8, :] = 1
    bright = np.ones(CANVAS, np.float32)
    alone = views_of(scene_of(back), 0.4)
    scene = scene_of(back, plane(bright, 0.5, opacity=nothing), plane(bright, 0.5, opacity=outside))
    np.testing.assert_array_equal(views_of(scene, 0.4), alone)


# ---- interpolation between blurs ----


@given(
    low=st.floats(-40, 40),
    length=st.one_of(st.floats(0, 0.05), st.floats(0, 30)),
    step=st.sampled_from([1 / 64, 1 / 8]),
    seed=st.integers(0, 99),
)
@settings(max_examples=150)
def test_shares_of_the_blurs_of_a_layer_sum_to_one_and_average_to_its_disparity(low, length, step, seed):
    high = low + length
    planes = layer_planes(low, high, step)
    disparity = np.append(np.random.default_rng(seed).uniform(low, high, 50), [low, high]).astype(np.float32)
    shares = np.stack([hat(disparity, plane.disparity, plane.below, plane.above) for plane in planes])
    assert shares.min() >= 0
    np.testing.assert_allclose(shares.sum(axis=0), 1, atol=1e-4)
    assert (shares > 1e-6).sum(axis=0).max() <= 2
    places = np.array([plane.disparity for plane in planes])
    np.testing.assert_allclose(places / step, np.round(places / step), atol=1e-6)  # multiples of the model's step
    # A spread that nothing resolves is one blur, to half of it.
    np.testing.assert_allclose(places @ shares, disparity, atol=2e-5 + (1 / 64 if len(planes) == 1 else 0))
    beyond = np.array([low - 50, high + 50], np.float32)
    outer = np.stack([hat(beyond, plane.disparity, plane.below, plane.above) for plane in planes])
    np.testing.assert_allclose(outer.sum(axis=0), 1, atol=1e-4)


def test_blurs_lie_closer_near_focus():
    places = np.array([plane.disparity for plane in layer_planes(-6.0, 6.0, 1 / 64)])
    assert np.diff(places).max() <= 1 and len(places) < 40
    assert np.diff(places[abs(places) <= 0.5]).max() <= 0.25
    assert 0 in places


@pytest.mark.parametrize("disparity", [0.0, 0.4375, -3.015625])
def test_fronto_parallel_layer_is_one_blur(disparity):
    assert [plane.disparity for plane in layer_planes(disparity, disparity, 1 / 64)] == [disparity]


# ---- planes, disparity and its sign ----


@pytest.mark.parametrize("alpha", [0.2, 0.25, 0.424])
@pytest.mark.parametrize("disparity", [-4.0, -1.3, -0.25, 0.0, 0.6, 2.37, 5.0])
def test_rendered_plane_has_its_disparity_in_the_projects_sign(
    disparity, alpha, smooth_texture, plane, scene_of, measured_disparity
):
    """So coarse a texture that even the largest blur moves it by the blur's centroid."""
    scene = scene_of(plane(smooth_texture(1, (64, 640), 30.0), disparity))
    left, right = views_of(scene, alpha, margin=16)
    assert measured_disparity(left, right) == pytest.approx(disparity, abs=0.05)
    np.testing.assert_array_equal(render_disparity(scene, 16), np.full_like(left, disparity))


@pytest.mark.parametrize("disparity", [-3.0, 0.8, 4.4])
def test_light_of_a_spot_moves_by_half_the_disparity_in_each_view(disparity, plane, scene_of):
    opacity = np.zeros(CANVAS, np.float32)
    opacity[48, 80] = 1
    spot = plane(np.ones(CANVAS, np.float32), disparity, opacity=opacity)
    views = views_of(scene_of(plane(np.zeros(CANVAS, np.float32), 5.0), spot), 0.22, margin=0)
    left_x, right_x = ((view.sum(axis=0) * np.arange(160)).sum() / view.sum() for view in views)
    assert (left_x - 80, right_x - 80) == pytest.approx((-disparity / 2, disparity / 2), abs=0.01)


@pytest.mark.parametrize("slant", [(0.01, 0.0), (0.0, 0.008), (-0.006, 0.004)])
def test_slanted_plane_shows_its_disparity_at_every_place(slant, smooth_texture, plane, scene_of, measured_disparity):
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


def test_slanted_plane_is_sharp_where_it_crosses_the_focus_plane(plane, scene_of):
    """Blur half a px of disparity wide per side is a disc of 2.8 px at alpha 0.18: far more than rounding to the grid."""
    fine = np.random.default_rng(0).uniform(size=(100, 161)).astype(np.float32)
    view = views_of(scene_of(plane(fine, 0.0, 1 / 161)), 0.18, 0)[0]
    centre = (slice(None), slice(78, 83))  # |d| < 0.02 px
    assert view[centre].std() > 0.9 * fine[centre].std()


def test_slanted_object_is_blurred_as_its_own_disparity_says_wherever_it_stands(plane, scene_of):
    """The blurs that a layer is made of span its box alone: a thin object on a steep plane is exact."""
    opacity = np.zeros(CANVAS, np.float32)
    opacity[20:70, 90] = 1
    dark, bright = np.zeros(CANVAS, np.float32), np.ones(CANVAS, np.float32)
    pole = plane(bright, 0.5, 0.125, opacity=opacity)  # at column 90: 0.5 + 0.125 * 10.5
    view = views_of(scene_of(plane(dark, 0.0), pole), 0.3, 0)[1]
    spread = convolve2d(opacity, HalfAperture(strength=0.3).kernel(round(64 * 1.8125) / 64, 1), mode="same")
    np.testing.assert_allclose(view, spread, atol=1e-5)


# ---- occlusion ----


@pytest.mark.parametrize("disparity", [-3.0, 0.0, 2.5])
def test_light_of_a_blurred_foreground_spreads_by_its_kernel_and_makes_no_halo(disparity, plane, scene_of):
    """Constant foreground F over constant background B: view = B + (F - B) * (opacity convolved with the kernel)."""
    opacity = np.zeros(CANVAS, np.float32)
    opacity[35:60, 60:95] = 1
    dark, bright = np.full(CANVAS, 0.1, np.float32), np.full(CANVAS, 0.9, np.float32)
    scene = scene_of(plane(dark, 3.0), plane(bright, disparity, opacity=opacity))
    for side, view in zip((-1, 1), views_of(scene, 0.3, 0), strict=True):
        assert view.min() >= 0.1 - 1e-5 and view.max() <= 0.9 + 1e-5
        assert view.sum(dtype=float) == pytest.approx(0.1 * view.size + 0.8 * opacity.sum(), rel=1e-5)
        spread = convolve2d(opacity, HalfAperture(strength=0.3).kernel(disparity, side), mode="same")
        np.testing.assert_allclose(view, 0.1 + 0.8 * spread, atol=1e-5)


def test_sharp_foreground_is_neither_veiled_nor_veils_what_is_behind(smooth_texture, plane, scene_of):
    opacity = np.zeros(CANVAS, np.float32)
    opacity[30:70, 50:100] = 1
    back, front = smooth_texture(3), smooth_texture(4)
    views = views_of(scene_of(plane(back, 4.0), plane(front, 0.0, opacity=opacity)), 0.25, 0)
    alone = views_of(scene_of(plane(back, 4.0)), 0.25, 0)
    for view, behind in zip(views, alone, strict=True):
        np.testing.assert_allclose(view[opacity == 1], front[opacity == 1], atol=1e-6)
        np.testing.assert_allclose(view[opacity == 0], behind[opacity == 0], atol=1e-6)


def test_scene_of_one_radiance_looks_the_same_whatever_its_layers(plane, scene_of):
    rng = np.random.default_rng(5)
    grey = np.full(CANVAS, 0.4, np.float32)
    layers = [plane(grey, 4.0, 0.02, -0.01)]
    for disparity in (2.0, 0.3, -1.0, -3.5):
        opacity = gaussian_filter((rng.uniform(size=CANVAS) < 0.5).astype(np.float32), rng.uniform(0, 3))
        layers.append(plane(grey, disparity, *rng.uniform(-0.02, 0.02, 2), opacity=opacity))
    scene = scene_of(*layers)
    images = [*views_of(scene, 0.2, 0), *render_views(scene, Uneven(0.3), 0)]
    images += [render_pinhole(scene, 0), render_side(scene, SideCamera(20.0, 5.0), 0)]
    for image in images:
        np.testing.assert_allclose(image, 0.4, atol=1e-5)


def test_front_most_layer_gives_pinhole_radiance_and_true_disparity(smooth_texture, plane, scene_of):
    opacity = np.zeros(CANVAS, np.float32)
    opacity[40:60, 50:90] = 1
    back, front = smooth_texture(6), smooth_texture(7)
    scene = scene_of(plane(back, 2.0), plane(front, -1.5, opacity=opacity))
    covered = opacity[10:-10, 10:-10] == 1
    expected = np.where(covered, front[10:-10, 10:-10], back[10:-10, 10:-10])
    np.testing.assert_allclose(render_pinhole(scene, 10)[0], expected, atol=1e-6)
    np.testing.assert_array_equal(render_disparity(scene, 10), np.where(covered, -1.5, 2.0))
    np.testing.assert_array_equal(render_pinhole(scene, 0)[0, 10:-10, 10:-10], render_pinhole(scene, 10)[0])
