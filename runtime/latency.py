"""Latency: several engines timed in turn, A B C A B C, so that their ratios hold on a machine whose speed drifts.

How much is timed is a ``Preset``. Three are those of MLPerf Mobile, single stream: a least number of queries and a least time,
both of which must be reached. Nothing is clipped: what is timed is reported, the slow ones too.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from edge_dp.errors import EdgeDpError, InputError
from edge_dp.runtime.engines.base import Engine, EngineState, Tensors, Timing

_LEAST_FOR_DRIFT = 10  # inferences, so that a tenth of them is one


@dataclass(frozen=True, slots=True)
class Preset:
    """How much is timed, per engine.

    queries: inferences, at least.
    seconds: time in inference, at least.
    warm_up: inferences before them, not counted.
    turn_seconds: how long the slowest engine is timed before it is the next one's turn; at least one inference.
    """

    name: str
    queries: int
    seconds: float
    warm_up: int
    turn_seconds: float
    note: str

    def reached(self, queries: int, seconds: float) -> bool:
        """Whether both minima are."""
        return queries >= self.queries and seconds >= self.seconds


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("brief", 50, 0.0, 5, 0.05, "a first look"),
        Preset("rapid", 64, 6.0, 5, 0.25, "MLPerf Mobile's shortest"),
        Preset("quick", 128, 10.0, 5, 0.25, "MLPerf Mobile's short one"),
        Preset("normal", 1024, 60.0, 5, 0.5, "MLPerf Mobile's for publication"),
        Preset("sustained", 1, 600.0, 5, 1.0, "ten minutes of inference, which show how a warm phone slows down"),
        Preset("counted", 2, 0.0, 0, 1e3, "for emulated devices, where every inference counts the same instructions"),
    )
}


def preset_named(name: str) -> Preset:
    """The preset called ``name``; InputError lists what there is."""
    if name not in PRESETS:
        raise InputError(f"preset {name!r}: expected one of {', '.join(PRESETS)}. Correct the name.")
    return PRESETS[name]


@dataclass(slots=True)
class Timed:
    """What one engine gave while it was timed, warm-up left out.

    instructions: of each inference, where the machine counts them; else empty.
    before, after: the engine and its machine before the warm-up, and when all engines were done.
    """

    nanoseconds: list[int] = field(default_factory=list)
    instructions: list[int] = field(default_factory=list)
    before: EngineState = field(default_factory=EngineState)
    after: EngineState = field(default_factory=EngineState)

    @property
    def reached(self) -> tuple[int, float]:
        """Inferences, and seconds in them."""
        return len(self.nanoseconds), sum(self.nanoseconds) * 1e-9

    def add(self, timing: Timing) -> None:
        """Append a turn."""
        self.nanoseconds += timing.nanoseconds
        self.instructions += timing.instructions


def time_in_turn(
    engines: Mapping[str, Engine],
    inputs: Tensors,
    preset: Preset,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[dict[str, Timed], dict[str, str]]:
    """Time active engines in turn until each has reached both minima of the preset.

    Every engine gets the same number of turns, so that all of them see the machine's good and bad moments alike; one that needs
    more inferences than another does more of them in a turn. An engine that fails drops out with what it has finished.

    Args:
        progress: called with the share that is done, 0 to 1, after every turn.

    Returns:
        What each engine gave, also of those that failed later than in their warm-up; and what went wrong, by engine.
    """
    timed: dict[str, Timed] = {name: Timed() for name in engines}
    pace: dict[str, Sequence[int]] = {}  # nanoseconds by which the next turn is planned
    errors: dict[str, str] = {}
    for name, engine in engines.items():
        try:
            timed[name].before = engine.state()
            pace[name] = engine.time(inputs, preset.warm_up).nanoseconds if preset.warm_up else ()
        except EdgeDpError as error:
            errors[name] = str(error)
    while waiting := [name for name in engines if name not in errors and not preset.reached(*timed[name].reached)]:
        turns = _turns({name: (timed[name], pace[name]) for name in waiting}, preset)
        for name, count in turns.items():
            try:
                timed[name].add(engines[name].time(inputs, count))
            except EdgeDpError as error:
                errors[name] = str(error)
            pace[name] = timed[name].nanoseconds
            progress(_share(preset, [timed[each] for each in engines if each not in errors]))
    for name in timed.keys() - errors.keys():
        with contextlib.suppress(EdgeDpError):  # its times stand, whatever comes after them
            timed[name].after = engines[name].state()
    return {name: found for name, found in timed.items() if found.nanoseconds}, errors


def _turns(waiting: Mapping[str, tuple[Timed, Sequence[int]]], preset: Preset) -> dict[str, int]:
    """Inferences of each engine in the next round: what it lacks, spread over the rounds that the longest still needs."""
    lacking: dict[str, float] = {}
    rounds = 1.0
    for name, (found, pace) in waiting.items():
        each = sum(pace) / len(pace) * 1e-9 if pace else math.inf
        queries, seconds = found.reached
        lacking[name] = max(preset.queries - queries, (preset.seconds - seconds) / max(each, 1e-9))
        rounds = max(rounds, lacking[name] * min(each / preset.turn_seconds, 1.0))  # a turn is one inference at least
    return {name: max(1, math.ceil(inferences / rounds)) for name, inferences in lacking.items()}


def _share(preset: Preset, timed: Sequence[Timed]) -> float:
    """Of the preset, by whichever minimum is farther away, mean over the engines."""
    shares = []
    for queries, seconds in (found.reached for found in timed):
        shares.append(min(queries / preset.queries, seconds / preset.seconds if preset.seconds else 1.0, 1.0))
    return sum(shares) / len(shares) if shares else 1.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Every inference's time, none left out, and what follows from them. Null where the machine does not tell.

    load_ms: from nothing to an active engine. first_ms: the first inference. milliseconds: the timed ones after warm-up.
    n, duration_s: how many, and their sum.
    kind: ``wall``, or ``instructions`` where the clock of an emulated device counts instructions: such times compare models and
    processors, and are no milliseconds of a phone.
    instructions: user instructions of an inference, the fewest, as interrupts add a few; instructions_vary: the most less these.
    drift: mean of the last tenth over the mean of the first; null for fewer than ten.
    valid: both minima of the preset were reached.
    temperature_c, frequency_mhz: of the processor, before and after.
    affinity: cores that the engine may use; empty where unknown.
    peak_memory_bytes: resident, of the process that runs the engine.
    """

    threads: int
    load_ms: float
    first_ms: float
    milliseconds: tuple[float, ...]
    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    min_ms: float
    preset: str = "brief"
    n: int = 0
    duration_s: float = 0.0
    kind: str = "wall"
    instructions: int | None = None
    instructions_vary: int | None = None
    drift: float | None = None
    valid: bool = True
    temperature_c: tuple[float | None, float | None] = (None, None)
    frequency_mhz: tuple[float | None, float | None] = (None, None)
    affinity: tuple[int, ...] = ()
    peak_memory_bytes: int | None = None


