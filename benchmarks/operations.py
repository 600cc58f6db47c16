"""Every operation of the portable set through every format in int8: integer kernels, and how near the converted graph.

    python benchmarks/operations.py --format onnx

Each operation stands in a smallest network (``edge_dp.converters.operations``), calibrated on noise. A row meets the aim where
all arithmetic is in integers, nothing is left outside the delegate, and 99.9 % of the values lie within a step of the converted
graph. Core ML's programs are evaluated as they are written, every result rounded to half ("within 1 %", which judges the row),
and beside it without that rounding, as a kernel that sums integers would: which of the two a phone does is not public.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import Agreement, Attempt, Outputs, Subject, attempt, calibrated, place_of
from rich.console import Console
from rich.table import Table

from edge_dp.converters.configs import CONFIGS, FormatConfig, plan
from edge_dp.converters.operations import OPERATIONS, Operation
from edge_dp.errors import EdgeDpError, ExportError
from edge_dp.runtime.engines.coreml import read_program

SEED = 4
SHARE = 0.999
SAMPLES = 8
TEXTS = ("operation", "artifact", "integer kernels", "float kernels", "delegated")
NUMBERS = ("within 1 %", "unrounded", "max steps", "met")


def subject_of(operation: Operation) -> Subject:
    """The operation's network, calibrated on noise.

    Raises:
        ExportError: the quantiser has no rule for it.
    """
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    names = ["x"] if len(operation.shapes) == 1 else ["left", "right"]
    shapes = dict(zip(names, operation.shapes, strict=True))
    samples = [
        {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(SAMPLES)
    ]
    return calibrated(operation.build(), shapes, samples, operation.name.replace(" ", "_"))


def record(
    operation: str, found: Attempt, agreement: Agreement | None, unrounded: Agreement | None = None
) -> dict[str, Any]:
    """Plain values of one row."""
    kernels = found.kernels
    met = kernels is not None and not kernels.outside and not kernels.floating
    return {
        "operation": operation,
        "artifact": found.config.name,
        "refused": found.refused or None,
        "integer": dict(kernels.integer) if kernels else {},
        "floating": dict(kernels.floating) if kernels else {},
        "delegated": found.delegated,
        "agreement": agreement.to_json() if agreement else None,
        "unrounded": unrounded.to_json() if unrounded else None,
        "met": met and agreement is not None and agreement.within_1 >= SHARE,
    }


def rows(operation: Operation, configs: Sequence[FormatConfig], folder: Path) -> list[dict[str, Any]]:
    """One record for each format."""
    try:
        subject = subject_of(operation)
    except ExportError as error:
        refused = " ".join(str(error).split())
        return [record(operation.name, Attempt(config, 0.0, refused), None) for config in configs]
    wanted, steps = subject.outputs_of("quantised"), subject.steps
    found = [attempt(subject, config, folder) for config in configs]
    unrounded = {
        config.name: Agreement.of(without_halves(subject, folder, config), wanted, steps)
        for config, one in zip(configs, found, strict=True)
        if config.format == "coreml" and one.outputs
    }
    return [
        record(
            operation.name,
            one,
            Agreement.of(one.outputs, wanted, steps) if one.outputs else None,
            unrounded.get(one.config.name),
        )
        for one in found
    ]


def without_halves(subject: Subject, folder: Path, config: FormatConfig) -> Outputs:
    """Of a Core ML package that ``attempt`` wrote."""
    (package,) = place_of(subject, config, folder).glob("*.mlpackage")
    program = read_program(package, halves=False)
    return {case.name: program.run(case.inputs) for case in subject.cases}


def cells(row: dict[str, Any]) -> list[str]:
    """For the table; a refusal takes the place of the kernels."""
    if row["refused"]:
        return [row["operation"], row["artifact"], f"refused: {row['refused']}", "", "", "", "", "", "-"]
    names = [" ".join(f"{name} {n}" for name, n in row[kind].items()) or "-" for kind in ("integer", "floating")]
    agreement = row["agreement"]
    shares = [f"{100 * one['within_1']:.3f}" if one else "-" for one in (agreement, row["unrounded"])]
    numbers = [*shares, f"{agreement['max_steps']:.0f}" if agreement else "-"]
    met = "yes" if row["met"] else "NO"
    return [row["operation"], row["artifact"], *names, row["delegated"], *numbers, met]


def main() -> int:
    parser = argparse.ArgumentParser(description="Export every operation in int8 and compare with the converted graph.")
    parser.add_argument("--format", dest="formats", action="append", choices=list(CONFIGS), help="default: all")
    parser.add_argument(
        "--operation", dest="operations", action="append", choices=list(OPERATIONS), help="default: all"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    options = parser.parse_args()
    configs = [config for config in plan(options.formats) if config.integer]
    table = Table(title="Operations in int8 against the converted graph")
    for column in TEXTS + NUMBERS:
        table.add_column(column, justify="right" if column in NUMBERS else "left")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.operations or OPERATIONS:
            found += rows(OPERATIONS[name], configs, Path(folder))
            print(name, file=sys.stderr)
    for row in found:
        table.add_row(*cells(row))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        console = Console(highlight=False, width=170)
        console.print(table)
        console.print(f"{sum(row['met'] for row in found)} of {len(found)} meet the aim; ", end="")
        console.print(f"{sum(row['refused'] is not None for row in found)} refused")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"operations: {error}")
