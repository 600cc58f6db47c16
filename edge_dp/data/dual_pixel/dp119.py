"""Reader for DP119, real Canon captures with depth: the test set of Sdirt. Never train on it.

- Source: "Simulating Dual-Pixel Images From Ray Tracing For Depth Estimation" (Sdirt), ICCV 2025, github LinYark/Sdirt,
  folder ``real_sample_set`` (17 of the 119 scenes). Licence: MIT.
- Camera: Canon EOS R6 Mark II, 50 mm at f/4, focus at 1 m.
- Layout: ``box/NNN/``, ``casual/{iphone,orbbec}/NNN/`` with ``l.png``, ``r.png``, ``d.png``, and
  ``flat/NNN/MILLIMETRES/{f4,f20}/{l,r}.png``, a fronto-parallel plane at that distance. A sample is named after its folder.
- Views: 768x512, 8-bit RGB, gamma-encoded. Axis x, left(x) = right(x + d) with d > 0 farther, measured.
- Depth: ``box`` and ``iphone``: 8-bit grey / 255 * 10 m, of any size, nearest neighbour; ``orbbec``: uint16 millimetres, 0 =
  unknown. Below 0.3 m and from 10 m on it does not hold.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from edge_dp.data.dataset import DpDataset, Listing, Part, match_files
from edge_dp.data.images import read_pair, read_raw
from edge_dp.data.sample import Array, DpSample
from edge_dp.data.truth import fit_to_views, read_levels
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile, load_sensor

SCENES = ("box", "casual/iphone", "casual/orbbec")
FLAT = "flat"
GROUPS = (*SCENES, FLAT)
NEAREST_M, FARTHEST_M = 0.3, 10.0
_GREY_RANGE_M = 10.0


class Dp119(DpDataset):
    """Scenes with ``depth`` and ``mask``; the sensor of a flat scene says its f-number.

    Args:
        root: the folder that holds ``box/``, ``casual/`` or ``flat/``.
        groups: of ``GROUPS``, those to take.
        colour: give red, green and blue in place of green alone.
        sensor: in place of the profile canon_r6.
        strict: refuse a set with an incomplete scene.

    Raises:
        InputError: as ``DpDataset``; an unknown group. On reading: a depth of another dtype or shape, a flat scene whose
            folder is no distance or f-number.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        groups: tuple[str, ...] = GROUPS,
        colour: bool = False,
        sensor: SensorProfile | None = None,
        strict: bool = True,
    ) -> None:
        if unknown := set(groups) - set(GROUPS):
            raise InputError(f"{root}: groups: expected of {', '.join(GROUPS)}, found {', '.join(sorted(unknown))}.")
        self._colour = colour
        listing = Listing()
        for group in groups:
            listing += match_files(Path(root), _parts(group))
        super().__init__(
            root,
            listing,
            sensor or load_sensor("canon_r6"),
            expected="box/NNN/l.png, casual/*/NNN/l.png or flat/NNN/MILLIMETRES/f4/l.png",
            strict=strict,
        )

    def group(self, name: str) -> str:
        """The folder of the scene's folder."""
        return name.rpartition("/")[0]

    def read(self, name: str) -> DpSample:
        """The scene in the folder ``name``."""
        paths = self.paths(name)
        sample = replace(read_pair(paths["left"], paths["right"], self.sensor, colour=self._colour), name=name)
        if "depth" not in paths:
            return self._flat(sample)
        path = paths["depth"]
        metres = _orbbec(path) if name.startswith("casual/orbbec") else _grey(path)
        depth = fit_to_views(metres, sample, path, resize=True)
        return replace(sample, depth=depth, mask=(depth >= NEAREST_M) & (depth < FARTHEST_M))

    def _flat(self, sample: DpSample) -> DpSample:
        """With what the names of the folders say."""
        distance, aperture = sample.name.split("/")[-2:]
        try:
            metres, f_number = float(distance) / 1000, float(aperture.removeprefix("f"))
        except ValueError:
            metres = f_number = 0.0
        if not (metres > 0 and f_number > 0):
            raise InputError(f"{self.root / sample.name}: expected MILLIMETRES/fNUMBER, found {distance}/{aperture}.")
        depth = np.full(sample.left.shape[1:], metres, dtype=np.float32)
        sensor = replace(sample.sensor, f_number=f_number)
        return replace(sample, sensor=sensor, depth=depth, mask=np.ones(depth.shape, dtype=np.bool_))


def _parts(group: str) -> tuple[Part, ...]:
    prefix = f"{group}/"
    below = f"{group}/{{}}/{{}}/{{}}" if group == FLAT else f"{group}/{{}}"
    views = tuple(Part(role, f"{below}/{role[0]}.png", prefix=prefix) for role in ("left", "right"))
    return views if group == FLAT else (*views, Part("depth", f"{below}/d.png", prefix=prefix))


def _grey(path: Path) -> Array:
    """(H, W) metres of an 8-bit image in grey or colour."""
    levels = read_raw(path)
    if levels.dtype != np.uint8:
        raise InputError(f"{path}: expected 8-bit depth, found {levels.dtype}. Copy the file again.")
    grey = levels if levels.ndim == 2 else cv2.cvtColor(levels[..., :3], cv2.COLOR_BGR2GRAY)
    return grey.astype(np.float32) * np.float32(_GREY_RANGE_M / 255)


def _orbbec(path: Path) -> Array:
    """(H, W) metres of a 16-bit image in millimetres."""
    return read_levels(path, np.uint16).astype(np.float32) / np.float32(1000)
