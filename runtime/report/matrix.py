"""The matrix: a line for each artifact in each engine, a column for each device, and in each cell what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_dp.runtime.engines import ENGINES
from edge_dp.runtime.latency import Latency
from edge_dp.runtime.parity import Threshold
from edge_dp.runtime.report.chart import Curves, latency_curves
from edge_dp.runtime.report.figures import Figure
from edge_dp.runtime.report.histogram import Histogram, histogram
from edge_dp.runtime.report.model import Report, Row
from edge_dp.runtime.report.words import count, milliseconds, number, share

_DRIFTED = 0.05


@dataclass(frozen=True, slots=True)
class Repeat:
    """The earlier row of the same artifact whose pictures are the same."""

    anchor: str
    where: str


@dataclass(frozen=True, slots=True)
class Entry:
    """A row as the page shows it.

    key: the number by which it is judged, in words, the worst over its outputs. speed: its median in words, or empty.
    reference_only: its engine's speed says nothing; ``note`` tells what it is.
    """

    anchor: str
    row: Row
    missed: list[str]
    key: str
    speed: str
    reference_only: bool
    note: str
    figures: tuple[Figure, ...]
    repeated: Repeat | None
    histograms: tuple[Histogram, ...]
    curves: Curves | None

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, or ``error`` where it could not run."""
        if self.row.error is not None:
            return "error"
        return "fail" if self.missed else "pass"

    @property
    def where(self) -> str:
        """Engine and device."""
        return f"{self.row.engine} on {self.row.device}"

    @property
    def title(self) -> str:
        """Artifact, engine and device."""
        return f"{self.row.artifact} in {self.where}"

    @property
    def marks(self) -> list[tuple[str, str]]:
        """What else is worth a mark: ``fail`` or ``note``, and the words."""
        row, marks = self.row, []
        if row.repeats_agree is not None:
            marks.append(("note", "✓ repeats agree") if row.repeats_agree else ("fail", "✗ repeats differ"))
        if row.differs_from_host:
            differing = sum(row.differs_from_host.values())
            judged, cross = ("fail", "✗ ") if row.reference == "quantised" else ("note", "")
            words = f"{cross}{count(differing)} values differ from the host’s"
            marks.append((judged, words) if differing else ("note", "✓ equals the host bit for bit"))
        if self.reference_only:
            marks.append(("note", "reference evaluator"))
        if row.latency and not row.latency.valid:
            marks.append(("note", f"too few inferences for preset {row.latency.preset}"))
        if row.latency and row.latency.drift and abs(row.latency.drift - 1) >= _DRIFTED:
            change = "slower" if row.latency.drift > 1 else "faster"
            marks.append(("note", f"{number(100 * abs(row.latency.drift - 1), 2)} % {change} at the end"))
        return marks


@dataclass(frozen=True, slots=True)
class Line:
    """One artifact in one engine. cells: entries by device, in the matrix's order; empty where it was not run."""

    engine: str
    row: Row
    cells: tuple[tuple[Entry, ...], ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """All of them. devices: addresses, and artifacts: their lines, in the order in which they first occur."""

    devices: tuple[str, ...]
    artifacts: dict[str, list[Line]]


def make_entry(
    anchor: str, row: Row, report: Report, figures: tuple[Figure, ...], repeated: Repeat | None = None
) -> Entry:
    """What the page shows of ``row``."""
    engine = ENGINES.get(row.engine)
    return Entry(
        anchor,
        row,
        report.missed(row),
        _key(row, report.thresholds.get(row.precision, Threshold())),
        speed_in_words(row.latency) if row.latency else "",
        engine is not None and not engine.measures_speed,
        engine.note if engine else "",
        figures,
        repeated,
        tuple(found for name, output in row.statistics.items() if (found := histogram(name, output))),
        latency_curves(row.latency.milliseconds) if row.latency else None,
    )


def make_matrix(entries: Sequence[Entry]) -> Matrix:
    """Lines and columns in the order in which they first occur; nothing is left out."""
    devices = tuple(dict.fromkeys(entry.row.device for entry in entries))
    by_line: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        by_line.setdefault((entry.row.artifact, entry.row.engine), []).append(entry)
    artifacts: dict[str, list[Line]] = {}
    for (artifact, engine), found in by_line.items():
        cells = tuple(tuple(entry for entry in found if entry.row.device == device) for device in devices)
        artifacts.setdefault(artifact, []).append(Line(engine, found[0].row, cells))
    return Matrix(devices, artifacts)


def speed_in_words(latency: Latency) -> str:
    """Median of an inference: milliseconds, or instructions where the clock counts those."""
    if latency.kind == "instructions" and latency.instructions is not None:
        return f"{number(latency.instructions / 1e6, 4)} M instr."
    return f"p50 {milliseconds(latency.p50_ms)} ms"


def _key(row: Row, threshold: Threshold) -> str:
    outputs = row.statistics.values()
    if not outputs:
        return ""
    if broken := sum(output.not_finite for output in outputs):
        return f"{count(broken)} not finite"
    if not any(output.max_abs for output in outputs):
        return "exact"
    if threshold.max_steps is not None:
        return f"max {number(max(output.max_steps for output in outputs))} steps"
    if threshold.min_snr_db is not None:
        ratios = [output.snr_db for output in outputs if output.snr_db is not None]
        return f"SNR {number(min(ratios, default=None))} dB"
    worst = max(outputs, key=lambda output: output.max_abs / (output.reference_range or 1.0))
    return f"max {share(worst.max_abs, worst.reference_range)} %"
