"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from edge_dp.bundle.manifest import Bundle
    from edge_dp.runtime.report.model import Report, Row

_LEAST_WIDTH = 132  # a log file has no width: do not fold the columns there


def console() -> Console:
    """Standard output, as wide as the terminal, or wide enough where there is none."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_LEAST_WIDTH)


def plain_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """A table of texts from files, which are shown as they are and whole; columns named in ``right`` end in one line."""
    table = Table(title=Text(printable(title)), show_header=any(columns))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def printable(text: str) -> str:
    """Text on one line: what would steer the terminal is shown, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def artifact_table(bundle: Bundle) -> None:
    """What an export wrote."""
    manifest = bundle.manifest
    size = f"{manifest.parameters:,} parameters, {manifest.multiply_adds / 1e9:.2f} billion multiply-adds"
    rows = [
        (a.name, a.path, f"{a.size_bytes / 1000:.0f}", _counts(a.kernels.integer), _counts(a.kernels.floating))
        for a in manifest.artifacts
    ]
    columns = ("artifact", "file", "KB", "integer kernels", "float")
    console().print(plain_table(f"{manifest.model}: {size}", columns, rows, right=("KB",)))


def report_table(report: Report) -> None:
    """One row per artifact; errors are of the first output, the verdict is of every output."""
    first = next(iter(report.units))
    where = f"{report.host['processor']}, {report.host['threads']} thread(s)"
    table = Table(title=Text(f"{report.model} on {where}; errors of {first}, in its unit ({report.units[first]})"))
    columns = (
        "format",
        "precision",
        "engine",
        "KB",
        "max error",
        "SNR dB",
        "max steps",
        "p99 steps",
        "p50 ms",
        "p90 ms",
        "verdict",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in ("format", "precision", "engine", "verdict") else "right")
    for row in report.rows:
        table.add_row(*_cells(report, row))
    output = console()
    output.print(table)
    for row in report.rows:
        for text in report.missed(row):
            output.print(f"{row.artifact}: {text}", markup=False)
    if any(row.latency is None and row.error is None for row in report.rows):
        output.print("no latency: a reference evaluator, which says nothing of the phone's speed or Neural Engine")


def _cells(report: Report, row: Row) -> list[str]:
    head = [escape(row.format), escape(row.precision), row.engine, f"{row.size_bytes / 1000:.0f}"]
    if row.error is not None:
        return [*head, *["-"] * 6, "[red]error[/red]"]
    statistics = row.statistics[next(iter(report.units))]
    snr = "exact" if statistics.snr_db is None else f"{statistics.snr_db:.1f}"
    times = [f"{row.latency.p50_ms:.2f}", f"{row.latency.p90_ms:.2f}"] if row.latency else ["-", "-"]
    verdict = "[red]FAIL[/red]" if report.missed(row) else "[green]pass[/green]"
    steps = [_steps(statistics.max_steps), _steps(statistics.p99_steps)]
    return [*head, f"{statistics.max_abs:.2g}", snr, *steps, *times, verdict]


def _steps(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.0e}"


def _counts(kernels: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in kernels.items()) or "-"
