"""Error statistics against formulas written out here and those of SciPy; outputs to the bit."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cosine
from scipy.stats import mstats

from edge_dp.config import from_mapping
from edge_dp.errors import InputError
from edge_dp.runtime.parity import ErrorStatistics, compare, identical

finite = st.floats(-1e6, 1e6, width=32)
seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def maps(*values):
    return [np.array(value, np.float32) for value in values]


@st.composite
def pairs(draw):
    """Outputs and references of one to three cases, anything in them."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 7)))
    anything = arrays(np.float32, shape, elements=st.floats(width=32))
    count = draw(st.integers(1, 3))
    return [draw(anything) for _ in range(count)], [draw(anything) for _ in range(count)]


def test_statistics_of_a_hand_made_error():
    statistics = compare(maps([1.0, 2.5], [4.0]), maps([1.0, 2.0], [3.0]), step=0.25)
    assert statistics.max_abs == 1.0
    assert statistics.mean_abs == pytest.approx(0.5)
    assert statistics.p50_abs == pytest.approx(0.5)
    assert statistics.reference_range == 2.0
    assert statistics.snr_db == pytest.approx(10 * math.log10((1 + 4 + 9) / (0.25 + 1)))
    assert statistics.cosine == pytest.approx((1 + 5 + 12) / math.sqrt((1 + 4 + 9) * (1 + 6.25 + 16)))
    assert statistics.max_steps == 4.0
    assert (statistics.values, statistics.not_finite, statistics.reference_not_finite) == (3, 0, 0)
    assert statistics.histogram == (1, 0, 1, 0, 1) + (0,) * 11


@given(seeds, st.floats(1e-3, 10.0))
def test_statistics_are_those_of_scipy(rng, step):
    reference = rng.normal(size=(3, 700)).astype(np.float32)
    found = (reference + rng.standard_t(2, reference.shape) * 0.1).astype(np.float32)
    statistics = compare(list(found), list(reference), step)
    errors = np.abs(found.astype(float) - reference).ravel()
    # Hyndman and Fan's type 7: alphap = betap = 1
    quantiles = mstats.mquantiles(errors, [0.5, 0.99, 0.999], alphap=1, betap=1)
    assert [statistics.p50_abs, statistics.p99_abs, statistics.p999_abs] == pytest.approx(list(quantiles))
    assert [statistics.p50_steps, statistics.p99_steps, statistics.p999_steps] == pytest.approx(list(quantiles / step))
    assert statistics.cosine == pytest.approx(
        1 - cosine(found.ravel().astype(float), reference.ravel().astype(float)), abs=1e-12
    )
    assert statistics.max_steps == pytest.approx(errors.max() / step)
    counts, _ = np.histogram(np.floor(errors / step + 0.5), bins=[*range(16), np.inf])
    assert sum(statistics.histogram) == errors.size == statistics.values
    assert np.abs(np.array(statistics.histogram) - counts).sum() <= 2  # ties may go to the even number


@given(seeds, st.integers(-10, 10))
def test_statistics_scale_with_the_data(rng, exponent):
    """A power of two, which float32 multiplies without rounding."""
    scale = 2.0**exponent
    reference = rng.normal(size=50).astype(np.float32)
    found = (reference + rng.normal(size=50) * 0.01).astype(np.float32)
    plain, scaled = compare([found], [reference], 0.01), compare([found * scale], [reference * scale], 0.01 * scale)
    for name in ("max_abs", "mean_abs", "p50_abs", "p99_abs", "p999_abs", "reference_range", "step"):
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name) * scale)
    same = ("snr_db", "cosine", "max_steps", "p50_steps", "p99_steps", "p999_steps")
    for name in same:
        assert getattr(scaled, name) == pytest.approx(getattr(plain, name))
    assert scaled.histogram == plain.histogram


@given(st.lists(arrays(np.float32, (2, 3), elements=finite), min_size=1, max_size=3))
def test_an_output_against_itself_has_no_error(outputs):
    statistics = compare(outputs, [array.copy() for array in outputs], step=0.1)
    assert statistics.max_abs == statistics.mean_abs == statistics.p999_abs == statistics.max_steps == 0
    assert statistics.snr_db is None
    assert statistics.histogram[0] == statistics.values
    zero = not any(array.any() for array in outputs)
    assert statistics.cosine is None if zero else statistics.cosine == pytest.approx(1)


