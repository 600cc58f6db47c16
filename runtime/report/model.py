"""The report: what a validation run measured, as data. JSON is made from it, and from the JSON the page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError
from edge_dp.files import json_dump, json_load
from edge_dp.runtime.accuracy import Accuracy
from edge_dp.runtime.blame import Blame
from edge_dp.runtime.dataset_parity import DatasetParity
from edge_dp.runtime.latency import Latency
from edge_dp.runtime.parity import ErrorStatistics, Threshold, failures

SCHEMA = 3
"""2 has no ``dataset_parity``."""
REPORT = "report.json"
PAGE = "report.html"


@dataclass(frozen=True, slots=True)
class Row:
    """One artifact in one engine on one device.

    device: its address, such as ``local`` or ``emulated://cortex-a76``.
    error: why it could not be run, else null.
    statistics: by output name.
    repeats_agree: whether running it again gave the same bits; null where it was not run.
    differs_from_host: by output, how many values differ from what the same artifact gave on the host; empty on the host itself.
    latency: null for an engine whose speed says nothing.
    dataset_parity: statistics over a data set, or why there are none; null where none was run.
    missed_budgets: budgets of the run that its latency exceeds, in words.
    pictures: file by what it shows (``disparity``, ``error``), relative to the report.
    """

    artifact: str
    format: str
    precision: str
    engine: str
    device: str
    size_bytes: int
    reference: str
    error: str | None
    statistics: dict[str, ErrorStatistics]
    pictures: dict[str, str]
    kernels_integer: dict[str, int]
    kernels_floating: dict[str, int]
    repeats_agree: bool | None = None
    differs_from_host: dict[str, int] = field(default_factory=dict)
    latency: Latency | None = None
    missed_budgets: tuple[str, ...] = ()
    accuracy: Accuracy | None = None
    dataset_parity: DatasetParity | None = None
    blame: Blame | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """Artifact, engine and device: no two rows share them."""
        return self.artifact, self.engine, self.device


@dataclass(frozen=True, slots=True)
class Report:
    """One run of ``edge-dp validate``.

    devices: facts of each device by its address, in words. budgets: as they were asked for.
    pictures: of the shared example: ``left``, ``right``, ``disparity_float``, ``disparity_quantised``, ``confidence_float``.
    """

    schema: int
    model: str
    parameters: int
    created: str
    host: dict[str, str]
    versions: dict[str, str]
    units: dict[str, str]
    thresholds: dict[str, Threshold]
    rows: tuple[Row, ...]
    pictures: dict[str, str]
    training: dict[str, Any]
    devices: dict[str, dict[str, str]] = field(default_factory=dict)
    budgets: tuple[str, ...] = ()

    def missed(self, row: Row) -> list[str]:
        """What ``row`` misses under this report's thresholds, in words; empty where it passes."""
        if row.error is not None:
            return [row.error]
        threshold = self.thresholds.get(row.precision)
        if threshold is None:
            return [f"no thresholds for precision {row.precision!r}"]
        missed = [text for name, statistics in row.statistics.items() for text in failures(name, statistics, threshold)]
        if (parity := row.dataset_parity) is not None:
            for name, statistics in parity.statistics.items():
                missed += [f"{parity.dataset}: {text}" for text in failures(name, statistics, threshold)]
        if row.repeats_agree is False:
            missed.append("running it again gave other values")
        integer = row.reference == "quantised"
        if integer and (differing := {name: count for name, count in row.differs_from_host.items() if count}):
            missed += [f"{name}: {count} values differ from the host's" for name, count in differing.items()]
        return [*missed, *row.missed_budgets]

    @property
    def passed(self) -> bool:
        """Every row ran and reached its thresholds."""
        return bool(self.rows) and not any(self.missed(row) for row in self.rows)


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json`` into ``folder``."""
    json_dump(dataclasses.asdict(report), folder / REPORT)
    return folder / REPORT


def read_report(path: Path) -> Report:
    """Read a report.

    Raises:
        InputError: there is none. SchemaError: a field is wrong, or a newer edge_dp wrote it.
    """
    data = json_load(path)
    if isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise SchemaError(
            f"{path}: schema {data['schema']} is newer than this edge_dp reads ({SCHEMA}); upgrade edge-dp"
        )
    return from_mapping(Report, data, str(path), strict=False)
