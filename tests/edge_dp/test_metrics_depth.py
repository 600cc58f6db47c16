import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.errors import InputError
from edge_dp.metrics import abs_rel, delta, log_rmse, rmse, sq_rel


def delta_1(prediction, target, mask=None, weights=None):
    return delta(prediction, target, 1, mask, weights)


ALL = [abs_rel, sq_rel, rmse, log_rmse, delta_1]
TARGET = np.array([[1.0, 2.0], [4.0, 10.0]])
PREDICTION = np.array([[1.25, 1.7], [8.0, 10.0]])  # ratios 1.25, 1.176, 2, 1


def test_by_hand():
    assert abs_rel(PREDICTION, TARGET) == pytest.approx((0.25 + 0.15 + 1 + 0) / 4)
    assert sq_rel(PREDICTION, TARGET) == pytest.approx((0.0625 + 0.045 + 4 + 0) / 4)
    assert rmse(PREDICTION, TARGET) == pytest.approx(math.sqrt((0.0625 + 0.09 + 16) / 4))
    squares = (math.log(1.25) ** 2, math.log(0.85) ** 2, math.log(2) ** 2, 0)
    assert log_rmse(PREDICTION, TARGET) == pytest.approx(math.sqrt(sum(squares) / 4))
    assert [delta(PREDICTION, TARGET, power) for power in (1, 2, 3)] == [0.5, 0.75, 0.75]  # 1.25 is not below 1.25


@pytest.mark.parametrize("metric", ALL)
def test_type_and_a_perfect_prediction(metric):
    found = metric(TARGET.astype(np.float32), TARGET)
    assert type(found) is float
    assert found == (1 if metric is delta_1 else 0)


@pytest.mark.parametrize("metric", ALL)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_weight_is_a_count(metric, seed):
    """An integer weight scores as the pixel repeated so often; 0 as the pixel left out, whatever it holds."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(0.2, 20, 60)
    p = t * rng.lognormal(0, 0.3, 60)
    counts = rng.integers(0, 4, 60)
    mask = rng.random(60) < 0.7
    counts[0], mask[0] = 1, True
    repeated = np.repeat(np.arange(60)[mask], counts[mask])
    expected = metric(p[repeated], t[repeated])
    p[~mask], t[counts == 0] = -1, 0
    assert metric(p, t, mask, counts) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), unit=st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_units_and_symmetries(seed, unit):
    """Of another unit: ratios stay, lengths follow. log_rmse and delta do not care which of both is the truth."""
    rng = np.random.default_rng(seed)
    p, t = rng.uniform(0.2, 20, (2, 50))
    for metric in (abs_rel, log_rmse, delta_1):
        assert metric(unit * p, unit * t) == pytest.approx(metric(p, t), rel=1e-9)
    for metric in (sq_rel, rmse):
        assert metric(unit * p, unit * t) == pytest.approx(unit * metric(p, t), rel=1e-9)
    for metric in (log_rmse, delta_1):
        assert metric(p, t) == pytest.approx(metric(t, p), rel=1e-9)
    assert delta(p, t, 1) <= delta(p, t, 2) <= delta(p, t, 3)


@pytest.mark.parametrize("metric", ALL)
@pytest.mark.parametrize("bad", [0.0, -0.5])
def test_depth_must_be_positive(metric, bad):
    broken = TARGET.copy()
    broken[0, 1] = bad
    with pytest.raises(InputError, match=rf"prediction: expected depth above 0 m, found {bad:g} and in all 1 of 4 pix"):
        metric(broken, TARGET)
    with pytest.raises(InputError, match="target: expected depth above 0 m"):
        metric(TARGET, broken)


@pytest.mark.parametrize("metric", ALL)
def test_what_cannot_be_scored_is_refused(metric):
    with pytest.raises(InputError, match="target: expected finite values, found NaN or infinity in 1 of 4 pixels"):
        metric(TARGET, np.where(TARGET == 4, np.inf, TARGET))
    with pytest.raises(InputError, match="prediction: expected finite values"):
        metric(np.where(TARGET == 4, np.nan, TARGET), TARGET)
    with pytest.raises(InputError, match=r"prediction: expected the shape of the target, \(2, 2\), found \(4,\)"):
        metric(TARGET.ravel(), TARGET)
    with pytest.raises(InputError, match="mask: expected at least one pixel with ground truth, found none"):
        metric(TARGET, TARGET, np.zeros(TARGET.shape, bool))


@pytest.mark.parametrize("power", [0, 4, 1.5])
def test_an_unpublished_power_is_refused(power):
    with pytest.raises(InputError, match="power: expected 1, 2 or 3"):
        delta(TARGET, TARGET, power)