@given(pairs())
def test_whatever_comes_in_the_statistics_are_finite_ordered_and_survive_json(pair):
    statistics = compare(*pair, step=0.5)
    found, wanted = (np.concatenate([array.ravel() for array in side]) for side in pair)
    assert (statistics.nan, statistics.infinite) == (np.isnan(found).sum(), np.isinf(found).sum())
    assert statistics.not_finite == statistics.nan + statistics.infinite
    assert statistics.reference_not_finite == (~np.isfinite(wanted)).sum()
    assert sum(statistics.histogram) == (np.isfinite(found) & np.isfinite(wanted)).sum()
    assert 0 <= statistics.p50_abs <= statistics.p99_abs <= statistics.p999_abs <= statistics.max_abs
    assert statistics.cosine is None or -1 <= statistics.cosine <= 1
    text = json.dumps(asdict(statistics), allow_nan=False)
    assert from_mapping(ErrorStatistics, json.loads(text), "report") == statistics


def test_an_opposite_output_has_cosine_minus_one_and_an_orthogonal_one_zero():
    wanted = maps([1.0, -2.0, 3.0])
    assert compare(maps([-1.0, 2.0, -3.0]), wanted, 1.0).cosine == pytest.approx(-1)
    assert compare(maps([2.0, 1.0, 0.0]), wanted, 1.0).cosine == pytest.approx(0)
    assert compare(maps([0.0, 0.0, 0.0]), wanted, 1.0).cosine is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_left_out(bad):
    clean = compare(maps([1.0, 5.0]), maps([2.0, 5.0]), 1.0)
    found = compare(maps([1.0, bad, 5.0]), maps([2.0, 0.0, 5.0]), 1.0)
    reference = compare(maps([1.0, 0.0, 5.0]), maps([2.0, bad, 5.0]), 1.0)
    counts = {"values": 3, "not_finite": 1, "nan": int(np.isnan(bad)), "infinite": int(np.isinf(bad))}
    assert found == replace(clean, **counts)
    assert reference == replace(clean, values=3, reference_not_finite=1)


def test_nothing_finite_at_all_is_still_a_statistic():
    statistics = compare(maps([np.nan]), maps([1.0]), step=0.1)
    assert (statistics.nan, statistics.max_abs, statistics.snr_db, sum(statistics.histogram)) == (1, 0.0, None, 0)


@pytest.mark.parametrize(
    ("outputs", "references", "step", "words"),
    [
        (maps([1.0]), maps([1.0, 2.0]), 1.0, "equal shapes"),
        (maps([1.0], [2.0]), maps([1.0]), 1.0, "equal shapes"),
        ([], [], 1.0, "at least one"),
        (maps([1.0]), maps([1.0]), 0.0, "positive quantisation step, found 0.0"),
        (maps([1.0]), maps([1.0]), math.nan, "positive quantisation step, found nan"),
    ],
)
def test_what_cannot_be_compared_is_refused(outputs, references, step, words):
    with pytest.raises(InputError, match=words):
        compare(outputs, references, step)


# to the bit


def test_identical_counts_bits_by_output_over_all_cases():
    nan = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    one = [{"a": maps([0.0, 1.0])[0], "b": nan}, {"a": maps([2.0, 3.0])[0], "b": nan}]
    two = [{"a": maps([-0.0, 1.0])[0], "b": nan[::-1]}, {"a": maps([2.0, np.nextafter(np.float32(3), 4)])[0], "b": nan}]
    assert identical(one, one) == {"a": 0, "b": 0}
    assert identical(one, two) == identical(two, one) == {"a": 2, "b": 2}
    assert identical([], []) == {}


@given(arrays(np.uint32, 6), arrays(np.uint32, 6))
def test_identical_is_equality_of_bit_patterns(one, two):
    found = identical([{"a": one.view(np.float32)}], [{"a": two.view(np.float32)}])
    assert found == {"a": sum(x != y for x, y in zip(one.tolist(), two.tolist(), strict=True))}


@pytest.mark.parametrize("other", [[], [{"b": np.zeros(2, np.float32)}], [{"a": np.zeros(3, np.float32)}]])
def test_identical_refuses_what_has_no_counterpart(other):
    with pytest.raises(InputError):
        identical([{"a": np.zeros(2, np.float32)}], other)
