"""Readers for DPDD, defocused and sharp photographs from a Canon, and for its Pixel 4 pairs. ``test`` are test sets.

- Source: Abuolaim and Brown, "Defocus Deblurring Using Dual-Pixel Data", ECCV 2020, github
  Abdullah-Abuolaim/defocus-deblurring-dual-pixel. Licence: MIT.
- Layout: ``dd_dp_dataset_canon/{train,val,test}_{l,r,c}/source/*.png`` and ``*_c/target/*.png``, 350, 74 and 76 scenes of
  1680x1120. Names differ between the folders (``1P0A0917_L.png``, ``1P0A0917_R.png``, ``1P0A0917.png``, target
  ``1P0A0916.png``, another shot): files are paired by their place in the sorted lists, as the authors do.
- ``dd_dp_dataset_pixel/test_{l,r,c}/source/*.png``: without targets.
- Files: 16 bit per channel. Canon: sRGB, as stated. Pixel 4: one of the green channels, as stated; its curve is not, and
  sRGB is taken.
- Axis x and the sign are as in the other sets; both are unconfirmed, and portrait photographs have axis y: see
  ``edge-dp data check``, and pass a ``sensor`` with another ``dp_axis`` where it says so.

There is no depth. ``all_in_focus`` is the target: the same scene at f/22, a moment apart.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_dp.data.dataset import DpDataset, choose_split, match_order
from edge_dp.data.images import read_pair
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import DpSample
from edge_dp.data.truth import read_picture
from edge_dp.sensors import SensorProfile, load_sensor

SPLITS = ("train", "val", "test")


class DpddCanon(DpDataset):
    """Scenes of one split, named after their left files. Samples have ``all_in_focus``.

    Args:
        root: the folder that holds ``train_l/`` or its siblings.
        split: train, val or test.
        colour: give red, green and blue in place of green alone.
        sensor: in place of the profile canon_5d4.
        strict: refuse a split whose folders differ in number.

    Raises:
        InputError: as ``DpDataset``; an unknown split; folders that differ in number.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        split: str = "test",
        colour: bool = False,
        sensor: SensorProfile | None = None,
        strict: bool = True,
    ) -> None:
        self._colour = colour
        folders = {**_view_folders(split), "all_in_focus": f"{split}_c/target"}
        super().__init__(
            root,
            match_order(choose_split(root, split, SPLITS), folders),
            sensor or load_sensor("canon_5d4"),
            expected=f"{split}_l/source/*.png",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The scene whose left file is called ``name``."""
        paths = self.paths(name)
        sample = read_pair(paths["left"], paths["right"], self.sensor, colour=self._colour)
        sharp = read_picture(paths["all_in_focus"], sample, self.sensor, colour=self._colour)
        return replace(sample, all_in_focus=sharp)


class DpddPixel(DpDataset):
    """The Pixel 4 pairs, named after their left files; nothing is known of the scenes.

    Args:
        root: the folder that holds ``test_l/``.
        sensor: in place of a profile for 16-bit sRGB files.
        strict: refuse folders that differ in number.

    Raises:
        InputError: as ``DpDataset``; folders that differ in number.
    """

    def __init__(self, root: str | Path, *, sensor: SensorProfile | None = None, strict: bool = True) -> None:
        super().__init__(
            root,
            match_order(Path(root), _view_folders("test")),
            sensor or _PIXEL,
            expected="test_l/source/*.png",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The pair whose left file is called ``name``."""
        paths = self.paths(name)
        return read_pair(paths["left"], paths["right"], self.sensor)


def _view_folders(split: str) -> dict[str, str]:
    return {"left": f"{split}_l/source", "right": f"{split}_r/source", "combined": f"{split}_c/source"}


_PIXEL = file_profile(
    "dpdd_pixel", "Google Pixel 4, 16 bit (DPDD, ECCV 2020).", "README of DPDD: 16 bit; sRGB taken.", bits=16
)
