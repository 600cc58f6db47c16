"""Budgets: what their texts mean, which are refused, and when one is missed."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.errors import InputError
from edge_dp.runtime.budgets import QUANTITIES, missed, parse_budget
from edge_dp.runtime.latency import PRESETS, Timed, summarise

LATENCY = replace(
    summarise(Timed([16_000_000] * 99 + [40_000_000], [80_000_000] * 3), PRESETS["brief"], threads=1, first_ms=50.0),
    load_ms=100.0,
    peak_memory_bytes=64_000_000,
)


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("p90=16ms", "p90", 16.0),
        ("mean=2.5ms", "mean", 2.5),
        ("load=100ms", "load", 100.0),
        ("p99=0.5s", "p99", 500.0),
        ("min=250us", "min", 0.25),
        ("instructions=80M", "instructions", 80e6),
        ("instructions=80000000", "instructions", 80e6),
        ("peak_memory=64MB", "peak_memory", 64e6),
        ("peak_memory=64MiB", "peak_memory", 64 * 2**20),
        (" first = 1. ms ", "first", 1.0),
    ],
)
def test_texts(text, quantity, limit):
    budget = parse_budget(text)
    assert (budget.quantity, budget.limit, budget.text) == (quantity, pytest.approx(limit), text)


@pytest.mark.parametrize(
    "text",
    ["", "p90", "p90=", "p90=16", "p90=16MB", "p95=16ms", "p90=-1ms", "p90=nanms", "p90=1e3ms", "p90=16ms;", "p90<16ms",
     "instructions=80ms", "peak_memory=64", "p90=16ms p50=1ms", "p90=१६ms"],
)  # fmt: skip
def test_bad_texts_list_the_quantities(text):
    with pytest.raises(InputError, match=r"expected such as p90=16ms.*p50, p90, p99.*instructions in .*peak_memory in"):
        parse_budget(text)


@given(st.text(max_size=30))
def test_any_text_is_a_budget_or_refused(text):
    try:
        budget = parse_budget(text)
    except InputError as error:
        assert "budget" in str(error)
    else:
        assert budget.quantity in QUANTITIES
        assert budget.limit >= 0


@given(st.sampled_from(sorted(QUANTITIES)), st.data(), st.floats(0.001, 1e6))
def test_a_budget_is_kept_up_to_its_limit(quantity, data, number):
    unit = data.draw(st.sampled_from(sorted(QUANTITIES[quantity].units)))
    budget = parse_budget(f"{quantity}={number:.6f}{unit}")
    value = {
        "p50": 16.0,
        "p90": 16.0,
        "p99": LATENCY.p99_ms,
        "mean": 16.24,
        "min": 16.0,
        "first": 50.0,
        "load": 100.0,
        "instructions": 80e6,
        "peak_memory": 64e6,
    }[quantity]
    assert bool(missed([budget], LATENCY)) == (value > budget.limit)


def test_words():
    budgets = [parse_budget(text) for text in ("p50=10ms", "p90=16ms", "instructions=79.5M", "peak_memory=60MB")]
    assert missed(budgets, LATENCY) == (
        "budget p50=10ms: p50 is 16 ms",
        "budget instructions=79.5M: instructions is 80 M",
        "budget peak_memory=60MB: peak memory is 64 MB",
    )


def test_milliseconds_of_an_emulated_device_are_none():
    emulated = replace(LATENCY, kind="instructions")
    words = missed([parse_budget("p90=1000ms"), parse_budget("instructions=80M")], emulated)
    assert len(words) == 1
    assert "instruction-count time is no milliseconds" in words[0]


def test_what_a_device_does_not_tell_is_missed():
    silent = replace(LATENCY, instructions=None, peak_memory_bytes=None)
    words = missed([parse_budget("instructions=80M"), parse_budget("peak_memory=64MB")], silent)
    assert [word.rpartition(":")[2] for word in words] == [
        " this device does not tell its instructions",
        " this device does not tell its peak memory",
    ]
