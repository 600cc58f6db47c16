"""The data sets of the disparity benchmark: real captures, light fields and rendered scenes, and how each is scored.

All scores are of the disparity at the size of the capture, in px of it; lower is better, except ``sign``, which is 1 where the
disparity grows with distance and -1 where it falls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data import DpSample, correct_field, data_root
from edge_dp.data.dataset import DpDataset
from edge_dp.data.dual_pixel.dp119 import SCENES, Dp119
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.data.light_fields import HciLightFields, LytroGrids
from edge_dp.errors import InputError
from edge_dp.metrics import ai1, ai2, epe, one_minus_abs_spearman
from edge_dp.runtime.accuracy import score
from edge_dp.sensors import SensorProfile, load_sensor
from edge_dp.sensors.fit import FitConfig, fit_sensor, match_capture
from edge_dp.sensors.matching import match_views
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.scenes import SceneConfig

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]
Scores = dict[str, float]
Truth = tuple[Map, Mask]

RENDERED_SEED = 20_231_119  # of no recipe: recipes count from 1
RENDERED_SCENES = 200
"""The ratio of two students' 1-|rho| is known to 0.06 with so many, and hardly at all with two dozen: its interval is printed."""
NETWORK_SIZE = (384, 512)  # height and width that the students are exported at
CANON_SIZE = (512, 768)  # that of the captures: 384x512 would squeeze them along x
CORRECTED = ", corrected"
GRID = 8  # px between the places at which a fit looks
_LEAST_SIDE = NETWORK_SIZE  # a network is not fed by enlarging


@dataclass(frozen=True, slots=True)
class SceneSet:
    """Captures, and how a disparity of one of them is scored.

    title: in tables.
    names: of the captures.
    read: a capture by name.
    score: (H, W) px of the capture to scores, the first being the one that intervals are printed of.
    truth: what the disparity is affine in, and where it is known; None where nothing is.
    search_px: least and largest disparity that matching tries, px of the capture.
    shrink: by how much it makes the views smaller before.
    points: of a disparity, inverse depth and disparity at places where the views match; for the lens's slope.
    network_size: height and width that networks are fed at.
    sensor: whose field disparities are corrected for and scored once more; None where the truth is a disparity already.
    """

    name: str
    title: str
    names: tuple[str, ...]
    read: Callable[[str], DpSample]
    score: Callable[[Map, DpSample], Scores]
    truth: Callable[[DpSample], Truth | None]
    search_px: tuple[int, int]
    shrink: int = 1
    points: Callable[[Map, DpSample], NDArray[np.float64]] | None = None
    network_size: tuple[int, int] = NETWORK_SIZE
    sensor: Callable[[], SensorProfile] | None = None

    def scores(self, disparity: Map, sample: DpSample) -> Scores:
        """``score``, and that of the disparity corrected for the sensor's field, with CORRECTED after the names."""
        found = self.score(disparity, sample)
        if self.sensor is None:
            return found
        corrected = self.score(correct_field(disparity, self.sensor()), sample)
        return found | {name + CORRECTED: value for name, value in corrected.items()}


def affine_scores(disparity: Map, truth: Truth) -> Scores:
    """AI(1), AI(2), 1-|rho| and the sign against a truth that grows with distance."""
    target, mask = truth
    return {
        "AI(1)": ai1(disparity, target, mask),
        "AI(2)": ai2(disparity, target, mask),
        "1-|rho|": one_minus_abs_spearman(disparity, target, mask),
        "sign": sign(disparity, truth),
    }


def sign(disparity: Map, truth: Truth) -> float:
    """Of the covariance; 0 for a constant."""
    target, mask = truth
    one, two = (np.asarray(values[mask], np.float64) for values in (disparity, target))
    return float(np.sign(((one - one.mean()) * (two - two.mean())).sum().round(9)))


def disparity_scores(disparity: Map, truth: Truth) -> Scores:
    """As ``affine_scores``, after the end-point error, of a truth in px."""
    return {"EPE px": epe(disparity, *truth)} | affine_scores(disparity, truth)


def pixel4() -> SceneSet:
    """Scenes of Xin et al., under their protocol: full resolution, truth up to an affine map."""
    captures = Xin2021(_folder("dual_pixel", "pixel4"))

    def truth(sample: DpSample) -> Truth:
        assert sample.affine_disparity is not None and sample.mask is not None
        return sample.affine_disparity, sample.mask

    def scored(disparity: Map, sample: DpSample) -> Scores:
        return score(disparity, sample, "xin2021") | {"sign": sign(disparity, truth(sample))}

    return SceneSet(
        "pixel4",
        "Pixel 4",
        tuple(captures.names),
        captures.read,
        scored,
        truth,
        search_px=(-4, 16),
        shrink=2,
        sensor=lambda: load_sensor("pixel4"),
    )


