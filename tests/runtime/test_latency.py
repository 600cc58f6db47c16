"""Percentiles against numpy, and that engines take turns."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.errors import EngineError
from edge_dp.runtime.latency import summarise, time_in_turn


@given(st.lists(st.floats(0.01, 1e4), min_size=1, max_size=200))
def test_summary_leaves_nothing_out(times):
    latency = summarise(2, 5.0, 3.0, times)
    assert len(latency.milliseconds) == len(times)
    assert latency.p50_ms == pytest.approx(np.median(times))
    assert latency.min_ms <= latency.p50_ms <= latency.p90_ms <= latency.p99_ms <= max(times) * (1 + 1e-12)
    assert latency.mean_ms == pytest.approx(sum(times) / len(times))


def test_engines_take_turns_and_warm_up_is_not_counted():
    calls = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def infer(self, inputs):
            calls.append((self.name, inputs))

    done = []
    times, errors = time_in_turn(
        {"a": Recorder("a"), "b": Recorder("b")}, {"x": 1}, rounds=3, warm_up=2, progress=done.append
    )
    assert [name for name, _ in calls] == ["a", "b"] * 5
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert done == [1, 2, 3, 4, 5]
    assert errors == {}


def test_an_engine_that_fails_drops_out_and_the_others_go_on():
    class Fragile:
        calls = 0

        def infer(self, inputs):
            self.calls += 1
            if self.calls == 2:
                raise EngineError("out of memory")

    class Sound:
        def infer(self, inputs):
            return {}

    times, errors = time_in_turn({"a": Fragile(), "b": Sound()}, {}, rounds=4, warm_up=0, progress=lambda _: None)
    assert errors == {"a": "out of memory"}
    assert {name: len(values) for name, values in times.items()} == {"b": 4}
