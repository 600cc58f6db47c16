"""A lens fitted to half of the Canon scenes with metric depth, against what matching finds in the other half and on two planes.

    python benchmarks/canon_fit.py

Both halves in turn, with alpha the same everywhere and with alpha over the field, which is what ``edge-dp sensors fit`` does. The
captures (DP119, f/4) are read from the folder in EDGE_DP_DATA, or ../shared/data beside the checkout. Exit code 1 where the
median error over the other half is above 0.2 px, or a plane's above 0.15 px.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from edge_dp.data import DpSample, data_root
from edge_dp.data.dual_pixel.dp119 import Dp119
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.sensors import load_sensor
from edge_dp.sensors.fit import FitConfig, fit_sensor, match_capture, residual

SCENE_LIMIT_PX, PLANE_LIMIT_PX = 0.2, 0.15


def captures() -> tuple[list[DpSample], list[DpSample]]:
    """The scenes with depth, and the planes at the profile's aperture."""
    root = data_root()
    if root is None:
        raise InputError("captures: expected the Canon scenes, found none. Set EDGE_DP_DATA.")
    folder, sensor = root / "dual_pixel" / "canon_r6", load_sensor("canon_r6")
    planes = [plane for plane in Dp119(folder, groups=("flat",)) if plane.sensor.f_number == sensor.f_number]
    return list(Dp119(folder, groups=("box", "casual/iphone", "casual/orbbec"))), planes


def main() -> int:
    cv2.setNumThreads(1)
    scenes, planes = captures()
    table = Table(title="Matched minus predicted disparity, px, on captures that were not fitted to")
    for name in ("alpha", "half", "capture", "coverage %", "matched", "predicted", "bias", "median error", "verdict"):
        table.add_column(name, justify="left" if name in ("alpha", "half", "capture", "verdict") else "right")
    passed = True
    for order, kind in ((0, "uniform"), (2, "varies")):
        config = FitConfig(field_order=order)
        for half in (0, 1):
            fit = fit_sensor(scenes[half::2], load_sensor("canon_r6"), config)
            title = kind, str(half + 1)
            rows = [residual(match_capture(sample, config), fit.sensor) for sample in (*scenes[1 - half :: 2], *planes)]
            for row in rows:
                is_plane = row.name.startswith("flat")
                good = not is_plane or abs(row.bias_px) <= PLANE_LIMIT_PX
                passed &= good
                numbers = (f"{x:.3f}" for x in (row.matched_px, row.predicted_px, row.bias_px, row.median_abs_px))
                verdict = ("pass" if good else "FAIL") if is_plane else ""
                table.add_row(*title, row.name, f"{100 * row.coverage:.0f}", *numbers, verdict)
            median = float(np.median([row.median_abs_px for row in rows if not row.name.startswith("flat")]))
            good = median <= SCENE_LIMIT_PX
            passed &= good
            table.add_row(
                *title,
                f"scenes (alpha {fit.sensor.alpha}, focus {fit.sensor.focus_m} m)",
                *[""] * 4,
                f"{median:.3f}",
                "pass" if good else "FAIL",
                style="bold",
            )
    Console(highlight=False, width=132).print(table)
    return 0 if passed else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"canon_fit: {error}")
