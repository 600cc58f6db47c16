import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from edge_dp.errors import InputError
from edge_dp.optics.psf import (
    ALPHA_HALF_DISC,
    ALPHA_RAMP,
    Butterworth,
    HalfAperture,
    TranslatingDisc,
    finish_kernel,
    splat,
)

DISPARITY = st.floats(-6, 6)
ALPHA = st.floats(0, 1).map(
    lambda u: min(ALPHA_HALF_DISC, 0.0201 * (ALPHA_HALF_DISC / 0.0201) ** u)
)  # log-uniform: most discs are small
SIDE = st.sampled_from((-1, 1))


def moments(kernel):
    """Sum, centroid (x, y) from the middle sample and variance (x, y) of a kernel, in float64."""
    kernel = kernel.astype(np.float64)
    half = kernel.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    total = kernel.sum()
    cx, cy = (kernel * x).sum() / total, (kernel * y).sum() / total
    return total, (cx, cy), ((kernel * (x - cx) ** 2).sum() / total, (kernel * (y - cy) ** 2).sum() / total)


def half_aperture(disparity, alpha, side):
    return HalfAperture(strength=alpha).kernel(disparity, side)


def slope(alpha):
    """The profile over u = x / radius in [-1, 1], right view: ramp of slope s up to 1/4, then a mix with a half disc."""
    if alpha <= 0.25:
        return lambda u: 0.5 * (1 + alpha / 0.25 * u)
    mix = (alpha - 0.25) / (4 / (3 * math.pi) - 0.25)
    return lambda u: mix * (u > 0) + (1 - mix) * 0.5 * (1 + u)


@given(disparity=DISPARITY, alpha=ALPHA, side=SIDE)
@example(disparity=6.0, alpha=0.0201, side=-1)
@example(disparity=-6.0, alpha=ALPHA_HALF_DISC, side=1)
@example(disparity=1e-6, alpha=0.2, side=1)
@settings(max_examples=100, deadline=None)
def test_light_is_kept_and_centroid_is_half_the_disparity(disparity, alpha, side):
    kernel = half_aperture(disparity, alpha, side)
    assert kernel.dtype == np.float32
    assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
    assert kernel.min() >= 0
    total, (x, y), _ = moments(kernel)
    assert total == pytest.approx(1, abs=1e-5)
    assert x == pytest.approx(side * disparity / 2, abs=1e-3)
    assert y == pytest.approx(0, abs=1e-4)


