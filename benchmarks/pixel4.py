"""Disparity on the eight real Pixel 4 scenes: the student's artifacts beside classical matching and a constant.

    python benchmarks/pixel4.py out/dp_disparity_s

AI(1), AI(2) and 1-|Spearman|, lower is better, and the mean distance of the disparity from that of the same format in float, px
of the network's input, with the change of AI(2). Ground truth is at full resolution, known up to an affine map per
scene. The captures are read from the folder in EDGE_DP_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
from baselines import BASELINES, METRICS, score
from numpy.typing import NDArray
from rich.table import Table

import edge_dp
from edge_dp.cli.tables import console
from edge_dp.data import DpSample
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import EdgeDpError

Array = NDArray[np.float32]


def main() -> int:
    parser = argparse.ArgumentParser(description="Score artifacts and baselines on the Pixel 4 scenes.")
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument("--artifact", dest="artifacts", action="append", help="default: every artifact of the bundle")
    parser.add_argument("--scenes", action="store_true", help="a row per scene too")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    captures = Xin2021()
    results: dict[str, NDArray[np.float64]] = {}
    disparities: dict[str, list[Array]] = {}
    for name, baseline in BASELINES.items():
        results[name] = score(_in_turn(baseline(sample.left[0], sample.right[0]) for sample in captures), captures)
    bundle = edge_dp.load(options.bundle).bundle
    width = bundle.manifest.inputs[0].shape[-1]
    for name in options.artifacts or [artifact.name for artifact in bundle.manifest.artifacts]:
        with edge_dp.load(options.bundle, name) as predictor:
            predicted = [predictor.predict(sample).disparity for sample in captures]
            disparities[name] = [disparity * (width / disparity.shape[1]) for disparity in predicted]
            results[name] = score(_in_turn(predicted), captures)
    table = Table(title=f"Pixel 4, mean over {len(captures)} scenes (lower is better)")
    for column in ("method", *METRICS, "px from float", "AI(2) from float"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for name, rows in results.items():
        table.add_row(
            name,
            *(f"{value:.3f}" for value in rows.mean(axis=0)),
            *_against_float(name, disparities, results),
            style="bold" if name not in BASELINES else None,
        )
        if options.scenes:
            for scene, row in zip(captures.names, rows, strict=True):
                table.add_row(f"  {scene}", *(f"{value:.3f}" for value in row))
    console().print(table)
    return 0


def _in_turn(maps: Iterable[Array]) -> Callable[[DpSample], Array]:
    following = iter(maps)
    return lambda _: next(following)


def _against_float(
    name: str, disparities: dict[str, list[Array]], results: dict[str, NDArray[np.float64]]
) -> tuple[str, str]:
    """Mean absolute difference of the disparity and relative change of AI(2), from the float artifact of the same format."""
    form = name.partition("-")[0]
    reference = next((key for key in disparities if key.startswith(f"{form}-fp")), name)
    if reference == name or name not in disparities:
        return "", ""
    pairs = zip(disparities[name], disparities[reference], strict=True)
    distance = float(np.mean([np.abs(mine - other).mean() for mine, other in pairs]))
    change = results[name][:, 1].mean() / results[reference][:, 1].mean() - 1
    return f"{distance:.3f}", f"{change:+.1%}"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"pixel4: {error}")
