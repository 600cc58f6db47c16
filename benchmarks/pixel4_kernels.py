"""Point-spread functions of the Pixel 4: the profile's fit and simpler models against measured kernels and real captures.

    python benchmarks/pixel4_kernels.py          # two tables
    python benchmarks/pixel4_kernels.py --fit    # a fresh fit, as in the profile

The first table compares with the 48 kernels measured at one defocus, with each pair put where the measured one has the mean of
its centroids. The second blurs all-in-focus images with each model, searching the disparity tile by tile, and compares with
the views: there kernels are scaled, and nothing was fitted. Data are read from the folder in EDGE_DP_DATA, or ../shared/data
beside the checkout.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.data.images import read_raw
from edge_dp.data.roots import data_root
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.optics.field_psf import FieldPsf, MeasuredGrid
from edge_dp.optics.psf import ALPHA_HALF_DISC, Butterworth, HalfAperture, PsfModel, TranslatingDisc
from edge_dp.sensors import load_sensor
from edge_dp.sensors.fit_psf import KernelMatch, fit_psf_field, grid_positions, match_kernels
from edge_dp.sensors.psf_field import PsfField

Plane = NDArray[np.float32]
Vector = NDArray[np.float64]

GRID = (6, 8)
TILE = 168  # px
MARGIN = 34  # px of a tile left aside on each side: more than a kernel's radius
DISPARITIES = np.arange(0.75, 9.0, 0.5)  # px: what the captures hold
PLAIN_BELOW, FLAT_WITHIN = 0.05, 12  # contrast of a tile too plain, levels of defocus of one that is flat


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare models of the Pixel 4's point-spread functions.")
    parser.add_argument("--fit", action="store_true", help="print a fresh fit as JSON and end")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    known = data_root()
    if known is None:
        raise InputError("pixel4_kernels: expected captures, found none. Set EDGE_DP_DATA to their folder.")
    folder = known / "dual_pixel" / "pixel4"
    left, right = (np.load(folder / "calibration" / f"blur_kernels_{side}.npy") for side in ("left", "right"))
    places = grid_positions(*GRID)
    if options.fit:
        print(json.dumps(asdict(fit_psf_field(left, right, places, (GRID[1] * TILE, GRID[0] * TILE)))))
        return 0
    sensor = load_sensor("pixel4")
    if sensor.psf is None or sensor.alpha is None:
        raise InputError("pixel4: expected psf and alpha in the sensor profile, found none. Add what --fit prints.")
    size = left.shape[-1]
    models: dict[str, PsfModel] = {
        "measured grid": MeasuredGrid(left.reshape(*GRID, size, size), right.reshape(*GRID, size, size)),
        "profile": FieldPsf(sensor.psf),
        f"ramp, alpha {sensor.alpha:g}": HalfAperture(strength=sensor.alpha),
        "half disc": HalfAperture(strength=ALPHA_HALF_DISC),
        "translating disc": TranslatingDisc(),
        "Butterworth": Butterworth(),
    }
    console = Console(highlight=False)
    console.print(kernel_table(models, sensor.psf, left, right, places))
    console.print(capture_table(models, folder))
    return 0


def kernel_table(models: dict[str, PsfModel], field: PsfField, left: Plane, right: Plane, places: Vector) -> Table:
    disparities = np.array([field.plane_disparity(x, y) for x, y in places])
    outward = (np.abs(places) > 0.6).sum(axis=1)
    regions = {"all": outward >= 0, "middle": outward == 0, "edges": outward == 1, "corners": outward == 2}
    table = Table(title="48 measured kernels per view; dx, dy: error of centroid distance, px")
    for column in ("model", "part", "dx mean", "dx max", "dy max", "corr. mean", "corr. min"):
        table.add_column(column, justify="left" if column in ("model", "part") else "right")
    for name, model in models.items():
        at = disparities if model.varies else np.full(len(places), disparities.mean())
        match = match_kernels(partial(kernel_at, model, at, places), left, right)
        for region, chosen in regions.items():
            table.add_row(
                name if region == "all" else "", region, *summary(match, chosen), end_section=region == "corners"
            )
    return table


def kernel_at(model: PsfModel, disparities: Vector, places: Vector, index: int, side: int) -> Plane:
    return model.kernel(disparities[index], side, *places[index])


def summary(match: KernelMatch, chosen: NDArray[np.bool_]) -> list[str]:
    along, down = np.abs(match.separation_error[chosen]).T
    correlation = match.correlation[chosen]
    numbers = (along.mean(), along.max(), down.max(), correlation.mean(), correlation.min())
    return [f"{number:.3f}" for number in numbers]


def capture_table(models: dict[str, PsfModel], folder: Path) -> Table:
    captures = Xin2021(folder)
    places = grid_positions(*GRID)
    left_out: dict[str, list[float]] = {name: [] for name in models}
    for index in track(range(len(captures)), "captures", transient=True):
        sharp_file = folder / "all_in_focus" / f"{captures.names[index]}_gt.png"
        if not sharp_file.is_file():
            continue
        sample = captures[index]
        assert sample.mask is not None and sample.affine_disparity is not None
        sharp = read_raw(sharp_file).astype(np.float32)
        defocus = np.where(sample.mask, sample.affine_disparity * 255, np.nan)
        for tile, place in enumerate(places):
            corner = (tile // GRID[1] * TILE, tile % GRID[1] * TILE)
            inner = tuple(slice(start + MARGIN, start + TILE - MARGIN) for start in corner)
            plain = cv2.Laplacian(sharp[inner], cv2.CV_32F).std() < PLAIN_BELOW * sharp[inner].mean()
            if plain or not np.ptp(defocus[inner]) <= FLAT_WITHIN:
                continue
            outer = tuple(slice(max(start - 8, 0), start + TILE + 8) for start in corner)
            views = [view[0][inner] for view in (sample.left, sample.right)]
            for name, model in models.items():
                left_out[name].append(best_match(model, sharp[outer], views, place))
    table = Table(title=f"{len(left_out['profile'])} tiles of captures with all-in-focus images, disparity searched")
    for column in ("model", "1 - corr., geometric mean", "tiles worse than profile"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, values in left_out.items():
        worse = np.mean(np.array(values) > np.array(left_out["profile"]))
        table.add_row(name, f"{np.exp(np.mean(np.log(values))):.5f}", "" if name == "profile" else f"{worse:.0%}")
    return table


def best_match(model: PsfModel, sharp: Plane, views: list[Plane], place: Vector) -> float:
    """1 - correlation of both views with the blurred sharp image, at the best disparity and common shift."""
    best = 1.0
    for disparity in DISPARITIES:
        scores = []
        for side, view in zip((-1, 1), views, strict=True):
            kernel = model.kernel(float(disparity), side, *place)
            blurred = cv2.filter2D(sharp, -1, np.ascontiguousarray(kernel[::-1, ::-1]), borderType=cv2.BORDER_REPLICATE)
            scores.append(cv2.matchTemplate(blurred, view, cv2.TM_CCOEFF_NORMED))
        best = min(best, 1 - float(((scores[0] + scores[1]) / 2).max()))
    return best


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"pixel4_kernels: {error}")
