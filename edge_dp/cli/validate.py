"""``edge-dp validate``."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "run every artifact of a bundle, compare it with the model, time it, write the report"
DESCRIPTION = (
    "Run each artifact on the bundle's golden inputs, compare its outputs with the model's, time the engines in turn, print "
    "one table and write report.json and report.html into the bundle. Exit code 1 where a threshold is missed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument(
        "--artifact", dest="artifacts", action="append", default=[], help="only this one; may be repeated"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per inference (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=50, help="timed inferences per artifact (default: %(default)s)")
    parser.add_argument("--warm-up", type=int, default=5, help="inferences before them (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import dataclasses
    import json

    from edge_dp.bundle.manifest import read_bundle
    from edge_dp.cli.progress import progress_bars
    from edge_dp.cli.tables import report_table
    from edge_dp.errors import InputError
    from edge_dp.runtime.report.model import PAGE
    from edge_dp.runtime.validate import validate

    if options.threads < 1 or options.rounds < 1 or options.warm_up < 0:
        raise InputError("expected --threads and --rounds of at least 1 and --warm-up of at least 0")
    bundle = read_bundle(options.bundle)
    with progress_bars() as progress:
        report = validate(
            bundle,
            artifacts=options.artifacts,
            threads=options.threads,
            rounds=options.rounds,
            warm_up=options.warm_up,
            progress=lambda text, done, total: progress(text.split()[0], done, total, text),
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(report), allow_nan=False))
    else:
        report_table(report)
        print(f"Report: {(bundle.folder / PAGE).resolve()}")
    return 0 if report.passed else 1