@given(disparity=DISPARITY, alpha=ALPHA)
@settings(max_examples=50, deadline=None)
def test_left_and_right_kernels_are_mirror_images(disparity, alpha):
    left, right = half_aperture(disparity, alpha, -1), half_aperture(disparity, alpha, 1)
    np.testing.assert_allclose(left, right[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(left, left[::-1], atol=1e-6)
    # In front of the focus plane the cone of light is crossed: the views trade places.
    np.testing.assert_allclose(left, half_aperture(-disparity, alpha, 1), atol=1e-6)


@pytest.mark.parametrize("alpha", [0.05, 0.2, ALPHA_RAMP, 0.33, ALPHA_HALF_DISC])
@pytest.mark.parametrize("diameter", [24.0, 41.5])
def test_both_views_together_are_the_disc_of_the_circle_of_confusion(alpha, diameter):
    """Diameter |d| / alpha: second moments r^2 / 4 (bilinear sampling adds up to 1/6) and height 1 / (pi r^2)."""
    radius = diameter / 2
    left, right = (half_aperture(alpha * diameter, alpha, side).astype(np.float64) for side in (-1, 1))
    for kernel in (left, right):
        assert moments(kernel)[2][1] == pytest.approx(radius**2 / 4 + 1 / 6, rel=0.02)
    whole = (left + right) / 2
    assert moments(whole)[2][0] == pytest.approx(radius**2 / 4 + 1 / 6, rel=0.03)
    half = len(whole) // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    distance = np.hypot(x, y)
    assert whole[distance > radius + 2].sum() == 0
    inner = whole[(distance < radius - 2) & (abs(x) > 2)]  # the splat of the half disc's edge ripples at x = 0
    assert np.median(inner) == pytest.approx(1 / (math.pi * radius**2), rel=0.02)
    assert inner.std() < 0.05 * inner.mean()


@pytest.mark.parametrize("alpha", [0.1, ALPHA_RAMP, 0.33, ALPHA_HALF_DISC])
def test_profile_across_the_aperture_is_the_integral_of_the_disc(alpha):
    radius = 15.0
    profile = slope(alpha)

    def column(k):
        """Light of column k: chord x profile x the triangle that bilinear sampling spreads each point over."""
        low, high = max(k - 1, -radius), min(k + 1, radius)
        weight = lambda x: 2 * math.sqrt(max(0, radius**2 - x**2)) * profile(x / radius) * (1 - abs(x - k))  # noqa: E731
        return quad(weight, low, high, points=[x for x in (k, 0) if low < x < high], limit=200)[0] if low < high else 0

    kernel = half_aperture(2 * radius * alpha, alpha, 1)
    half = kernel.shape[0] // 2
    expected = np.array([column(k) for k in range(-half, half + 1)])
    expected /= expected.sum()
    np.testing.assert_allclose(kernel.sum(axis=0), expected, atol=0.02 * expected.max())


def test_alpha_of_half_disc_and_ramp_are_the_integrals_over_the_aperture():
    def centroid(profile):
        """Of a unit disc weighted with ``profile``."""
        moment = dblquad(
            lambda y, x: x * profile(x), -1, 1, lambda x: -math.sqrt(1 - x * x), lambda x: math.sqrt(1 - x * x)
        )
        mass = dblquad(lambda y, x: profile(x), -1, 1, lambda x: -math.sqrt(1 - x * x), lambda x: math.sqrt(1 - x * x))
        return moment[0] / mass[0]

    half_disc, ramp = centroid(lambda x: float(x > 0)), centroid(lambda x: (1 + x) / 2)
    assert half_disc == pytest.approx(4 / (3 * math.pi), abs=1e-4)
    assert ramp == pytest.approx(1 / 4, abs=1e-6)
    # Two centroids are twice that radius apart, over a diameter of twice the radius.
    assert pytest.approx(half_disc, abs=1e-4) == ALPHA_HALF_DISC
    assert pytest.approx(ramp, abs=1e-6) == ALPHA_RAMP


@pytest.mark.parametrize("alpha", [0.02, 0.2, ALPHA_HALF_DISC])
def test_light_in_focus_stays_one_point_in_both_views(alpha):
    for side in (-1, 1):
        kernel = half_aperture(0.0, alpha, side)
        assert kernel.max() == 1 == kernel.sum()
        assert kernel[kernel.shape[0] // 2, kernel.shape[1] // 2] == 1


@pytest.mark.parametrize("alpha", [0.0, -0.2, 0.43, 1.0, math.nan, math.inf])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(InputError, match=r"alpha: expected a value in \(0, 0\.424\]"):
        half_aperture(1.0, alpha, 1)


def thin_lens_blur(focal, f_number, focus, depth):
    """Signed circle-of-confusion diameter in metres: A f / (1 - f / g) * (1 / g - 1 / z)."""
    return focal**2 / f_number / (1 - focal / focus) * (1 / focus - 1 / depth)


def phase_shift(left, right):
    """D with left(x) = right(x + d), from the slope of the cross spectrum's phase at the lowest frequencies."""
    size = left.shape[1]
    left, right = (np.fft.fft(image.sum(axis=0)) for image in (left, right))
    k = np.arange(1, 4)
    phase = np.angle(right[k] * np.conj(left[k]))  # right is left delayed by d: exp(-2 pi i k d / size)
    return float(np.median(-phase * size / (2 * np.pi * k)))


def test_pixel_4_focused_at_one_metre_shows_the_horizon_at_plus_1_69_px():
    """Pixel 4: f 4.38 mm, f/1.73, pitch 2.8 um along the dual-pixel axis, ideal half disc."""
    blur = thin_lens_blur(4.38e-3, 1.73, 1.0, math.inf)
    disparity = 4 / (3 * math.pi) * blur / 2.8e-6
    assert disparity == pytest.approx(1.69, abs=0.005)

    kernels = [half_aperture(disparity, ALPHA_HALF_DISC, side) for side in (-1, 1)]
    scene = np.zeros((96, 128))
    scene[30:60, 40:80] = gaussian_filter(np.random.default_rng(0).uniform(size=(30, 40)), 2)
    left, right = (fftconvolve(scene, kernel, mode="same") for kernel in kernels)
    assert phase_shift(left, right) == pytest.approx(1.69, abs=0.02)
    (_, (left_x, _), _), (_, (right_x, _), _) = map(moments, kernels)
    assert right_x - left_x == pytest.approx(1.69, abs=0.01)
    diameter = 2 * math.sqrt(4 * (moments(kernels[0])[2][1] - 1 / 6))
    assert diameter == pytest.approx(blur / 2.8e-6, rel=0.04)


def test_a_point_nearer_than_focus_has_negative_disparity():
    disparity = ALPHA_HALF_DISC * thin_lens_blur(4.38e-3, 1.73, 1.0, 0.4) / 2.8e-6
    scene = np.zeros((96, 128))
    scene[40:50, 50:70] = 1
    left, right = (fftconvolve(scene, half_aperture(disparity, ALPHA_HALF_DISC, s), mode="same") for s in (-1, 1))
    assert phase_shift(left, right) == pytest.approx(disparity, abs=0.02)
    assert disparity < -2


# ---- every model ----

MODELS = [
    HalfAperture(strength=ALPHA_HALF_DISC),
    HalfAperture(strength=0.2),
    TranslatingDisc(),
    *(Butterworth(0.0, order, cutoff, floor) for order, cutoff, floor in ((3, 1.0, 0.2), (9, 0.8, 0.1), (1, 2.0, 0.0))),
]


def aperture_integral(weight):
    """Integral of weight(u, v) over the unit disc, each half of it by itself: half discs have a step at u = 0."""
    return sum(
        dblquad(lambda v, u: weight(u, v), *half, lambda u: -math.sqrt(1 - u * u), lambda u: math.sqrt(1 - u * u))[0]
        for half in ((-1, 0), (0, 1))
    )


def described_profile(model):
    """The profile in the words of each model's publication, scalar by scalar."""
    if isinstance(model, HalfAperture):
        ramp = slope(model.strength)
        return lambda u, v: ramp(u)
    if isinstance(model, TranslatingDisc):  # how many translations by 0 to 2 of the disc still hold (u, v)
        return lambda u, v: u + math.sqrt(1 - v * v)
    rim = 1 / (1 + model.cutoff ** (2 * model.order))

    def high_pass(u, v):
        rho = math.hypot(u, v)
        return 0 if rho == 0 else 1 / (1 + (model.cutoff / rho) ** (2 * model.order))

    return lambda u, v: (model.floor + (1 - model.floor) * high_pass(u, v) / rim) * (1 + u) / 2


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_alpha_is_the_centroid_of_the_profile_in_radii(model):
    profile = described_profile(model)
    expected = aperture_integral(lambda u, v: u * profile(u, v)) / aperture_integral(profile)
    assert model.alpha == pytest.approx(expected, abs=2e-4)


def test_alpha_of_the_translating_disc_is_3_pi_over_32():
    assert TranslatingDisc().alpha == pytest.approx(3 * math.pi / 32, rel=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("disparity", [-4.3, -0.2, 0.0, 0.04, 1.0, 5.0])
@pytest.mark.parametrize("blur_px", [0.0, 0.9])
def test_every_model_keeps_light_centroid_and_symmetry(model, disparity, blur_px):
    model = replace(model, blur_px=blur_px)
    left, right = model.kernel(disparity, -1), model.kernel(disparity, 1)
    for kernel, side in ((left, -1), (right, 1)):
        assert kernel.dtype == np.float32 and not kernel.flags.writeable
        assert kernel.shape[0] == kernel.shape[1] and kernel.shape[0] % 2 == 1
        assert kernel.min() >= 0
        total, (x, y), _ = moments(kernel)
        assert total == pytest.approx(1, abs=1e-5)
        assert (x, y) == pytest.approx((side * disparity / 2, 0), abs=2e-3)
    np.testing.assert_allclose(left, right[:, ::-1], atol=1e-6)
    np.testing.assert_allclose(left, left[::-1], atol=1e-6)
    np.testing.assert_allclose(left, model.kernel(-disparity, 1), atol=1e-6)
    np.testing.assert_array_equal(model.kernel(disparity, 1, x=-0.8, y=0.5), right)
    assert not model.varies


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_large_kernel_is_the_profile_point_by_point(model):
    radius, profile = 30.0, described_profile(model)
    kernel = model.kernel(2 * radius * model.alpha, 1).astype(np.float64)
    half = kernel.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    inside = (np.hypot(x, y) < radius - 2) & (abs(x) > 2)
    expected = np.array([profile(u, v) for u, v in zip(x[inside] / radius, y[inside] / radius, strict=True)])
    expected /= radius**2 * aperture_integral(profile)
    # Resampling a grid of rays onto pixels leaves a ripple of a few per cent, but no bias.
    error = kernel[inside] - expected
    assert abs(error.mean()) < 0.01 * expected.mean()
    assert error.std() < 0.04 * expected.mean()
    assert kernel[np.hypot(x, y) > radius + 2].sum() == 0


def test_both_views_of_the_translating_disc_are_brightest_in_the_middle_row():
    """Together 2 sqrt(1 - v^2) at every u: proportional to the length of the row's chord."""
    radius = 30.0
    model = TranslatingDisc()
    whole = sum(model.kernel(2 * radius * model.alpha, side).astype(np.float64) for side in (-1, 1))
    half = whole.shape[0] // 2
    offsets = np.arange(-half, half + 1)
    for v in (-24, -15, 0, 9, 20):
        chord = math.sqrt(radius**2 - v**2)
        row = whole[half + v][abs(offsets) < chord - 2]
        # Over the disc the chord integrates to 2 * (8 / 3) r^3 / 2; both views together have light 2.
        assert row.mean() == pytest.approx(2 * chord / (8 / 3 * radius**3), rel=0.02)
        assert row.std() < 0.04 * row.mean()


@pytest.mark.parametrize("order", [3, 6, 9])
def test_butterworth_is_darker_in_the_middle_than_at_the_rim(order):
    model = Butterworth(0.0, order, 1.0, 0.1)
    radius = 20.0
    whole = sum(model.kernel(2 * radius * model.alpha, side).astype(np.float64) for side in (-1, 1))
    half = whole.shape[0] // 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    distance = np.hypot(x, y) / radius
    middle, rim = whole[distance < 0.3].mean(), whole[(distance > 0.85) & (distance < 0.93)].mean()
    at = lambda rho: 0.1 + 0.9 * 2 * rho ** (2 * order) / (1 + rho ** (2 * order))  # noqa: E731
    assert middle / rim == pytest.approx(0.1 / at(0.89), rel=0.15)


@pytest.mark.parametrize("model", [HalfAperture(), TranslatingDisc(), Butterworth()], ids=lambda m: type(m).__name__)
@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.2])
@pytest.mark.parametrize("disparity", [0.0, 0.5, 3.0])
def test_blur_adds_its_variance_along_both_axes(model, sigma, disparity):
    clean, blurred = (moments(m.kernel(disparity, 1)) for m in (model, replace(model, blur_px=sigma)))
    added = np.subtract(blurred[2], clean[2])
    assert added == pytest.approx((sigma**2, sigma**2), rel=0.03)
    assert blurred[1] == pytest.approx(clean[1], abs=1e-3)


def test_kernels_are_made_once():
    assert HalfAperture(0.3, 0.21).kernel(1.25, -1) is HalfAperture(0.3, 0.21).kernel(1.25, -1)


@pytest.mark.parametrize("blur_px", [-0.1, math.nan, math.inf])
@pytest.mark.parametrize("model", [HalfAperture, TranslatingDisc, Butterworth])
def test_blur_out_of_range_is_refused(model, blur_px):
    with pytest.raises(InputError, match="blur_px: expected px, 0 or above, found"):
        model(blur_px)


@pytest.mark.parametrize(
    "changes",
    [{"order": 0}, {"cutoff": 0.0}, {"cutoff": math.inf}, {"floor": -0.1}, {"floor": 1.0}, {"floor": math.nan}],
)
def test_butterworth_out_of_range_is_refused(changes):
    with pytest.raises(InputError, match=r"Butterworth: expected order >= 1, cutoff > 0 and floor in \[0, 1\), found"):
        Butterworth(**changes)


# ---- rasterising ----


@given(
    points=st.lists(st.tuples(st.floats(0.01, 1), st.floats(-7, 7), st.floats(-7, 7)), min_size=1, max_size=20),
)
@settings(max_examples=100)
def test_splat_keeps_light_and_centroid(points):
    weight, x, y = np.array(points).T
    total, centroid, _ = moments(splat(weight, x, y))
    assert total == pytest.approx(1, abs=1e-9)
    assert centroid == pytest.approx((np.average(x, weights=weight), np.average(y, weights=weight)), abs=1e-6)


def test_point_between_pixels_is_shared_bilinearly():
    kernel = splat(np.ones(1), np.array([0.25]), np.array([-0.5]))
    np.testing.assert_allclose(kernel, [[0, 0.375, 0.125], [0, 0.375, 0.125], [0, 0, 0]], atol=1e-12)


def test_finished_kernel_is_trimmed_to_what_has_light():
    padded = np.pad(np.array([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]), 5)
    np.testing.assert_allclose(finish_kernel(padded, 0.0), padded[5:-5, 5:-5] / 8, rtol=1e-6)
