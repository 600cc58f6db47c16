"""The label factory: simulated captures and what a stereo teacher says of them, written in shards that a killed run resumes.

A shard holds float16 views and labels at the network's output size. Nothing in it comes from the ground truth except the
field ``truth``, which only evaluation reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.files import atomic_write
from edge_dp.simulation.capture import SIMULATOR, SimulatedRig, SimulationConfig, simulate_with_rig
from edge_dp.simulation.shards import make_shards, open_shard
from edge_dp.training.teachers.sgm import SgmTeacher

SHARD_SIZE = 100
_SIGMA = 0.1
"""Standard deviation of a label that passed the checks, px of dual-pixel disparity: semi-global matching states none."""
_FLAT = 0.75
"""Largest spread of the labels that one output cell covers, px of disparity: beyond it the cell straddles an edge."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Training material, N captures.

    views: (N, 2, H, W) float16 linear light, the mean over colours, not exposure-normalised.
    label: (N, H/2, W/2) float16 teacher's dual-pixel disparity, px of the views; 0 where masked.
    sigma: (N, H/2, W/2) float16 standard deviation of the label, px.
    mask: (N, H/2, W/2) bool, where the teacher is sure.
    truth: (N, H/2, W/2) float16 true disparity, for evaluation only.
    """

    views: NDArray[np.float16]
    label: NDArray[np.float16]
    sigma: NDArray[np.float16]
    mask: NDArray[np.bool_]
    truth: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.views)


def label_capture(rig: SimulatedRig, teacher: SgmTeacher) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Teacher's dual-pixel disparity (H, W) px of a capture and its validity mask, from what the rig beside it saw.

    What an object hides from one side camera the other sees: with one camera alone, a band along one side of every object
    would go without labels, and the student would never learn where objects end there.
    """
    reference, side, opposite = (_gamma_encoded(view.mean(axis=0)) for view in (rig.reference, rig.side, rig.opposite))
    right, right_valid = teacher(reference, side)
    # Mirrored, the camera on the left is one on the right.
    mirrored, mirrored_valid = teacher(_mirrored(reference), _mirrored(opposite))
    left, left_valid = mirrored[:, ::-1], mirrored_valid[:, ::-1]
    both = right_valid & left_valid
    stereo = np.where(both, (right + left) / 2, np.where(right_valid, right, left))
    valid = (right_valid | left_valid) & ~(both & (np.abs(right - left) > teacher.agreement))
    inner = slice(rig.margin, -rig.margin or None)
    return rig.camera.dual_pixel_disparity(stereo)[inner, inner], valid[inner, inner]


def to_output_grid(
    disparity: NDArray[np.float32], mask: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Mean over 2x2 cells, (H, W) to (H/2, W/2); a cell is valid where all four are and they agree. Still px of the input."""
    height, width = disparity.shape
    cells = disparity.reshape(height // 2, 2, width // 2, 2)
    spread = cells.max(axis=(1, 3)) - cells.min(axis=(1, 3))
    valid = mask.reshape(height // 2, 2, width // 2, 2).all(axis=(1, 3)) & (spread < _FLAT)
    return np.where(valid, cells.mean(axis=(1, 3)), 0.0).astype(np.float32), valid


def data_set_key(seed: int, config: SimulationConfig, teacher: SgmTeacher) -> str:
    """Short name of the data set that these settings make; other settings never reuse its shards."""
    settings = json.dumps([SIMULATOR, seed, asdict(config), asdict(teacher), SHARD_SIZE], sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:12]


def write_shards(
    folder: Path,
    count: int,
    seed: int,
    config: SimulationConfig,
    teacher: SgmTeacher,
    workers: int,
    progress: Callable[[int], None],
) -> list[Path]:
    """Simulate and label ``count`` captures into ``folder``; shards that exist are kept.

    Args:
        count: captures, rounded up to whole shards.
        workers: processes; the bytes do not depend on it.
        progress: called with the number of captures finished so far.

    Returns:
        The shards, in order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = [folder / f"shard_{index:04d}.npz" for index in range(-(-count // SHARD_SIZE))]
    make = partial(_write_shard, seed=seed, config=config, teacher=teacher)
    make_shards(shards, make, workers, lambda made: progress(made * SHARD_SIZE))
    return shards


def read_shards(paths: Iterable[Path]) -> Samples:
    """All shards in memory.

    Raises:
        InputError: a shard is damaged; the message names it.
    """
    parts = []
    for path in paths:
        with open_shard(path) as data:
            parts.append(tuple(data[field.name] for field in fields(Samples)))
    return Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def labelled(
    views: NDArray[np.float32], disparity: NDArray[np.float32], rig: SimulatedRig, teacher: SgmTeacher
) -> tuple[NDArray[np.generic], ...]:
    """The fields of ``Samples`` for one capture, in order.

    Args:
        views: (2, C, H, W) linear light.
        disparity: (H, W) the truth, px.
        rig: what the teacher sees.
    """
    label, mask = to_output_grid(*label_capture(rig, teacher))
    truth = cv2.resize(disparity, label.shape[::-1], interpolation=cv2.INTER_AREA)
    sigma = np.full(label.shape, _SIGMA, np.float16)
    grey, half, whole = (array.astype(np.float16) for array in (views.mean(axis=1), label, truth))
    return grey, half, sigma, mask, whole


def _write_shard(path: Path, index: int, seed: int, config: SimulationConfig, teacher: SgmTeacher) -> None:
    rows = []
    for number in range(index * SHARD_SIZE, (index + 1) * SHARD_SIZE):
        capture, rig = simulate_with_rig(seed, number, config)
        rows.append(labelled(capture.views, capture.disparity, rig, teacher))
    names = [field.name for field in fields(Samples)]
    arrays = {name: np.stack(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def _gamma_encoded(radiance: NDArray[np.float32]) -> NDArray[np.uint8]:
    """8-bit view as a phone's main camera would give it, (H, W)."""
    return np.round(255.0 * np.clip(radiance, 0.0, 1.0) ** (1 / 2.2)).astype(np.uint8)


def _mirrored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[:, ::-1])
