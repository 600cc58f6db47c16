"""The label factory: captures of a rig, and what a teacher says of them, written in shards that a killed run resumes.

A shard holds float16 views and labels at the network's output size. Nothing in it comes from the ground truth except the field
``truth``, which only evaluation reads.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, TrainingError
from edge_dp.simulation.capture import SimulatedRig, SimulationConfig
from edge_dp.simulation.shards import claim_folder, make_shards
from edge_dp.training.labels.config import LabelConfig
from edge_dp.training.labels.consistency import DepthMap, rig_depth
from edge_dp.training.labels.dual_pixel import NoLabelError, fit_to_views
from edge_dp.training.labels.shards import Samples, label_settings, write_shard
from edge_dp.training.labels.sources import CaptureSource, RenderedCaptures, RigCapture, rendered_capture
from edge_dp.training.labels.teachers import TeacherChoice, resolve
from edge_dp.training.teachers.base import Teacher

Array = NDArray[np.float32]
Mask = NDArray[np.bool_]
AnyTeacher = Teacher | TeacherChoice

SHARD_SIZE = 100
NOTE = "labels.json"
_PATIENCE_S = 300.0


def label_capture(
    capture: RigCapture, teacher: AnyTeacher, config: LabelConfig | None = None
) -> tuple[Array, Array, Mask]:
    """Mean and standard deviation (H, W) px of a capture's dual-pixel disparity, and where they hold, from its rig alone.

    Where the optics are not known, the two dual-pixel views serve to scale the teacher's disparity and for nothing else.

    Raises:
        InputError: too few cameras.
        TrainingError: what the teacher returned is no disparity, or the fit to the dual-pixel views has the wrong sign.
        NoLabelError: no label holds, or the fit is impossible. The messages name the capture.
    """
    config = config or LabelConfig()
    depth = rig_depth(capture.rig, resolve(teacher), config, capture.metric, capture.name)
    depth = DepthMap(capture.frame(depth.inverse_depth), capture.frame(depth.sigma))
    mask = depth.valid
    if not mask.any():
        raise _empty(capture)
    optics = capture.optics
    if optics is None:
        left, right = capture.views[:, None]
        optics = fit_to_views(depth.inverse_depth, left, right, config.fit, capture.name)
    mean, sigma = optics(depth.inverse_depth, depth.sigma)
    sigma = np.maximum(sigma, np.float32(config.sigma_floor_px))
    return np.where(mask, mean, np.float32(0)), np.where(mask, sigma, np.float32(0)), mask


def to_output_grid(
    mean: Array, sigma: Array, mask: Mask, config: LabelConfig | None = None
) -> tuple[Array, Array, Mask]:
    """Labels of 2x2 cells, (H, W) to (H/2, W/2), still px of the input: the moments of the mixture of those that hold.

    mean = mean of m_i and sigma^2 = mean of s_i^2 + variance of m_i, so that a cell on an object's border is unsure, not absent.

    Returns:
        Mean and sigma, 0 where masked, and the mask: cells of which ``cell_labels`` hold, no more than ``cell_spread_px`` apart.
    """
    config = config or LabelConfig()
    height, width = mean.shape
    means, variances, valid = (
        plane.reshape(height // 2, 2, width // 2, 2).swapaxes(1, 2).reshape(height // 2, width // 2, 4)
        for plane in (mean, sigma**2, mask)
    )
    count = valid.sum(axis=-1)
    held = count >= config.cell_labels
    divisor = np.maximum(count, 1)
    cell_mean = np.where(valid, means, 0).sum(axis=-1) / divisor
    away = np.where(valid, means - cell_mean[..., None], 0)
    cell_variance = (np.where(valid, variances, 0) + away**2).sum(axis=-1) / divisor
    if config.cell_spread_px is not None:
        held &= away.max(axis=-1) - away.min(axis=-1) < config.cell_spread_px
    cells = (np.where(held, plane, 0).astype(np.float32) for plane in (cell_mean, np.sqrt(cell_variance)))
    return (*cells, held)


def labelled(
    views: Array, disparity: Array, rig: SimulatedRig, teacher: AnyTeacher, config: LabelConfig | None = None
) -> tuple[NDArray[np.float16] | Mask, ...]:
    """The fields of ``Samples`` for one rendered capture, in order: what shards hold of it, without a shard.

    Args:
        views: (2, C, H, W) linear light.
        disparity: (H, W) the truth, px.
        rig: what the teacher sees.

    Raises:
        TrainingError: what the teacher returned is no disparity.
    """
    capture = rendered_capture("rendered capture", views, disparity, rig)
    return _sample(capture, resolve(teacher), config or LabelConfig())[0]


def data_set_key(seed: int, config: SimulationConfig, teacher: AnyTeacher, labels: LabelConfig | None = None) -> str:
    """Short name of the data set that these settings make; other settings never reuse its shards."""
    settings = label_settings(RenderedCaptures(seed, 1, config), resolve(teacher), labels or LabelConfig())
    text = json.dumps([settings, SHARD_SIZE], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_shards(
    folder: Path,
    count: int,
    seed: int,
    config: SimulationConfig,
    teacher: AnyTeacher,
    workers: int,
    progress: Callable[[int], None],
    labels: LabelConfig | None = None,
) -> list[Path]:
    """Simulate and label ``count`` captures into ``folder``; shards that exist are kept.

    Args:
        count: captures, rounded up to whole shards.
        workers: processes; the bytes do not depend on it.
        progress: called with the number of captures finished so far.

    Returns:
        The shards, in order.
    """
    source = RenderedCaptures(seed, -(-count // SHARD_SIZE) * SHARD_SIZE, config)
    return write_labels(folder, source, teacher, labels or LabelConfig(), workers=workers, progress=progress)


def write_labels(
    folder: Path,
    source: CaptureSource,
    teacher: AnyTeacher,
    config: LabelConfig,
    *,
    workers: int,
    progress: Callable[[int], None] = lambda _: None,
    share: tuple[int, int] = (0, 1),
    shard_size: int = SHARD_SIZE,
) -> list[Path]:
    """Label all captures of a source into ``folder``; shards that exist are kept.

    Args:
        workers: processes; the bytes do not depend on it.
        progress: called with the number of captures of this share finished so far.
        share: (rank, of how many): which shards to make, for several machines or launches on one folder.

    Returns:
        The shards of all shares, in order; those of the others may not be there yet.

    Raises:
        EdgeDpError: as ``label_capture``, unless the configuration skips such captures; or a whole shard of them failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rank, world = share
    shards = [folder / f"shard_{index:04d}.npz" for index in range(-(-len(source) // shard_size))]
    mine = shards[rank::world]
    make = partial(_make_shard, source=source, teacher=teacher, config=config, share=share, shard_size=shard_size)
    total = sum(min(shard_size, len(source) - index * shard_size) for index in range(rank, len(shards), world))
    if mine:
        make_shards(mine, make, workers, lambda made: progress(min(made * shard_size, total)))
    return shards


def label_set(
    folder: Path,
    source: CaptureSource,
    teacher: AnyTeacher,
    config: LabelConfig,
    *,
    resume: bool,
    workers: int,
    progress: Callable[[int], None] = lambda _: None,
    shard_size: int = SHARD_SIZE,
) -> list[Path]:
    """As ``write_labels``, into a folder that keeps its settings in ``labels.json`` and resumes only with the same.

    Under ``torchrun`` each process makes its share of the shards.

    Raises:
        InputError: the folder holds something else, or labels already without ``resume``, or of other settings.
    """
    settings = {**label_settings(source, resolve(teacher), config), "captures": len(source), "shard_size": shard_size}
    rank, world = share_of_launch()
    if rank == 0:
        claim_folder(folder, NOTE, settings, holds="set of labels", resume=resume)
    else:
        _await(folder / NOTE)
        claim_folder(folder, NOTE, settings, holds="set of labels", resume=True)
    return write_labels(
        folder, source, teacher, config, workers=workers, progress=progress, share=(rank, world), shard_size=shard_size
    )


def share_of_launch() -> tuple[int, int]:
    """(rank, of how many) processes that ``torchrun`` started, from RANK and WORLD_SIZE; (0, 1) without it.

    Raises:
        InputError: they are no numbers, or the rank is not below the number.
    """
    texts = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (all(text.isdecimal() for text in texts) and int(texts[0]) < int(texts[1])):
        raise InputError(
            f"RANK, WORLD_SIZE: expected whole numbers with RANK below WORLD_SIZE, found {texts[0]!r}, {texts[1]!r}"
        )
    return int(texts[0]), int(texts[1])


def _await(path: Path) -> None:
    """Wait for what the first process writes before any other begins."""
    limit = time.monotonic() + _PATIENCE_S
    while not path.is_file():
        if time.monotonic() > limit:
            raise InputError(
                f"{path}: expected the first process to write it within {_PATIENCE_S:g} s, found nothing. See its message."
            )
        time.sleep(0.1)


def _make_shard(
    path: Path,
    position: int,
    source: CaptureSource,
    teacher: AnyTeacher,
    config: LabelConfig,
    share: tuple[int, int],
    shard_size: int,
) -> None:
    """Shard number ``position`` of a share."""
    made = resolve(teacher)
    first = (share[0] + position * share[1]) * shard_size
    rows: list[tuple[NDArray[np.float16] | Mask, ...]] = []
    names: list[str] = []
    empty: dict[str, str] = {}
    failed: dict[str, str] = {}
    for index in range(first, min(first + shard_size, len(source))):
        try:
            capture = source.read(index)
            row, why_empty = _sample(capture, made, config)
        except (InputError, TrainingError) as error:
            if config.failures == "stop":
                raise
            failed[str(index)] = str(error)
            continue
        if rows and row[0].shape != rows[0][0].shape:
            raise InputError(
                f"{capture.name}: expected views of {rows[0][0].shape[1:]} as the captures before, found {row[0].shape[1:]}. "
                "Give one size for all (--size)."
            )
        rows.append(row)
        names.append(capture.name)
        if why_empty:
            empty[capture.name] = why_empty
    if not rows:
        raise TrainingError(f"{path}: every capture failed, the first: {next(iter(failed.values()))}")
    if len(empty) == len(rows) and config.failures == "stop":
        raise TrainingError(f"{path}: no capture gives a label, the first: {next(iter(empty.values()))}")
    samples = Samples(*(np.stack(arrays) for arrays in zip(*rows, strict=True)))
    captures = {"captures": names, "empty": empty, "failed": failed}
    write_shard(path, samples, label_settings(source, made, config), captures)


def _sample(
    capture: RigCapture, teacher: Teacher, config: LabelConfig
) -> tuple[tuple[NDArray[np.float16] | Mask, ...], str]:
    """Views, label, sigma, mask and truth of one capture, as ``Samples`` has them; and why the mask is empty, if it is."""
    height, width = capture.views.shape[1:]
    if height % 2 or width % 2:
        raise InputError(
            f"{capture.name}: expected views of even height and width, found {height}x{width}. Give a size (--size)."
        )
    why_empty = ""
    try:
        mean, sigma, mask = to_output_grid(*label_capture(capture, teacher, config), config)
        if not mask.any():
            raise _empty(capture)
    except NoLabelError as error:
        mean, sigma, mask = (np.zeros((height // 2, width // 2), kind) for kind in (np.float32, np.float32, np.bool_))
        why_empty = str(error)
    if capture.truth is None:
        truth = np.full(mean.shape, np.nan, np.float32)
    else:
        truth = np.asarray(cv2.resize(capture.truth, mean.shape[::-1], interpolation=cv2.INTER_AREA))
    half = np.float16
    row = (capture.views.astype(half), mean.astype(half), sigma.astype(half), mask, truth.astype(half))
    return row, why_empty


def _empty(capture: RigCapture) -> NoLabelError:
    return NoLabelError(
        f"{capture.name}: expected labels, found an empty mask: the teacher is sure of nothing there that the check confirms. "
        "Leave such captures out, loosen the check, or see whether the rig's cameras are in the right order."
    )
