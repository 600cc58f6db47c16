"""``edge-dp stages``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_dp.bundle.manifest import TensorSpec
    from edge_dp.converters.stages import StageRow, Stages

SUMMARY = "where between the float model and each artifact of a bundle an error arises"
DESCRIPTION = (
    "Print what each stage costs against the one before it: the float model, the graph that was quantised, int8 weights, int8 "
    "activations, the converted graph, each artifact. Measured on the golden cases when the bundle was exported."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import dataclasses
    import json

    from edge_dp.bundle.manifest import read_bundle
    from edge_dp.converters.stages import read_stages

    bundle = read_bundle(options.bundle)
    stages = read_stages(bundle.folder)
    if options.json:
        worst = {output: row.stage if (row := stages.worst(output)) else None for output in stages.outputs}
        print(json.dumps({"worst": worst, **dataclasses.asdict(stages)}, allow_nan=False))
    else:
        _print_tables(stages, {spec.name: spec for spec in bundle.manifest.outputs})
    return 0


def _print_tables(stages: Stages, specs: dict[str, TensorSpec]) -> None:
    from edge_dp.cli.tables import console, plain_table, printable
    from edge_dp.converters.stages import MEANINGS

    columns = ("stage", "against", "typical mean", "mean", "p99", "max", "SNR dB", "p99 steps", "from float")
    output, right = console(), columns[2:]
    for name in stages.outputs:
        spec = specs.get(name)
        unit = f", {spec.unit}" if spec is not None and spec.unit else ""
        is_quantised = spec is not None and spec.scale is not None
        rows = [_cells(row, name, is_quantised) for row in stages.rows if name in row.statistics]
        title = (
            f"{stages.model}: {name}{unit}; errors over typical cases, and over all {len(stages.cases)} golden cases"
        )
        output.print(plain_table(title, columns, rows, right))
    for stage, meaning in MEANINGS.items():
        if any(row.stage == stage for row in stages.rows):
            print(f"{stage}: {meaning}")
    for name in stages.outputs:
        worst = stages.worst(name)
        words = "every stage is exact"
        if worst is not None:
            mean = worst.typical.get(name, worst.statistics[name]).mean_abs
            words = f"most is lost at {worst.stage}, {mean:.2g} on average"
            if worst.statistics[name].not_finite:
                words += f" and {worst.statistics[name].not_finite} values NaN or infinite"
        print(printable(f"{name}: {words}"))


def _cells(row: StageRow, name: str, is_quantised: bool) -> list[str]:
    error, typical = row.statistics[name], row.typical.get(name)
    return [
        row.stage,
        row.neighbour,
        f"{typical.mean_abs:.2g}" if typical else "-",
        f"{error.mean_abs:.2g}",
        f"{error.p99_abs:.2g}",
        f"{error.max_abs:.2g}",
        f"{error.snr_db:.1f}" if error.snr_db is not None else "-" if error.max_abs else "exact",
        f"{error.p99_steps:.2g}" if is_quantised else "-",
        f"{row.from_float[name].mean_abs:.2g}" if name in row.from_float else "-",
    ]
