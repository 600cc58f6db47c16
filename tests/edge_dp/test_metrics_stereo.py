import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.errors import InputError
from edge_dp.metrics import bad_px, d1, epe


def bad_1px(prediction, target, mask=None, weights=None):
    return bad_px(prediction, target, 1.0, mask, weights)


ALL = [epe, bad_1px, d1]
#            error 0     2.9 / 10 %   4 / 4 %   4 / 8 %   3 / 30 %  8, target 0
TARGET = np.array([[10.0, 29.0, 100.0], [50.0, 10.0, 0.0]])
PREDICTION = np.array([[10.0, 31.9, 104.0], [46.0, 13.0, -8.0]])


def test_by_hand():
    assert epe(PREDICTION, TARGET) == pytest.approx((0 + 2.9 + 4 + 4 + 3 + 8) / 6)
    assert bad_px(PREDICTION, TARGET, 3) == pytest.approx(3 / 6)  # the pixel at 3 px sharp is not bad
    assert bad_px(PREDICTION, TARGET, 0) == pytest.approx(5 / 6)
    assert d1(PREDICTION, TARGET) == pytest.approx(2 / 6)  # 4 px at 100 is within 5 %, 3 px are not above 3


@pytest.mark.parametrize("metric", ALL)
def test_type_and_a_perfect_prediction(metric):
    found = metric(TARGET.astype(np.float32), TARGET)
    assert type(found) is float
    assert found == 0


@pytest.mark.parametrize("metric", ALL)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_weight_is_a_count(metric, seed):
    """An integer weight scores as the pixel repeated so often; 0 as the pixel left out, whatever it holds."""
    rng = np.random.default_rng(seed)
    t = rng.uniform(-100, 100, 60)
    p = t + rng.normal(0, 4, 60)
    counts = rng.integers(0, 4, 60)
    mask = rng.random(60) < 0.7
    counts[0], mask[0] = 1, True
    repeated = np.repeat(np.arange(60)[mask], counts[mask])
    expected = metric(p[repeated], t[repeated])
    p[~mask], t[counts == 0] = np.nan, np.inf
    assert metric(p, t, mask, counts) == pytest.approx(expected, rel=1e-12)


@given(seed=st.integers(0, 2**32 - 1), shift=st.integers(-50, 50))
def test_epe_and_bad_px_see_differences_alone_and_d1_is_the_stricter(seed, shift):
    rng = np.random.default_rng(seed)
    p, t = rng.integers(-300, 300, (2, 40))
    assert epe(p + shift, t + shift) == epe(t, p) == pytest.approx(np.abs(p - t).mean())
    assert bad_px(p + shift, t + shift, 3) == bad_px(p, t, 3)
    assert d1(p, t) <= bad_px(p, t, 3)


@pytest.mark.parametrize("metric", ALL)
def test_what_cannot_be_scored_is_refused(metric):
    broken = TARGET.copy()
    broken[1, 2] = np.nan
    with pytest.raises(InputError, match="prediction: expected finite values, found NaN or infinity in 1 of 6 pixels"):
        metric(broken, TARGET)
    with pytest.raises(InputError, match="target: expected finite values"):
        metric(TARGET, broken)
    with pytest.raises(InputError, match=r"prediction: expected the shape of the target, \(2, 3\), found \(3, 2\)"):
        metric(TARGET.T, TARGET)
    with pytest.raises(InputError, match="mask: expected at least one pixel with ground truth, found none"):
        metric(TARGET, TARGET, np.zeros(TARGET.shape, bool))
    with pytest.raises(InputError, match="weights: expected finite values, 0 or above"):
        metric(TARGET, TARGET, None, np.full(TARGET.shape, np.nan))


@pytest.mark.parametrize("threshold", [-1, float("nan"), float("inf")])
def test_a_threshold_that_is_none_is_refused(threshold):
    with pytest.raises(InputError, match=r"threshold_px: expected a finite number, 0 or above"):
        bad_px(TARGET, TARGET, threshold)
