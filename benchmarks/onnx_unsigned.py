"""int8 ONNX with uint8 activations beside signed ones and float: latency on this CPU, and how far the outputs are apart.

    python benchmarks/onnx_unsigned.py

The shipped student on one thread, timed in turn, A B C A B C. "exact mode" is the unsigned artifact under ONNX Runtime's
session.x64quantprecision, which x86 without VNNI needs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import edge_dp
from edge_dp.bundle.manifest import Bundle
from edge_dp.converters.configs import OnnxConfig
from edge_dp.errors import EdgeDpError
from edge_dp.runtime.agent import session_options

CONFIGS = {
    "fp32": OnnxConfig(precision="fp32"),
    "int8": OnnxConfig(precision="int8"),
    "int8-unsigned": OnnxConfig(precision="int8", unsigned=True),
}
EXACT = "int8-unsigned, exact mode"
WARM_UP = 3


def main() -> int:
    parser = argparse.ArgumentParser(description="Time signed and unsigned int8 ONNX artifacts of the shipped student.")
    parser.add_argument("--model", default="dp_disparity_s", help="shipped checkpoint or folder")
    parser.add_argument("--rounds", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = edge_dp.export_checkpoint(options.model, Path(folder) / "bundle", formats=list(CONFIGS.values()))
        cases = [dict(bundle.golden_inputs(case)) for case in bundle.manifest.golden]
        sessions = {label: _session(bundle, label, exact=False) for label in CONFIGS}
        sessions[EXACT] = _session(bundle, "int8-unsigned", exact=True)
    outputs = {label: [session.run(None, case) for case in cases] for label, session in sessions.items()}
    times: dict[str, list[float]] = {label: [] for label in sessions}
    for index in range(WARM_UP + options.rounds):
        for label, session in sessions.items():
            start = time.perf_counter()
            session.run(None, cases[0])
            if index >= WARM_UP:
                times[label].append((time.perf_counter() - start) * 1e3)

    median = {label: float(np.median(values)) for label, values in times.items()}
    table = Table(title=f"{options.model}, ONNX Runtime {onnxruntime.__version__}, one thread, {options.rounds} rounds")
    for column in ("artifact", "median ms", "min ms", "of fp32", "equal to int8 %", "furthest from int8"):
        table.add_column(column, justify="left" if column == "artifact" else "right")
    for label, milliseconds in median.items():
        equal, furthest = ("-", "-") if label == "fp32" else _agreement(outputs[label], outputs["int8"])
        ratio = f"{milliseconds / median['fp32']:.2f}"
        table.add_row(label, f"{milliseconds:.1f}", f"{min(times[label]):.1f}", ratio, equal, furthest)
    Console(highlight=False, width=110).print(table)
    return 0


def _session(bundle: Bundle, label: str, *, exact: bool) -> Any:
    path = bundle.path(bundle.manifest.artifact(f"onnx-{label}").path)
    options = session_options(threads=1)
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _agreement(found: list[list[NDArray[np.float32]]], wanted: list[list[NDArray[np.float32]]]) -> tuple[str, str]:
    distances = np.concatenate(
        [np.abs(a - b).ravel() for x, y in zip(found, wanted, strict=True) for a, b in zip(x, y, strict=True)]
    )
    return f"{100 * (distances == 0).mean():.3f}", f"{distances.max():.3g}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"onnx_unsigned: {error}")
