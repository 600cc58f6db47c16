import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.ndimage import gaussian_filter, shift

from edge_dp.errors import InputError
from edge_dp.optics.field_psf import FieldPsf, MeasuredGrid
from edge_dp.sensors.psf_field import PsfField

FIELD = PsfField(
    field_px=(640, 480),
    blur_px=0.0,
    disparity_px=(5.0,),
    softness=(0.14, 0.01, 0.0),
    stretch=((0.02, 0.1, 0.0), (0.0, 0.0, 0.15)),
    shared=((0.1, -0.8, 0.0), (0.0, 0.0, -0.6), (0.2,), (0.05,), (0.3,)),
    split=((0.9, -0.1, 0.1), (0.05, 0.0, 0.1), (-0.1, -0.3, 0.0), (0.0,), (0.0,)),
)


def half_discs(rows=2, columns=3, size=31, radius=8.0):
    """Left and right kernels (rows, columns, size, size): soft discs with a ramp, narrower to the right, off the middle."""
    y, x = np.mgrid[:size, :size] - size // 2
    views = ([], [])
    for row in range(rows):
        for column in range(columns):
            r, dx, dy = radius - column, 0.7 * column - 0.4, 0.3 * row
            u, v = (x - dx) / r, (y - dy) / r
            disc = (np.hypot(u, v) <= 1).astype(float)
            for view, sign in zip(views, (-1, 1), strict=True):
                kernel = gaussian_filter(disc * (1 + sign * 0.9 * u), 0.7)
                view.append(kernel / kernel.sum())
    return tuple(np.reshape(view, (rows, columns, size, size)) for view in views)


MODELS = {"fit": FieldPsf(FIELD), "grid": MeasuredGrid(*half_discs())}
PLACE = st.floats(-1, 1)


def centroid(kernel):
    kernel = kernel.astype(np.float64)
    half = kernel.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    return np.array([(kernel * x).sum(), (kernel * y).sum()]) / kernel.sum()


def covariance(kernel):
    """(xx, yy, xy) in px^2."""
    kernel = kernel.astype(np.float64)
    half = kernel.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    cx, cy = centroid(kernel)
    return np.array([(kernel * a * b).sum() for a, b in ((x - cx, x - cx), (y - cy, y - cy), (x - cx, y - cy))])


