"""The predictor beside the bare call of its engine, alternated in one run.

    python benchmarks/predictor.py out/dp_disparity_s

A capture at the network's own size, as linear light. Bare: ``Engine.infer`` on an input that is ready. Medians, and their
ratios to the bare call. Maps at the capture's size are computed when asked for: "disparity" reads that one, "all maps" also
confidence, promised error and depth. The last column is a larger capture, whose cost is OpenCV's resize by area.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import edge_dp
from edge_dp.cli.tables import console
from edge_dp.data import DpSample
from edge_dp.errors import EdgeDpError
from edge_dp.sensors import load_sensor

ARTIFACTS = ("executorch-int8", "executorch-fp32", "tflite-int8", "tflite-fp32")
WARM_UP = 5
LARGER = 3  # times the network's size, along each side


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the predictor beside the bare call of its engine.")
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument("--artifact", dest="artifacts", action="append", help=f"default: {', '.join(ARTIFACTS)}")
    parser.add_argument("--rounds", type=int, default=200, help="calls of each kind")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # as the engines
    table = Table(title="median ms (ratio to the bare call), all alternated in one run, 1 thread")
    for column in ("artifact", "bare", "predict", "disparity", "all maps", f"{LARGER} x as large"):
        table.add_column(column, justify="left" if column == "artifact" else "right")
    for name in options.artifacts or ARTIFACTS:
        bare, *others = measure(options.bundle, name, options.rounds)
        table.add_row(name, f"{bare:.2f}", *(f"{each:.2f} ({each / bare:.3f})" for each in others))
    console().print(table)
    return 0


def measure(folder: Path, artifact: str, rounds: int) -> list[float]:
    """Median ms of the bare call, and of ``predict`` alone, with disparity, with all maps, and of a larger capture."""
    with edge_dp.load(folder, artifact) as predictor:
        bundle = predictor.bundle
        views = bundle.golden_inputs(bundle.manifest.golden[0])
        capture = sample_of(views["views"][0])
        larger = sample_of(views["views"][0].repeat(LARGER, axis=1).repeat(LARGER, axis=2))

        def all_maps() -> tuple[object, ...]:
            found = predictor.predict(capture, focus_m=1.0)
            return found.disparity, found.expected_error, found.depth

        kinds: list[Callable[[], object]] = [
            lambda: predictor.engine.infer(views),
            lambda: predictor.predict(capture),
            lambda: predictor.predict(capture).disparity,
            all_maps,
            lambda: predictor.predict(larger).disparity,
        ]
        times: list[list[float]] = [[] for _ in kinds]
        for index in range(WARM_UP + rounds):
            for place in range(len(kinds)):
                which = (index + place) % len(
                    kinds
                )  # each follows each other, and finds the caches as that leaves them
                start = time.perf_counter()
                kinds[which]()
                if index >= WARM_UP:
                    times[which].append((time.perf_counter() - start) * 1e3)
    return [float(np.median(kept)) for kept in times]


def sample_of(views: NDArray[np.float32]) -> DpSample:
    """Left and right as a capture of the Pixel 4, half as bright, so that there is something to normalise."""
    left, right = np.ascontiguousarray(views[:, None]) / 2
    return DpSample(left, right, load_sensor("pixel4"), "capture")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"predictor: {error}")
