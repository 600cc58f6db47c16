"""Budgets: limits that a run must keep, such as ``p90=16ms`` or ``instructions=80M``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_dp.errors import InputError
from edge_dp.runtime.latency import Latency

_MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_COUNT = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}
_BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_FORM = re.compile(r"\s*([a-z0-9_]+)\s*=\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([A-Za-zµ]*)\s*")


@dataclass(frozen=True, slots=True)
class _Quantity:
    """What can be limited: its units, as factors of the one it is kept in, and where a latency has it."""

    units: dict[str, float]
    unit: str  # it is shown in, beside its factor
    value: Callable[[Latency], float | None]


QUANTITIES: dict[str, _Quantity] = {
    "p50": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.p50_ms),
    "p90": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.p90_ms),
    "p99": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.p99_ms),
    "mean": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.mean_ms),
    "min": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.min_ms),
    "first": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.first_ms),
    "load": _Quantity(_MILLISECONDS, "ms", lambda latency: latency.load_ms),
    "instructions": _Quantity(_COUNT, "M", lambda latency: latency.instructions),
    "peak_memory": _Quantity(_BYTES, "MB", lambda latency: latency.peak_memory_bytes),
}


@dataclass(frozen=True, slots=True)
class Budget:
    """An upper limit. limit: ms, instructions or bytes. text: as it was asked for."""

    quantity: str
    limit: float
    text: str


def parse_budget(text: str) -> Budget:
    """Read QUANTITY=NUMBER UNIT, such as ``p90=16ms``, ``mean=2.5ms``, ``instructions=80M`` or ``peak_memory=64MB``.

    Raises:
        InputError: it is none; the message lists quantities and units.
    """
    match = _FORM.fullmatch(text)
    quantity = QUANTITIES.get(match[1]) if match else None
    if match is None or quantity is None or match[3] not in quantity.units:
        known = "; ".join(
            f"{', '.join(names)} in {', '.join(unit or 'units' for unit in units)}" for units, names in _by_units()
        )
        raise InputError(f"budget {text!r}: expected such as p90=16ms or instructions=80M: {known}. Correct it.")
    return Budget(match[1], float(match[2]) * quantity.units[match[3]], text)


def missed(budgets: Sequence[Budget], latency: Latency) -> tuple[str, ...]:
    """What of ``budgets`` the latency exceeds, or cannot be judged by, in words; empty where it keeps them all."""
    return tuple(words for budget in budgets if (words := _missed(budget, latency)))


def _missed(budget: Budget, latency: Latency) -> str | None:
    quantity = QUANTITIES[budget.quantity]
    if quantity.units is _MILLISECONDS and latency.kind == "instructions":
        return (
            f"budget {budget.text}: an emulated device counts instructions, and its instruction-count time is no "
            "milliseconds. Set instructions=..."
        )
    value, name = quantity.value(latency), budget.quantity.replace("_", " ")
    if value is None:
        return f"budget {budget.text}: this device does not tell its {name}"
    if value <= budget.limit:
        return None
    found = f"{value / quantity.units[quantity.unit]:.4g} {quantity.unit}"
    return f"budget {budget.text}: {name} is {found}"


def _by_units() -> list[tuple[dict[str, float], list[str]]]:
    """Quantities that share their units, together."""
    return [
        (units, [name for name, quantity in QUANTITIES.items() if quantity.units is units])
        for units in (_MILLISECONDS, _COUNT, _BYTES)
    ]
