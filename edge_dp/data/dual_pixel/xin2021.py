"""Reader for the Pixel 4 captures of Xin et al., ICCV 2021: 17 scenes with defocus maps. A test set: never train on it.

- Source: "Defocus Map Estimation and Deblurring from a Single Dual-Pixel Image", github
  cmu-ci-lab/dual_pixel_defocus_estimation_deblurring, folder ``DP_data_pixel_4``. Licence: none stated; cite the paper.
- Layout as published: ``NNN_{left,right}.png`` (2016x1512), ``gt_defocus_map/NNN_gt.png`` and
  ``gt_all_in_focus_im/NNN_gt.png`` (1344x1008: rows 252 to 1260, columns 336 to 1680 of the views), ``calibration/``.
- Layout of central crops: ``views/NNN_{left,right}.png``, ``defocus_map/NNN_gt.png``, ``all_in_focus/NNN_gt.png``, all
  1344x1008; all-in-focus images of some scenes only.
- Views: uint16, one green channel, linear raw, 14-bit range above black level 1024. Axis x, left(x) = right(x + d) with
  d > 0 farther, measured; all scenes lie behind the focus plane.
- Defocus maps: uint8, 0 = no ground truth, 1..255 = defocus up to an affine map per scene, larger is farther.
- All-in-focus images: uint16, linear light = v / 65535.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_dp.data.dataset import DpDataset, Part, match_files
from edge_dp.data.images import read_pair
from edge_dp.data.profiles import file_profile
from edge_dp.data.roots import data_root
from edge_dp.data.sample import DpSample
from edge_dp.data.truth import fit_to_views, read_levels, read_picture
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile, load_sensor

CROPS = (
    Part("left", "views/{}_left.png"),
    Part("right", "views/{}_right.png"),
    Part("truth", "defocus_map/{}_gt.png"),
    Part("all_in_focus", "all_in_focus/{}_gt.png", required=False),
)
PUBLISHED = (
    Part("left", "{}_left.png"),
    Part("right", "{}_right.png"),
    Part("truth", "gt_defocus_map/{}_gt.png"),
    Part("all_in_focus", "gt_all_in_focus_im/{}_gt.png", required=False),
)
PUBLISHED_CENTRE = 2 / 3  # share of each side of the published views that the ground truth shows


class Xin2021(DpDataset):
    """Scenes of one folder in either layout; the published views are cropped to what the ground truth shows.

    Each sample has ``affine_disparity`` = level / 255, ``mask`` and, where there is one, ``all_in_focus``; ``disparity``
    in px is not known.

    Args:
        root: the folder; None for ``dual_pixel/pixel4`` under ``data_root()``.
        sensor: in place of the profile pixel4.
        strict: refuse a set with an incomplete scene.

    Raises:
        InputError: as ``DpDataset``; no folder is named and none is known. On reading a scene: as ``read_pair``; a ground
            truth that is not uint8 of the size of the views.
    """

    def __init__(
        self, root: str | Path | None = None, *, sensor: SensorProfile | None = None, strict: bool = True
    ) -> None:
        if root is None:
            known = data_root()
            if known is None:
                raise InputError("Xin2021: expected captures, found none. Set EDGE_DP_DATA or pass their folder.")
            root = known / "dual_pixel" / "pixel4"
        crops = (Path(root) / "views").is_dir()
        self._centre = 1.0 if crops else PUBLISHED_CENTRE
        super().__init__(
            root,
            match_files(Path(root), CROPS if crops else PUBLISHED),
            sensor or load_sensor("pixel4"),
            expected="views/NNN_left.png, or NNN_left.png as published",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The scene called ``name``."""
        paths = self.paths(name)
        sample = read_pair(paths["left"], paths["right"], self.sensor, centre=self._centre)
        levels = fit_to_views(read_levels(paths["truth"], np.uint8), sample, paths["truth"])
        target = (levels / 255).astype(np.float32)
        sharp = None
        if "all_in_focus" in paths:
            sharp = read_picture(paths["all_in_focus"], sample, _ALL_IN_FOCUS, colour=False)
        return replace(sample, name=name, affine_disparity=target, mask=levels > 0, all_in_focus=sharp)


_ALL_IN_FOCUS = file_profile(
    "xin2021_all_in_focus",
    "All-in-focus images of Xin et al., ICCV 2021.",
    "Published files: 16 bit, linear.",
    bits=16,
    transfer="linear",
)
