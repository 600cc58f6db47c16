"""Disparity of one capture from Python. Runs as it stands: it simulates the capture and exports the shipped student first.

    python examples/01_predict.py --out out/example

With a capture of your own: --left L.png --right R.png --sensor pixel4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

import edge_dp
from edge_dp.data import DpSample, read_pair, write_disparity
from edge_dp.errors import EdgeDpError
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig


def simulated_sample() -> DpSample:
    """A capture of a procedural scene, 512x384."""
    scene = SceneConfig(height=384, width=512, margin=40, layers=(5, 8))
    capture = simulate_capture(seed=13, index=2, config=SimulationConfig(scene))
    left, right = capture.views
    return DpSample(left, right, load_sensor("generic_8bit"), "simulated", disparity=capture.disparity)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predict the disparity of one capture.")
    parser.add_argument(
        "--bundle", type=Path, default=Path("out/dp_disparity_s"), help="exported here if it is not there yet"
    )
    parser.add_argument("--left", type=Path)
    parser.add_argument("--right", type=Path)
    parser.add_argument("--sensor", default="generic_8bit")
    parser.add_argument("--out", type=Path, default=Path("out/example"))
    options = parser.parse_args()
    if not options.bundle.exists():
        edge_dp.export_checkpoint("dp_disparity_s", options.bundle, formats=["executorch"])
    sample = simulated_sample()
    if options.left and options.right:
        sample = read_pair(options.left, options.right, load_sensor(options.sensor))

    with edge_dp.load(options.bundle, "executorch-int8") as predictor:
        prediction = predictor.predict(sample)

    options.out.mkdir(parents=True, exist_ok=True)
    paths = write_disparity(options.out, prediction.disparity)
    print(*paths, sep="\n")
    if sample.disparity is not None:
        error = np.abs(prediction.disparity - sample.disparity)
        print(f"mean error {error.mean():.3f} px, median {np.median(error):.3f} px against the simulated truth")
        _picture(sample, prediction.disparity, options.out / "side_by_side.png")


def _picture(sample: DpSample, disparity: np.ndarray, path: Path) -> None:
    """View, truth and prediction beside each other, in one colour range."""
    assert sample.disparity is not None
    low, high = np.quantile(sample.disparity, (0.02, 0.98))
    nearness = [(high - values).clip(0, high - low) / (high - low) for values in (sample.disparity, disparity)]
    colours = [cv2.applyColorMap((255 * values).astype(np.uint8), cv2.COLORMAP_TURBO) for values in nearness]
    grey = (255 * sample.left[0] ** (1 / 2.2)).astype(np.uint8)
    cv2.imwrite(str(path), np.hstack([cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR), *colours]))
    print(path)


if __name__ == "__main__":
    try:
        main()
    except EdgeDpError as error:
        sys.exit(f"01_predict: {error}")
