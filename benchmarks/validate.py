"""How long a validation of a bundle takes, on this host and on an emulated phone, against the limits.

    python benchmarks/validate.py BUNDLE [--device local] [--device emulated://cortex-a76]

Every artifact, all golden cases, each run again, timed by the shortest preset, with report and page; in a copy of the bundle. The
emulated phone's image is built before, if it has to be.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_dp.bundle.manifest import read_bundle
from edge_dp.errors import EdgeDpError
from edge_dp.runtime.devices import open_device
from edge_dp.runtime.plan import Plan
from edge_dp.runtime.validate import validate

HOST_LIMIT_S, EMULATED_LIMIT_S = 30.0, 60.0
DEVICES = ("local", "emulated://cortex-a76")


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the validation of a bundle.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--device", dest="devices", action="append", metavar="ADDRESS", help=f"default: {DEVICES}")
    options = parser.parse_args()
    table = Table(title=f"edge-dp validate {options.bundle.name}, load {os.getloadavg()[0]:.1f}")
    for column in ("device", "rows", "verdict", "s", "limit s", ""):
        table.add_column(column, justify="right" if column in ("rows", "s", "limit s") else "left")
    missed = False
    with tempfile.TemporaryDirectory(prefix="edge_dp_validate_") as folder:
        for address in options.devices or DEVICES:
            emulated = address.startswith("emulated://")
            if emulated:
                with open_device(address):  # builds the image; its boot counts, as nobody keeps it running
                    pass
            copy = Path(folder) / address.partition("://")[0]
            shutil.copytree(options.bundle, copy, ignore=shutil.ignore_patterns("report*"))
            begin = time.monotonic()
            report = validate(read_bundle(copy), Plan(devices=(address,)))
            seconds = time.monotonic() - begin
            limit = EMULATED_LIMIT_S if emulated else HOST_LIMIT_S
            missed |= seconds > limit or not report.passed
            verdict = "passed" if report.passed else "FAILED"
            late = "MISSED" if seconds > limit else ""
            table.add_row(address, str(len(report.rows)), verdict, f"{seconds:.1f}", f"{limit:g}", late)
    Console(width=100).print(table)
    return int(missed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"validate: {error}")
