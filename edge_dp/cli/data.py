"""``edge-dp data``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_dp.data.check import DataCheck

SUMMARY = "recognise a dual-pixel data set, count its files, measure its axis and sign"
DESCRIPTION = "Work with dual-pixel data sets. Exit code 1 where something is odd, 2 where the set is not recognised."
_SHOWN = 20  # problems on the terminal; JSON has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="examine a data set",
        description=(
            "Recognise the data set in a folder, count what is there, name missing and odd files, and measure bit depth, "
            "dual-pixel axis and sign against what the set promises. Exit code 1 where something is odd."
        ),
    )
    check.add_argument("root", type=Path, help="folder of the data set")
    check.add_argument("--dataset", help="its name, where it is not to be recognised")
    check.add_argument(
        "--samples", type=int, default=8, help="samples per split to read whole and match (default: %(default)s)"
    )
    check.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import dataclasses
    import json

    from edge_dp.cli.progress import progress_bars
    from edge_dp.data.check import check_dataset

    with progress_bars() as progress:
        findings = check_dataset(
            options.root,
            dataset=options.dataset,
            samples=options.samples,
            progress=lambda text, done, total: progress(text, done, total, ""),
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(findings), allow_nan=False))
    else:
        _print(findings)
    return 1 if findings.problems else 0


def _print(findings: DataCheck) -> None:
    from rich.table import Table

    from edge_dp.cli.tables import console

    output = console()
    table = Table(title=f"{findings.dataset}: {findings.title}")
    for column in ("split", "files", "count", "size", "bits"):
        table.add_column(column, justify="right" if column == "count" else "left", overflow="fold")
    for row in findings.files:
        table.add_row(row.split or "-", row.role, str(row.count), _counts(row.sizes), _counts(row.bits))
    output.print(table)
    for line in _measured(findings):
        output.print(line, markup=False, soft_wrap=True)
    for problem in findings.problems[:_SHOWN]:
        output.print(f"odd: {problem}", markup=False, soft_wrap=True)
    if len(findings.problems) > _SHOWN:
        output.print(
            f"... and {len(findings.problems) - _SHOWN} more: pass --json for all", markup=False, soft_wrap=True
        )
    output.print(f"{findings.samples} samples, {len(findings.problems)} problem(s)", markup=False, soft_wrap=True)


def _measured(findings: DataCheck) -> list[str]:
    found = findings.measured
    axis = found.dp_axis or "unclear"
    lines = [f"dual-pixel axis: promised {findings.promised_axis}, measured {axis}"]
    if found.shift_along_px is not None:
        lines[0] += (
            f" (median shift {found.shift_along_px:.2f} px along {findings.promised_axis}, {found.shift_across_px:.2f} px "
            f"across; {found.corners} corners in {found.samples} samples)"
        )
    if found.correlation is None:
        verdict = "not measured: no ground truth that varies"
    else:
        verdict = f"rank correlation of shift and ground truth {found.correlation:+.2f}"
    lines.append(f"sign: promised {findings.promised_sign}; {verdict}")
    if found.lowest_light is not None:
        lines.append(f"linear light: {found.lowest_light:.4f} to {found.highest_light:.4f}")
    return lines


def _counts(counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items()) or "-"
