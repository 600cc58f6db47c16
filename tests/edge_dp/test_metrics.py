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


@pytest.mark.parametrize("method", ["average", "dense", "ordinal"])
@given(seed=SEEDS, levels=st.integers(2, 50))
@settings(max_examples=20, deadline=None)
def test_ranks_of_equal_values_against_scipy(method, seed, levels):
    rng = np.random.default_rng(seed)
    p, t, c = rng.integers(0, levels, 200), rng.integers(0, levels, 200), rng.random(200)

    def weighted(a, b):
        covariance = np.cov(rankdata(a, method), rankdata(b, method), aweights=c)
        return covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])

    expected = max(weighted(p, t), weighted(-p, t)) if method == "ordinal" else abs(weighted(p, t))
    assert one_minus_abs_spearman(p, t, weights=c, ranks=method) == pytest.approx(1 - expected, abs=1e-9)


def test_ranks_agree_without_ties_and_differ_with_them():
    p, t, _ = scene(8)
    untied = [one_minus_abs_spearman(p, t, ranks=method) for method in ("average", "dense", "ordinal")]
    assert untied == pytest.approx(untied[:1] * 3, rel=1e-9)
    p = np.round(p**3)  # most values in few levels
    tied = [one_minus_abs_spearman(p, t, ranks=method) for method in ("average", "dense", "ordinal")]
    assert np.abs(np.subtract.outer(tied, tied) + np.eye(3)).min() > 1e-4


@pytest.mark.parametrize("method", ["average", "dense", "ordinal"])
@given(seed=SEEDS, steps=st.lists(st.integers(1, 1000), min_size=12, max_size=12), falling=st.booleans())
@settings(max_examples=20, deadline=None)
def test_spearman_sees_order_alone(method, seed, steps, falling):
    rng = np.random.default_rng(seed)
    p, t, c = rng.integers(0, 12, 150), rng.random(150), rng.random(150)
    monotone = np.cumsum(steps) * (-1 if falling else 1)
    moved = one_minus_abs_spearman(monotone[p], t, weights=c, ranks=method)
    assert moved == pytest.approx(one_minus_abs_spearman(p, t, weights=c, ranks=method), abs=1e-12)


def test_ranking_all_pixels_takes_in_those_that_do_not_count():
    p, t, _ = scene(9)
    keep = np.random.default_rng(0).random(p.shape) < 0.5
    expected = 1 - abs(np.corrcoef(rankdata(p)[keep], rankdata(t)[keep])[0, 1])
    assert one_minus_abs_spearman(p, t, mask=keep, rank_all=True) == pytest.approx(expected, rel=1e-9)
    assert abs(one_minus_abs_spearman(p, t, mask=keep) - expected) > 1e-5
    p[~keep] = np.nan
    with pytest.raises(InputError, match=r"prediction: expected finite values, found NaN .* All pixels are ranked"):
        one_minus_abs_spearman(p, t, mask=keep, rank_all=True)


@given(seed=SEEDS)
@settings(max_examples=20, deadline=None)
def test_row_weight_matters_unless_binary(seed):
    """Rows times c minimise sum c^2 r^2: lstsq says the same, and it is never below the minimum of sum c r^2."""
    p, t, c = scene(seed)
    fit = np.linalg.lstsq(np.stack([p, np.ones_like(p)], 1) * c[:, None], t * c)[0]
    expected = np.sqrt((c * (fit[0] * p + fit[1] - t) ** 2).sum() / c.sum())
    assert ai2(p, t, weights=c, row_weight="c") == pytest.approx(expected, rel=1e-9)
    assert ai2(p, t, weights=c, row_weight="c") > ai2(p, t, weights=c)
    binary = (c > 0.5) * 1.0
    assert ai2(p, t, weights=binary, row_weight="c") == pytest.approx(ai2(p, t, weights=binary), rel=1e-12)


def test_one_fit_of_ai1_is_the_least_squares_fit():
    p, t, c = scene(10)
    slope, offset = np.polyfit(p, t, 1, w=np.sqrt(c))
    expected = np.average(abs(slope * p + offset - t), weights=c)
    assert ai1(p, t, weights=c, fits=1) == pytest.approx(expected, rel=1e-9)


def test_more_fits_come_closer_to_the_minimum():
    p, t, c = scene(2)
    least = least_absolute_error(p, t, c)
    errors = [ai1(p, t, weights=c, fits=fits) for fits in (1, 2, 5, 6, 50)]
    assert errors == sorted(errors, reverse=True)
    assert least <= errors[-1] <= 1.0001 * least


def test_keywords_of_unknown_value_are_refused():
    p, t, _ = scene(0)
    with pytest.raises(InputError, match="fits: expected 1 or more, found 0"):
        ai1(p, t, fits=0)
    with pytest.raises(InputError, match=r"row_weight: expected one of sqrt\(c\), c, found c\^2"):
        ai2(p, t, row_weight="c^2")
    with pytest.raises(InputError, match="ranks: expected one of average, dense, ordinal, found min"):
        one_minus_abs_spearman(p, t, ranks="min")


def test_affine_prediction_is_perfect_at_full_resolution_too():
    """A million float32 pixels: sums must not lose what little is left of the errors."""
    truth = np.random.default_rng(0).integers(1, 256, (1008, 1344)) / 255
    prediction = (0.3 * truth + 7).astype(np.float32)
    for metric in ALL:
        assert metric(prediction, truth, mask=truth > 0.1) == pytest.approx(0, abs=1e-5)
