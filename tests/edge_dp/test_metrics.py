import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import rankdata, spearmanr

from edge_dp.errors import InputError
from edge_dp.metrics import ai1, ai2, one_minus_abs_spearman

ALL = [ai1, ai2, one_minus_abs_spearman]
SEEDS = st.integers(0, 2**32 - 1)


def scene(seed, size=400, outliers=0.1):
    rng = np.random.default_rng(seed)
    target = rng.random(size)
    prediction = (target - rng.normal()) / rng.uniform(0.2, 5) + rng.normal(0, 0.05, size)
    prediction[rng.random(size) < outliers] += 2
    return prediction, target, rng.random(size)


def least_absolute_error(p, t, c):
    """min_{a,b} sum c |a p + b - t| / sum c as a linear programme over a, b and the residuals' bounds."""
    design = np.stack([p, np.ones_like(p)], 1)
    unit = np.eye(len(p))
    bounds = [(None, None)] * 2 + [(0, None)] * len(p)
    solution = linprog(
        np.r_[0, 0, c], np.block([[design, -unit], [-design, -unit]]), np.r_[t, -t], bounds=bounds, method="highs"
    )
    return solution.fun / c.sum()


@pytest.mark.parametrize("seed", range(5))
def test_ai1_is_close_above_the_true_minimum(seed):
    p, t, c = scene(seed)
    least = least_absolute_error(p, t, c)
    assert least <= ai1(p, t, weights=c) <= 1.02 * least


def test_ai1_follows_the_published_iteration():
    """Five lstsq fits, weights 1 / max(1e-3, |r|) between them, the error of the fifth: not the converged one."""
    p, t, c = scene(7)
    design, weight = np.stack([p, np.ones_like(p)], 1), np.ones_like(p)
    for _ in range(5):
        root = np.sqrt(c * weight)
        residual = abs(design @ np.linalg.lstsq(design * root[:, None], t * root)[0] - t)
        weight = 1 / np.maximum(1e-3, residual)
    assert ai1(p, t, weights=c) == pytest.approx((c * residual).sum() / c.sum(), rel=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_ai2_is_the_least_squares_error(weighted):
    p, t, c = scene(3)
    c = c if weighted else np.ones_like(c)
    root = np.sqrt(c)
    _, residue, *_ = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1) * root[:, None], t * root)
    assert ai2(p, t, weights=c if weighted else None) == pytest.approx(np.sqrt(residue[0] / c.sum()), rel=1e-9)


def test_ai2_closed_form():
    p, t, _ = scene(4)
    assert ai2(p, t) == pytest.approx(t.std() * np.sqrt(1 - np.corrcoef(p, t)[0, 1] ** 2), rel=1e-9)


@given(seed=SEEDS, levels=st.integers(2, 50))
@settings(max_examples=30, deadline=None)
def test_spearman_against_scipy_with_ties(seed, levels):
    rng = np.random.default_rng(seed)
    p, t = rng.integers(0, levels, 200), rng.integers(0, levels, 200)
    assert one_minus_abs_spearman(p, t) == pytest.approx(1 - abs(spearmanr(p, t).statistic), abs=1e-9)


def test_weighted_spearman_is_the_weighted_correlation_of_average_ranks():
    p, t, c = scene(5)
    p = np.round(p, 1)
    covariance = np.cov(rankdata(p), rankdata(t), aweights=c)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    assert one_minus_abs_spearman(p, t, weights=c) == pytest.approx(1 - abs(expected), rel=1e-9)


@pytest.mark.parametrize("metric", ALL)
@given(seed=SEEDS, scale=st.floats(1e-6, 1e6), offset=st.floats(-1e3, 1e3), sign=st.sampled_from([-1, 1]))
@settings(max_examples=25, deadline=None)
def test_affine_invariance(metric, seed, scale, offset, sign):
    p, t, c = scene(seed, size=100)
    moved = sign * scale * (p + offset)
    assert metric(moved, t, weights=c) == pytest.approx(metric(p, t, weights=c), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("metric", ALL)
def test_perfect_up_to_an_affine_map(metric):
    t = np.random.default_rng(0).random((30, 40)).astype(np.float32)
    assert metric(3 - 2 * t, t) == pytest.approx(0, abs=1e-6)


def test_constant_prediction():
    t = np.random.default_rng(0).random((30, 40))
    flat = np.full_like(t, 0.1)
    weights = np.random.default_rng(1).random(t.shape)
    assert ai2(flat, t) == pytest.approx(t.std())
    assert ai1(flat, t) == pytest.approx(np.abs(t - np.median(t)).mean(), rel=0.02)
    assert one_minus_abs_spearman(flat, t, weights=weights) == 1.0
    assert one_minus_abs_spearman(t, flat, weights=weights) == 1.0


@pytest.mark.parametrize("metric", ALL)
def test_mask_and_zero_weight_leave_pixels_out(metric):
    p, t, _ = scene(6)
    keep = np.random.default_rng(0).random(p.shape) < 0.5
    expected = metric(p[keep], t[keep])
    assert isinstance(expected, float)
    p[~keep] = np.nan
    t[~keep] = np.inf
    assert metric(p, t, mask=keep) == pytest.approx(expected, rel=1e-12)
    assert metric(p, t, weights=keep.astype(float)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", ALL)
def test_what_cannot_be_scored_is_refused(metric):
    t = np.random.default_rng(0).random((4, 5))
    broken = t.copy()
    broken[1, 2] = np.nan
    with pytest.raises(
        InputError, match=r"prediction: expected finite values, found NaN or infinity in 1 of 20 pixels"
    ):
        metric(broken, t)
    with pytest.raises(InputError, match="target: expected finite values"):
        metric(t, broken)
    with pytest.raises(InputError, match="mask: expected at least one pixel with ground truth, found none"):
        metric(t, t, mask=np.zeros_like(t, bool))
    with pytest.raises(InputError, match=r"prediction: expected the shape of the target, \(4, 5\), found \(5, 4\)"):
        metric(t.T, t)
    with pytest.raises(InputError, match="mask: expected the shape"):
        metric(t, t, mask=np.ones(5, bool))
    with pytest.raises(InputError, match="weights: expected finite values, 0 or above"):
        metric(t, t, weights=-t)


def test_full_resolution_in_reasonable_time():
    rng = np.random.default_rng(0)
    p, t = rng.random((1008, 1344), dtype=np.float32), rng.integers(1, 256, (1008, 1344)) / 255
    start = time.process_time()
    for metric in ALL:
        metric(p, t, mask=t > 0.1)
    assert time.process_time() - start < 5  # about 0.6 s
