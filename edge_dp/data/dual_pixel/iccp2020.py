"""Reader for the DSLR captures of Punnappurath et al., ICCP 2020: 100 scenes with depth. A test set: never train on it.

- Source: "Modeling Defocus-Disparity in Dual-Pixel Sensors", github abhijithpunnappurath/dual-pixel-defocus-disparity.
  Licence: none stated; cite the paper.
- Layout: one folder, ``NNN_L.jpg``, ``NNN_R.jpg`` (views), ``NNN_B.jpg`` (the photograph), ``NNN_D.TIF`` (depth), 5180x2940.
- Views: 8-bit RGB, gamma-encoded; sRGB is taken. Canon, landscape: axis x; the sign is taken as in the other sets.
- Depth: uint8, 0 = no ground truth, else larger is nearer, as the evaluation of Kurita et al., WACV 2025, reads it
  (255 - D where D > 0). Up to an unknown monotone map: rank metrics are safe, affine ones are what the paper reports.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_dp.data.dataset import DpDataset, Part, match_files
from edge_dp.data.images import read_pair
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import DpSample
from edge_dp.data.truth import fit_to_views, read_levels
from edge_dp.sensors import SensorProfile

PARTS = (
    Part("left", "{}_L.jpg"),
    Part("right", "{}_R.jpg"),
    Part("truth", "{}_D.TIF"),
    Part("photograph", "{}_B.jpg", required=False),
)


class Iccp2020(DpDataset):
    """Scenes of one folder. Samples have ``affine_disparity`` = (255 - level) / 255 and ``mask``.

    Args:
        root: the folder of the files.
        colour: give red, green and blue in place of green alone.
        sensor: in place of a profile for sRGB files.
        strict: refuse a set with an incomplete scene.

    Raises:
        InputError: as ``DpDataset``. On reading: a ground truth that is not uint8 of the size of the views.
    """

    def __init__(
        self, root: str | Path, *, colour: bool = False, sensor: SensorProfile | None = None, strict: bool = True
    ) -> None:
        self._colour = colour
        super().__init__(
            root, match_files(Path(root), PARTS), sensor or _FILES, expected="NNN_L.jpg and NNN_D.TIF", strict=strict
        )

    def read(self, name: str) -> DpSample:
        """The scene called ``name``."""
        paths = self.paths(name)
        sample = read_pair(paths["left"], paths["right"], self.sensor, colour=self._colour)
        levels = fit_to_views(read_levels(paths["truth"], np.uint8), sample, paths["truth"])
        target = ((255 - levels) / 255).astype(np.float32)
        return replace(sample, name=name, affine_disparity=target, mask=levels > 0)


_FILES = file_profile(
    "iccp2020",
    "Canon DSLR, 8-bit JPEG (Punnappurath et al., ICCP 2020).",
    "Published files: 8 bit; sRGB taken.",
    bits=8,
)
