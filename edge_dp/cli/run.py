"""``edge-dp run``."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "disparity of one capture: two view files in, PFM, 16-bit PNG and a preview out"
DESCRIPTION = (
    "Read the two views of a dual-pixel capture, run one artifact of a bundle on them, and write the disparity at the "
    "capture's size: disparity.pfm (float px), disparity.png (16 bit) and disparity_preview.png, "
    "the expected error as PFM, the disparity corrected for the sensor's field where its profile knows that, and depth in metres "
    "where the focus is known too."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    parser.add_argument("--left", type=Path, required=True, help="left view: PNG, TIFF, JPEG, PGM or PFM")
    parser.add_argument("--right", type=Path, required=True, help="right view")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--sensor", default="generic_8bit", help="sensor profile, by name or JSON file (default: %(default)s)"
    )
    parser.add_argument("--artifact", help="which artifact runs (default: an integer one whose engine is here)")
    parser.add_argument("--engine", help="which engine runs it (default: the usual one)")
    parser.add_argument(
        "--focus", type=float, metavar="METRES", help="focus distance: depth.pfm is written too (default: the sensor's)"
    )
    parser.add_argument(
        "--samples-per-px",
        type=float,
        default=1.0,
        metavar="N",
        help="samples of the sensor per px of the files along the dual-pixel axis, for depth (default: %(default)s)",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print files and statistics as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import json

    import numpy as np

    import edge_dp
    from edge_dp.data import read_pair, to_sensor_orientation, write_disparity, write_pfm
    from edge_dp.errors import InputError
    from edge_dp.sensors import load_sensor

    if options.threads < 1:
        raise InputError(f"--threads: expected at least 1, found {options.threads}")
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"{options.out}: expected a folder to write to, found a file")
    sensor = load_sensor(options.sensor)
    sample = read_pair(options.left, options.right, sensor)
    with edge_dp.load(options.bundle, options.artifact, engine=options.engine, threads=options.threads) as predictor:
        prediction = predictor.predict(sample, focus_m=options.focus, samples_per_px=options.samples_per_px)
    disparity = to_sensor_orientation(prediction.disparity, sensor)
    options.out.mkdir(parents=True, exist_ok=True)
    files = [*write_disparity(options.out, disparity), options.out / "expected_error.pfm"]
    write_pfm(files[-1], to_sensor_orientation(prediction.expected_error, sensor))
    if sensor.alpha_field is not None:
        files.append(options.out / "corrected_disparity.pfm")
        write_pfm(files[-1], to_sensor_orientation(prediction.corrected_disparity, sensor))
    if prediction.depth is not None:
        files.append(options.out / "depth.pfm")
        write_pfm(files[-1], to_sensor_orientation(prediction.depth, sensor))
    low, middle, high = (round(float(value), 3) for value in np.quantile(disparity, (0.02, 0.5, 0.98)))
    if options.json:
        result = {"files": [str(path) for path in files], "disparity_px": {"p2": low, "p50": middle, "p98": high}}
        print(json.dumps(result))
    else:
        print(f"disparity {low} .. {middle} .. {high} px (2nd, 50th, 98th percentile); positive is farther than focus")
        for path in files:
            print(path)
    return 0