def canon() -> SceneSet:
    """DP119 scenes with metric depth: t = (p99 - 1/Z) / (p99 - p1) in 0.3 m <= Z < 10 m, and the lens's slope."""
    captures = _dp119(SCENES)

    def truth(sample: DpSample) -> Truth:
        assert sample.depth is not None and sample.mask is not None
        inverse = np.divide(1, sample.depth, out=np.zeros_like(sample.depth), where=sample.mask)
        low, high = np.percentile(inverse[sample.mask], (1, 99))
        return ((high - inverse) / (high - low)).astype(np.float32), sample.mask

    def points(disparity: Map, sample: DpSample) -> NDArray[np.float64]:
        assert sample.depth is not None
        _, usable = matched(captures, sample.name)
        return np.stack([1 / sample.depth[usable], disparity[usable]], axis=1).astype(np.float64)

    def scored(disparity: Map, sample: DpSample) -> Scores:
        return affine_scores(disparity, truth(sample))

    return SceneSet(
        "canon",
        "Canon",
        tuple(captures.names),
        captures.read,
        scored,
        truth,
        search_px=(-4, 4),
        points=points,
        network_size=CANON_SIZE,
        sensor=calibrated_canon,
    )


@cache
def calibrated_canon() -> SensorProfile:
    """The Canon's profile with the field of the two planes alone: the one that comes along saw the scenes' depth as well."""
    captures = planes()
    return fit_sensor(map(captures.read, captures.names), load_sensor("canon_r6"), source="planes").sensor


def planes() -> SceneSet:
    """Fronto-parallel planes at 0.6 m and 1.5 m, f/4: median distance of the disparity from the matched one, where that holds."""
    captures = _dp119(("flat",))
    names = tuple(name for name in captures.names if name.endswith("/f4"))

    def scored(disparity: Map, sample: DpSample) -> Scores:
        found, usable = matched(captures, sample.name)
        bias = float(np.median((disparity - found)[usable]))
        return {"|bias| px": abs(bias), "bias px": bias, "px": float(np.median(disparity[usable]))}

    return SceneSet(
        "planes",
        "planes",
        names,
        captures.read,
        scored,
        lambda _: None,
        search_px=(-4, 4),
        network_size=CANON_SIZE,
    )


def antinous() -> SceneSet:
    """Half-aperture sums of a rendered light field, exact truth."""
    captures = HciLightFields(_folder("lightfield", "antinous"))
    return SceneSet(
        "antinous",
        "light field, rendered",
        tuple(captures.names),
        captures.read,
        lambda disparity, sample: disparity_scores(disparity, _in_px(sample)),
        _in_px,
        search_px=(-16, 16),
    )


def lytro() -> SceneSet:
    """Half-aperture sums of a real light field: no truth, so the error is against matching, where that is certain."""
    captures = LytroGrids(_folder("lightfield", "lytro_2067"))
    config = replace(FitConfig().match, max_disparity_px=6.0)

    @cache
    def certain(name: str) -> Truth:
        sample = read(name)
        found, error = match_views(sample.left, sample.right, config)
        assert sample.mask is not None
        return found, sample.mask & (error <= FitConfig().largest_error_px)

    def read(name: str) -> DpSample:
        return padded(captures.read(name), *_LEAST_SIDE)

    return SceneSet(
        "lytro",
        "light field, real (against matching)",
        tuple(captures.names),
        read,
        lambda disparity, sample: disparity_scores(disparity, certain(sample.name)),
        lambda _: None,
        search_px=(-8, 4),
    )


def rendered(count: int = RENDERED_SCENES) -> SceneSet:
    """Procedural scenes of a seed that nothing is trained on, lens and sensor drawn anew for each, exact truth.

    Every plane is slanted: pixels of equal truth have no order, so with upright planes the truth itself, with the least noise,
    is far from a 1-|rho| of 0, and at 1 in a scene that is all at one distance.
    """
    height, width = NETWORK_SIZE
    models = {"half_aperture": 0.35, "butterworth": 0.1, "translating_disc": 0.1, "sensor:pixel4": 0.45}
    scene = SceneConfig(height=height, width=width, disparity=(-4.0, 5.0), slant_share=1.0)
    config = SimulationConfig(scene=scene, lens=LensConfig(models=models))

    def read(name: str) -> DpSample:
        capture = simulate_capture(RENDERED_SEED, int(name), config)
        left, right = capture.views
        return DpSample(left, right, load_sensor("generic_phone"), name, disparity=capture.disparity)

    return SceneSet(
        "rendered",
        "rendered scenes",
        tuple(f"{index:03d}" for index in range(count)),
        cache(read),
        lambda disparity, sample: disparity_scores(disparity, _in_px(sample)),
        _in_px,
        search_px=(-6, 7),
    )


