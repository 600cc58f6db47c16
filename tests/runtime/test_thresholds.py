"""Judgement: one table of thresholds, apart from the statistics, and files that replace its entries."""

import json
import re

import numpy as np
import pytest

from edge_dp.converters.configs import CONFIGS
from edge_dp.errors import InputError, SchemaError
from edge_dp.runtime.parity import compare
from edge_dp.runtime.thresholds import THRESHOLDS, Threshold, failures, read_thresholds


def statistics(error, step=0.1, reference=1.0):
    wanted = np.full(100, reference)
    return compare([wanted + error], [wanted], step)


def test_the_table_has_an_entry_for_every_precision_of_every_format():
    assert set(THRESHOLDS) == {precision for config in CONFIGS.values() for precision in config.precisions}


def test_equal_outputs_pass_everywhere():
    for threshold in (*THRESHOLDS.values(), Threshold(min_snr_db=1e3, min_cosine=1.0, max_relative=0.0)):
        assert failures("d", statistics(0.0), threshold) == []


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (Threshold(max_relative=0.1), "max error 2.00e-01 of the range, allowed 1e-01"),
        (Threshold(min_snr_db=60.0), "SNR 14.0 dB, expected at least 60"),
        (Threshold(max_steps=1.0), "max error 2.0 steps, allowed 1"),
        (Threshold(p99_steps=1.0), "p99 error 2.0 steps, allowed 1"),
        (Threshold(p999_steps=1.5), "p99.9 error 2.0 steps, allowed 1.5"),
    ],
)
def test_each_threshold_is_judged_by_itself(threshold, words):
    assert failures("disparity", statistics(0.2), threshold) == [f"disparity: {words}"]


def test_cosine_is_judged():
    error = compare([np.array([1.0, 1.0])], [np.array([1.0, 0.0])], 1.0)
    assert failures("d", error, Threshold(min_cosine=0.7)) == []
    assert failures("d", error, Threshold(min_cosine=0.75)) == ["d: cosine 0.707107, expected at least 0.75"]


def test_an_error_where_all_should_be_zero_has_no_snr_and_is_missed():
    error = statistics(0.5, reference=0.0)
    assert error.snr_db is None
    (missed,) = failures("d", error, Threshold(min_snr_db=10.0))
    assert "no SNR" in missed


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_whatever_the_thresholds(bad):
    error = compare([np.array([1.0, bad])], [np.array([1.0, 2.0])], 0.1)
    assert failures("disparity", error, Threshold()) == ["disparity: 1 values are NaN or infinite"]
    error = compare([np.array([1.0, 2.0])], [np.array([1.0, bad])], 0.1)
    assert failures("disparity", error, Threshold()) == ["disparity: 1 values of the reference are NaN or infinite"]


def test_whole_steps_are_not_failed_by_float_rounding():
    step = np.float32(0.1)
    error = compare([np.full(10, 8 * step)], [np.zeros(10)], step=0.1)
    assert failures("d", error, Threshold(max_steps=8.0, p99_steps=8.0, p999_steps=8.0)) == []


def test_a_file_replaces_entries_whole_and_leaves_the_others(tmp_path):
    path = tmp_path / "strict.json"
    path.write_text(json.dumps({"int8": {"p999_steps": 3, "min_snr_db": None}}))
    assert read_thresholds(path) == {**THRESHOLDS, "int8": Threshold(p999_steps=3.0)}
    path.write_text("{}")
    assert read_thresholds(path) == THRESHOLDS


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"int4": {}}, "unknown precision 'int4'; known are fp32, fp16"),
        ({"int8": {"max_stepz": 1}}, "int8: unknown field 'max_stepz'; known are max_relative"),
        ({"int8": {"max_steps": "1"}}, "int8: max_steps: expected float"),
        ({"int8": {"max_steps": True}}, "int8: max_steps: expected float"),
        ({"int8": {"max_steps": -1}}, "int8: max_steps: expected a number of at least 0, found -1"),
        ({"int8": {"min_cosine": 1.5}}, "int8: min_cosine: expected a number from -1 to 1, found 1.5"),
        ({"int8": 3}, "int8: expected a mapping"),
        ([], "expected a JSON object"),
    ],
)
def test_files_that_are_no_thresholds_are_refused(tmp_path, content, words):
    path = tmp_path / "thresholds.json"
    path.write_text(json.dumps(content))
    with pytest.raises(SchemaError, match=f"thresholds.json: {re.escape(words)}"):
        read_thresholds(path)


def test_numbers_beyond_all_bounds_and_missing_files_are_refused(tmp_path):
    path = tmp_path / "thresholds.json"
    path.write_text('{"int8": {"max_steps": NaN}}')
    with pytest.raises(SchemaError, match="max_steps: expected a finite number"):
        read_thresholds(path)
    with pytest.raises(InputError, match=r"absent\.json"):
        read_thresholds(tmp_path / "absent.json")
