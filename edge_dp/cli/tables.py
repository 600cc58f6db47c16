"""Tables on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from edge_dp.bundle.manifest import Bundle
    from edge_dp.runtime.report.model import Report, Row

_LEAST_WIDTH = 132  # a log file has no width: do not fold the columns there


def console() -> Console:
    """Standard output, as wide as the terminal, or wide enough where there is none."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_LEAST_WIDTH)


def artifact_table(bundle: Bundle) -> None:
    """What an export wrote."""
    manifest = bundle.manifest
    size = f"{manifest.parameters:,} parameters, {manifest.multiply_adds / 1e9:.2f} billion multiply-adds"
    table = Table(title=f"{manifest.model}: {size}")
    for name, justify in (
        ("artifact", "left"),
        ("file", "left"),
        ("KB", "right"),
        ("integer kernels", "left"),
        ("float", "left"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for artifact in bundle.manifest.artifacts:
        kernels = artifact.kernels
        table.add_row(
            artifact.name,
            artifact.path,
            f"{artifact.size_bytes / 1000:.0f}",
            _counts(kernels.integer),
            _counts(kernels.floating),
        )
    console().print(table)


def report_table(report: Report) -> None:
    """One row per artifact; errors are of the disparity, the verdict is of every output."""
    table = Table(
        title=f"{report.model} on {report.host['processor']}, {report.host['threads']} thread(s); errors of the disparity"
    )
    columns = (
        "format",
        "precision",
        "engine",
        "KB",
        "max error px",
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
    head = [row.format, row.precision, row.engine, f"{row.size_bytes / 1000:.0f}"]
    if row.error is not None:
        return [*head, *["-"] * 6, "[red]error[/red]"]
    statistics = row.statistics["disparity"]
    snr = "exact" if statistics.snr_db is None else f"{statistics.snr_db:.1f}"
    times = [f"{row.latency.p50_ms:.2f}", f"{row.latency.p90_ms:.2f}"] if row.latency else ["-", "-"]
    verdict = "[red]FAIL[/red]" if report.missed(row) else "[green]pass[/green]"
    steps = [_steps(statistics.max_steps), _steps(statistics.p99_steps)]
    return [*head, f"{statistics.max_abs:.2g}", snr, *steps, *times, verdict]


def _steps(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.0e}"


def _counts(kernels: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in kernels.items()) or "-"
