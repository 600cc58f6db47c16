"""Simulated data sets of any size on disk: a description in ``dataset.json`` and shards of captures beside it.

A shard ``shard_00012.npz`` is an uncompressed zip archive of arrays as ``numpy.load`` reads them, named ``CAPTURE.FIELD``
such as ``00000771.views``: one capture is read without the others, and its checksum with it. The bytes depend on seed,
configuration, pictures and the versions of the simulator, numpy and OpenCV alone: archives carry a fixed date.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from numpy.typing import NDArray

from edge_dp.config import from_mapping
from edge_dp.errors import InputError, SchemaError
from edge_dp.files import atomic_write, json_load
from edge_dp.simulation.capture import (
    SIMULATOR,
    SimulatedCapture,
    SimulatedRig,
    SimulationConfig,
    simulate_capture,
    simulate_with_rig,
)
from edge_dp.simulation.pictures import PictureSource, SourceNote
from edge_dp.simulation.shards import claim_folder, make_shards
from edge_dp.srgb import linear_to_srgb

SCHEMA = 1
NOTE = "dataset.json"
SHARD_SIZE = 64
WHITE = 65535
"""Level of linear light 1 in ``views``: four times as fine as 14-bit raw data."""

_MOST = 10**8  # captures: what their names have digits for


@dataclass(frozen=True, slots=True)
class FieldNote:
    """One array of a capture."""

    dtype: str
    shape: str
    meaning: str


FIELDS = {
    "views": FieldNote(
        "uint16", "2, C, H, W", f"left and right dual-pixel view, linear light; {WHITE} is the sensor's white level"
    ),
    "disparity": FieldNote(
        "float32",
        "H, W",
        "true dual-pixel disparity d, px of the views: left(x) = right(x + d), d > 0 is farther than the focus plane",
    ),
}
PICTURE_FIELDS = {
    "mask": FieldNote(
        "bool", "H, W", "false where the source did not know the depth: the disparity there was filled in, and rendered"
    ),
}
RIG_FIELDS = {
    "reference": FieldNote(
        "uint8", "C, Hc, Wc", "pinhole view from the middle of the lens, sRGB; shows (Hc - H) / 2 px more on every side"
    ),
    "side": FieldNote(
        "uint8",
        "C, Hc, Wc",
        "pinhole view of a camera beside it, sRGB, with occlusions of its own; rectified for an angle and turns of 0: "
        "reference(x) = side(x - D), D = offset - gain * d",
    ),
    "opposite": FieldNote(
        "uint8", "C, Hc, Wc", "as side, of a camera as far to the left: reference(x) = opposite(x + D)"
    ),
    "camera": FieldNote(
        "float64", "7", "offset px, gain, angle rad, turns about x, y and z deg, focal length px of the side camera"
    ),
}


@dataclass(frozen=True, slots=True)
class DataSetNote:
    """What ``dataset.json`` says: all that the bytes of the shards depend on, and how to read them.

    simulator: ``SIMULATOR`` that made it.
    config: ``SimulationConfig`` as a mapping; one of another simulator may have other fields.
    source: the pictures; None, and not in the file, for procedural scenes.
    """

    schema: int
    simulator: int
    seed: int
    count: int
    shard_size: int
    fields: dict[str, FieldNote]
    config: dict[str, Any]
    source: SourceNote | None = None

    def __post_init__(self) -> None:
        for name, least in (("seed", 0), ("count", 1), ("shard_size", 1)):
            if not least <= getattr(self, name) <= _MOST:
                raise SchemaError(f"{name}: expected {least} to {_MOST}, found {getattr(self, name)}")

    def settings(self) -> dict[str, Any]:
        """What the file holds."""
        data = asdict(self)
        if self.source is None:
            del data["source"]
        return data

    @property
    def shards(self) -> list[str]:
        """Names of the shards, in order."""
        return [self.shard_of(number) for number in range(0, self.count, self.shard_size)]

    def shard_of(self, number: int) -> str:
        """Name of the shard that holds a capture."""
        return f"shard_{number // self.shard_size:05d}.npz"

    def captures(self, shard: int) -> range:
        """Numbers of the captures in a shard."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.count))


def capture_name(number: int) -> str:
    """What a capture is called in its shard, and by readers."""
    return f"{number:08d}"


