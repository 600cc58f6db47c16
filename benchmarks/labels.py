"""What checking a teacher's estimates against the rig's other views is worth: labels against the truth of rendered captures.

    python benchmarks/labels.py [--teacher NAME] [--options FILE] [--captures N] [--size HxW]

Each row is one check over the same captures, the first row what the teacher says of two views unchecked. Coverage is the share
of the output's pixels with a label; the error is |label - truth|, px of the views, where there is one; a sigma that is right
holds 68 % of the errors within 1 and 95 % within 2 sigma, and has the lowest negative log-likelihood (Gaussian, nats a pixel).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from edge_dp.cli.arguments import image_size
from edge_dp.cli.progress import progress_bars
from edge_dp.errors import TrainingError
from edge_dp.files import yaml_load
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.labels import LabelConfig, RenderedCaptures, TeacherChoice, label_capture, to_output_grid
from edge_dp.training.labels.teachers import resolve

HELD_OUT_SEED = 77  # of no recipe
CHECKS = {
    "none": LabelConfig(check="none"),
    "left-right": LabelConfig(check="left_right"),
    "third view, 1 of 2": LabelConfig(check="third_view", min_views=1, free_space=False),
    "... none sees through": LabelConfig(check="third_view", min_views=1),
    "third view, 2 of 2": LabelConfig(check="third_view", min_views=2),
}
COLUMNS = ("coverage", "error", "median", "95 %", "< 1 sigma", "< 2 sigma", "NLL")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="sgm", help="name in the registry (default: %(default)s)")
    parser.add_argument("--options", type=Path, help="YAML file with the teacher's options")
    parser.add_argument("--captures", type=int, default=100)
    parser.add_argument("--size", type=image_size, default=(192, 256), metavar="HxW")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    given = yaml_load(options.options) if options.options else {}
    if options.teacher == "sgm" and not given:
        given = {"agreement": 1e6}  # its own left-right check would already be in the first row
    teacher = resolve(TeacherChoice(options.teacher, given))
    height, width = options.size
    scene = SceneConfig(height=height, width=width, margin=40, disparity=(-4.0, 5.0))
    lens = LensConfig(models={"half_aperture": 0.5, "sensor:pixel4": 0.5})
    source = RenderedCaptures(HELD_OUT_SEED, options.captures, SimulationConfig(scene, lens))
    results: dict[str, list[np.ndarray]] = {name: [] for name in CHECKS}
    with progress_bars() as progress:
        for index in range(len(source)):
            capture = source.read(index)
            assert capture.truth is not None  # it was rendered
            truth = cv2.resize(capture.truth, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
            for name, config in CHECKS.items():
                try:
                    mean, sigma, mask = to_output_grid(*label_capture(capture, teacher, config), config)
                except TrainingError:  # nothing holds in this capture
                    mean, sigma, mask = (np.zeros_like(truth, kind) for kind in (np.float32, np.float32, bool))
                results[name].append(np.stack([mask, np.abs(mean - truth), sigma]))
            progress("label", index + 1, len(source), "captures")
    rows = {name: measure(np.stack(maps)) for name, maps in results.items()}
    if options.json:
        print(json.dumps({"teacher": options.teacher, "captures": options.captures, "rows": rows}))
        return
    print(f"{options.teacher}, {options.captures} held-out rendered captures of {height}x{width}")
    print(f"{'check':<24}" + "".join(f"{column:>11}" for column in COLUMNS))
    for name, row in rows.items():
        print(f"{name:<24}" + "".join(f"{row[column]:>11.3f}" for column in COLUMNS))


def measure(maps: np.ndarray) -> dict[str, float]:
    """(N, 3, H, W) masks, errors and sigmas -> the columns."""
    mask = maps[:, 0] > 0
    error, sigma = maps[:, 1][mask], maps[:, 2][mask]
    normalised = error / sigma
    values = (
        mask.mean(),
        error.mean(),
        np.median(error),
        np.percentile(error, 95),
        (normalised < 1).mean(),
        (normalised < 2).mean(),
        (0.5 * normalised**2 + np.log(sigma) + 0.5 * np.log(2 * np.pi)).mean(),
    )
    return dict(zip(COLUMNS, map(float, values), strict=True))


if __name__ == "__main__":
    main()
