"""Reader for the Middlebury stereo sets of 2001 to 2021: rectified pairs with dense disparity.

Sources: Scharstein and Szeliski, IJCV 2002 (2001 sets) and CVPR 2003; Scharstein and Pal, CVPR 2007 (2005 sets);
Hirschmueller and Scharstein, CVPR 2007 (2006 sets); Scharstein et al., GCPR 2014 (2014 sets; those of 2021 and of the
evaluation, version 3, have their layout). Licence: none stated; cite the papers. The motorcycle of scikit-image is one
of the 2014 scenes, at a quarter of its size (BSD-3).
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from edge_dp.data.dataset import Dataset, Listing, folders_in, list_folder
from edge_dp.data.images import read_raw
from edge_dp.data.pfm import read_pfm
from edge_dp.data.sample import Array, Mask
from edge_dp.data.scenes.files import parse_numbers, pinhole, read_colour, read_text
from edge_dp.data.scenes.scene_sample import Matrix, SceneSample, intrinsics_problem
from edge_dp.errors import InputError


@dataclass(frozen=True, slots=True)
class Rig:
    """What turns disparity D of a rectified pair into depth: Z = baseline * f / (D + offset), metres.

    ``offset_px`` is cx of the right camera less cx of the left one.
    """

    focal_px: float
    baseline_m: float
    offset_px: float
    intrinsics: Matrix | None = None

    def depth(self, disparity: Array, mask: Mask) -> Array:
        """(H, W) metres, 0 outside the mask."""
        shifted = np.where(mask, disparity.astype(np.float64) + self.offset_px, np.inf)
        return (self.baseline_m * self.focal_px / shifted).astype(np.float32)


class Truth(NamedTuple):
    """What a layout knows beside the two images."""

    disparity: Array  # (H, W) px
    mask: Mask  # (H, W)
    rig: Rig | None


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of one generation of scenes are called. The names are alternatives, the first one there counts."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    disparity: tuple[str, ...]
    calibration: tuple[str, ...]
    read: Callable[[Path, tuple[int, int], float | None], Truth]  # (disparity file, (H, W), levels per px)


class MiddleburyStereo(Dataset[SceneSample]):
    """Scenes as left image, right image and disparity of the left one (px); depth and intrinsics where calibrated.

    Layouts, one scene per folder but for the last:

    - 2014, 2021: ``im0.png``, ``im1.png``, ``disp0.pfm`` (or ``disp0GT.pfm``; inf unknown), ``calib.txt`` (camera
      matrices in px, ``doffs`` px, ``baseline`` mm): Z = baseline f / (D + doffs).
    - 2005, 2006: ``view1.png``, ``view5.png``, ``disp1.png`` (uint8, 0 unknown): D = level / 1, 2 or 3 at full, half or
      third size, told by the height. At full size ``dmin.txt``, if there, gives depth: f = 3740 px, baseline 160 mm,
      D + dmin.
    - 2001, 2003: ``im2``, ``im6`` (.png or .ppm), ``disp2`` (.png or .pgm): D = level / 8 in the sets of 2001, else / 1,
      2 or 4 at full, half or quarter size. Not calibrated.
    - scikit-image: ``NAME_left.png``, ``NAME_right.png``, ``NAME_disp.npz`` (``arr_0``, px, inf unknown), with the
      calibration of ``motorcycle``.

    ``image(x) = right_image(x - D)``. Pixels without disparity are masked; occluded ones have it and are not.

    Args:
        root: the folder of a scene, or of the scenes; a scene's name is its folder.
        levels_per_px: how many levels of ``disp1.png`` or ``disp2.png`` are one px; None to tell by the height.
        strict: refuse a scene without its right image, disparity or calibration.

    Raises:
        InputError: as ``Dataset``. On reading a scene: a height that tells no scale.
    """

    def __init__(self, root: str | Path, levels_per_px: float | None = None, *, strict: bool = True) -> None:
        root = Path(root)
        self.levels_per_px = levels_per_px
        self._layouts: dict[str, Layout] = {}
        listing = Listing()
        for folder in folders_in(root, depth=1):
            present = list_folder(folder)
            for name, (stem, layout) in _scenes_in(folder, present).items():
                self._layouts[name] = layout
                listing += _files(root, folder, present, name, stem, layout)
        expected = "im0.png, view1.png, im2.png or NAME_left.png, in it or in the folders in it"
        super().__init__(root, listing, expected=expected, strict=strict)

    def group(self, name: str) -> str:
        """The scene itself: each has a size of its own."""
        return name

    def read(self, name: str) -> SceneSample:
        """The scene called ``name``."""
        paths = self.paths(name)
        left, right = read_colour(paths["left"]), read_colour(paths["right"])
        if left.shape != right.shape:
            raise InputError(
                f"{paths['right']}: expected {left.shape} as {paths['left'].name}, found {right.shape}. Take both from one "
                "download."
            )
        size = left.shape[1], left.shape[2]
        disparity, mask, rig = self._layouts[name].read(paths["disparity"], size, self.levels_per_px)
        if disparity.shape != size:
            raise InputError(
                f"{paths['disparity']}: expected (H, W) = {size} as {paths['left'].name}, found {disparity.shape}. Take both "
                "from one download."
            )
        return SceneSample(
            left,
            name,
            right_image=right,
            stereo_disparity=np.where(mask, disparity, 0).astype(np.float32),
            depth=None if rig is None else rig.depth(disparity, mask),
            mask=mask,
            intrinsics=None if rig is None else rig.intrinsics,
        )


def read_calibration(path: Path) -> tuple[Rig, tuple[int, int]]:
    """The rig and the image size (H, W) that a ``calib.txt`` of 2014 or later describes.

    Raises:
        InputError: the file is missing, or a field of it is missing or malformed; it is named.
    """
    fields = dict(line.split("=", 1) for line in read_text(path).splitlines() if "=" in line)
    fields = {key.strip(): value for key, value in fields.items()}

    def numbers(field: str, count: int) -> Matrix:
        if field not in fields:
            raise InputError(f"{path}: {field}: expected {count} numbers, found nothing. Copy the file again.")
        words = fields[field].translate(str.maketrans("[];", "   ")).split()
        return parse_numbers(words, count, f"{path}: {field}")

    matrix = numbers("cam0", 9).reshape(3, 3)
    if problem := intrinsics_problem(matrix):
        raise InputError(f"{path}: cam0: expected {problem[0]}, found {problem[1]}. Copy the file again.")
    baseline, offset, width, height = (float(numbers(key, 1)[0]) for key in ("baseline", "doffs", "width", "height"))
    if baseline <= 0:
        raise InputError(f"{path}: baseline: expected mm above 0, found {baseline:g}. Copy the file again.")
    return Rig(matrix[0, 0], baseline / 1000, offset, matrix), (int(height), int(width))


def _scenes_in(folder: Path, present: frozenset[str]) -> dict[str, tuple[str, Layout]]:
    """Name -> stem of the files, and layout, of the scenes in one folder."""
    scenes = {}
    for layout in _LAYOUTS:
        for left in layout.left:
            stems = [name.removesuffix(left) for name in sorted(present) if name.endswith(left)]
            for stem in stems if left.startswith("_") else [stem for stem in stems if not stem]:
                scenes[stem or folder.resolve().name] = stem, layout
    return scenes


def _files(root: Path, folder: Path, present: frozenset[str], name: str, stem: str, layout: Layout) -> Listing:
    """What there is of one scene, or what it lacks."""
    files, problems = {}, []
    for role in ("left", "right", "disparity", "calibration"):
        names: tuple[str, ...] = getattr(layout, role)
        found = next((stem + ending for ending in names if stem + ending in present), None)
        if found is not None:
            files[role] = (folder / found).relative_to(root).as_posix()
        elif names:
            problems.append(
                f"{folder}: expected {' or '.join(stem + ending for ending in names)} beside the left image, found nothing. "
                "Complete the scene."
            )
    return Listing(problems=tuple(problems)) if problems else Listing({name: files})


def _read_2014(path: Path, size: tuple[int, int], _: float | None) -> Truth:
    disparity = read_pfm(path)
    calibration = path.with_name("calib.txt")
    rig, described = read_calibration(calibration)
    if described != size:
        raise InputError(
            f"{calibration}: width and height: expected {size[1]}x{size[0]} as the images, found "
            f"{described[1]}x{described[0]}. Take both from one download."
        )
    return Truth(disparity, _known(disparity, rig), rig)


def _read_levels(path: Path, size: tuple[int, int], levels_per_px: float | None, scales: dict[int, int]) -> Truth:
    levels = read_raw(path)
    if levels.dtype != np.uint8 or levels.ndim != 2:
        raise InputError(f"{path}: expected 8-bit disparity, one channel, found {levels.dtype} {levels.shape}.")
    scale = levels_per_px or scales.get(size[0])
    if scale is None:
        raise InputError(
            f"{path}: expected a height of {', '.join(map(str, scales))} px, which tell the scale, found {size[0]}. Pass "
            "levels_per_px."
        )
    disparity = (levels / scale).astype(np.float32)
    return Truth(disparity, levels > 0, None)


def _read_2006(path: Path, size: tuple[int, int], levels_per_px: float | None) -> Truth:
    truth = _read_levels(path, size, levels_per_px, {1110: 1, 555: 2, 370: 3})
    offset = path.with_name("dmin.txt")
    if size[0] != 1110 or not offset.is_file():  # what dmin counts at the smaller sizes is not documented
        return truth
    dmin = float(parse_numbers(read_text(offset).split(), 1, str(offset))[0])
    return truth._replace(rig=Rig(3740, 0.160, dmin))


def _read_2003(path: Path, size: tuple[int, int], levels_per_px: float | None) -> Truth:
    of_2001 = dict.fromkeys(range(380, 384), 8)
    return _read_levels(path, size, levels_per_px, {1500: 1, 750: 2, 375: 4} | of_2001)


def _read_npz(path: Path, size: tuple[int, int], _: float | None) -> Truth:
    try:
        with np.load(path, allow_pickle=False) as archive:
            disparity = archive["arr_0"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path}: arr_0: expected a float array in an .npz, found: {error}. Download the file again."
        ) from error
    if disparity.dtype.kind != "f":
        raise InputError(f"{path}: arr_0: expected floats, found {disparity.dtype}. Download the file again.")
    disparity = disparity.astype(np.float32)
    # Size and all: other pairs in this layout come without calibration.
    rig = _MOTORCYCLE if path.name == "motorcycle_disp.npz" and size == (500, 741) else None
    return Truth(disparity, _known(disparity, rig), rig)


def _known(disparity: Array, rig: Rig | None) -> Mask:
    """Where a map with infinity for "unknown" holds a disparity; one that would lie behind the horizon is none."""
    lowest = 0 if rig is None else max(0.0, -rig.offset_px)
    known: Mask = np.isfinite(disparity) & (disparity > lowest)
    return known


# From the documentation of scikit-image's stereo_motorcycle.
_MOTORCYCLE = Rig(994.978, 0.193001, 31.086, pinhole(994.978, 994.978, 311.193, 254.877))
_LAYOUTS = (
    Layout(("im0.png",), ("im1.png",), ("disp0.pfm", "disp0GT.pfm"), ("calib.txt",), _read_2014),
    Layout(("view1.png",), ("view5.png",), ("disp1.png",), (), _read_2006),
    Layout(("im2.png", "im2.ppm"), ("im6.png", "im6.ppm"), ("disp2.png", "disp2.pgm"), (), _read_2003),
    Layout(("_left.png",), ("_right.png",), ("_disp.npz",), (), _read_npz),
)
