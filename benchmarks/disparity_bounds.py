"""What the students promise on the data sets of the disparity benchmark, and whether they keep it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from scene_sets import CORRECTED

PRECISION = "int8"
AT_MOST: dict[tuple[str, str], dict[str, float]] = {
    ("dp_disparity_s", "pixel4"): {"AI(1)": 0.040, "AI(2)": 0.055, "1-|rho|": 0.10},
    ("dp_disparity_m", "pixel4"): {"AI(1)": 0.036, "AI(2)": 0.050, "1-|rho|": 0.09},
    ("dp_disparity_xs", "pixel4"): {"AI(1)": 0.052, "AI(2)": 0.073, "1-|rho|": 0.142},
    ("dp_disparity_s", "canon"): {"AI(1)": 0.10, "1-|rho|": 0.19},
}
"""By student and data set, of the int8 artifact's means: as they are, corrected for the sensor's field, and of the artifact that
corrects for it itself."""
CONTROLS = {"dp_disparity_s": "mono_disparity_s"}
ONE_VIEW_SETS, ONE_VIEW_SHARE = ("pixel4", "canon", "rendered"), 0.5
"""A student's 1-|rho| over that of its control, which differs from it in nothing but that it sees one view."""
SLOPE_SHARE = 0.25
PLANE_PX = 0.2
SIGN_SETS = ("pixel4", "canon", "antinous", "lytro")
"""Rendered scenes may show nothing that matches."""
INT8_SETS = ("pixel4", "canon", "rendered")
"""Light fields reach beyond the disparities that the students' integers hold."""
INT8_AI2_SHARE, INT8_PX = 0.02, 0.05
"""How much worse int8 may be in AI(2), and how far its disparity may lie from that in fp32, px of the network's input."""


def judge(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every bound that the report's students and data sets have: method, data, what, value, limit, passed."""
    rows = []
    for method, described in report["methods"].items():
        if described["precision"] != PRECISION:
            continue
        for name, found in report["data"].items():
            if method not in found["summary"]:
                continue
            values = list(_of_student(method, described["student"], name, found))
            if not described["corrects_field"]:  # the others are not corrected
                values += _beside_others(method, described["student"], name, found)
            rows += [
                {
                    "method": method,
                    "data": name,
                    "what": what,
                    "value": value,
                    "limit": limit,
                    "passed": bool(value <= limit),
                }
                for what, value, limit in values
            ]
    return rows


Bound = tuple[str, float, float]
"""What is bounded, its value, and the most that it may be."""


def _of_student(method: str, student: str, name: str, found: dict[str, Any]) -> Iterator[Bound]:
    """Errors, slope, planes and sign."""
    mine = found["summary"][method]
    for metric, limit in AT_MOST.get((student, name), {}).items():
        for shown in (metric, metric + CORRECTED):
            if shown in mine:
                yield shown, mine[shown], limit
    if not student.startswith("dp_"):
        return
    if name == "canon":
        yield "slope from measured", abs(mine["slope px m"] / found["measured"]["slope px m"] - 1), SLOPE_SHARE
    if name == "planes":
        for scene, scores in found["scores"][method].items():
            yield f"{scene}: |bias| px", scores["|bias| px"], PLANE_PX
    if name in SIGN_SETS:
        yield "1 - sign", 1 - mine["sign"], 0.0


def _beside_others(method: str, student: str, name: str, found: dict[str, Any]) -> Iterator[Bound]:
    """Two views beside one, and int8 beside fp32."""
    mine, summary = found["summary"][method], found["summary"]
    control = summary.get(f"{CONTROLS.get(student)} {PRECISION}")
    if control and name in ONE_VIEW_SETS:
        yield "1-|rho|, x one view's", mine["1-|rho|"] / control["1-|rho|"], ONE_VIEW_SHARE
    fp32 = summary.get(f"{student} fp32")
    if fp32 and name in INT8_SETS:
        yield "AI(2) worse than fp32", mine["AI(2)"] / fp32["AI(2)"] - 1, INT8_AI2_SHARE
        yield "px from fp32", mine["px from fp32"], INT8_PX
