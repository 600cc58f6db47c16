"""Percentiles against numpy, turns, minima and drift, on engines whose times are known."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.config import from_mapping
from edge_dp.errors import DeviceError, EngineError, InputError
from edge_dp.runtime.engines.base import Engine, EngineState, Signature, Timing
from edge_dp.runtime.latency import PRESETS, Latency, Preset, Timed, drift, preset_named, summarise, time_in_turn

SMALL = Preset("small", queries=5, seconds=0.2, warm_up=2, turn_seconds=0.05, note="")
TIMES = st.lists(st.integers(1000, 10**10), min_size=1, max_size=200)


class Clockwork(Engine):
    """Takes ``seconds`` for every inference by its own clock, and writes down what it was asked for."""

    name = "clockwork"

    def __init__(self, log, label, seconds, fails_at=None, error=None):
        self.log, self.label, self.seconds = log, label, seconds
        self.fails_at, self.error, self.done = fails_at, error, 0

    def _activate(self):
        pass

    def _infer(self, inputs):
        raise NotImplementedError

    def time(self, inputs, count):
        self.log.append((self.label, count))
        self.done += count
        if self.fails_at is not None and self.done >= self.fails_at:
            raise self.error
        nanoseconds = round(self.seconds * 1e9)
        return Timing((nanoseconds,) * count, tuple(range(100, 100 + count)))

    def state(self):
        return EngineState("1", 7_000_000, 1000 + self.done, 40.0 + self.done, 2000.0, (0, 1))


def in_turn(preset, **seconds):
    log = []
    engines = {name: Clockwork(log, name, each) for name, each in seconds.items()}
    return (*time_in_turn(engines, {}, preset), log)


@given(TIMES)
def test_summary_leaves_nothing_out(nanoseconds):
    latency = summarise(Timed(nanoseconds), SMALL, threads=2, first_ms=3.0)
    milliseconds = [each / 1e6 for each in nanoseconds]
    assert latency.milliseconds == pytest.approx(milliseconds, abs=1e-4)
    assert latency.p50_ms == pytest.approx(np.median(milliseconds))
    assert latency.p90_ms == pytest.approx(np.percentile(milliseconds, 90))
    assert latency.p99_ms == pytest.approx(np.percentile(milliseconds, 99))
    assert latency.mean_ms == pytest.approx(sum(milliseconds) / len(milliseconds))
    assert latency.min_ms == min(milliseconds)
    assert latency.n == len(nanoseconds)
    assert latency.duration_s == pytest.approx(sum(nanoseconds) / 1e9)


@given(TIMES, st.integers(1, 300), st.floats(0, 20))
def test_valid_says_whether_both_minima_were_reached(nanoseconds, queries, seconds):
    preset = replace(SMALL, queries=queries, seconds=seconds)
    latency = summarise(Timed(nanoseconds), preset, threads=1, first_ms=1.0)
    assert latency.valid == (len(nanoseconds) >= queries and sum(nanoseconds) * 1e-9 >= seconds)


def test_what_engine_and_machine_say():
    before = EngineState("1", 12_000_000, 5, 41.5, 1800.0, (2, 3))
    after = EngineState("1", 12_000_000, 9, 55.0, None, (2, 3))
    latency = summarise(Timed([10, 20], [300, 311], before, after), SMALL, threads=1, first_ms=2.0, emulated=True)
    assert latency.load_ms == 12.0
    assert latency.peak_memory_bytes == 9
    assert latency.temperature_c == (41.5, 55.0)
    assert latency.frequency_mhz == (1800.0, None)
    assert latency.affinity == (2, 3)
    assert latency.kind == "instructions"
    assert latency.instructions == 300
    assert latency.instructions_vary == 11
    assert latency.preset == "small"


def test_a_silent_machine_leaves_nulls_and_the_report_reads_them_back():
    latency = summarise(Timed([10, 20]), SMALL, threads=1, first_ms=2.0)
    assert (latency.instructions, latency.instructions_vary, latency.peak_memory_bytes, latency.drift) == (None,) * 4
    assert latency.temperature_c == (None, None)
    assert latency.kind == "wall"
    assert from_mapping(Latency, asdict(latency), "report") == latency


@given(st.lists(st.floats(0.1, 100), min_size=10, max_size=300))
def test_drift_is_the_last_tenth_over_the_first(times):
    tenth = len(times) // 10
    assert drift(times) == pytest.approx(np.mean(times[-tenth:]) / np.mean(times[:tenth]))


def test_drift_of_a_machine_that_slows_down():
    assert drift([1.0] * 10 + [5.0] * 80 + [1.3] * 10) == pytest.approx(1.3)
    assert drift([1.0] * 9) is None


def test_mlperf_minima():
    """MLPerf Mobile's rules: 1024 queries and 60 s; the app's quick and rapid modes."""
    minima = {name: (PRESETS[name].queries, PRESETS[name].seconds) for name in ("normal", "quick", "rapid")}
    assert minima == {"normal": (1024, 60.0), "quick": (128, 10.0), "rapid": (64, 6.0)}
    assert PRESETS["sustained"].seconds == 600.0
    with pytest.raises(InputError, match="preset 'fast': expected one of brief, rapid, quick, normal"):
        preset_named("fast")


@pytest.mark.parametrize(
    ("each", "queries"),
    [(0.02, 10), (0.1, 5), (0.001, 200)],
    ids=["time decides", "queries decide", "fast"],
)
def test_both_minima_are_reached_and_hardly_exceeded(each, queries):
    timed, errors, _ = in_turn(SMALL, a=each)
    assert errors == {}
    assert queries <= len(timed["a"].nanoseconds) <= queries + 1
    assert len(timed["a"].instructions) == len(timed["a"].nanoseconds)


@given(st.dictionaries(st.sampled_from("abcd"), st.floats(1e-4, 0.4), min_size=1))
def test_engines_take_turns_of_which_each_has_as_many(seconds):
    """A B C A B C, whatever the engines' speeds, but for a last turn that one needs and another does not."""
    timed, errors, log = in_turn(SMALL, **seconds)
    assert errors == {}
    assert log[: len(seconds)] == [(name, 2) for name in seconds]  # warm-up
    rounds = [name for name, _ in log[len(seconds) :]]
    counts = [rounds.count(name) for name in seconds]
    assert max(counts) - min(counts) <= 1
    whole = min(counts) * len(seconds)
    assert rounds[:whole] == list(seconds) * min(counts)
    for name, found in timed.items():
        assert len(found.nanoseconds) == sum(count for each, count in log[len(seconds) :] if each == name)
        assert summarise(found, SMALL, threads=1, first_ms=0.0).valid


