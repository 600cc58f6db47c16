"""Reader for the data sets that ``edge-dp simulate`` writes.

- Source: ``edge_dp.simulation``. Licence: none needed, except that textures from a folder keep theirs, and so do pictures:
  ``note.source`` names them.
- Layout: ``dataset.json``, which describes every array, and ``shard_00000.npz``, ...; see ``edge_dp.simulation.dataset``.
- Views: uint16, linear light = v / 65535, one channel or red, green and blue. Axis x, left(x) = right(x + d) with d > 0
  farther; the disparity is exact, px of the views.
- With ``--from``: the mask of what the pictures' own depth covers.
- With ``--rig``: three pinhole views, uint8 sRGB, and the relation of their disparity to the dual-pixel one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from edge_dp.data.dataset import DpDataset, Listing, list_folder
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import DpSample
from edge_dp.errors import InputError
from edge_dp.simulation.dataset import FIELDS, NOTE, PICTURE_FIELDS, RIG_FIELDS, WHITE, capture_name, read_note
from edge_dp.simulation.rig import SideCamera
from edge_dp.simulation.shards import open_shard
from edge_dp.srgb import LIGHT_OF_LEVEL

_NAME = re.compile(r"[0-9]{8}")


@dataclass(frozen=True, slots=True, eq=False)
class RigViews:
    """What the cameras beside the dual-pixel one saw: the input of a stereo teacher.

    reference, side, opposite: (C, Hc, Wc) uint8 sRGB, pinhole views of the frame and ``margin`` px on every side, from the
        middle, the right and the left.
    camera: of the side view; turns stereo disparity into the dual-pixel one, for either side.
    """

    reference: NDArray[np.uint8]
    side: NDArray[np.uint8]
    opposite: NDArray[np.uint8]
    camera: SideCamera
    margin: int


class SimulatedDataset(DpDataset):
    """Simulated captures, named by their numbers: ``00000000``, ``00000001``, ...

    Opening one reads ``dataset.json`` and the names of the shards, whatever their number.

    Each sample has ``disparity``; ``mask``, where the set was made of pictures, which may have had holes; and ``all_in_focus``,
    which is noise-free, where it was made with ``--rig``.

    Attributes:
        note: what ``dataset.json`` says.

    Args:
        root: the folder.
        strict: refuse a set that is not finished.

    Raises:
        InputError: no data set there, or a shard is missing; it is named. On reading: a damaged shard; it is named.
        SchemaError: ``dataset.json`` is damaged, or of a newer version.
    """

    def __init__(self, root: str | Path, *, strict: bool = True) -> None:
        root = Path(root)
        self.note = read_note(root)
        present = list_folder(root)
        shards = self.note.shards
        missing = tuple(
            f"{root / name}: expected beside {NOTE}, found nothing. Finish the set: edge-dp simulate --resume."
            for name in shards
            if name not in present
        )
        numbers: Sequence[int] = range(self.note.count)
        if missing:
            there = (self.note.captures(index) for index, name in enumerate(shards) if name in present)
            numbers = list(itertools.chain.from_iterable(there))
        super().__init__(
            root, Listing(problems=missing), _PROFILE, expected="shards", strict=strict, names=_Names(numbers)
        )

    def paths(self, name: str) -> dict[str, Path]:
        """The shard that holds a capture.

        Raises:
            InputError: the set has no capture of that name.
        """
        if not _NAME.fullmatch(name) or int(name) >= self.note.count:
            raise InputError(f"{self.root}: expected the name of a capture, found {name!r}. See its names.")
        return {"shard": self.root / self.note.shard_of(int(name))}

    def read(self, name: str) -> DpSample:
        """The capture called ``name``."""
        arrays = self._arrays(name, ("views", "disparity", *({"mask", "reference"} & self.note.fields.keys())))
        views = arrays["views"].astype(np.float32) / np.float32(WHITE)
        sharp = None
        if "reference" in arrays:
            margin = _margin(arrays["reference"], views)
            height, width = views.shape[2:]
            sharp = LIGHT_OF_LEVEL[arrays["reference"][:, margin : margin + height, margin : margin + width]]
        return DpSample(
            views[0],
            views[1],
            self.sensor,
            name,
            disparity=arrays["disparity"],
            mask=arrays.get("mask"),
            all_in_focus=sharp,
        )

    def rig_views(self, name: str) -> RigViews:
        """What the pinhole cameras saw of the capture called ``name``.

        Raises:
            InputError: the set was made without them; a damaged shard, named.
        """
        if "side" not in self.note.fields:
            raise InputError(f"{self.root}: expected a set with side views, found none. Make it with --rig.")
        arrays = self._arrays(name, ("views", *RIG_FIELDS))
        offset, gain, angle, *turn, focal = arrays["camera"].tolist()
        camera = SideCamera(offset, gain, angle, (turn[0], turn[1], turn[2]), focal)
        reference, side, opposite = (arrays[field] for field in ("reference", "side", "opposite"))
        return RigViews(reference, side, opposite, camera, _margin(reference, arrays["views"]))

    def _arrays(self, name: str, fields: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        with open_shard(self.paths(name)["shard"]) as data:
            arrays = {field: data[f"{name}.{field}"] for field in fields}
            for field, array in arrays.items():
                expected = (FIELDS | PICTURE_FIELDS | RIG_FIELDS)[field]
                if array.dtype != expected.dtype or array.ndim != expected.shape.count(",") + 1:
                    raise ValueError(
                        f"{name}.{field}: expected {expected.dtype}, ({expected.shape}), found {array.dtype}, {array.shape}"
                    )
        return arrays


class _Names(Sequence[str]):
    """Names of captures, each made when asked for: there may be millions."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> _Names: ...
    def __getitem__(self, index: int | slice) -> str | _Names:
        if isinstance(index, slice):
            return _Names(self._numbers[index])
        return capture_name(self._numbers[index])


def _margin(reference: NDArray[Any], views: NDArray[Any]) -> int:
    return (reference.shape[1] - views.shape[2]) // 2


_PROFILE = file_profile(
    "simulated",
    "Captures simulated by edge_dp, each with a lens and a sensor of its own.",
    "Definition of the format.",
    bits=16,
    transfer="linear",
)
