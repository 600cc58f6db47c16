"""How far off the stereo teachers are, where, and whether their sigma says so.

    python benchmarks/teachers.py [--captures 24] [--weights FILE]

Rendered rigs that no training has seen, with the baseline of the shipped recipe, and three real pairs. SGM has holes; where all
pixels count they are filled from the nearest pixel that it is sure of. Textureless: light varies by less than 1 % within 9x9 px.
Border: within 4 px of a step of more than 2 px. Surest: as many pixels as SGM is sure of, those with the least sigma. Weighted:
by 1 / sigma^2, as labels with their sigma count.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge_dp.data import data_root
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.teachers.base import Array, Camera, Estimate, Mask, Teacher, View
from edge_dp.training.teachers.registry import build_teacher
from edge_dp.training.teachers.stereo_data import StereoData, render_capture

SEED = 20_000
"""Of the captures here; recipes use small ones."""
RIGS = StereoData(captures=1, gain=(6.0, 6.0), scene=SceneConfig(height=272, width=336, margin=0))
REGIONS = ("all", "textureless", "border", "SGM valid", "SGM invalid")


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """A pair with its truth: left, right (H, W) in [0, 1], disparity (H, W) px, known (H, W)."""

    left: Array
    right: Array
    truth: Array
    known: Mask


def rendered(captures: int) -> Iterator[Case]:
    for index in range(captures):
        capture = render_capture(SEED, index, RIGS)
        left, right = capture.views[:2].astype(np.float32) / 255
        truth = capture.disparity.astype(np.float32)
        yield Case(left, right, truth, np.ones(truth.shape, bool))


def real(root: Path) -> Iterator[tuple[str, Case]]:
    """The pairs in ``stereo/``, each with a name."""
    for name, left, right, truth, levels in (
        ("Cloth3", "view1.png", "view5.png", "disp1.png", 2),
        ("cone", "im2.png", "im6.png", "disp2.png", 4),
    ):
        folder = root / "stereo" / name
        disparity = _levels(folder / truth) / np.float32(levels)
        yield name, Case(_grey(folder / left), _grey(folder / right), disparity, disparity > 0)
    folder = root / "stereo" / "motorcycle"
    disparity = np.load(folder / "motorcycle_disp.npz")["arr_0"].astype(np.float32)
    views = [_grey(next(folder.glob(f"*{side}*.png"))) for side in ("left", "right")]
    known = np.isfinite(disparity)
    yield "motorcycle", Case(views[0], views[1], np.where(known, disparity, 0), known)


def regions(case: Case, sgm: Mask) -> dict[str, Mask]:
    """Where each column's pixels lie."""
    mean = cv2.blur(case.left, (9, 9))
    spread = np.sqrt(np.maximum(cv2.blur(case.left**2, (9, 9)) - mean**2, 0))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))
    truth = np.where(case.known, case.truth, np.nan)
    steps = (np.abs(np.diff(truth, axis=1, append=truth[:, -1:])) > 2) | (
        np.abs(np.diff(truth, axis=0, append=truth[-1:])) > 2
    )
    masks = (np.ones_like(sgm), spread < 0.01, cv2.dilate(steps.astype(np.uint8), disc) > 0, sgm, ~sgm)
    return {name: mask & case.known for name, mask in zip(REGIONS, masks, strict=True)}


def estimate(teacher: Teacher, case: Case) -> Estimate:
    cameras = (Camera.rectified(case.left.shape), Camera.rectified(case.left.shape, (1.0, 0.0)))
    views = [View(image[None], camera) for image, camera in zip((case.left, case.right), cameras, strict=True)]
    found = teacher.estimate(views)
    return replace(found, disparity=_filled(found)) if teacher.name == "sgm" else found


def measure(console: Console, title: str, cases: list[Case], disparities: int, weights: str | None) -> None:
    """Print one table; ``disparities``: the range that both teachers search, px."""
    teachers = [
        build_teacher("sgm", {"disparities": disparities}),
        build_teacher("stereo_net", {"disparities": disparities, "weights": weights}),
    ]
    sgm = [estimate(teachers[0], case).valid for case in cases]
    places = [regions(case, mask) for case, mask in zip(cases, sgm, strict=True)]
    table = Table(title=title)
    for column in (
        "teacher",
        "valid",
        *(f"{name}: EPE, >1 px" for name in REGIONS),
        "median",
        "surest: EPE, >1 px",
        "weighted",
        "|e|<sigma",
    ):
        table.add_column(column)
    for teacher in teachers:
        found = [estimate(teacher, case) for case in cases]
        errors = [np.abs(one.disparity - case.truth) for one, case in zip(found, cases, strict=True)]
        cells = [f"{np.concatenate([one.valid.ravel() for one in found]).mean():.3f}"]
        cells += [_cell(errors, [place[name] for place in places]) for name in REGIONS]
        error = np.concatenate([one[case.known] for one, case in zip(errors, cases, strict=True)])
        sigma = np.concatenate([one.sigma[case.known] for one, case in zip(found, cases, strict=True)])
        count = sum(int((mask & case.known).sum()) for mask, case in zip(sgm, cases, strict=True))
        surest = error[np.argsort(sigma, kind="stable")[:count]]
        weight = 1 / sigma**2
        cells += [f"{np.median(error):.3f}", _share(surest), f"{(error * weight).sum() / weight.sum():.3f}"]
        table.add_row(teacher.name, *cells, f"{(error < sigma).mean():.2f}")
    console.print(table)


def _cell(errors: list[Array], masks: list[Mask]) -> str:
    return _share(np.concatenate([error[mask] for error, mask in zip(errors, masks, strict=True)]))


def _share(errors: Array) -> str:
    return f"{errors.mean():.3f}, {100 * (errors > 1).mean():.1f} %" if errors.size else "-"


def _filled(found: Estimate) -> Array:
    if not found.valid.any():
        return found.disparity
    _, labels = cv2.distanceTransformWithLabels(
        (~found.valid).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    by_label: NDArray[np.float32] = np.zeros(labels.max() + 1, np.float32)
    by_label[labels[found.valid]] = found.disparity[found.valid]
    return np.where(found.valid, found.disparity, by_label[labels])


def _grey(path: Path) -> Array:
    return _levels(path) / np.float32(255)


def _levels(path: Path) -> Array:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise InputError(f"{path}: expected an image, found none that OpenCV reads. Copy it again.")
    return image.astype(np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captures", type=int, default=24, help="rendered rigs (default: %(default)s)")
    parser.add_argument("--weights", help="of stereo_net, instead of the shipped ones")
    options = parser.parse_args()
    console = Console(width=200)
    try:
        measure(console, f"{options.captures} rendered rigs", list(rendered(options.captures)), 64, options.weights)
        root = data_root()
        if root is None:
            console.print("real pairs: absent, EDGE_DP_DATA is unset")
            return 0
        for name, case in real(root):
            measure(console, name, [case], 112, options.weights)  # Middlebury's range, for both
    except EdgeDpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
