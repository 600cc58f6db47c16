"""Latency: several engines timed in turn, A B C A B C, so that their ratios hold on a machine whose speed drifts."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge_dp.errors import EngineError
from edge_dp.runtime.engines.base import Engine, Tensors


@dataclass(frozen=True, slots=True)
class Latency:
    """Every inference's time, none left out, and what follows from them. Milliseconds.

    load_ms: from nothing to an active engine. first_ms: the first inference. milliseconds: the timed ones after warm-up.
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


def summarise(threads: int, load_ms: float, first_ms: float, milliseconds: Sequence[float]) -> Latency:
    """Percentiles (linear interpolation), mean and minimum of ``milliseconds``, which holds at least one."""
    p50, p90, p99 = (float(value) for value in np.quantile(milliseconds, (0.5, 0.9, 0.99)))
    mean, least = float(np.mean(milliseconds)), float(min(milliseconds))
    rounded = tuple(round(value, 4) for value in milliseconds)
    return Latency(threads, load_ms, first_ms, rounded, p50, p90, p99, mean, least)


def time_in_turn(
    engines: Mapping[str, Engine], inputs: Tensors, rounds: int, warm_up: int, progress: Callable[[int], None]
) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Time active engines in turn; one that fails drops out, the others go on.

    Args:
        rounds: timed inferences per engine; the engines take turns within a round.
        warm_up: rounds before, not timed.
        progress: called with the number of rounds done, warm-up included.

    Returns:
        Milliseconds of each inference of each engine that lasted, and what went wrong with the others.
    """
    errors: dict[str, str] = {}
    times: dict[str, list[float]] = {name: [] for name in engines}
    for index in range(warm_up + rounds):
        for name in list(times):
            start = time.perf_counter()
            try:
                engines[name].infer(inputs)
            except EngineError as error:
                errors[name] = str(error)
                del times[name]
                continue
            elapsed = (time.perf_counter() - start) * 1e3
            if index >= warm_up:
                times[name].append(elapsed)
        progress(index + 1)
    return times, errors
