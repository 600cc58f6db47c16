"""What a simulated sensor makes of clean light, by statistics and on both kinds of arrays."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.ndimage import gaussian_filter

from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError
from edge_dp.simulation.sensor import (
    SensorConfig,
    SensorDraw,
    draw_sensor,
    quantise,
    raw_levels,
    sense,
    standard_normal,
)
from edge_dp.srgb import linear_to_srgb

CLEAN = SensorDraw((0.0, 0.0, 0.0), 1e18, 0.0, False, 16, 0.0, False, 12345)
"""A sensor without faults: half a level of 16 bit is all that it takes away."""


def light(seed, shape=(2, 3, 41, 60)):
    """Smooth views with some parts black and some saturated."""
    return (np.random.default_rng(seed).normal(0.5, 0.25, shape).clip(0, 1.3)).astype(np.float32)


def sensors(**changes):
    """Sensors of every kind."""
    base = replace(CLEAN, full_well=1500.0, read_noise=0.003, tilt=(0.02, -0.03, 0.01), **changes)
    return [
        replace(base, half_rows=half_rows, tone_mapped=tone_mapped, bit_depth=bit_depth, black=black)
        for half_rows in (False, True)
        for tone_mapped, bit_depth, black in ((False, 12, 0.06), (False, 10, 0.0), (True, 12, 0.06))
    ]


# ---- light without noise ----


def test_sensor_without_faults_changes_nothing():
    views = light(0).clip(0, 1)
    seen = sense(views, CLEAN)
    assert seen.dtype == np.float32 and seen.shape == views.shape
    np.testing.assert_allclose(seen, views, atol=1 / 65535)


def test_shading_is_a_linear_gain_of_the_right_view_over_the_left():
    tilt = (0.01, 0.03, -0.02)
    left, right = sense(np.full((2, 1, 40, 60), 0.5, np.float32), replace(CLEAN, tilt=tilt)).astype(float)
    np.testing.assert_allclose(left + right, 1.0, atol=4e-5)
    y, x = np.meshgrid(np.linspace(-1, 1, 40), np.linspace(-1, 1, 60), indexing="ij")
    np.testing.assert_allclose((right - left)[0] / 0.5, tilt[0] + tilt[1] * x + tilt[2] * y, atol=8e-5)


def test_input_is_not_changed():
    for sensor in sensors():
        views = light(1)
        kept = views.copy()
        sense(views, sensor)
        np.testing.assert_array_equal(views, kept)


# ---- noise ----


@pytest.mark.parametrize(("level", "full_well", "read"), [(0.5, 2000, 0.0), (0.2, 1000, 0.004), (0.4, 1e12, 0.004)])
def test_noise_variance_is_photon_noise_plus_read_noise(level, full_well, read):
    sensor = replace(CLEAN, full_well=full_well, read_noise=read)
    noise = sense(np.full((2, 1, 200, 300), level, np.float32), sensor).astype(np.float64)[:, 0] - level
    assert noise.var() == pytest.approx(level / full_well + read**2, rel=0.03)
    assert abs(noise.mean()) < 4 * noise.std() / np.sqrt(noise.size)
    correlations = (  # white, views independent
        (noise[0] * noise[1]).mean(),
        (noise[:, :, 1:] * noise[:, :, :-1]).mean(),
        (noise[:, 1:] * noise[:, :-1]).mean(),
    )
    assert np.abs(correlations).max() < 0.02 * noise.var()


def test_noise_grows_with_the_light_of_each_pixel():
    views = np.tile(np.repeat([0.1, 0.6], 150).astype(np.float32), (2, 1, 200, 1))
    noise = sense(views, replace(CLEAN, full_well=1000.0)) - views
    assert noise[..., 150:].var() / noise[..., :150].var() == pytest.approx(6, rel=0.06)


def test_colours_have_noise_of_their_own():
    noise = sense(np.full((2, 3, 80, 90), 0.5, np.float32), replace(CLEAN, full_well=1000.0)) - 0.5
    correlation = np.corrcoef(noise.reshape(6, -1))
    assert np.abs(correlation - np.eye(6)).max() < 0.06


def test_sensor_clips_at_black_and_white():
    views = np.stack([np.full((1, 64, 64), 1.2, np.float32), np.zeros((1, 64, 64), np.float32)])
    seen = sense(views, replace(CLEAN, full_well=1000.0, read_noise=0.004))
    assert seen.dtype == np.float32
    assert (seen[0] == 1).mean() > 0.99
    assert seen[1].min() == 0 and 0.4 < (seen[1] == 0).mean() < 0.6  # half of the read noise lies below black
    assert seen.max() <= 1 and seen.min() >= 0


def test_what_rounding_leaves_below_black_has_no_noise_of_its_own():
    seen = sense(np.full((2, 1, 9, 9), -1e-7, np.float32), replace(CLEAN, full_well=1000.0))
    assert (seen == 0).all()


# ---- half as many rows ----


def test_half_of_the_rows_are_sums_in_pairs_interpolated_in_between():
    """A vertical ramp survives; a pattern of single rows is gone."""
    sensor = replace(CLEAN, half_rows=True)
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, 24, dtype=np.float32)[:, None], (2, 1, 24, 10))
    np.testing.assert_allclose(sense(ramp, sensor)[:, :, 1:-1], ramp[:, :, 1:-1], atol=5e-5)
    stripes = np.broadcast_to(np.tile([0.2, 0.6], 12).astype(np.float32)[:, None], (2, 1, 24, 10))
    np.testing.assert_allclose(sense(stripes, sensor), 0.4, atol=5e-5)


@pytest.mark.parametrize("height", [1, 2, 7, 12])
def test_half_rows_of_any_height(height):
    rows = light(2, (2, 1, height, 5)).clip(0, 1)
    seen = sense(rows, replace(CLEAN, half_rows=True))
    assert seen.shape == rows.shape
    padded = np.concatenate([rows, rows[:, :, -1:]], axis=2) if height % 2 else rows
    sums = (padded[:, :, ::2] + padded[:, :, 1::2]) / 2
    # Their centres lie between two rows, so rows are a quarter of a step away from them.
    centres, places = 2 * np.arange(sums.shape[2]) + 0.5, np.arange(height)
    expected = np.apply_along_axis(lambda column: np.interp(places, centres, column), 2, sums)
    np.testing.assert_allclose(seen, expected, atol=2e-5)


def test_noise_of_summed_rows_is_that_of_twice_the_electrons_and_shared_by_neighbours():
    level, full_well = 0.5, 1000.0
    sensor = replace(CLEAN, full_well=full_well, half_rows=True)
    noise = sense(np.full((2, 1, 400, 200), level, np.float32), sensor).astype(float)[:, 0, 2:-2] - level
    one = level / (2 * full_well)  # variance of a sum of two, as a mean
    assert noise.var() == pytest.approx(one * (0.75**2 + 0.25**2), rel=0.03)
    pairs = noise.reshape(2, -1, 2, 200)
    within = (pairs[:, :, 0] * pairs[:, :, 1]).mean()  # 3/4 a + 1/4 b with 3/4 a + 1/4 c
    between = (pairs[:, :-1, 1] * pairs[:, 1:, 0]).mean()  # 3/4 a + 1/4 b with 1/4 a + 3/4 b
    assert within == pytest.approx(one * 0.75**2, rel=0.05)
    assert between == pytest.approx(one * 2 * 0.75 * 0.25, rel=0.05)
    assert (noise[:, :, 1:] * noise[:, :, :-1]).mean() == pytest.approx(0, abs=0.02 * one)


# ---- levels ----


@pytest.mark.parametrize(("bit_depth", "black"), [(10, 0.0), (12, 0.0625), (14, 1024 / 16383), (8, 0.07)])
def test_raw_light_lies_on_the_levels_between_black_and_white(bit_depth, black):
    highest = 2**bit_depth - 1
    zero = round(black * highest)
    values = light(3).clip(0, 1)
    levels = raw_levels(values, bit_depth, black)
    np.testing.assert_array_equal(levels, np.round(levels))
    assert levels.min() >= zero and levels.max() <= highest
    np.testing.assert_allclose(levels, zero + values * (highest - zero), atol=0.5 + 1e-3)
    seen = sense(values, replace(CLEAN, bit_depth=bit_depth, black=black, full_well=800.0))
    steps = seen.astype(float) * (highest - zero)
    np.testing.assert_allclose(steps, np.round(steps), atol=2e-3)


def test_raw_levels_end_where_the_bits_do():
    np.testing.assert_array_equal(raw_levels(np.array([-1.0, -0.05, 0.0, 1.0, 2.0]), 10, 0.1), [0, 56, 102, 1023, 1023])


def test_black_level_keeps_the_noise_below_black_in_the_file():
    """Without it the file itself clips at 0; with it only the reader does, so means of dark pixels in the file are right."""
    noisy = 0.004 * standard_normal((200, 200), 5)
    assert raw_levels(noisy, 12, 0.0).mean() > 4
    assert raw_levels(noisy, 12, 0.0625).mean() == pytest.approx(256, abs=0.2)
    assert raw_levels(noisy, 12, 0.0625).min() < 256 - 3 * 0.004 * 3839
    assert quantise(noisy, replace(CLEAN, bit_depth=12, black=0.0625)).min() == 0


def test_tone_mapped_views_have_256_levels_and_survive_an_8_bit_file():
    views = np.linspace(0, 1.1, 2 * 90 * 80, dtype=np.float32).reshape(2, 1, 90, 80)
    seen = sense(views, replace(CLEAN, tone_mapped=True))
    assert len(np.unique(seen)) == 256
    codes = 255 * linear_to_srgb(seen)
    np.testing.assert_allclose(codes, np.round(codes), atol=0.01)
    assert np.abs(linear_to_srgb(seen) - linear_to_srgb(views.clip(0, 1))).max() <= 0.5 / 255 + 1e-5
    again = sense(seen, replace(CLEAN, tone_mapped=True))
    np.testing.assert_allclose(again, seen, atol=1e-6)


# ---- random numbers ----


@pytest.mark.parametrize("key", [0, 1, 0xFFFFFFFF, 123456789])
def test_random_numbers_are_standard_normal(key):
    values = standard_normal((400, 500), key).astype(float).ravel()
    assert values.mean() == pytest.approx(0, abs=4 / math.sqrt(values.size))
    assert values.var() == pytest.approx(1, abs=4 * math.sqrt(2 / values.size))
    assert stats.skew(values) == pytest.approx(0, abs=4 * math.sqrt(6 / values.size))
    assert stats.kurtosis(values) == pytest.approx(0, abs=4 * math.sqrt(24 / values.size))
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert 4 < np.abs(values).max() < 4.9


def test_random_numbers_are_independent_of_their_neighbours_views_and_keys():
    shape = (2, 1, 300, 400)
    values = standard_normal(shape, 77)
    others = [standard_normal(shape, key) for key in (78, 79, 77 + 2**16, 0)]
    limit = 4.5 / math.sqrt(values[0].size)
    pairs = [(values[0], values[1]), *((values, other) for other in others)]
    pairs += [(values[..., lag:], values[..., :-lag]) for lag in (1, 2, 3, 16, 128)]
    pairs += [(values[..., lag:, :], values[..., :-lag, :]) for lag in (1, 2)]
    for a, b in pairs:
        for f in (lambda x: x, np.square, np.abs):
            assert abs(np.corrcoef(f(a).ravel(), f(b).ravel())[0, 1]) < limit


@given(shape=st.lists(st.integers(1, 7), min_size=1, max_size=4), key=st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_random_numbers_are_the_same_on_both_kinds_of_arrays(shape, key):
    values = standard_normal(tuple(shape), key)
    assert values.shape == tuple(shape) and values.dtype == np.float32
    tensor = standard_normal(tuple(shape), key, torch, like=torch.zeros(1))
    assert tensor.dtype == torch.float32 and tensor.shape == tuple(shape)
    np.testing.assert_allclose(tensor.numpy(), values, atol=2e-6)


# ---- both kinds of arrays ----


@pytest.mark.parametrize("sensor", sensors(), ids=str)
def test_tensors_are_sensed_as_arrays_are(sensor):
    views = np.stack([gaussian_filter(view, (0, 1, 1)) for view in light(4)])
    seen, tensor = sense(views, sensor), sense(torch.from_numpy(views), sensor, torch)
    assert tensor.dtype == torch.float32
    highest = 2**sensor.bit_depth - 1
    # Rounding may go either way when the two kinds differ in the last bit.
    steps = (
        np.abs(linear_to_srgb(tensor.numpy()) - linear_to_srgb(seen)) * 255
        if sensor.tone_mapped
        else (np.abs(tensor.numpy() - seen) * (highest - round(sensor.black * highest)))
    )
    assert steps.max() < 1.01
    assert np.mean(steps > 0.1) < 1e-3
    assert np.median(np.abs(tensor.numpy() - seen)) < 1e-6


# ---- drawing ----


def test_draws_stay_in_their_ranges_and_fill_them():
    config = SensorConfig()
    draws = [draw_sensor(np.random.default_rng(seed), config) for seed in range(400)]
    for name in ("full_well", "read_noise", "bit_depth", "black"):
        low, high = getattr(config, name)
        values = np.array([getattr(draw, name) for draw in draws])
        assert low <= values.min() and values.max() <= high
        assert np.ptp(values) > 0.9 * (high - low)
    wells = np.log([draw.full_well for draw in draws])
    assert stats.kstest((wells - np.log(1000)) / np.log(20), "uniform").pvalue > 1e-3
    for name, share in (("half_rows", 0.5), ("tone_mapped", 0.15)):
        assert np.mean([getattr(draw, name) for draw in draws]) == pytest.approx(share, abs=0.1)
    largest = [sum(map(abs, draw.tilt)) for draw in draws]  # gain in the worst corner
    assert 0.05 < max(largest) <= 0.06 + 1e-9
    assert len({draw.noise_key for draw in draws}) == 400


def test_same_generator_state_draws_the_same_sensor():
    config = SensorConfig()
    assert draw_sensor(np.random.default_rng(3), config) == draw_sensor(np.random.default_rng(3), config)
    assert draw_sensor(np.random.default_rng(3), config) != draw_sensor(np.random.default_rng(4), config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"full_well": [2000, 1000]},
            "full_well: expected two values, 0 or above, in rising order, found 2000.0 and 1000.0",
        ),
        ({"full_well": [0, 1000]}, "expected full_well above 0, bit_depth"),
        ({"read_noise": [-0.1, 0.1]}, "read_noise: expected two values, 0 or above"),
        ({"bit_depth": [10, 17]}, "bit_depth from 1 to 16"),
        ({"bit_depth": [0, 8]}, "bit_depth from 1 to 16"),
        ({"bit_depth": [10.5, 12]}, r"bit_depth\[0\]: expected int, found float 10.5"),
        ({"black": [0.1, 0.6]}, "black up to 0.5, found"),
        ({"black": [0.05, 0.01]}, "black: expected two values"),
        ({"half_rows_share": 1.5}, "half_rows_share: expected a share from 0 to 1, found 1.5"),
        ({"tone_mapped_share": -0.1}, "tone_mapped_share: expected a share from 0 to 1, found -0.1"),
        ({"shading": 1.0}, "shading: expected a relative gain from 0 to below 1, found 1.0"),
        ({"shading": -0.01}, "shading: expected a relative gain"),
        ({"alpha": [0.2, 0.3]}, "unknown field 'alpha'"),
    ],
)
def test_ranges_that_cannot_be_are_refused(changes, message):
    with pytest.raises(SchemaError, match=f"mine.yaml: sensor: .*{message}"):
        from_mapping(SensorConfig, changes, "mine.yaml: sensor")


def test_every_allowed_sensor_gives_light():
    """The coarsest bit depth with the highest black level leaves levels for light."""
    for bit_depth in (1, 2, 8):
        config = SensorConfig(
            bit_depth=(bit_depth, bit_depth), black=(0.5, 0.5), half_rows_share=0, tone_mapped_share=0
        )
        seen = sense(light(6), draw_sensor(np.random.default_rng(0), config))
        assert np.isfinite(seen).all() and seen.min() == 0 and seen.max() == 1