def padded(kernel, size):
    return np.pad(kernel.astype(np.float64), (size - kernel.shape[0]) // 2)


@pytest.mark.parametrize("name", MODELS)
@given(disparity=st.floats(-9, 9), side=st.sampled_from((-1, 1)), x=PLACE, y=PLACE)
@example(disparity=0.0, side=1, x=0.0, y=0.0)
@example(disparity=1e-7, side=-1, x=1.0, y=-1.0)
@settings(max_examples=60)
def test_light_is_kept_and_centroid_along_x_is_half_the_disparity(name, disparity, side, x, y):
    kernel = MODELS[name].kernel(disparity, side, x, y)
    assert kernel.dtype == np.float32
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
    assert kernel.min() >= 0
    assert kernel.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    assert centroid(kernel)[0] == pytest.approx(side * disparity / 2, abs=1e-3)


@pytest.mark.parametrize("name", MODELS)
@given(disparity=st.floats(0.5, 9), x=PLACE, y=PLACE)
@settings(max_examples=30)
def test_both_views_together_stay_where_the_point_is(name, disparity, x, y):
    left, right = (centroid(MODELS[name].kernel(disparity, side, x, y)) for side in (-1, 1))
    np.testing.assert_allclose((left + right) / 2, 0, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
@given(disparity=st.floats(0.0, 9), side=st.sampled_from((-1, 1)), x=PLACE, y=PLACE)
@settings(max_examples=30)
def test_in_front_of_focus_a_kernel_is_mirrored_through_its_point(name, disparity, side, x, y):
    behind, front = (MODELS[name].kernel(sign * disparity, side, x, y) for sign in (1, -1))
    np.testing.assert_allclose(front, behind[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", [-1, 1])
def test_width_grows_with_defocus(name, side):
    """Spread over bilinear weights a point has up to 1/4 px^2 of its own along each axis, 1/6 on average."""
    narrow, wide = (covariance(MODELS[name].kernel(d, side, 0.4, -0.3)) for d in (4.0, 8.0))
    np.testing.assert_allclose(wide - [1 / 6, 1 / 6, 0], 4 * (narrow - [1 / 6, 1 / 6, 0]), atol=0.15)


@pytest.mark.parametrize("model", [*MODELS.values(), FieldPsf(replace(FIELD, softness=(0.0,)))])
def test_no_jump_over_disparity_or_field(model):
    """Moved by 1/64 px of disparity, points of the rim move by about 1/30 px, which a kernel far wider hardly shows."""
    disparities = np.arange(-10, 10, 1 / 64)
    kernels = [padded(model.kernel(d, 1, 0.2, 0.1), 141) for d in disparities]
    change = np.array([np.abs(a - b).sum() for a, b in zip(kernels[1:], kernels[:-1], strict=True)])
    assert change.max() < 0.07
    assert change[np.abs(disparities[1:]) > 2].max() < 0.03
    across = [padded(model.kernel(5.0, 1, x, 0.1), 141) for x in np.linspace(-1, 1, 201)]
    assert max(np.abs(a - b).sum() for a, b in zip(across[1:], across[:-1], strict=True)) < 0.03


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.8, -0.6), (-1.0, 1.0)])
def test_against_points_thrown_into_the_aperture(x, y):
    """The formula of PsfField, by Monte Carlo: covariance of each view's light at d = 6 px."""
    local = FIELD.at(x, y)
    u, v = np.random.default_rng(0).uniform(-1, 1, (2, 800_000))
    u, v = u[u**2 + v**2 < 1], v[u**2 + v**2 < 1]
    terms = np.stack([u, v, u**2, u * v, v**2])
    a, b = local.stretch
    points = expm([[a, b], [b, -a]]) @ np.stack([u, v])
    weights = [np.exp(np.dot(local.shared, terms) + sign * np.dot(local.split, terms)) for sign in (-1, 1)]
    left, right = (points @ weight / weight.sum() for weight in weights)
    radius = 6 / (right - left)[0]
    for side, weight in zip((-1, 1), weights, strict=True):
        spread = np.cov(points * radius, aweights=weight)
        blur = (local.softness * radius) ** 2 + 1 / 6
        expected = [spread[0, 0] + blur, spread[1, 1] + blur, spread[0, 1]]
        np.testing.assert_allclose(covariance(FieldPsf(FIELD).kernel(6.0, side, x, y)), expected, rtol=0.01, atol=0.1)
    distance = [centroid(FieldPsf(FIELD).kernel(6.0, side, x, y)) for side in (-1, 1)]
    np.testing.assert_allclose(distance[1] - distance[0], (right - left) * radius, atol=0.03)


def test_in_focus_a_point_is_a_point_or_what_blurs_focused_light():
    assert FieldPsf(FIELD).kernel(0.0, -1).tolist() == [[1.0]]
    kernel = FieldPsf(replace(FIELD, blur_px=0.8)).kernel(0.0, -1)
    np.testing.assert_allclose(covariance(kernel), [0.64, 0.64, 0], atol=0.01)


def test_views_that_do_not_differ_are_refused():
    same = replace(FIELD, split=((0.0,),) * 5)
    with pytest.raises(InputError, match=r"centroids of the views at least 0\.02 radii apart, found 0"):
        FieldPsf(same).kernel(1.0, 1)


@pytest.mark.parametrize("side", [-1, 1])
def test_grid_gives_back_what_was_measured(side):
    left, right = half_discs()
    grid = MeasuredGrid(left, right)
    for column, x in enumerate((-2 / 3, 0, 2 / 3)):
        pair = left[1, column], right[1, column]
        middle = (centroid(pair[0]) + centroid(pair[1])) / 2
        disparity = (centroid(pair[1]) - centroid(pair[0]))[0]
        measured = shift(pair[side > 0], -middle[::-1], order=1)
        ours = padded(grid.kernel(disparity, side, x, 0.5), 41)
        assert np.corrcoef(ours.ravel(), padded(measured, 41).ravel())[0, 1] > 0.995


def test_grid_is_bilinear_over_the_field():
    grid = MeasuredGrid(*half_discs())
    corners = [padded(grid.kernel(3.0, 1, x, y), 61) for y in (-0.5, 0.5) for x in (-2 / 3, 0)]
    between = padded(grid.kernel(3.0, 1, -2 / 3 + 0.25 * 2 / 3, 0.0), 61)
    expected = 0.5 * (0.75 * corners[0] + 0.25 * corners[1]) + 0.5 * (0.75 * corners[2] + 0.25 * corners[3])
    np.testing.assert_allclose(between, expected, atol=1e-6)


@pytest.mark.parametrize("scale", [0.3, 0.77, 1.0, 2.6, 4.9])
def test_scaling_a_measured_kernel_leaves_no_holes(scale):
    """Boxes side by side: at any scale the middle is flat, and as bright as the area asks."""
    left, right = np.zeros((2, 1, 1, 41, 41))
    left[..., 10:31, 8:29], right[..., 10:31, 12:33] = 1, 1
    kernel = MeasuredGrid(left, right).kernel(4 * scale, 1)
    y, x = (kernel.shape[0] // 2, kernel.shape[0] // 2 + round(2 * scale))
    reach = max(int(21 * scale / 2) - 2, 0)
    middle = kernel[y - reach : y + reach + 1, x - reach : x + reach + 1]
    np.testing.assert_allclose(middle, 1 / (21 * scale) ** 2, rtol=1e-3)


@pytest.mark.parametrize("model", MODELS.values())
def test_models_serve_as_keys_and_go_to_other_processes(model):
    assert hash(model) == hash(model)
    assert model.varies and model.step == 1 / 8
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.kernel(2.0, 1, 0.3, 0.3), model.kernel(2.0, 1, 0.3, 0.3))


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        (np.ones((2, 2, 5, 5)), np.ones((2, 2, 7, 7)), "expected left and right"),
        (np.ones((4, 5, 5)), np.ones((4, 5, 5)), "expected left and right"),
        (np.ones((2, 2, 4, 4)), np.ones((2, 2, 4, 4)), "with K odd"),
        (np.full((1, 1, 5, 5), math.nan), np.ones((1, 1, 5, 5)), "expected finite values"),
        (np.full((1, 1, 5, 5), -1.0), np.ones((1, 1, 5, 5)), "expected finite values, 0 or above"),
        (np.zeros((1, 1, 5, 5)), np.ones((1, 1, 5, 5)), "and light in each"),
        (np.ones((1, 1, 5, 5)), np.ones((1, 1, 5, 5)), r"apart along x, found .* in\s+tile 0"),
    ],
)
def test_arrays_that_are_no_kernels(left, right, message):
    with pytest.raises(InputError, match=message):
        MeasuredGrid(left, right)
