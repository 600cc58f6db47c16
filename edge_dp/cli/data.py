"""``edge-dp data``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_dp.data.check import DataCheck
    from edge_dp.data.check.pairs import PairMeasurement
    from edge_dp.data.check.scenes import SceneMeasurement

SUMMARY = "list the data sets that can be read; recognise and examine one"
DESCRIPTION = (
    "Work with data sets: dual-pixel captures, light fields and scenes with known geometry. Exit code 1 where something is odd, "
    "2 where the set is not recognised."
)
_SHOWN = 20  # problems on the terminal; JSON has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    known = actions.add_parser(
        "list", help="data sets that can be read", description="List the data sets that can be read, and their layouts."
    )
    known.set_defaults(action=_list)
    check = actions.add_parser(
        "check",
        help="examine a data set",
        description=(
            "Recognise the data set in a folder, count what is there, name missing and odd files, and measure bit depth and "
            "geometry against what the set promises: dual-pixel axis and sign; of scenes depth, stereo sign and poses. Exit "
            "code 1 where something is odd."
        ),
    )
    check.add_argument("root", type=Path, help="folder of the data set")
    check.add_argument("--dataset", help="its name, where it is not to be recognised")
    check.add_argument(
        "--samples", type=int, default=8, help="samples per split to read whole and measure (default: %(default)s)"
    )
    check.set_defaults(action=_check)
    for action in (known, check):
        action.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    code: int = options.action(options)
    return code


def _list(options: argparse.Namespace) -> int:
    import dataclasses
    import json

    from rich.markup import escape
    from rich.table import Table

    from edge_dp.cli.tables import console
    from edge_dp.data.registry import DATASETS

    if options.json:
        entries = [dataclasses.asdict(entry) for entry in DATASETS.values()]
        print(json.dumps([{key: entry[key] for key in entry if key != "markers"} for entry in entries]))
        return 0
    table = Table(title="Data sets that can be read", show_lines=True)
    for column in ("name", "kind", "data set", "licence", "layout"):
        table.add_column(column, overflow="fold")
    for entry in DATASETS.values():
        table.add_row(entry.name, entry.kind, entry.title, entry.licence, escape(entry.layout))
    console().print(table)
    return 0


def _check(options: argparse.Namespace) -> int:
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
    from edge_dp.data.check.scenes import SceneMeasurement

    output = console()
    table = Table(title=f"{findings.dataset}: {findings.title}")
    for column in ("split", "files", "count", "per sample", "size", "bits"):
        table.add_column(column, justify="right" if column in ("count", "per sample") else "left", overflow="fold")
    for row in findings.files:
        table.add_row(row.split or "-", row.role, str(row.count), *map(_counts, (row.per_sample, row.sizes, row.bits)))
    output.print(table)
    found = findings.measured
    lines = _scene_lines(findings, found) if isinstance(found, SceneMeasurement) else _pair_lines(findings, found)
    for line in lines:
        output.print(line, markup=False, soft_wrap=True)
    for problem in findings.problems[:_SHOWN]:
        output.print(f"odd: {problem}", markup=False, soft_wrap=True)
    if len(findings.problems) > _SHOWN:
        output.print(
            f"... and {len(findings.problems) - _SHOWN} more: pass --json for all", markup=False, soft_wrap=True
        )
    output.print(
        f"{findings.samples} samples, {found.samples} read, {len(findings.problems)} problem(s)",
        markup=False,
        soft_wrap=True,
    )


def _pair_lines(findings: DataCheck, found: PairMeasurement) -> list[str]:
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


def _scene_lines(findings: DataCheck, found: SceneMeasurement) -> list[str]:
    lines = []
    if found.known is not None:
        lines.append(f"known: {found.known:.0%} of the pixels (median of the samples read)")
    if found.with_depth:
        lines.append(
            f"depth: {found.nearest_m:.2f} to {found.farthest_m:.2f} m, median {found.typical_m:.2f} m, in {found.with_depth} "
            "sample(s)"
        )
    if found.error_as_promised is not None:
        lines.append(
            f"stereo: promised {findings.promised_sign}; D {found.lowest_px:.1f} to {found.highest_px:.1f} px, median "
            f"|difference| {found.error_as_promised:.3f} at x - D, {found.error_turned:.3f} at x + D, in {found.with_stereo} "
            "sample(s)"
        )
    if found.with_pose:
        lines.append(f"poses: rotations in {found.with_pose} sample(s), orthonormal within {found.worst_rotation:.0e}")
    return lines


def _counts(counts: dict[str, int]) -> str:
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{value} ({count})" for value, count in counts.items()) or "-"
