"""How long an emulated phone takes to build and to boot, against its limits.

    python benchmarks/emulator.py [--boots 3] [CORE ...]

Builds in an empty cache of its own, which it removes; packages are fetched from the machine's mirror (wheels that pip has kept
are not fetched again). Then boots each core in turn until adb says ``device``, and again, and prints the median.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_dp.errors import EdgeDpError
from edge_dp.runtime.emulator import CORES, build_image, host_tools, machine_in_use

BUILD_LIMIT_S, BOOT_LIMIT_S = 60.0, 5.0


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the build and the boots of emulated phones.")
    parser.add_argument("cores", nargs="*", metavar="CORE", help=f"cores to boot (default: {', '.join(CORES)})")
    parser.add_argument("--boots", type=int, default=3, help="of each core (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edge_dp_emulator_") as folder:
        os.environ["EDGE_DP_CACHE"] = folder
        begin = time.monotonic()
        tools = host_tools()
        tools_s = time.monotonic() - begin
        build_image()
        build_s = time.monotonic() - begin
        size = sum(path.lstat().st_size for path in Path(folder).rglob("*") if path.is_file())
        boots: dict[str, list[float]] = defaultdict(list)
        for _ in range(options.boots):
            for core in options.cores or CORES:
                begin = time.monotonic()
                with machine_in_use(core):
                    boots[core].append(time.monotonic() - begin)
        here = "of PATH" if folder not in str(tools.qemu) else "fetched"
    table = Table(title=f"Emulated phones; qemu {here}, cache {size / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}")
    for column in ("stage", "s", "limit s", ""):
        table.add_column(column, justify="left" if column in ("stage", "") else "right")
    rows = [("qemu and adb", tools_s, None), ("build, from an empty cache", build_s, BUILD_LIMIT_S)]
    rows += [(f"boot {core}", statistics.median(found), BOOT_LIMIT_S) for core, found in boots.items()]
    missed = False
    for stage, seconds, limit in rows:
        late = limit is not None and seconds > limit
        missed |= late
        table.add_row(stage, f"{seconds:.2f}", "" if limit is None else f"{limit:g}", "MISSED" if late else "")
    Console(width=100).print(table)
    return int(missed)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"emulator: {error}")