SETS: Mapping[str, Callable[[], SceneSet]] = {
    "pixel4": pixel4,
    "canon": canon,
    "planes": planes,
    "antinous": antinous,
    "lytro": lytro,
    "rendered": rendered,
}


@cache
def matched(captures: DpDataset, name: str) -> Truth:
    """Disparity of a capture of known depth by matching, and where it may be used."""
    found = match_capture(captures.read(name))
    return found.disparity, found.usable


@cache
def _dp119(groups: tuple[str, ...]) -> Dp119:
    return Dp119(_folder("dual_pixel", "canon_r6"), groups=groups)


def line_of(points: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and offset of y against x by least absolute deviations, reweighted least squares; points (n, 2)."""
    x, y = points.T
    weight = np.ones_like(x)
    slope = offset = 0.0
    for _ in range(50):
        total = weight.sum()
        x_mean, y_mean = (weight * x).sum() / total, (weight * y).sum() / total
        slope = float((weight * (x - x_mean) * (y - y_mean)).sum() / (weight * (x - x_mean) ** 2).sum())
        offset = float(y_mean - slope * x_mean)
        weight = 1 / np.maximum(np.abs(y - offset - slope * x), 1e-3)
    return slope, offset


def matched_points(captures: SceneSet) -> NDArray[np.float64]:
    """Inverse depth and matched disparity, over all scenes; for the slope that a method's is compared with."""
    assert captures.points is not None
    dataset = _dp119(SCENES)
    return np.concatenate([captures.points(matched(dataset, name)[0], captures.read(name)) for name in captures.names])


def padded(sample: DpSample, height: int, width: int) -> DpSample:
    """A capture of at least that size, its last rows and columns repeated; the truth does not hold in what is added."""
    below = max(0, height - sample.left.shape[1])
    beside = max(0, width - sample.left.shape[2])
    if not (below or beside):
        return sample
    widen = ((0, below), (0, beside))
    mask = np.ones(sample.left.shape[1:], np.bool_) if sample.mask is None else sample.mask

    def maps(values: Map | None) -> Map | None:
        return None if values is None else np.pad(values, widen, mode="edge")

    def pictures(values: Map | None) -> Map | None:
        return None if values is None else np.pad(values, ((0, 0), *widen), mode="edge")

    left, right = pictures(sample.left), pictures(sample.right)
    assert left is not None and right is not None
    return replace(
        sample,
        left=left,
        right=right,
        disparity=maps(sample.disparity),
        affine_disparity=maps(sample.affine_disparity),
        depth=maps(sample.depth),
        confidence=maps(sample.confidence),
        mask=np.pad(mask, widen),
        all_in_focus=pictures(sample.all_in_focus),
    )


class PositionPrior:
    """A quadratic in x and y, fitted to the truth of the other scenes of a set: what the layout of scenes alone tells."""

    def __init__(self, captures: SceneSet) -> None:
        self._sums: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for name in captures.names:
            truth = captures.truth(captures.read(name))
            if truth is None:
                continue
            target, mask = (values[::GRID, ::GRID] for values in truth)
            design = _quadratic(*truth[0].shape)[::GRID, ::GRID][mask]
            share = 1 / max(len(design), 1)  # scenes count alike
            self._sums[name] = (share * design.T @ design, share * design.T @ target[mask].astype(np.float64))

    def __call__(self, name: str, height: int, width: int) -> Map:
        """(height, width) map for the scene called ``name``.

        Raises:
            InputError: there is no other scene with a truth.
        """
        others = [sums for other, sums in self._sums.items() if other != name]
        if not others:
            raise InputError(f"{name}: expected other scenes with ground truth to fit a position prior to, found none")
        normal, target = (np.sum(parts, axis=0) for parts in zip(*others, strict=True))
        prior: Map = (_quadratic(height, width) @ np.linalg.solve(normal, target)).astype(np.float32)
        return prior


def _quadratic(height: int, width: int) -> NDArray[np.float64]:
    """(H, W, 6): 1, x, y, x^2, x y, y^2 over -1..1."""
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)


def _in_px(sample: DpSample) -> Truth:
    assert sample.disparity is not None
    return sample.disparity, np.ones(sample.disparity.shape, np.bool_) if sample.mask is None else sample.mask


def _folder(*parts: str) -> Path:
    root = data_root()
    if root is None:
        raise InputError("real captures: expected a folder, found none. Set EDGE_DP_DATA, or leave real sets out.")
    return root.joinpath(*parts)


def resized(disparity: Map, height: int, width: int) -> Map:
    """A map of another size brought to that of the capture, its px with it."""
    if disparity.shape == (height, width):
        return disparity
    enlarged = cv2.resize(disparity, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return enlarged * np.float32(width / disparity.shape[1])
