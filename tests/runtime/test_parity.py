"""Error statistics against formulas written out here, and judgement apart from them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.runtime.parity import THRESHOLDS, Threshold, compare, failures


def maps(*values):
    return [np.array(value, np.float32) for value in values]


def test_statistics_of_a_hand_made_error():
    statistics = compare(maps([1.0, 2.5], [4.0]), maps([1.0, 2.0], [3.0]), step=0.25)
    assert statistics.max_abs == 1.0
    assert statistics.mean_abs == pytest.approx(0.5)
    assert statistics.reference_range == 2.0
    assert statistics.snr_db == pytest.approx(10 * math.log10((1 + 4 + 9) / (0.25 + 1)))
    assert statistics.max_steps == 4.0
    assert statistics.not_finite == 0


def test_equal_outputs_have_no_snr_and_pass_everywhere():
    statistics = compare(maps([1.0, 2.0]), maps([1.0, 2.0]), step=0.1)
    assert statistics.snr_db is None
    assert statistics.max_abs == 0
    for threshold in THRESHOLDS.values():
        assert failures("d", statistics, threshold) == []


@given(
    st.integers(0, 2**32 - 1),
    st.floats(1e-3, 1e3),
    st.floats(1e-4, 10.0),
)
def test_statistics_scale_with_the_data(seed, scale, step):
    rng = np.random.default_rng(seed)
    reference, error = rng.normal(size=50), rng.normal(size=50) * 0.01
    plain = compare([reference + error], [reference], step)
    scaled = compare([(reference + error) * scale], [reference * scale], step * scale)
    assert scaled.max_abs == pytest.approx(plain.max_abs * scale)
    assert scaled.snr_db == pytest.approx(plain.snr_db)
    assert scaled.p99_steps == pytest.approx(plain.p99_steps)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_whatever_the_thresholds(bad):
    statistics = compare(maps([1.0, bad]), maps([1.0, 2.0]), step=0.1)
    assert statistics.not_finite == 1
    assert failures("disparity", statistics, Threshold()) == ["disparity: 1 values are NaN or infinite"]


def test_nothing_finite_at_all_is_still_a_statistic():
    statistics = compare(maps([np.nan]), maps([1.0]), step=0.1)
    assert statistics.not_finite == 1


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (Threshold(max_relative=0.1), "of the range, allowed"),
        (Threshold(min_snr_db=60.0), "SNR .* expected at least 60"),
        (Threshold(max_steps=1.0), "max error 2.0 steps, allowed 1"),
        (Threshold(p99_steps=1.0), "p99 error 2.0 steps, allowed 1"),
    ],
)
def test_each_threshold_is_judged_by_itself(threshold, words):
    statistics = compare([np.full(100, 1.2)], [np.linspace(1.0, 1.0, 100)], step=0.1)
    (text,) = failures("disparity", statistics, threshold)
    assert text.startswith("disparity: ")
    import re

    assert re.search(words, text)


def test_whole_steps_are_not_failed_by_float_rounding():
    step = np.float32(0.1)
    statistics = compare([np.full(10, 8 * step)], [np.zeros(10)], step=0.1)
    assert failures("d", statistics, Threshold(max_steps=8.0, p99_steps=8.0)) == []