def summarise(timed: Timed, preset: Preset, *, threads: int, first_ms: float, emulated: bool = False) -> Latency:
    """Percentiles (linear interpolation), mean, minimum and drift of what was timed, which holds at least one inference.

    Args:
        threads: of the engine.
        first_ms: the engine's first inference.
        emulated: the device's clock counts instructions.
    """
    milliseconds = np.array(timed.nanoseconds) / 1e6
    p50, p90, p99 = (float(value) for value in np.quantile(milliseconds, (0.5, 0.9, 0.99)))
    counts, before, after = timed.instructions, timed.before, timed.after
    queries, seconds = timed.reached
    return Latency(
        threads=threads,
        load_ms=before.load_ns / 1e6,
        first_ms=first_ms,
        milliseconds=tuple(milliseconds.round(4).tolist()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        mean_ms=float(milliseconds.mean()),
        min_ms=float(milliseconds.min()),
        preset=preset.name,
        n=queries,
        duration_s=seconds,
        kind="instructions" if emulated else "wall",
        instructions=min(counts) if counts else None,
        instructions_vary=max(counts) - min(counts) if counts else None,
        drift=drift(milliseconds.tolist()),
        valid=preset.reached(queries, seconds),
        temperature_c=(before.temperature_c, after.temperature_c),
        frequency_mhz=(before.frequency_mhz, after.frequency_mhz),
        affinity=after.affinity or before.affinity,
        peak_memory_bytes=after.peak_memory_bytes or before.peak_memory_bytes,
    )


def drift(times: Sequence[float]) -> float | None:
    """Mean of the last tenth over the mean of the first tenth, in the order they were taken; None for fewer than ten.

    1.2 says that the machine has become a fifth slower.
    """
    tenth = len(times) // _LEAST_FOR_DRIFT
    return sum(times[-tenth:]) / sum(times[:tenth]) if tenth else None
