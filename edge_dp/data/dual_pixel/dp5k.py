"""Reader for DP5K: Canon stereo rig with dual-pixel views at five apertures and structured-light depth.

- Source: Li et al., "Learning to Synthesize Photorealistic Dual-pixel Images from RGBD Frames", ICCP 2023, github
  feiran-l/Neural-Dual-Pixel-Simulator. Licence: MIT (repository). Its split ``test`` is a test set.
- Layout: ``SPLIT/TIMESTAMP/meta_data.h5`` and, in ``cam0/`` and ``cam1/``: ``FN_{1.8,2,2.8,4,5.6}_{l,r,c}.png``,
  ``FN_22.png`` (sharp), ``dep.png``; 1680x1120. A sample is named ``TIMESTAMP/camN/FNUMBER``.
- Images: 16-bit RGB from Canon's Digital Photo Professional, gamma-encoded; sRGB taken. Depth: uint16 millimetres, 0 = unknown.
- Focus distance: millimetres, keys ``focus_dis_0`` and ``focus_dis_1`` of the HDF5 file; the extra ``data`` reads it.
- Lens 85 mm; pixels of 36 mm / 1680. Axis x and the sign are as in the other sets, unconfirmed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from edge_dp.data.dataset import DpDataset, Listing, Part, choose_split, match_files
from edge_dp.data.images import read_pair
from edge_dp.data.profiles import file_profile
from edge_dp.data.sample import DpSample
from edge_dp.data.truth import fit_to_views, read_levels, read_picture
from edge_dp.errors import InputError, MissingExtraError
from edge_dp.extras import needs
from edge_dp.sensors import SensorProfile

SPLITS = ("train", "val", "test")
F_NUMBERS = ("1.8", "2", "2.8", "4", "5.6")


class Dp5k(DpDataset):
    """Captures of one split. Samples have ``depth``, ``mask`` and ``all_in_focus``; their sensor says the f-number.

    Args:
        root: the folder that holds ``train/`` or its siblings.
        split: train, val or test.
        colour: give red, green and blue in place of green alone.
        sensor: in place of a profile for 16-bit sRGB files.
        strict: refuse a split with an incomplete capture.

    Raises:
        InputError: as ``DpDataset``; an unknown split. On reading: a depth that is not uint16 of the size of the views.
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
        super().__init__(
            root,
            _list(choose_split(root, split, SPLITS), split),
            sensor or _FILES,
            expected=f"{split}/TIMESTAMP/cam0/FN_1.8_l.png",
            strict=strict,
        )

    def read(self, name: str) -> DpSample:
        """The capture called ``TIMESTAMP/camN/FNUMBER``."""
        paths = self.paths(name)
        sample = read_pair(paths["left"], paths["right"], self.sensor, colour=self._colour)
        levels = fit_to_views(read_levels(paths["depth"], np.uint16), sample, paths["depth"])
        sharp = read_picture(paths["all_in_focus"], sample, self.sensor, colour=self._colour)
        sensor = replace(self.sensor, f_number=float(name.rpartition("/")[2]))
        depth = levels.astype(np.float32) / np.float32(1000)
        return replace(sample, name=name, sensor=sensor, depth=depth, mask=levels > 0, all_in_focus=sharp)

    def focus_distance(self, name: str) -> float:
        """Focus distance of a sample, metres.

        Raises:
            MissingExtraError: the extra ``data`` (h5py) is not installed.
            InputError: there is no such sample, or it has no meta_data.h5 that holds a focus distance above 0.
        """
        paths = self.paths(name)
        if "metadata" not in paths:
            raise InputError(
                f"{self.root}: {name}: expected meta_data.h5 in its scene, found none. Complete the scene."
            )
        if reason := needs("h5py")():
            raise MissingExtraError(
                f"{paths['metadata']}: focus distances lie in HDF5: {reason}: pip install 'edge-dp[data]'"
            )
        import h5py

        key = f"focus_dis_{name.split('/')[1].removeprefix('cam')}"
        try:
            with h5py.File(paths["metadata"], "r") as stored:
                millimetres = float(np.asarray(stored[key]).squeeze())
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{paths['metadata']}: {key}: expected a number, found: {error}.") from error
        if not 0 < millimetres < np.inf:
            raise InputError(f"{paths['metadata']}: {key}: expected millimetres above 0, found {millimetres}.")
        return millimetres / 1000


def _list(root: Path, split: str) -> Listing:
    """Match the views by name, and give each sample the files that its camera or scene has once for all apertures."""
    views = match_files(
        root,
        (
            Part("left", f"{split}/{{}}/{{}}/FN_{{}}_l.png"),
            Part("right", f"{split}/{{}}/{{}}/FN_{{}}_r.png"),
            Part("combined", f"{split}/{{}}/{{}}/FN_{{}}_c.png", required=False),
        ),
    )
    present = set(views.unknown)
    scenes = match_files(root, (Part("metadata", f"{split}/{{}}/meta_data.h5"),)).files
    files: dict[str, dict[str, str]] = {}
    missing, used = list(views.problems), set[str]()
    for name, own in views.files.items():
        scene, camera, _ = name.split("/")
        shared = {
            "all_in_focus": f"{split}/{scene}/{camera}/FN_22.png",
            "depth": f"{split}/{scene}/{camera}/dep.png",
            "metadata": f"{split}/{scene}/meta_data.h5",
        }
        lacking = [shared[role] for role in ("all_in_focus", "depth") if shared[role] not in present]
        if scene not in scenes:
            del shared["metadata"]
        missing += [
            f"{root / path}: expected beside {own['left']}, found nothing. Complete the sample." for path in lacking
        ]
        used.update(shared.values())
        if not lacking:
            files[name] = own | shared
    return Listing(files, tuple(dict.fromkeys(missing)), tuple(path for path in views.unknown if path not in used))


_BASE = file_profile(
    "dp5k", "Canon with an 85 mm lens, 16-bit RGB (DP5K, ICCP 2023).", "README of DP5K: 16 bit; sRGB taken.", bits=16
)
_FILES = replace(
    _BASE,
    focal_length_m=0.085,
    pitch_um=36_000 / 1680,
    sources={
        **_BASE.sources,
        "focal_length_m": "Published loader of DP5K: 85 mm.",
        "pitch_um": "Published loader of DP5K: a 36 mm wide sensor over 1680 px.",
        "f_number": "Names of the files of DP5K.",
    },
)
