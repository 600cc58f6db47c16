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
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.fx import GraphModule, Interpreter, Node

from edge_dp.bundle.manifest import read_bundle
from edge_dp.converters.source import network_of_checkpoint, quantise_checkpoint
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.quantization.integer.differences import DIFFERENCES
from edge_dp.quantization.integer.graph import CLAMPS, IntegerGraph
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.validate import signature

CONVERTED = "converted graph"


class _OneByOne(Interpreter):
    """Runs a converted graph and puts, behind each operation, the reference's integers in place of its own.

    distances: by operation, in steps, of every value that it computed.
    """

    def __init__(self, graph: GraphModule, trace: dict[str, NDArray[np.int8]]) -> None:
        super().__init__(graph)
        self.trace = trace
        self.distances: dict[str, list[NDArray[np.int32]]] = defaultdict(list)

    def run_node(self, n: Node) -> Any:
        """Called for each node in turn."""
        result = super().run_node(n)
        if "quantize_per_tensor" not in str(n.target) or "dequantize" in str(n.target):
            return result
        named: Any = n.args[0]
        operation = named
        while operation.target in CLAMPS:
            operation = operation.args[0]
        expected = self.trace[named.name]
        self.distances[_label(operation)].append(np.abs(result.numpy().astype(np.int32) - expected))
        return torch.from_numpy(expected)


def _label(operation: Node) -> str:
    return "input" if operation.op == "placeholder" else str(operation.target).removeprefix("aten.").split(".")[0]


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
    inputs = [bundle.golden_inputs(case) for case in bundle.manifest.golden]
    names = [spec.name for spec in bundle.manifest.outputs]

    def by_name(outputs: Any) -> Tensors:
        return {name: np.asarray(output) for name, output in zip(names, outputs, strict=True)}

    with torch.no_grad():
        found = {CONVERTED: [by_name(folded(*map(torch.from_numpy, case.values()))) for case in inputs]}
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
        forced = _OneByOne(folded, reference.trace(list(case.values())))
        with torch.no_grad():
            forced.run(*map(torch.from_numpy, case.values()))
        for operation, parts in forced.distances.items():
            distances[operation] += [part.ravel() for part in parts]
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
