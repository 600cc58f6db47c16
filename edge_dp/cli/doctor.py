"""``edge-dp doctor``."""

from __future__ import annotations

import argparse

SUMMARY = "what is installed, what each extra would add, and which versions are off"
DESCRIPTION = (
    "Compare what is installed with the versions that are known to work together, list what each extra would add, and say "
    "which engines can run here. Exit code 1 where an installed version differs from the known one."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    from edge_dp.cli.diagnosis import diagnose, print_diagnosis

    diagnosis = diagnose()
    print_diagnosis(diagnosis, as_json=options.json)
    return 1 if diagnosis.off else 0
