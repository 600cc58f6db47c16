import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest, uniform

from edge_dp.errors import InputError, SchemaError
from edge_dp.preprocessing import ExposureNormalisation, dither

SEEDS = st.integers(0, 2**32 - 1)


def dim_views(seed, shape=(2, 12, 16), spread=(0.5, 1.5)):
    """Views in which nothing is five times brighter than the mean, so that nothing saturates at a mean of 0.2."""
    return (0.1 * np.random.default_rng(seed).uniform(*spread, shape)).astype(np.float32)


@given(seed=SEEDS, target=st.floats(0.05, 0.3))
@settings(max_examples=30, deadline=None)
def test_common_mean_of_both_views_is_reached(seed, target):
    views = dim_views(seed)
    views[1] *= 0.6  # shading: one view is darker than the other
    seen = ExposureNormalisation(target_mean=target)(views)
    assert seen.dtype == np.float32
    assert seen.mean(dtype=float) == pytest.approx(target, rel=1e-5)


@given(seed=SEEDS, scale=st.floats(0.05, 5))
@settings(max_examples=30, deadline=None)
def test_brightness_of_the_scene_does_not_matter(seed, scale):
    views, normalise = dim_views(seed), ExposureNormalisation()
    np.testing.assert_allclose(normalise((views * scale).astype(np.float32)), normalise(views), rtol=1e-5)


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_ratio_of_the_views_and_of_all_pixels_is_kept(seed):
    views = dim_views(seed)
    seen = ExposureNormalisation()(views)
    np.testing.assert_allclose(seen[0] / seen[1], views[0] / views[1], rtol=1e-5)
    np.testing.assert_allclose(seen / seen[0, 0, 0], views / views[0, 0, 0], rtol=1e-5)


def test_what_is_five_times_brighter_than_the_mean_saturates_in_both_views():
    views = np.full((2, 20, 20), 0.01, np.float32)
    views[:, 3, 4], views[:, 5, 6] = 0.5, 0.02
    seen = ExposureNormalisation()(views)
    gain = 0.2 / views.mean(dtype=float)
    assert gain * 0.5 > 1
    np.testing.assert_array_equal(seen[:, 3, 4], 1)
    np.testing.assert_allclose(seen[:, 5, 6], gain * 0.02, rtol=1e-6)
    assert seen.max() == 1


@given(seed=SEEDS, scale=st.floats(0.05, 5))
@settings(max_examples=30, deadline=None)
def test_square_root_is_that_of_the_normalised_light(seed, scale):
    views = (scale * dim_views(seed, spread=(0.0, 9.0))).astype(np.float32)
    light = ExposureNormalisation()(views)
    seen = ExposureNormalisation(transfer="square_root")(views)
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, np.sqrt(light.astype(float)).astype(np.float32))  # correctly rounded


def test_steps_of_the_square_root_are_equally_fine_beside_the_noise_of_photons():
    light = np.geomspace(1e-3, 0.95, 50).astype(np.float32).reshape(1, 1, 50)
    beside_noise = {}
    for transfer in ("linear", "square_root"):
        as_it_is = ExposureNormalisation(target_mean=1.0, max_gain=1.0, transfer=transfer)
        slope = (as_it_is(1.01 * light) - as_it_is(light)) / (0.01 * light)
        beside_noise[transfer] = 1 / (255 * slope * np.sqrt(light))
    spread = {transfer: float(steps.max() / steps.min()) for transfer, steps in beside_noise.items()}
    assert spread["square_root"] < 1.001 and spread["linear"] == pytest.approx(np.sqrt(950), rel=0.01)


def test_unknown_transfer_is_refused():
    with pytest.raises(SchemaError, match="transfer: expected linear or square_root, found log"):
        ExposureNormalisation(transfer="log")


def test_gain_is_limited_in_the_dark():
    views = np.full((2, 4, 4), 1e-4, np.float32)
    np.testing.assert_allclose(ExposureNormalisation()(views), 0.02, rtol=1e-5)
    np.testing.assert_allclose(ExposureNormalisation(max_gain=50)(views), 0.005, rtol=1e-5)


def test_bright_scenes_are_darkened():
    np.testing.assert_allclose(ExposureNormalisation()(np.full((2, 4, 4), 0.8, np.float32)), 0.2, rtol=1e-6)


def test_every_capture_of_a_batch_has_its_own_gain():
    batch = np.stack([dim_views(0), 3 * dim_views(1)])
    normalise = ExposureNormalisation()
    np.testing.assert_array_equal(normalise(batch), np.stack([normalise(batch[0]), normalise(batch[1])]))


def test_black_views_are_refused():
    with pytest.raises(InputError, match="black"):
        ExposureNormalisation()(np.zeros((2, 4, 4), np.float32))
    batch = np.stack([dim_views(0), 0 * dim_views(1)])
    with pytest.raises(InputError, match="black"):
        ExposureNormalisation()(batch)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_views_without_a_positive_mean_are_refused(bad):
    with pytest.raises(InputError):
        ExposureNormalisation()(np.full((2, 4, 4), bad, np.float32))


def test_input_is_left_as_it_was():
    views = dim_views(2)
    before = views.copy()
    ExposureNormalisation()(views)
    np.testing.assert_array_equal(views, before)


def lowbias32(h):
    """Of one whole number, by Python's unlimited ones."""
    h = ((h ^ h >> 16) * 0x7FEB352D) % 2**32
    h = ((h ^ h >> 15) * 0x846CA68B) % 2**32
    return h ^ h >> 16


def test_dither_is_the_published_hash():
    expected = [((lowbias32(i) >> 8) + 0.5) / 2**24 - 0.5 for i in range(2 * 24 * 40)]
    noise = dither(24, 40, 1 / 128)
    assert noise.dtype == np.float32 and noise.shape == (2, 24, 40)
    np.testing.assert_allclose(noise.ravel(), np.array(expected) / 128, rtol=1e-6)


def test_dither_is_uniform_and_independent():
    noise = dither(192, 256, 1.0).astype(float)
    assert kstest(noise.ravel(), uniform(-0.5, 1.0).cdf).pvalue > 0.001
    places = [(0, 0, 1), (0, 1, 0), (0, 1, 1), (0, 0, 7), *((1, 0, shift) for shift in range(-5, 6))]
    for view, row, column in places:  # of neighbours, and of the views at every disparity
        other = np.roll(noise[view], (row, column), (0, 1))
        assert abs(np.corrcoef(noise[0].ravel(), other.ravel())[0, 1]) < 4 / np.sqrt(noise[0].size)


@given(slope=st.floats(0.05, 0.4), start=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_dithered_levels_follow_a_slow_ramp_where_bare_ones_stand_still(slope, start):
    """Means of 16x16 px of a ramp that rises less than a level over them, in levels."""
    ramp = start + slope / 16 * np.arange(256) * np.ones((192, 1))
    dithered, bare = (np.round(ramp + noise) for noise in (dither(192, 256, 1.0)[0].astype(float), 0.0))

    def error(levels):
        return np.sqrt(np.square((levels - ramp).reshape(12, 16, 16, 16).mean((1, 3))).mean())

    assert error(dithered) < 0.05 and error(bare) > 3 * error(dithered)
