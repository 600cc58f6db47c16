"""What labels depend on besides the teacher and the captures."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from edge_dp.errors import InputError, SchemaError
from edge_dp.sensors.matching import MatchConfig

CHECKS = ("none", "left_right", "third_view")
FAILURES = ("stop", "skip")


@dataclass(frozen=True, slots=True)
class FitConfig:
    """The robust affine fit of rig disparity to measured dual-pixel disparity, for captures without known optics."""

    huber: float = 1.345
    """Residual, in standard deviations, from which on its weight falls (95 % efficiency for Gaussian errors)."""
    tukey: float = 4.685
    """Residual, in standard deviations, from which on a point has no weight in the end (95 % efficiency likewise)."""
    iterations: int = 30
    """Of reweighting by each, at most."""
    least_points: int = 30
    """Matched windows that a fit needs."""
    largest_relative_error: float = 0.25
    """Standard error of the slope over the slope, beyond which the fit counts as undetermined."""
    largest_window_spread: float = 0.15
    """Standard deviation of rig disparity in a window over the capture's range, beyond which the window is left out."""
    least_match_error_px: float = 0.05
    """Added in quadrature to the matcher's expected error, px."""
    window_px: int = 21
    """Side of the window that one dual-pixel disparity is measured in; odd."""
    smoothing_px: float = 1.5
    """Standard deviation of the Gaussian on both views before matching."""
    max_disparity_px: float = 8.0
    """Dual-pixel disparities searched, either way."""

    def __post_init__(self) -> None:
        _above(
            self,
            0,
            "huber",
            "tukey",
            "iterations",
            "largest_relative_error",
            "largest_window_spread",
            "least_match_error_px",
        )
        if self.least_points < 3:
            raise SchemaError(f"least_points: expected 3 or more, found {self.least_points}")
        try:
            self.matching()
        except InputError as error:
            raise SchemaError(str(error)) from error

    def matching(self) -> MatchConfig:
        """How the two dual-pixel views are matched."""
        return MatchConfig(self.window_px, self.smoothing_px, self.max_disparity_px)


@dataclass(frozen=True, slots=True)
class LabelConfig:
    """From what a teacher says of two or three views to a label: mean, sigma and mask.

    Depth and the geometry of a rig. A rig without focal length and baseline in metres is uncalibrated: its inverse depths are px
    per unit of baseline, counted from an unknown zero, as nobody knows what disparity the horizon has. A relative difference of
    depths is |1/w - 1/v| w = |w - v| / v for inverse depths w, v and has no meaning there. It is then taken relative to
    the range of the capture's inverse depths: |w - v| / (their 98th less their 2nd percentile).
    """

    check: str = "third_view"
    """none: what the teacher says of the first two cameras. left_right: each pair of cameras both ways. third_view: every other
    view may confirm, or not."""
    reprojection_px: float = 1.0
    """A view confirms a point that comes back to within less than this after a turn through that view, px of the first view."""
    relative_depth: float = 0.005
    """... and whose depth, as the other view sees it, differs by less than this."""
    least_difference_px: float = 0.1
    """Differences of disparity below this are sampling error of the matcher and always allowed, px of the first view."""
    min_views: int = 1
    """third_view: other views that must confirm a point."""
    free_space: bool = True
    """third_view: a point that another view sees through, to something farther, is dropped."""
    sigma_floor_px: float = 0.02
    """Least standard deviation of a label, px of dual-pixel disparity."""
    cell_labels: int = 4
    """Of the four labels that one cell of the output covers, how many must hold."""
    cell_spread_px: float | None = None
    """Largest difference of the labels in a cell, px; beyond it the cell is masked. None: no limit, as the spread is in sigma."""
    failures: str = "stop"
    """What to do about a capture that fails (a file or camera missing, a teacher that returns NaN, a fit of the wrong sign):
    stop, or skip it. One that merely shows too little stays, with an empty mask, unless all of a shard do: then stop, too."""
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        _above(self, 0, "reprojection_px", "relative_depth", "sigma_floor_px")
        if not 0 <= self.least_difference_px < math.inf:
            raise SchemaError(f"least_difference_px: expected 0 or more, found {self.least_difference_px}")
        for name, known in (("check", CHECKS), ("failures", FAILURES)):
            if (value := getattr(self, name)) not in known:
                raise SchemaError(f"{name}: expected one of {', '.join(known)}, found {value!r}")
        for name, most in (("min_views", 16), ("cell_labels", 4)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise SchemaError(f"{name}: expected 1 to {most}, found {value}")
        if self.cell_spread_px is not None:
            _above(self, 0, "cell_spread_px")

    @property
    def confirming_views(self) -> int:
        """Other views that must confirm a point."""
        return {"none": 0, "left_right": 1, "third_view": self.min_views}[self.check]


def _above(config: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not least < value < math.inf:
            raise SchemaError(f"{name}: expected a number above {least}, found {value}")
