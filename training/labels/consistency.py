"""Which of a teacher's estimates hold when the other cameras of the rig are asked, and what they come to together.

Everything is done in inverse depth w, which all cameras share: D = f |b| w px for parallel cameras with focal length f px and
baseline b. A point at the pixel x (homogeneous) of camera i with inverse depth w lies at K_i^-1 x / w before that camera, up to
scale; camera j sees it at

    y = K_j (R_j R_i^T K_i^-1 x + w R_j (p_i - p_j)),    w_j = w / (third component, without K_j).

Source: cross-view check and probabilistic encoding of Ding et al., "KD-MVS", ECCV 2022, section 3.3, with inverse depth in place
of depth, which is the quantity whose error is even over a stereo image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, TrainingError
from edge_dp.training.labels.config import LabelConfig
from edge_dp.training.teachers.base import Camera, Estimate, Teacher, View

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class DepthMap:
    """What one camera's pixels are believed to be.

    inverse_depth: (H, W) float32, 1 / m, or px per unit of baseline where the rig is uncalibrated; NaN where unknown.
    sigma: (H, W) float32, standard deviation of that, > 0; NaN where unknown.
    """

    inverse_depth: Array
    sigma: Array

    @property
    def valid(self) -> Mask:
        """(H, W) bool, where it is known."""
        return np.isfinite(self.inverse_depth)


def rig_depth(views: Sequence[View], teacher: Teacher, config: LabelConfig, metric: bool, where: str) -> DepthMap:
    """Inverse depth of the first view, checked as ``config`` says, with mean and spread over the estimates that agree.

    A stereo teacher (``views == 2``) looks at the first view with each of the others in turn, so that what one camera cannot see
    another may; one for any number of views looks at all at once. Each such estimate is a candidate. Its confirmations are
    counted over the other views, each with its own estimate. The candidate with the most wins; others agreeing with it are
    averaged in; where another has as many and contradicts it, nothing is known. With ``free_space`` a view that sees farther
    through a point refutes it, however many others confirm it.

    Args:
        views: of the rig, the reference first.
        metric: inverse depth is in 1 / m (or at least 0 at the horizon); otherwise the rig is uncalibrated, see ``LabelConfig``.
        where: the capture, for messages.

    Returns:
        mu = mean of the n + 1 estimates {winner, other candidates that agree, the winner's confirmations} and
        sigma^2 = sum (w_i - mu)^2 / (n + 1) + mean of the teacher's own sigma_i^2: the moments of their mixture. The second
        term is not divided by n: estimates from the same pictures err alike.

    Raises:
        InputError: fewer than two views, or fewer than ``config`` asks to confirm.
        TrainingError: the teacher returned NaN, the wrong sign or the wrong shape.
    """
    if len(views) < 2:
        raise InputError(f"{where}: expected a rig of at least two cameras, found {len(views)}. Add a view of another.")
    if len(views) - 1 < config.confirming_views:
        raise InputError(
            f"{where}: expected {config.confirming_views} views beside the first to confirm it, found {len(views) - 1}. Add the "
            "missing camera or lower min_views."
        )
    others = range(1, len(views))
    stereo = teacher.views == 2
    if config.check == "none":
        return _ask(teacher, views[:2] if stereo else views, where)
    groups = [[views[0], views[i]] for i in others] if stereo else [list(views)]
    candidates = [_ask(teacher, group, where) for group in groups]
    seen_by = [
        _ask(teacher, [views[i], views[0], *([] if stereo else (views[j] for j in others if j != i))], where)
        for i in others
    ]
    scale = None if metric else _range(candidates)
    checked = []
    for k, candidate in enumerate(candidates):
        asked = [k] if config.check == "left_right" and stereo else [i - 1 for i in others]
        seen = [reproject(candidate, views[0].camera, seen_by[i], views[i + 1].camera, config, scale) for i in asked]
        kept = np.ones(candidate.valid.shape, bool)
        if config.check == "third_view" and config.free_space:
            kept = ~np.any([through for _, through in seen], axis=0)
        checked.append((_where(kept, candidate), [confirmed for confirmed, _ in seen]))
    return _fuse(checked, views, config, scale)


def reproject(
    depth: DepthMap, camera: Camera, other: DepthMap, other_camera: Camera, config: LabelConfig, scale: float | None
) -> tuple[DepthMap, Mask]:
    """What another view says of each point of the first: where it confirms it, and where it refutes it.

    Each point is projected into the other view; that view's own depth there is taken and projected back. It is confirmed where it
    comes back to within ``reprojection_px`` of where it started and the depths differ by less than ``relative_depth``. Where the
    other view sees something nearer, the point is hidden from it, which says nothing; where it sees something farther, by more
    than both limits, it sees through the point.

    Args:
        scale: range of inverse depth that differences are relative to; None: relative depth proper.

    Returns:
        Inverse depth in the first camera as the other view has it, NaN where that does not confirm; and where (H, W) it sees
        through the point.

    Source: the second as the free-space violations of Merrell et al., "Real-time visibility-based fusion of depth maps", 2007.
    """
    height, width = depth.inverse_depth.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64))
    there = project(camera, other_camera, columns, rows, depth.inverse_depth)
    inverse, sigma = _sample(other, there[0], there[1])
    back = project(other_camera, camera, there[0], there[1], inverse)
    distance = np.hypot(back[0] - columns, back[1] - rows)
    difference = np.abs(back[2] - depth.inverse_depth)
    with np.errstate(invalid="ignore", divide="ignore"):
        reach = _reach(camera, other_camera)
        allowed = _allowed_difference(back[2], config, scale, reach)
        confirmed = (distance < config.reprojection_px) & (difference < allowed)
        # Sigma scales as inverse depth does, and not at all where that is 0: points at infinity are there for every camera.
        sigma = sigma * np.where(inverse == 0, 1.0, np.abs(back[2] / inverse))
        through = there[2] - inverse > np.maximum(allowed, config.reprojection_px / reach)
    return _where(confirmed, DepthMap(back[2].astype(np.float32), sigma.astype(np.float32))), through


def project(
    camera: Camera,
    other: Camera,
    columns: NDArray[np.float64],
    rows: NDArray[np.float64],
    inverse_depth: NDArray[np.floating],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Columns, rows and inverse depth at which another camera sees points of one, each (H, W); NaN for NaN or behind it.

    Args:
        columns, rows: (H, W) px of the points in ``camera``.
        inverse_depth: (H, W) along its axis.

    Source: the formula at the top of this module.
    """
    turn = other.rotation @ camera.rotation.T @ np.linalg.inv(camera.intrinsics)
    shift = other.rotation @ (camera.position - other.position)
    rays = np.stack([columns, rows, np.ones_like(columns)], axis=-1) @ turn.T
    points = rays + inverse_depth[..., None].astype(np.float64) * shift
    ahead = np.where(points[..., 2] > 0, points[..., 2], np.nan)
    seen = points @ other.intrinsics.T
    return seen[..., 0] / ahead, seen[..., 1] / ahead, inverse_depth / ahead


def check_estimate(estimate: Estimate, view: View, teacher: Teacher, where: str) -> None:
    """Refuse what is no estimate.

    Raises:
        TrainingError: another shape than the view's, NaN or a sigma of 0 where it claims to be valid, or disparities below 0.
    """
    shape = view.image.shape[1:]
    values = (estimate.disparity, estimate.sigma, estimate.valid)
    if any(array.shape != shape for array in values):
        found = ", ".join(str(array.shape) for array in values)
        raise TrainingError(f"{where}: teacher {teacher.name}: expected three maps of {shape}, found {found}.")
    disparity, sigma = (array[estimate.valid] for array in values[:2])
    if not (np.isfinite(disparity).all() and np.isfinite(sigma).all()):
        raise TrainingError(
            f"{where}: teacher {teacher.name}: expected finite numbers where it is valid, found NaN or infinity. Mend the "
            "teacher, or the precision that it runs at."
        )
    if (sigma <= 0).any():
        raise TrainingError(f"{where}: teacher {teacher.name}: expected sigma above 0, found {sigma.min()}.")
    if disparity.size and (disparity < 0).mean() > 0.5:
        raise TrainingError(
            f"{where}: teacher {teacher.name}: expected disparity of at least 0, larger for nearer points, found mostly negative "
            f"({np.median(disparity):.2f} px at the median): the wrong sign. Negate its output, or exchange the views."
        )


def _ask(teacher: Teacher, views: Sequence[View], where: str) -> DepthMap:
    estimate = teacher.estimate(views)
    check_estimate(estimate, views[0], teacher, where)
    per_px = 1 / _reach(views[0].camera, views[1].camera)
    valid = estimate.valid & (estimate.disparity >= 0)
    return _where(valid, DepthMap(estimate.disparity * np.float32(per_px), estimate.sigma * np.float32(per_px)))


def _where(known: Mask, depth: DepthMap) -> DepthMap:
    """The same, unknown elsewhere."""
    return DepthMap(*(np.where(known, plane, np.float32(np.nan)) for plane in (depth.inverse_depth, depth.sigma)))


def _reach(camera: Camera, other: Camera) -> float:
    """Disparity, px, per unit of inverse depth."""
    return float(camera.intrinsics[0, 0] * np.linalg.norm(other.position - camera.position))


def _allowed_difference(
    inverse_depth: NDArray[np.floating], config: LabelConfig, scale: float | None, reach: float
) -> NDArray[np.floating]:
    """Largest difference of inverse depth at which two estimates agree; see ``LabelConfig``."""
    relative = np.abs(inverse_depth) if scale is None else np.full_like(inverse_depth, scale)
    return np.maximum(config.relative_depth * relative, config.least_difference_px / reach)


def _range(candidates: Sequence[DepthMap]) -> float:
    """98th less 2nd percentile of all that is known."""
    known = np.concatenate([candidate.inverse_depth[candidate.valid] for candidate in candidates])
    low, high = np.percentile(known, (2, 98)) if known.size else (0.0, 0.0)
    return float(high - low)


def _sample(
    depth: DepthMap, columns: NDArray[np.float64], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """Inverse depth and sigma between pixels, by the bilinear weights of those that are known; NaN where these are under half."""
    x, y = (np.where(np.isfinite(at), at, -9.0).astype(np.float32) for at in (columns, rows))
    planes = (depth.valid.astype(np.float32), np.nan_to_num(depth.inverse_depth), np.nan_to_num(depth.sigma))
    weight, *values = (cv2.remap(plane, x, y, cv2.INTER_LINEAR, borderValue=0) for plane in planes)
    known = weight > 0.5
    return tuple(np.where(known, value / np.where(known, weight, 1), np.nan).astype(np.float64) for value in values)


def _fuse(
    checked: Sequence[tuple[DepthMap, Sequence[DepthMap]]],
    views: Sequence[View],
    config: LabelConfig,
    scale: float | None,
) -> DepthMap:
    """The best-confirmed candidate of every pixel, averaged with all that agrees with it."""
    counts = np.stack([sum(c.valid.astype(int) for c in confirmations) for _, confirmations in checked])
    values = np.stack([candidate.inverse_depth for candidate, _ in checked])
    passed = np.isfinite(values) & (counts >= config.confirming_views)
    score = np.where(passed, counts, -1)
    best = score.argmax(axis=0)
    winner = np.take_along_axis(values, best[None], axis=0)[0]
    reach = max(_reach(views[0].camera, view.camera) for view in views[1:])
    with np.errstate(invalid="ignore"):
        away = np.abs(values - winner)
        agrees = (away * reach < config.reprojection_px) & (away < _allowed_difference(winner, config, scale, reach))
    rival = passed & ~agrees & (score == score.max(axis=0))
    known = passed.any(axis=0) & ~rival.any(axis=0)

    estimates, chosen = [], []
    for k, (candidate, confirmations) in enumerate(checked):
        estimates.append(candidate)
        chosen.append(passed[k] & agrees[k])
        for confirmation in confirmations:
            estimates.append(confirmation)
            chosen.append((best == k) & confirmation.valid)
    return _mixture(estimates, np.stack(chosen) & known)


def _mixture(estimates: Sequence[DepthMap], chosen: Mask) -> DepthMap:
    """Mean and standard deviation of the equal mixture of the chosen estimates; NaN where none is."""
    means = np.where(chosen, np.stack([e.inverse_depth for e in estimates]), 0).astype(np.float64)
    variances = np.where(chosen, np.stack([e.sigma for e in estimates]), 0).astype(np.float64) ** 2
    count = chosen.sum(axis=0)
    divisor = np.where(count > 0, count, np.nan)
    mean = means.sum(axis=0) / divisor
    spread = (np.where(chosen, means - mean, 0) ** 2).sum(axis=0)
    sigma = np.sqrt((spread + variances.sum(axis=0)) / divisor)
    return DepthMap(mean.astype(np.float32), sigma.astype(np.float32))
