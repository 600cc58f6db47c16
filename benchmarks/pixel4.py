"""Disparity on the eight real Pixel 4 scenes: the student's artifacts beside classical matching and a constant.

    python benchmarks/pixel4.py out/dp_disparity_s

AI(1), AI(2) and 1-|Spearman|, lower is better; ground truth at full resolution, known up to an affine map per scene. The captures
are read from the folder in EDGE_DP_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from baselines import BASELINES, METRICS, score
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import edge_dp
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import EdgeDpError


def main() -> int:
    parser = argparse.ArgumentParser(description="Score artifacts and baselines on the Pixel 4 scenes.")
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument("--artifact", dest="artifacts", action="append", help="default: every artifact of the bundle")
    parser.add_argument("--scenes", action="store_true", help="a row per scene too")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    captures = Xin2021()
    results: dict[str, NDArray[np.float64]] = {}
    for name, baseline in BASELINES.items():
        results[name] = score(lambda sample, f=baseline: f(sample.left[0], sample.right[0]), captures)
    bundle = edge_dp.load(options.bundle).bundle
    for name in options.artifacts or [artifact.name for artifact in bundle.manifest.artifacts]:
        with edge_dp.load(options.bundle, name) as predictor:
            results[name] = score(lambda sample, p=predictor: p.predict(sample).disparity, captures)
    table = Table(title=f"Pixel 4, mean over {len(captures)} scenes (lower is better)")
    for column in ("method", *METRICS):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, rows in results.items():
        table.add_row(
            name, *(f"{value:.3f}" for value in rows.mean(axis=0)), style="bold" if name not in BASELINES else None
        )
        if options.scenes:
            for scene, row in zip(captures.names, rows, strict=True):
                table.add_row(f"  {scene}", *(f"{value:.3f}" for value in row))
    Console(highlight=False).print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"pixel4: {error}")
