"""Matching on pairs whose disparity is known because the image is a formula."""

import numpy as np
import pytest
from classical import WlsConfig, match, match_wls, weighted_least_squares

HEIGHT, WIDTH = 96, 160
INSIDE = np.s_[20:-20, 24:-24]


def texture(x, y):
    """A sum of waves of 6 to 60 px, the same wherever it is asked for; linear light from 0.06 to 0.54."""
    rng = np.random.default_rng(3)
    waves = zip(rng.uniform(6, 60, 40), rng.uniform(0, np.pi, 40), rng.uniform(0, 2 * np.pi, 40), strict=True)
    total = sum(np.cos(2 * np.pi / period * (x * np.cos(a) + y * np.sin(a)) + phase) for period, a, phase in waves)
    return (0.3 + 0.006 * total).astype(np.float32)


def pair(disparity):
    """left(x) = right(x + d): the left view is the texture, the right one the texture d px further left."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    return texture(x, y), texture(x - disparity, y)


@pytest.mark.parametrize("shift", [-1.4, 0.0, 2.3, 5.75])
@pytest.mark.parametrize("method", [match, match_wls])
def test_a_shift_is_found_to_a_tenth_of_a_pixel_with_its_sign(method, shift):
    found = method(*pair(shift), (-4, 8))
    assert found.shape == (HEIGHT, WIDTH) and found.dtype == np.float32
    assert np.abs(found[INSIDE] - shift).max() < 0.1


def test_brightness_and_gain_between_the_views_do_not_count():
    left, right = pair(2.3)
    assert np.abs(match_wls(left, 0.6 * right + 0.02, (-4, 8))[INSIDE] - 2.3).max() < 0.1


def test_where_nothing_matches_the_neighbours_answer():
    left, right = pair(2.0)
    noise = np.random.default_rng(0).normal(0, 1e-4, (2, HEIGHT, WIDTH)).astype(np.float32)
    hole = np.s_[30:66, 60:100]
    for view, grain in ((left, noise[0]), (right, noise[1])):
        view[hole] = 0.3 + grain[hole]
    inner = np.s_[44:52, 76:84]
    config = WlsConfig(window_px=11)
    assert np.abs(match(left, right, (-4, 8), 11)[inner] - 2.0).max() > 1
    assert np.abs(match_wls(left, right, (-4, 8), config)[inner] - 2.0).max() < 0.2


def test_a_step_in_depth_stays_where_the_image_has_its_edge():
    values = np.where(np.arange(WIDTH) < 80, -1.0, 3.0)[None].repeat(HEIGHT, 0).astype(np.float32)
    noisy = values + np.random.default_rng(1).normal(0, 0.5, values.shape).astype(np.float32)
    guide = np.where(values > 0, 0.8, 0.2).astype(np.float32)
    smooth = weighted_least_squares(noisy, np.ones_like(noisy), guide, WlsConfig())
    assert np.abs(smooth - values).max() < 0.2
    blurred = weighted_least_squares(noisy, np.ones_like(noisy), np.zeros_like(guide), WlsConfig())
    assert np.abs(blurred - values)[:, 78:82].min() > 1  # and without an edge, the step goes


def test_smoothing_along_one_axis_solves_the_normal_equations():
    """One row: all sweeps are of that row, so the result is the product of three inverses, written out densely."""
    rng = np.random.default_rng(2)
    count, config = 30, WlsConfig(smoothness=20.0)
    values, confidence, guide = (rng.uniform(0.1, 1, (1, count)).astype(np.float32) for _ in range(3))
    weights = np.exp(-np.abs(np.diff(guide[0].astype(np.float64))) / config.edge)
    numerator, denominator = (values * confidence)[0].astype(np.float64), confidence[0].astype(np.float64)
    for share in (16, 4, 1):
        matrix = np.eye(count)
        for i, weight in enumerate(1.5 * config.smoothness * share / 63 * weights):
            matrix[i : i + 2, i : i + 2] += weight * np.array([[1, -1], [-1, 1]])
        numerator, denominator = np.linalg.solve(matrix, numerator), np.linalg.solve(matrix, denominator)
    found = weighted_least_squares(values, confidence, guide, config)[0]
    np.testing.assert_allclose(found, numerator / denominator, rtol=1e-4)


def test_what_has_no_confidence_does_not_count():
    values = np.full((20, 30), 2.0, np.float32)
    confidence = np.ones_like(values)
    values[5:15, 10:20], confidence[5:15, 10:20] = 100.0, 0.0
    guide = np.zeros_like(values)
    np.testing.assert_allclose(weighted_least_squares(values, confidence, guide, WlsConfig()), 2.0, rtol=1e-4)
