"""``edge-dp report``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_dp.runtime.report.model import Report

SUMMARY = "show a run of edge-dp validate again, judge it with other thresholds, write its page"
DESCRIPTION = (
    "A run keeps its statistics, so it can be judged again without any engine. RUN is the bundle that was validated, or its "
    "report.json; it is never changed."
)
EPILOG = """examples:
  edge-dp report show bundle
  edge-dp report judge bundle --thresholds strict.json
  edge-dp report html bundle --out page.html

strict.json: {"int8": {"max_steps": 4, "min_snr_db": 40}}: an entry replaces that of the table whole; fields are max_relative,
min_snr_db, min_cosine, max_steps, p99_steps, p999_steps. Exit code 1 where a row misses its thresholds."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    show = actions.add_parser("show", help="print a run as it was judged")
    judge = actions.add_parser("judge", help="judge a run with other thresholds")
    html = actions.add_parser("html", help="write the page of a run")
    for action in (show, judge, html):
        action.add_argument("run", type=Path, help="bundle that was validated, or its report.json")
    judge.add_argument(
        "--thresholds", type=Path, required=True, metavar="F", help="JSON, as described in 'edge-dp report -h'"
    )
    for action in (show, judge):
        action.add_argument("--json", action="store_true", help="print the verdict of each row as JSON")
    html.add_argument("--out", type=Path, required=True, metavar="F", help="file to write")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    from dataclasses import replace

    from edge_dp.runtime.parity import read_thresholds
    from edge_dp.runtime.report.model import REPORT, read_report

    path: Path = options.run / REPORT if options.run.is_dir() else options.run
    report = read_report(path)
    _check(report, path)
    if options.action == "html":
        from edge_dp.runtime.report.html import write_page

        print(f"Page: {write_page(report, path.parent, options.out).resolve()}")
        return 0
    if options.action == "judge":
        report = replace(report, thresholds=read_thresholds(options.thresholds))
    _print(report, as_json=options.json)
    return 0 if report.passed else 1


def _check(report: Report, path: Path) -> None:
    """Refuse a run that lacks what every table shows."""
    from edge_dp.errors import SchemaError

    if missing := [name for name in ("processor", "threads") if name not in report.host]:
        raise SchemaError(f"{path}: host: field {missing[0]!r} is missing. Validate the bundle again.")
    if not report.units:
        raise SchemaError(f"{path}: units: expected one for each output, found none. Validate the bundle again.")
    for row in report.rows:
        if row.error is None and (lacking := [name for name in report.units if name not in row.statistics]):
            raise SchemaError(
                f"{path}: rows: {row.artifact}: statistics: field {lacking[0]!r} is missing. Validate the bundle again."
            )


def _print(report: Report, *, as_json: bool) -> None:
    import dataclasses
    import json

    from edge_dp.cli.tables import dataset_table, report_table

    if not as_json:
        report_table(report)
        dataset_table(report)
        return
    rows = [
        {"artifact": row.artifact, "engine": row.engine, "device": row.device, "missed": report.missed(row)}
        for row in report.rows
    ]
    thresholds = {name: dataclasses.asdict(threshold) for name, threshold in report.thresholds.items()}
    print(json.dumps({"passed": report.passed, "rows": rows, "thresholds": thresholds}, allow_nan=False))
