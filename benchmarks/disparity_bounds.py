"""What the students promise on the data sets of the disparity benchmark, and whether they keep it."""

from __future__ import annotations

from typing import Any

from scene_sets import CORRECTED

PRECISION = "int8"
AT_MOST: dict[tuple[str, str], dict[str, float]] = {
    ("dp_disparity_s", "pixel4"): {"AI(1)": 0.040, "AI(2)": 0.055, "1-|rho|": 0.10},
    ("dp_disparity_m", "pixel4"): {"AI(1)": 0.036, "AI(2)": 0.050, "1-|rho|": 0.09},
    ("dp_disparity_xs", "pixel4"): {"AI(1)": 0.052, "AI(2)": 0.073, "1-|rho|": 0.142},
    ("dp_disparity_s", "canon"): {"AI(1)": 0.10, "1-|rho|": 0.19},
}
"""By student and data set, of the int8 artifact's means, as they are and corrected for the sensor's field."""
CONTROLS = {"dp_disparity_s": "mono_disparity_s"}
ONE_VIEW_SETS, ONE_VIEW_SHARE = ("pixel4", "rendered"), 0.5
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
    rows: list[dict[str, Any]] = []

    def add(method: str, data: str, what: str, value: float, limit: float) -> None:
        rows.append(
            {
                "method": method,
                "data": data,
                "what": what,
                "value": value,
                "limit": limit,
                "passed": bool(value <= limit),
            }
        )

    for method, described in report["methods"].items():
        student = described["student"]
        if described["precision"] != PRECISION:
            continue
        for name, found in report["data"].items():
            mine = found["summary"][method]
            for metric, limit in AT_MOST.get((student, name), {}).items():
                add(method, name, metric, mine[metric], limit)
                if metric + CORRECTED in mine:
                    add(method, name, metric + CORRECTED, mine[metric + CORRECTED], limit)
            if student.startswith("dp_"):
                if name == "canon":
                    measured = found["measured"]["slope px m"]
                    add(method, name, "slope from measured", abs(mine["slope px m"] / measured - 1), SLOPE_SHARE)
                if name == "planes":
                    for scene, scores in found["scores"][method].items():
                        add(method, name, f"{scene}: |bias| px", scores["|bias| px"], PLANE_PX)
                if name in SIGN_SETS:
                    add(method, name, "1 - sign", 1 - mine["sign"], 0.0)
            control = found["summary"].get(f"{CONTROLS.get(student)} {PRECISION}")
            if control and name in ONE_VIEW_SETS:
                add(method, name, "1-|rho|, x one view's", mine["1-|rho|"] / control["1-|rho|"], ONE_VIEW_SHARE)
            fp32 = found["summary"].get(f"{student} fp32")
            if fp32 and name in INT8_SETS:
                add(method, name, "AI(2) worse than fp32", mine["AI(2)"] / fp32["AI(2)"] - 1, INT8_AI2_SHARE)
                add(method, name, "px from fp32", mine["px from fp32"], INT8_PX)
    return rows