def read_note(folder: Path) -> DataSetNote:
    """Read ``dataset.json``.

    Raises:
        InputError: there is none.
        SchemaError: it is damaged or of a newer schema; the field is named.
    """
    path = folder / NOTE
    data = json_load(path)
    if isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise SchemaError(
            f"{path}: schema: expected at most {SCHEMA}, found {data['schema']}. Upgrade edge_dp to read it."
        )
    return from_mapping(DataSetNote, data, str(path), strict=False)


def write_dataset(
    folder: Path,
    count: int,
    seed: int,
    config: SimulationConfig,
    *,
    pictures: PictureSource | None = None,
    rig: bool = False,
    resume: bool = False,
    workers: int | None = None,
    shard_size: int = SHARD_SIZE,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Path]:
    """Simulate captures 0 to ``count`` - 1 into ``folder``. Killed at any moment, it goes on with ``resume``.

    Args:
        folder: new or empty; to resume, that of the same data set.
        pictures: to draw the scenes from, capture after capture; None for procedural scenes.
        rig: also write the pinhole views that a stereo teacher needs.
        workers: processes, all cores unless given; the bytes do not depend on it.
        progress: called with the number of captures that exist so far.

    Returns:
        The shards, in order.

    Raises:
        InputError: the folder holds something else, is not writable or has too little space; or what the scenes need
            cannot be read, or a picture does not fit the configuration.
        SchemaError: a number out of its range; or the configuration names what there is not.
    """
    fields = FIELDS | (PICTURE_FIELDS if pictures else {}) | (RIG_FIELDS if rig else {})
    source = pictures.note() if pictures else None
    note = DataSetNote(SCHEMA, SIMULATOR, seed, count, shard_size, fields, asdict(config), source)
    shards = [folder / name for name in note.shards]
    missing = sum(len(note.captures(index)) for index, path in enumerate(shards) if not path.is_file())
    if missing:  # one capture now: what is wrong with the configuration shows before anything is written
        first = _capture_arrays(note, 0, config, pictures)
        _check_space(folder, missing * sum(array.nbytes + 512 for array in first.values()))
    claim_folder(folder, NOTE, note.settings(), holds="data set", resume=resume)
    make = partial(_write_shard, note=note, config=config, pictures=pictures)
    make_shards(shards, make, workers or os.cpu_count() or 1, lambda made: progress(min(made * shard_size, count)))
    return shards


def _write_shard(
    path: Path, index: int, note: DataSetNote, config: SimulationConfig, pictures: PictureSource | None
) -> None:
    with atomic_write(path) as temporary, ZipFile(temporary, "w") as archive:
        for number in note.captures(index):
            for name, array in _capture_arrays(note, number, config, pictures).items():
                # A ZipInfo of its own has the date 1980-01-01, so that the time of writing is not in the bytes.
                with archive.open(ZipInfo(f"{capture_name(number)}.{name}.npy"), "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)


def _capture_arrays(
    note: DataSetNote, number: int, config: SimulationConfig, pictures: PictureSource | None
) -> dict[str, NDArray[Any]]:
    """The arrays of a capture that are the fields of the set."""
    which = (note.seed, number, config, pictures)
    if "side" not in note.fields:
        return _views(simulate_capture(*which))
    capture, rig = simulate_with_rig(*which)
    return _views(capture) | _rig_views(rig)


def _views(capture: SimulatedCapture) -> dict[str, NDArray[Any]]:
    """``FIELDS``, and of a picture ``PICTURE_FIELDS``."""
    arrays: dict[str, NDArray[Any]] = {
        "views": np.rint(capture.views * np.float32(WHITE)).astype(np.uint16),
        "disparity": capture.disparity,
    }
    if capture.mask is not None:
        arrays["mask"] = capture.mask
    return arrays


def _rig_views(rig: SimulatedRig) -> dict[str, NDArray[Any]]:
    """``RIG_FIELDS``."""
    camera = rig.camera
    return {
        "reference": _tone_mapped(rig.reference),
        "side": _tone_mapped(rig.side),
        "opposite": _tone_mapped(rig.opposite),
        "camera": np.array([camera.offset, camera.gain, camera.angle, *camera.turn_deg, camera.focal_px]),
    }


def _tone_mapped(light: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Linear light as a camera's 8-bit sRGB."""
    return np.rint(255 * linear_to_srgb(light.clip(0, 1))).astype(np.uint8)


def _check_space(folder: Path, needed: int) -> None:
    """Refuse a disk that is too small before hours have gone into filling it."""
    existing = next(path for path in (folder, *folder.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"{folder}: expected {needed / 1e9:,.1f} GB of free space for the data set, found {free / 1e9:,.1f} GB. Take fewer "
            "captures or another disk."
        )
