"""Where integer artifacts leave the converted graph: ties of the bilinear upsampling.

    python benchmarks/rounding.py out/dp_disparity_s

The weights of bilinear x2 are sixteenths, so that many values lie exactly between two quantisation steps. PyTorch rounds such a
tie to even, XNNPACK's integer kernel up. Each integer artifact is compared with the converted graph as it is, and with one whose
upsamplings round ties up; all golden cases together.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.fx import GraphModule

from edge_dp.bundle.manifest import read_bundle
from edge_dp.converters.export import prepare_source
from edge_dp.errors import EdgeDpError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.parity import compare
from edge_dp.runtime.validate import signature

_TIE = 1e-3  # of a step: enough to decide a tie, too little to move any other multiple of 1/16


def ties_up(graph: GraphModule) -> GraphModule:
    """A copy of a converted graph in which upsamplings round ties up, as XNNPACK does."""
    result = copy.deepcopy(graph)
    for node in list(result.graph.nodes):
        if node.target is torch.ops.aten.upsample_bilinear2d.vec:
            (quantise,) = node.users
            with result.graph.inserting_before(quantise):
                nudged = result.graph.call_function(torch.ops.aten.add.Scalar, (node, _TIE * quantise.args[1]))
            quantise.update_arg(0, nudged)
    result.recompile()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare integer artifacts with two roundings of the converted graph.")
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export from a shipped checkpoint")
    bundle = read_bundle(parser.parse_args().bundle)
    height, width = bundle.manifest.inputs[0].shape[2:]
    source = prepare_source(read_checkpoint(bundle.manifest.model), height, width)
    graphs = {"to even (as converted)": source.folded, "up": ties_up(source.folded)}
    inputs = [bundle.golden_inputs(case) for case in bundle.manifest.golden]
    step = bundle.manifest.outputs[0].scale or 1.0
    table = Table(title="Disparity against the converted graph, ties in upsampling rounded")
    for name in ("artifact", "ties", "equal %", "max steps", "SNR dB"):
        table.add_column(name, justify="left" if name in ("artifact", "ties") else "right")
    for artifact in bundle.manifest.artifacts:
        if artifact.reference != "quantised":
            continue
        with make_engine(engine_for(artifact.format), bundle.path(artifact.path), signature(bundle)) as engine:
            outputs = [engine.infer(case)["disparity"] for case in inputs]
        for ties, graph in graphs.items():
            with torch.no_grad():
                expected = [graph(torch.from_numpy(case["views"]))[0].numpy() for case in inputs]
            statistics = compare(outputs, expected, step)
            distance = np.abs(np.concatenate(outputs) - np.concatenate(expected)) / step
            snr = "-" if statistics.snr_db is None else f"{statistics.snr_db:.1f}"
            table.add_row(
                artifact.name, ties, f"{100 * (distance < 0.5).mean():.2f}", f"{statistics.max_steps:.0f}", snr
            )
    Console(highlight=False, width=100).print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"rounding: {error}")
