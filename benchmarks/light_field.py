"""The simulator against a light field: half-aperture sums from one view and its true disparity, beside those of all views.

    python benchmarks/light_field.py [FOLDER]

The views left and right of the middle of the HCI light field ``antinous`` are summed to a true dual-pixel pair. The same pair is
simulated from the centre view, with the aperture open in the places of those views. Compared are the light of both and the
disparity that one matcher measures in both. Captures are read from the folder in EDGE_DP_DATA, or ../shared/data beside the
checkout, unless a folder of HCI scenes is given.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edge_dp.data import data_root
from edge_dp.data.light_fields import HciLightFields, LightField
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.optics.sampled_aperture import SampledAperture
from edge_dp.sensors.fit import FitConfig
from edge_dp.sensors.matching import match_views
from edge_dp.simulation.from_depth import scene_from_disparity
from edge_dp.simulation.render import render_views

LEAST_PSNR = 34.0  # dB, outside occlusions
LARGEST_DIFFERENCE = 0.1  # px, median, between the disparities measured in both pairs
_OCCLUDED = 0.1  # px per view step by which what lies in front is nearer

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One light field. PSNR in dB at peak 1, of the left and right view; disparity in px.

    psnr: over the pixels kept, linear light.
    psnr_everywhere: over all pixels, linear light.
    psnr_encoded: over the pixels kept, gamma 1/2.2.
    psnr_sharp: over the pixels kept, of the centre view in place of a simulated one: what doing nothing gives.
    kept: share of pixels outside occlusions.
    difference: median distance of the disparities measured in the simulated and in the true pair, over the pixels kept that a
        fit of a sensor would use: those where the matcher expects to be exact enough, in both pairs.
    errors: median distance from the ground truth of that measured in the simulated, and in the true pair; likewise.
    matched: share of all pixels over which these medians are taken.
    difference_of_any: as ``difference``, over all pixels kept for which the matcher answers at all.
    seconds: for simulating the pair.
    """

    psnr: tuple[float, float]
    psnr_everywhere: tuple[float, float]
    psnr_encoded: tuple[float, float]
    psnr_sharp: tuple[float, float]
    kept: float
    difference: float
    errors: tuple[float, float]
    matched: float
    difference_of_any: float
    seconds: float


