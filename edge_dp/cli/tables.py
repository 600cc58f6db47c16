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
    from edge_dp.runtime.parity import ErrorStatistics
    from edge_dp.runtime.report.model import Report, Row

_LEAST_WIDTH = 160  # a log file has no width: do not fold the columns there


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
    """One row per cell of the matrix; errors are of the first output, the verdict is of every output."""
    first = next(iter(report.units))
    where = f"{report.host['processor']}, {report.host['threads']} thread(s)"
    devices = any(row.device != "local" for row in report.rows)
    counted = any(row.latency and row.latency.instructions for row in report.rows)
    columns = [
        "artifact",
        "engine",
        *["device"] * devices,
        "KB",
        "max error",
        "SNR dB",
        "max steps",
        "p99 steps",
    ]
    columns += ["p50 ms", "p90 ms", *["M instr."] * counted, "verdict"]
    table = Table(title=Text(f"{report.model} on {where}; errors of {first}, in its unit ({report.units[first]})"))
    for name in columns:
        texts = ("artifact", "engine", "device", "verdict")
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold")
    for row in report.rows:
        cells = _cells(report, row)
        table.add_row(*(cells[name] for name in columns))
    output = console()
    output.print(table)
    for row in report.rows:
        for text in report.missed(row):
            output.print(f"{row.artifact} in {row.engine} on {row.device}: {text}", markup=False)
        if row.accuracy is not None:
            scores = "; ".join(
                f"{score.metric} {score.artifact:.4f}, model {score.model:.4f}, {100 * score.drop:+.2f} % worse"
                for score in row.accuracy.scores
            )
            output.print(
                f"{row.artifact} on {row.device}: {row.accuracy.dataset}, {row.accuracy.samples} samples: {scores}",
                markup=False,
            )
        if row.latency is not None and row.latency.preset == "sustained" and row.latency.drift is not None:
            output.print(
                f"{row.artifact} on {row.device}: {row.latency.n} inferences in {row.latency.duration_s:.0f} s, the last tenth "
                f"{row.latency.drift:.3f} times as long as the first",
                markup=False,
            )
    if any(row.latency is None and row.error is None for row in report.rows):
        output.print("no latency: a reference evaluator, which says nothing of the phone's speed or Neural Engine")
    if any(row.latency and row.latency.kind == "instructions" for row in report.rows):
        output.print("emulated devices count instructions: such rows have no milliseconds")


def dataset_table(report: Report) -> None:
    """Every output of every artifact against its reference over a data set; nothing where none was run."""
    compared = [(row, row.dataset_parity) for row in report.rows if row.dataset_parity is not None]
    titles = dict.fromkeys((parity.dataset, parity.samples) for _, parity in compared if parity.statistics)
    columns = ["artifact", "engine", "device", "output", "max", "mean", "p50", "p99", "p99.9"]
    columns += ["max steps", "p99", "p99.9", "SNR dB", "1-cosine", "NaN, inf"]
    for dataset, samples in titles:
        rows = [
            (row.artifact, row.engine, row.device, name, *_numbers(statistics))
            for row, parity in compared
            if (parity.dataset, parity.samples) == (dataset, samples)
            for name, statistics in parity.statistics.items()
        ]
        title = f"{dataset}, {samples} captures: errors against the reference"
        console().print(plain_table(title, columns, rows, right=columns[4:]))
    reasons = dict.fromkeys((parity.dataset, parity.missing) for _, parity in compared if parity.missing)
    for dataset, reason in reasons:
        console().print(f"{dataset}: no parity: {printable(reason or '')}", markup=False)


def _numbers(found: ErrorStatistics) -> tuple[str, ...]:
    errors = (found.max_abs, found.mean_abs, found.p50_abs, found.p99_abs, found.p999_abs)
    steps = (found.max_steps, found.p99_steps, found.p999_steps)
    return (
        *(f"{error:.2g}" for error in errors),
        *(_steps(value) for value in steps),
        _decibels(found),
        "-" if found.cosine is None else f"{1 - found.cosine:.1g}",
        f"{found.nan}, {found.infinite}",
    )


def _decibels(found: ErrorStatistics) -> str:
    return "exact" if found.snr_db is None else f"{found.snr_db:.1f}"


def _cells(report: Report, row: Row) -> dict[str, str]:
    """Texts by column."""
    cells = dict.fromkeys(("max error", "SNR dB", "max steps", "p99 steps", "p50 ms", "p90 ms", "M instr."), "-")
    cells |= {"artifact": escape(row.artifact), "engine": escape(row.engine)}
    cells |= {"device": escape(row.device), "KB": f"{row.size_bytes / 1000:.0f}"}
    if row.error is not None:
        return cells | {"verdict": "[red]error[/red]"}
    statistics = row.statistics[next(iter(report.units))]
    cells["max error"] = f"{statistics.max_abs:.2g}"
    cells["SNR dB"] = _decibels(statistics)
    cells |= {"max steps": _steps(statistics.max_steps), "p99 steps": _steps(statistics.p99_steps)}
    if row.latency and row.latency.kind == "wall":
        cells |= {"p50 ms": f"{row.latency.p50_ms:.2f}", "p90 ms": f"{row.latency.p90_ms:.2f}"}
    if row.latency and row.latency.instructions:
        cells["M instr."] = f"{row.latency.instructions / 1e6:.2f}"
    return cells | {"verdict": "[red]FAIL[/red]" if report.missed(row) else "[green]pass[/green]"}


def _steps(value: float) -> str:
    return f"{value:.2f}" if value >= 0.005 or value == 0 else f"{value:.0e}"


def _counts(kernels: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in kernels.items()) or "-"
