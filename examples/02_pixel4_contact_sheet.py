"""The int8 student on every real Pixel 4 scene, as a contact sheet: left view, prediction, ground truth, with the scores.

    python examples/02_pixel4_contact_sheet.py out/dp_disparity_s --out out/pixel4.png

The captures (Xin et al., ICCV 2021) are read from the folder in EDGE_DP_DATA, or ../shared/data beside the checkout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

import edge_dp
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import EdgeDpError
from edge_dp.files import atomic_write
from edge_dp.metrics import ai1, ai2, one_minus_abs_spearman

TILE = (384, 288)  # width and height, px


def tile(values: NDArray[np.float32], mask: NDArray[np.bool_] | None = None) -> NDArray[np.uint8]:
    """A map in colours, red near and blue far over its own 2nd to 98th percentile; black where there is no ground truth."""
    low, high = np.quantile(values if mask is None else values[mask], (0.02, 0.98))
    nearness = ((high - values) / max(high - low, 1e-6)).clip(0, 1)
    colours = cv2.applyColorMap((255 * nearness).astype(np.uint8), cv2.COLORMAP_TURBO)
    if mask is not None:
        colours[~mask] = 0
    resized: NDArray[np.uint8] = cv2.resize(colours, TILE, interpolation=cv2.INTER_AREA)
    return resized


def main() -> None:
    parser = argparse.ArgumentParser(description="Contact sheet of the Pixel 4 scenes.")
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument("--artifact", default="executorch-int8")
    parser.add_argument("--out", type=Path, default=Path("out/pixel4.png"))
    options = parser.parse_args()
    rows, scores = [], []
    print("scene   AI(1)  AI(2)  1-|rho|")
    with edge_dp.load(options.bundle, options.artifact) as predictor:
        for sample in Xin2021():
            disparity = predictor.predict(sample).disparity
            truth, mask = sample.affine_disparity, sample.mask
            assert truth is not None and mask is not None
            scores.append([metric(disparity, truth, mask) for metric in (ai1, ai2, one_minus_abs_spearman)])
            words = "  ".join(f"{value:.3f}" for value in scores[-1])
            print(f"{sample.name:6}  {words}")
            bright = (sample.left[0] / np.quantile(sample.left[0], 0.99)).clip(0, 1) ** (1 / 2.2)
            view = cv2.cvtColor(cv2.resize((255 * bright).astype(np.uint8), TILE), cv2.COLOR_GRAY2BGR)
            row = np.hstack([view, tile(disparity), tile(truth, mask)])
            for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):  # outlined, for bright and dark scenes
                text = f"{sample.name}  {words}"
                cv2.putText(row, text, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness, cv2.LINE_AA)
            rows.append(row)
    print("mean    " + "  ".join(f"{value:.3f}" for value in np.mean(scores, axis=0)))
    with atomic_write(options.out) as temporary:
        temporary.write_bytes(cv2.imencode(".png", np.vstack(rows))[1].tobytes())
    print(options.out)


if __name__ == "__main__":
    try:
        main()
    except EdgeDpError as error:
        sys.exit(f"02_pixel4_contact_sheet: {error}")