def compare(light_field: LightField) -> Comparison:
    """Simulate the half-aperture sums of a light field with ground truth, and compare.

    Raises:
        InputError: a light field without ground truth, or as ``LightField.to_dual_pixel``.
    """
    if light_field.disparity is None or light_field.mask is None:
        raise InputError(
            f"light field {light_field.name}: expected ground-truth disparity, found none. Pass another scene."
        )
    sample = light_field.to_dual_pixel(colour=True)
    sharp, disparity = sample.all_in_focus, sample.disparity
    assert sharp is not None and disparity is not None
    rows, columns = light_field.shape
    margin = int(np.ceil(max(rows, columns) // 2 * np.abs(light_field.disparity[light_field.mask]).max())) + 1
    start = time.perf_counter()
    scene = scene_from_disparity(sharp, disparity, light_field.mask, margin=margin)
    simulated = render_views(scene, SampledAperture.of_grid(rows, columns), margin)
    seconds = time.perf_counter() - start
    true = np.stack([sample.left, sample.right])
    kept = light_field.mask & outside_occlusions(light_field.disparity, rows, columns)
    reach = float(np.ceil(np.abs(disparity[light_field.mask]).max()))
    # Without smoothing: rendered views have no noise, and their fine detail is what there is to match.
    config = replace(FitConfig().match, max_disparity_px=reach + 2.0, smoothing_px=0.0)
    (measured, error), (measured_true, error_true) = (
        match_views(pair[0], pair[1], config) for pair in (simulated, true)
    )
    difference, error = np.abs(measured - measured_true), np.maximum(error, error_true)
    matched = kept & (error <= FitConfig().largest_error_px)
    return Comparison(
        psnr=_psnr(simulated, true, kept),
        psnr_everywhere=_psnr(simulated, true, np.ones_like(kept)),
        psnr_encoded=_psnr(simulated ** (1 / 2.2), true ** (1 / 2.2), kept),
        psnr_sharp=_psnr(np.stack([sharp, sharp]), true, kept),
        kept=float(kept.mean()),
        difference=float(np.median(difference[matched])),
        errors=(
            float(np.median(np.abs(measured - disparity)[matched])),
            float(np.median(np.abs(measured_true - disparity)[matched])),
        ),
        matched=float(matched.mean()),
        difference_of_any=float(np.median(difference[kept & np.isfinite(error)])),
        seconds=seconds,
    )


def outside_occlusions(disparity: Array, rows: int, columns: int) -> Mask:
    """Pixels at which no view of the aperture shows or hides anything else than the centre view, from the truth alone.

    Every pixel of the centre view is put where a view sees it, the nearest in front. Left out is a pixel that in some view stays
    empty (something uncovered, or beyond the frame), and one that in some view lies behind another; and those beside them.

    Args:
        disparity: (H, W) px per view step, > 0 nearer.
        rows, columns: of the views; the middle column is in neither half and left out.
    """
    height, width = disparity.shape
    order = np.argsort(disparity, axis=None, kind="stable")  # of several values for one pixel, the last stays
    y, x = np.divmod(order, width)
    nearness = disparity.ravel()[order]
    changed = np.zeros((height, width), bool)
    for dv in range(-(rows // 2), rows // 2 + 1):
        for du in (step for step in range(-(columns // 2), columns // 2 + 1) if step):
            seen_x, seen_y = x - du * nearness, y - dv * nearness
            left, top = (np.floor(seen).astype(int) + 1 for seen in (seen_x, seen_y))
            front = np.full((height + 2, width + 2), -np.inf, np.float32)  # with a border for what leaves the frame
            for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
                corner = np.full_like(front, -np.inf)
                corner[(top + down).clip(0, height + 1), (left + across).clip(0, width + 1)] = nearness
                np.maximum(front, corner, out=front)
            place = (
                (np.rint(seen_y).astype(int) + 1).clip(0, height + 1),
                (np.rint(seen_x).astype(int) + 1).clip(0, width + 1),
            )
            hidden = front[place] > nearness + _OCCLUDED
            changed[y[hidden], x[hidden]] = True
            changed |= np.isneginf(front[1:-1, 1:-1])
    return cv2.dilate(changed.view(np.uint8), np.ones((3, 3), np.uint8)) == 0


def _psnr(pair: Array, other: Array, mask: Mask) -> tuple[float, float]:
    left, right = (
        float(-10 * np.log10(np.square(one - two)[:, mask].mean(dtype=np.float64)))
        for one, two in zip(pair, other, strict=True)
    )
    return left, right


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare simulated half-aperture sums of light fields with true ones.")
    parser.add_argument("folder", nargs="?", type=Path, help="of HCI scenes; default: antinous of the real captures")
    folder = parser.parse_args().folder
    if folder is None:
        root = data_root()
        if root is None:
            raise InputError(
                "real captures: EDGE_DP_DATA is unset and ../shared/data is not beside the checkout. Pass a folder."
            )
        folder = root / "lightfield" / "antinous"
    cv2.setNumThreads(1)
    fields = HciLightFields(folder)
    passed = True
    for name in fields.names:
        result = compare(fields.light_field(name))
        is_good = min(result.psnr) >= LEAST_PSNR and result.difference <= LARGEST_DIFFERENCE
        passed &= is_good
        table = Table(title=f"{name}: simulated against true half-aperture sums", style="" if is_good else "red")
        for column in ("", "left", "right"):
            table.add_column(column, justify="right" if column else "left")
        for label, values in (
            (f"PSNR outside occlusions, dB (at least {LEAST_PSNR:g})", result.psnr),
            ("  of the centre view as it is", result.psnr_sharp),
            ("  gamma-encoded", result.psnr_encoded),
            ("PSNR of all pixels, dB", result.psnr_everywhere),
        ):
            table.add_row(label, *(f"{value:.1f}" for value in values))
        console = Console(highlight=False)
        console.print(table)
        console.print(f"outside occlusions: {result.kept:.1%} of the pixels; disparity matched in {result.matched:.1%}")
        console.print(
            f"measured disparity, simulated against true: median difference {result.difference:.3f} px (at most "
            f"{LARGEST_DIFFERENCE:g}), {result.difference_of_any:.3f} px where the matcher doubts itself too; against the "
            f"ground truth {result.errors[0]:.3f} and {result.errors[1]:.3f} px"
        )
        console.print(f"simulated in {result.seconds:.2f} s")
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"light_field: {error}")
