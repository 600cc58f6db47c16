"""Lists of captures of known depth, as ``edge-dp sensors fit`` takes them.

A CSV file with a header, or a JSON list of objects, with these fields; paths are relative to the list:

- ``left``, ``right``: the views.
- ``depth``: an image of depth, or the distance of a fronto-parallel plane in metres.
- ``unit`` (optional): of an image of depth, ``m`` (the default for PFM), ``mm`` or metres per level, such as 0.001.
- ``max_m`` (optional): depth from here on does not hold.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_dp.data.images import read_pair, read_raw
from edge_dp.data.pfm import read_pfm
from edge_dp.data.sample import Array, DpSample, Mask
from edge_dp.data.truth import fit_to_views
from edge_dp.errors import InputError
from edge_dp.sensors.profile import SensorProfile

_UNITS = {"m": 1.0, "mm": 1e-3}
_SUFFIXES = (".csv", ".json")


@dataclass(frozen=True, slots=True)
class CaptureOfKnownDepth:
    """Files of one capture. ``where`` is the list's line, for messages."""

    left: Path
    right: Path
    depth: Path | float  # metres where a number
    where: str
    unit_m: float | None = None  # metres per level of an image of depth; None: not said
    max_m: float = math.inf

    def read(self, sensor: SensorProfile) -> DpSample:
        """Views, depth and mask.

        Holes in the depth are masked: 0 in images of whole numbers, NaN in PFM, and ``max_m`` on.

        Raises:
            InputError: as ``read_pair``; depth that is no image, of another shape than the views, all holes, or holds
                values that are no distance: zero in PFM, below zero, or infinite; file and place are named.
        """
        sample = read_pair(self.left, self.right, sensor)
        if isinstance(self.depth, float):
            depth = np.full(sample.left.shape[1:], self.depth, np.float32)
            return replace(sample, depth=depth, mask=np.ones(depth.shape, np.bool_))
        metres, known = self._depth(self.depth)
        metres, known = (fit_to_views(a, sample, self.depth, resize=True) for a in (metres, known.astype(np.uint8)))
        return replace(sample, depth=metres, mask=known > 0)

    def _depth(self, path: Path) -> tuple[Array, Mask]:
        is_pfm = path.suffix.lower() == ".pfm"
        if not is_pfm and self.unit_m is None:
            raise InputError(
                f"{self.where}: unit: expected m, mm or metres per level of {path.name}, found nothing. Add it."
            )
        levels = read_pfm(path) if is_pfm else read_raw(path)
        if levels.ndim == 3:
            if (levels[..., :3] != levels[..., :1]).any():
                raise InputError(
                    f"{path}: expected depth in one channel, found colour. Pass the depth, not a picture of it."
                )
            levels = levels[..., 0]
        metres = levels.astype(np.float32) * np.float32(self.unit_m or 1.0)
        holes = levels == 0 if np.issubdtype(levels.dtype, np.integer) else np.isnan(metres)
        bad = ~holes & ~((metres > 0) & np.isfinite(metres))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InputError(
                f"{path}: expected metres above 0 (NaN for holes), found {metres[row, column]:g} in row {row}, column "
                f"{column}, and {np.count_nonzero(bad)} such in all. Write holes as NaN."
            )
        known = ~holes & (metres < self.max_m)
        if not known.any():
            raise InputError(f"{path}: expected depth, found holes only. Leave the capture out.")
        return np.where(known, metres, np.float32(np.inf)), known


def read_captures(path: str | Path, sensor: SensorProfile) -> Iterator[DpSample]:
    """The captures of a list one after the other, named after their left views' path in the list.

    Raises:
        InputError: the list is missing, malformed (line and field are named) or empty, before the first capture is read;
            as ``CaptureOfKnownDepth.read`` later.
    """
    captures = list_captures(path)
    root = Path(path).parent
    return (replace(capture.read(sensor), name=_name(capture.left, root)) for capture in captures)


def list_captures(path: str | Path) -> list[CaptureOfKnownDepth]:
    """Read the list itself; every file it names must be there.

    Raises:
        InputError: as ``read_captures``.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise InputError(f"{path}: expected a list of captures (.csv or .json), found another kind. See --help.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a readable list of captures, found: {error}. Check the path.") from error
    rows = _json_rows(path, text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    if not rows:
        raise InputError(f"{path}: expected captures, found none. Add a row per capture: left, right, depth.")
    first = 1 if path.suffix.lower() == ".json" else 2  # a CSV file has its header first
    return [_capture(row, path.parent, f"{path}: row {number}") for number, row in enumerate(rows, first)]


def _json_rows(path: Path, text: str) -> list[Any]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected JSON, found something else ({error}). Mend or rewrite the file.") from error
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a JSON list of objects, found {type(rows).__name__}. Rewrite the file.")
    return rows


def _capture(row: Any, root: Path, where: str) -> CaptureOfKnownDepth:
    if not isinstance(row, dict):
        raise InputError(
            f"{where}: expected an object with left, right and depth, found {type(row).__name__}. Rewrite it."
        )
    for name in ("left", "right", "depth"):
        if row.get(name) in (None, ""):
            raise InputError(f"{where}: {name}: expected a file, found nothing. Add it.")
    files = {name: root / str(row[name]) for name in ("left", "right")}
    metres = _number(row["depth"])
    if metres is None:
        files["depth"] = root / str(row["depth"])
    elif not 0 < metres < math.inf:
        raise InputError(f"{where}: depth: expected a file or metres above 0, found {row['depth']!r}. Correct it.")
    for name, file in files.items():
        if not file.is_file():
            raise InputError(f"{where}: {name}: expected a file, found none at {file}. Check the path.")
    return CaptureOfKnownDepth(
        left=files["left"],
        right=files["right"],
        depth=files["depth"] if metres is None else metres,
        where=where,
        unit_m=_unit(row.get("unit"), where),
        max_m=_max(row.get("max_m"), where),
    )


def _unit(value: Any, where: str) -> float | None:
    if value in (None, ""):
        return None
    scale = _UNITS.get(str(value).strip()) or _number(value)
    if scale is None or not 0 < scale < math.inf:
        raise InputError(f"{where}: unit: expected m, mm or metres per level, found {value!r}. Correct it.")
    return scale


def _max(value: Any, where: str) -> float:
    if value in (None, ""):
        return math.inf
    limit = _number(value)
    if limit is None or not limit > 0:
        raise InputError(f"{where}: max_m: expected metres above 0, found {value!r}. Correct it.")
    return limit


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix() if path.is_relative_to(root) else path.stem
