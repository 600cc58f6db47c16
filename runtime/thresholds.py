"""What artifacts of each precision must reach: one table, ``thresholds.json``, apart from the statistics that it judges."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError
from edge_dp.files import json_load

if TYPE_CHECKING:
    from edge_dp.runtime.parity import ErrorStatistics

_TABLE = Path(__file__).with_name("thresholds.json")
_ROUNDING = 1e-3  # whole steps come out of float32 arithmetic a little more or less than whole


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a precision must reach; null where it is not asked for.

    max_relative: largest absolute error over the reference's range, or the error itself where that is zero.
    min_snr_db: of the signal-to-noise ratio; an exact output reaches any.
    max_steps, p99_steps, p999_steps: largest error and 99 and 99.9 % quantile, in quantisation steps.
    min_cosine: of the cosine similarity; in [-1, 1].
    """

    max_relative: float | None = None
    min_snr_db: float | None = None
    max_steps: float | None = None
    p99_steps: float | None = None
    p999_steps: float | None = None
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and not field.name.startswith("min_") and value < 0:
                raise SchemaError(f"{field.name}: expected a number of at least 0, found {value}")
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise SchemaError(f"min_cosine: expected a number from -1 to 1, found {self.min_cosine}")


def read_thresholds(path: str | Path) -> dict[str, Threshold]:
    """Thresholds by precision, from JSON: ``{"int8": {"max_steps": 4, "min_snr_db": 40}}``.

    An entry replaces that of the table whole: what it does not name is not asked for. Precisions without one keep the table's.

    Raises:
        InputError: there is no such file. SchemaError: an unknown precision or field, or a value that is no threshold.
    """
    table = {name: from_mapping(Threshold, value, f"{_TABLE}: {name}") for name, value in json_load(_TABLE).items()}
    chosen = json_load(path)
    if unknown := sorted(set(chosen) - set(table)):
        raise SchemaError(f"{path}: unknown precision {unknown[0]!r}; known are {', '.join(table)}")
    return table | {name: from_mapping(Threshold, value, f"{path}: {name}") for name, value in chosen.items()}


THRESHOLDS: dict[str, Threshold] = read_thresholds(_TABLE)
"""Integer precisions are compared with the converted quantised graph, the others with the float model. Steps are judged over all
golden cases, noise and constant images among them, which spread a rounding difference farthest. Core ML's W8A8 program computes
in halves between its quantise nodes: 11 bits for a value that is then rounded to 8."""


def failures(name: str, statistics: ErrorStatistics, threshold: Threshold) -> list[str]:
    """What ``statistics`` of the output ``name`` miss, in words; empty where all is well."""
    missed = []
    if statistics.not_finite:
        missed.append(f"{name}: {statistics.not_finite} values are NaN or infinite")
    if statistics.reference_not_finite:
        missed.append(f"{name}: {statistics.reference_not_finite} values of the reference are NaN or infinite")
    relative = statistics.max_abs / statistics.reference_range if statistics.reference_range else statistics.max_abs
    if threshold.max_relative is not None and relative > threshold.max_relative:
        missed.append(f"{name}: max error {relative:.2e} of the range, allowed {threshold.max_relative:.0e}")
    for label, found, least, form in (
        ("SNR", statistics.snr_db, threshold.min_snr_db, "{:.1f} dB"),
        ("cosine", statistics.cosine, threshold.min_cosine, "{:.6f}"),
    ):
        if least is None or statistics.max_abs == 0:  # an exact output has no noise
            continue
        if found is None:
            missed.append(f"{name}: no {label}, as one side is zero and the other is not")
        elif found < least:
            missed.append(f"{name}: {label} {form.format(found)}, expected at least {least:g}")
    for label, found, most in (
        ("max", statistics.max_steps, threshold.max_steps),
        ("p99", statistics.p99_steps, threshold.p99_steps),
        ("p99.9", statistics.p999_steps, threshold.p999_steps),
    ):
        if most is not None and found > most + _ROUNDING:
            missed.append(f"{name}: {label} error {found:.1f} steps, allowed {most:g}")
    return missed
