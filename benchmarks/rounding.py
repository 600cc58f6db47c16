"""How integer artifacts round: against the bit-true integer reference, and against the converted graph.

    python benchmarks/rounding.py out/dp_disparity_s

All golden cases together. The second table says which operations PyTorch rounds otherwise than the reference: each is given the
reference's own integers. The third names the rules that engines do not share.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from agreement import OneByOne
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge_dp.bundle.manifest import read_bundle
from edge_dp.converters.source import network_of_checkpoint, quantise_checkpoint
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.quantization.half_up import half_up
from edge_dp.quantization.integer.differences import DIFFERENCES
from edge_dp.quantization.integer.graph import IntegerGraph
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.validate import signature

CONVERTED = "converted graph"


def _shares(distance: NDArray[Any]) -> list[str]:
    """Cells: share that is equal, share within two steps, largest distance."""
    return [f"{100 * (distance < 0.5).mean():.3f}", f"{100 * (distance < 2.5).mean():.3f}", f"{distance.max():.0f}"]


def _table(title: str, *columns: str, right: int = 0) -> Table:
    table = Table(title=title)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index >= len(columns) - right else "left")
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare integer artifacts with the integer reference.")
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export from a shipped checkpoint")
    bundle = read_bundle(parser.parse_args().bundle)
    height, width = bundle.manifest.inputs[0].shape[2:]
    checkpoint = read_checkpoint(bundle.manifest.model)
    if tuple(checkpoint.ranges) != tuple(bundle.manifest.quantization):
        raise InputError(
            f"{bundle.folder}: expected the quantisation of {bundle.manifest.model} as shipped; export it again"
        )
    folded = quantise_checkpoint(network_of_checkpoint(checkpoint, height, width), checkpoint).folded
    reference = IntegerGraph(folded)
    converted = half_up(folded)
    inputs = [bundle.golden_inputs(case) for case in bundle.manifest.golden]
    names = [spec.name for spec in bundle.manifest.outputs]

    def by_name(outputs: Any) -> Tensors:
        return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}

    with torch.no_grad():
        found = {CONVERTED: [by_name(converted(*map(torch.from_numpy, case.values()))) for case in inputs]}
    for artifact in bundle.manifest.artifacts:
        if artifact.reference == "quantised":
            with make_engine(engine_for(artifact.format), bundle.path(artifact.path), signature(bundle)) as engine:
                found[artifact.name] = [engine.infer(case) for case in inputs]
    expected = {
        "reference": [by_name(reference.run_float(list(case.values()))) for case in inputs],
        "converted": found[CONVERTED],
    }
    whole = _table(
        "Outputs of integer artifacts",
        "artifact",
        "output",
        "against",
        "equal %",
        "within 2 steps %",
        "max steps",
        right=3,
    )
    for artifact_name, outputs in found.items():
        for against, wanted in expected.items():
            if wanted is outputs:
                continue
            for name, quantisation in zip(names, reference.output_quantisation, strict=True):
                distance = [
                    np.abs(a[name] - b[name]) / quantisation.scale for a, b in zip(outputs, wanted, strict=True)
                ]
                whole.add_row(artifact_name, name, against, *_shares(np.concatenate(distance)))

    distances: dict[str, list[NDArray[np.int32]]] = defaultdict(list)
    for case in inputs:
        forced = OneByOne(converted, reference.trace(list(case.values())))
        with torch.no_grad():
            forced.run(*map(torch.from_numpy, case.values()))
        for _, operation, steps in forced.activations:
            distances[operation].append(steps)
    single = _table(
        "PyTorch against the reference, operation by operation, on the same integers",
        "operation", "values", "equal %", "within 2 steps %", "max steps", right=4,
    )  # fmt: skip
    for operation, parts in distances.items():
        every = np.concatenate(parts)
        single.add_row(operation, f"{every.size:,}", *_shares(every))

    rules = _table("Rules that engines do not share with the reference", "engine", "operation", "rule")
    for difference in DIFFERENCES:
        rules.add_row(difference.engine, difference.operation, difference.rule)
    console = Console(highlight=False, width=110)
    for table in (whole, single, rules):
        console.print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"rounding: {error}")