def test_warm_up_is_not_counted_and_the_state_is_taken_around():
    timed, _, log = in_turn(replace(SMALL, queries=1, seconds=0.0, warm_up=7), a=0.01)
    assert log == [("a", 7), ("a", 1)]
    assert len(timed["a"].nanoseconds) == 1
    assert (timed["a"].before.temperature_c, timed["a"].after.temperature_c) == (40.0, 48.0)


def test_without_warm_up_the_first_turn_is_one_inference():
    _, _, log = in_turn(replace(SMALL, warm_up=0), a=0.001)
    assert log[0] == ("a", 1)


def test_emulated_devices_need_few_inferences():
    """They are slow there, and all alike."""
    timed, _, log = in_turn(PRESETS["counted"], a=5.0, b=0.1)
    assert log == 2 * [("a", 1), ("b", 1)]
    assert len(timed["b"].instructions) == 2


@pytest.mark.parametrize("error", [EngineError("out of memory"), DeviceError("gone")], ids=str)
def test_an_engine_that_fails_drops_out_with_what_it_has_and_the_others_go_on(error):
    log = []
    engines = {
        "never": Clockwork(log, "never", 0.02, fails_at=1, error=error),
        "later": Clockwork(log, "later", 0.02, fails_at=6, error=error),
        "sound": Clockwork(log, "sound", 0.02),
    }
    timed, errors = time_in_turn(engines, {}, SMALL)
    assert errors == {"never": str(error), "later": str(error)}
    assert set(timed) == {"later", "sound"}
    assert 1 <= len(timed["later"].nanoseconds) < 6
    assert not summarise(timed["later"], SMALL, threads=1, first_ms=0.0).valid
    assert len(timed["sound"].nanoseconds) == 10


def test_progress_rises_to_one():
    shares = []
    engines = {"a": Clockwork([], "a", 0.01), "b": Clockwork([], "b", 0.03)}
    time_in_turn(engines, {}, SMALL, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


class Sleeper(Clockwork):
    """A real clock around the base class's own ``time``."""

    def __init__(self):
        super().__init__([], "sleeper", 0)
        self.signature, self.artifact, self._active = Signature((), ()), None, True

    def _infer(self, inputs):
        return []

    time = Engine.time


def test_real_clock():
    preset = replace(SMALL, queries=50, seconds=0.02)
    timed, _ = time_in_turn({"a": Sleeper(), "b": Sleeper()}, {}, preset)
    for found in timed.values():
        latency = summarise(found, preset, threads=1, first_ms=0.0)
        assert latency.valid
        assert latency.n >= 50
        assert latency.min_ms > 0
