"""Reader for NYU-DP, the simulated dual-pixel set of DDDNet. ``testing`` is a test set.

- Source: Pan et al., "Dual Pixel Exploration: Simultaneous Depth Estimation and Image Restoration", CVPR 2021, github
  panpanfei/Dual-Pixel-Exploration-Simultaneous-Depth-Estimation-and-Image-Restoration. Licence: academic use only; made
  from NYU Depth v2.
- Layout: ``NYU/{training,testing}/dp/NNNN_{l,r}.png``, ``gt/NNNN_m.png``, ``disp/NNNN_dm.pfm`` (and ``_dl.pfm``, of the left
  view), 640x480.
- Files: 8-bit RGB, sRGB taken; PFM float32, signed, of the simulator.
- Axis x. Sign and scale of the PFM against the disparity between the views are not stated (the simulator is distributed
  compiled), so it is given as ``affine_disparity``. ``edge-dp data check`` measures the sign; pass ``sign=-1`` where it
  finds the set the other way round.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from edge_dp.data.dataset import DpDataset, Part, choose_split, match_files
from edge_dp.data.images import read_pair
from edge_dp.data.pfm import read_pfm
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import DpSample
from edge_dp.data.truth import fit_to_views, read_picture
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile

SPLITS = ("training", "testing")


class DddNetNyu(DpDataset):
    """Captures of one split. Samples have ``affine_disparity``, ``mask`` (where it is finite) and ``all_in_focus``.

    Args:
        root: the folder that holds ``training/`` or ``testing/``.
        split: which of them.
        sign: of ``affine_disparity`` against the PFM.
        colour: give red, green and blue in place of green alone.
        sensor: in place of a profile for 8-bit sRGB files.
        strict: refuse a split with an incomplete capture.

    Raises:
        InputError: as ``DpDataset``; an unknown split or sign. On reading: a PFM of another size than the views.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "testing",
        sign: Literal[-1, 1] = 1,
        colour: bool = False,
        sensor: SensorProfile | None = None,
        strict: bool = True,
    ) -> None:
        if sign not in (-1, 1):
            raise InputError(f"{root}: sign: expected 1 or -1, found {sign!r}. Correct it.")
        self._sign = np.float32(sign)
        self._colour = colour
        super().__init__(
            root,
            match_files(choose_split(root, split, SPLITS), _parts(split)),
            sensor or _FILES,
            expected=f"{split}/dp/NNNN_l.png",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The capture called ``NNNN``."""
        paths = self.paths(name)
        sample = read_pair(paths["left"], paths["right"], self.sensor, colour=self._colour)
        values = read_pfm(paths["truth"])
        if values.ndim != 2:
            raise InputError(f"{paths['truth']}: expected one channel, found {values.shape[2]}. Copy the file again.")
        target = fit_to_views(values, sample, paths["truth"]) * self._sign
        sharp = read_picture(paths["all_in_focus"], sample, self.sensor, colour=self._colour)
        return replace(sample, name=name, affine_disparity=target, mask=np.isfinite(target), all_in_focus=sharp)


def _parts(split: str) -> tuple[Part, ...]:
    return (
        Part("left", f"{split}/dp/{{}}_l.png"),
        Part("right", f"{split}/dp/{{}}_r.png"),
        Part("truth", f"{split}/disp/{{}}_dm.pfm"),
        Part("truth_left", f"{split}/disp/{{}}_dl.pfm", required=False),
        Part("all_in_focus", f"{split}/gt/{{}}_m.png"),
    )


_FILES = file_profile("dddnet_nyu", "Simulated, 8-bit RGB (DDDNet, CVPR 2021).", "Taken: 8-bit sRGB.", bits=8)
