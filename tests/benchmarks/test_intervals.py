"""Intervals against formulas of statistics."""

import numpy as np
import pytest
from intervals import interval_of_mean, interval_of_ratio


def test_of_many_values_it_is_two_standard_errors():
    values = np.random.default_rng(5).normal(10, 2, 400)
    low, high = interval_of_mean(values)
    error = values.std() / 20
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_paired_scenes_cancel():
    scenes = np.array([0.01, 0.1, 0.5, 1.0, 3.0])
    low, high = interval_of_ratio(0.9 * scenes, scenes)
    assert low == pytest.approx(0.9) and high == pytest.approx(0.9)
    low, high = interval_of_mean(scenes)
    assert high / low > 5  # though the scenes themselves differ widely


def test_calls_repeat():
    values = [1.0, 2.0, 4.0]
    assert interval_of_mean(values) == interval_of_mean(values)


def test_scores_of_other_scenes_are_refused():
    with pytest.raises(ValueError, match="same scenes, found 2 and 3"):
        interval_of_ratio([1, 2], [1, 2, 3])
