"""Light fields as dual-pixel captures: the views through the left half of an aperture against those through the right.

A dual pixel sums the light of half an aperture, and a light field holds the views that such a sum is made of. So the mean
of half of the views, in linear light, is a dual-pixel view, with true defocus and true occlusion.
"""

from __future__ import annotations

import configparser
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from edge_dp.data.dataset import DpDataset, Listing, folders_in, is_image, list_folder
from edge_dp.data.pfm import read_pfm
from edge_dp.data.sample import Array, DpSample, Mask
from edge_dp.data.scenes.files import parse_numbers, read_colour, read_text
from edge_dp.errors import InputError
from edge_dp.sensors import load_sensor
from edge_dp.srgb import srgb_to_linear

_SENSOR = "generic_8bit"
_GREEN = 1  # of red, green, blue
_BLACK = float(srgb_to_linear(5 / 255))  # above what compression leaves of black
_CORNER_MARGIN = 2  # px beyond a black corner that interpolation has darkened
_HCI_VIEW = re.compile(r"input_Cam(\d{3})\.png")
_HCI_GRID = 9  # views along each side, where parameters.cfg does not say
_HCI_OTHERS = {"truth": "gt_disp_lowres.pfm", "parameters": "parameters.cfg"}
_LYTRO_VIEW = re.compile(r"(.+)_(\d{2})_(\d{2})\.png")


@dataclass(frozen=True, slots=True, eq=False)
class LightField:
    """A square or oblong grid of views, each read when asked for.

    Row 0 is the top of the aperture and column 0 its left, as seen from behind the camera:
    ``view(row, column)(x - du D, y - dv D) = centre(x, y)`` with du = column - centre column, dv = row - centre row.

    Attributes:
        name: what to call it in tables and messages.
        paths: files of the views, row by row, columns from left to right; an odd number of rows and of columns, three
            columns at least. 8-bit, gamma-encoded (sRGB).
        disparity: (H, W) float32 px per view step in the centre view, > 0 nearer than the plane of zero disparity.
        depth: (H, W) float32 metres in the centre view.
        mask: (H, W) bool, True where disparity and depth hold; given with them.
        black_corners: True where a microlens camera took it: the corners of its views are black and to be masked.
    """

    name: str
    paths: tuple[tuple[Path, ...], ...]
    disparity: Array | None = None
    depth: Array | None = None
    mask: Mask | None = None
    black_corners: bool = False

    def __post_init__(self) -> None:
        rows, columns = self.shape
        if rows % 2 == 0 or columns % 2 == 0 or columns < 3 or any(len(row) != columns for row in self.paths):
            raise InputError(
                f"light field {self.name}: expected full rows, an odd number of them, of an odd number of views, 3 or "
                f"more, found {rows} rows of {sorted({len(row) for row in self.paths})}. Complete the grid."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the grid."""
        return len(self.paths), len(self.paths[0]) if self.paths else 0

    def view(self, row: int, column: int) -> Array:
        """(C, H, W) float32 linear light; red, green, blue.

        Raises:
            IndexError: no such row or column.
            InputError: the file is missing, truncated or not 8-bit.
        """
        return read_colour(self.paths[row][column])

    def centre(self) -> Array:
        """The view in the middle: ``view(rows // 2, columns // 2)``."""
        return self.view(self.shape[0] // 2, self.shape[1] // 2)

    def to_dual_pixel(self, radius: int | None = None, *, colour: bool = False) -> DpSample:
        """Half-aperture sums: left is the mean of the views left of the centre column, right of those right of it.

        The mean offset of the views of a half is m = (radius + 1) / 2 steps, so that
        ``left(x + m D) = centre(x) = right(x - m D)``: d = -2 m D = -(radius + 1) D, -5 D for nine columns. It is given
        at the pixels of the centre view, as a simulator gives it, and d > 0 farther than the plane of zero disparity.
        Near an edge in depth the two halves see different things, and d holds for the surface that the centre view sees.

        Args:
            radius: how many rows and columns on each side of the centre make the aperture; None for all.
            colour: give red, green and blue in place of green alone.

        Returns:
            A sample of shape (1, H, W), with ``colour`` (C, H, W): ``all_in_focus`` is the centre view; ``disparity``
            and ``depth`` where the light field has them; ``mask`` where the truth holds and no view is black.

        Raises:
            InputError: as ``view``; views that differ in size, or from that of the truth; a radius of 0 or beyond the
                grid; a grid of which one half is as the other.
        """
        rows, columns = self.shape
        middle_row, middle = rows // 2, columns // 2
        if radius is not None and not 1 <= radius <= middle:
            raise InputError(f"light field {self.name}: radius: expected 1 to {middle}, found {radius}. Correct it.")
        reach = middle if radius is None else radius
        reach_rows = middle_row if radius is None else min(radius, middle_row)
        channels = slice(None) if colour else slice(_GREEN, _GREEN + 1)
        centre = self.centre()
        sharp = centre[channels] if len(centre) > 1 else centre
        valid: Mask = np.ones(sharp.shape[1:], dtype=bool) if self.mask is None else self.mask
        halves = []
        for half in (range(middle - reach, middle), range(middle + 1, middle + reach + 1)):
            places = [
                (row, column) for row in range(middle_row - reach_rows, middle_row + reach_rows + 1) for column in half
            ]
            total = np.zeros(sharp.shape, dtype=np.float64)
            for row, column in places:
                view = self.view(row, column)
                if view.shape != centre.shape or view.shape[1:] != valid.shape:
                    raise InputError(
                        f"{self.paths[row][column]}: expected {(len(centre), *valid.shape)} as the centre view and the "
                        f"truth, found {view.shape}. Copy the light field again."
                    )
                total += view[channels] if len(view) > 1 else view
                if self.black_corners:
                    valid = valid & ~_black_corners(view)
            halves.append((total / len(places)).astype(np.float32))
        left, right = halves
        if np.array_equal(left, right):
            raise InputError(f"light field {self.name}: expected two halves, found the same twice. Copy it again.")
        return DpSample(
            left,
            right,
            load_sensor(_SENSOR),
            self.name,
            disparity=None if self.disparity is None else -np.float32(reach + 1) * self.disparity,
            depth=self.depth,
            mask=valid,
            all_in_focus=np.ascontiguousarray(sharp),
        )


class HciLightFields(DpDataset):
    """Light fields of the HCI 4D benchmark, rendered, each as the dual-pixel pair of its whole aperture.

    Layout, one folder per scene: ``input_Cam000.png`` to ``080`` (9x9 row by row, 040 the centre);
    ``gt_disp_lowres.pfm`` (px per view step, > 0 nearer), absent for test scenes; ``parameters.cfg``, optional: gives
    the depth by 1/Z = 1/Zf + D s / (max(W, H) f b), with focus distance Zf, sensor size s, focal length f, baseline b
    per view step.

    The images are gamma-encoded; the benchmark does not say how. sRGB is taken.

    Source: Honauer et al., "A Dataset and Evaluation Methodology for Depth Estimation on 4D Light Fields", ACCV 2016.
    Licence: CC BY-NC-SA 4.0.

    Args:
        root: the folder of a scene, or of scenes, or of categories of them; a name is the path below it.
        strict: refuse a scene without one of its views.

    Raises:
        InputError: as ``DpDataset``. On reading a scene: as ``LightField.to_dual_pixel``; a truth or a parameter that is
            malformed.
    """

    def __init__(self, root: str | Path, *, strict: bool = True) -> None:
        root = Path(root)
        listing = Listing()
        for folder in folders_in(root, depth=2):
            listing += _hci_scene(folder, root)
        super().__init__(root, listing, load_sensor(_SENSOR), expected="input_Cam000.png", strict=strict)

    def group(self, name: str) -> str:
        """The scene itself: each may have a size of its own."""
        return name

    def light_field(self, name: str) -> LightField:
        """The scene of that name, whose views are read when asked for.

        Raises:
            InputError: no such name; a truth or parameter that is malformed, or another number of views than it says.
        """
        paths = self.paths(name)
        views = [path for role, path in sorted(paths.items()) if role.startswith("view/")]
        parameters = _Parameters(paths["parameters"]) if "parameters" in paths else None
        columns = _HCI_GRID if parameters is None else int(parameters.number("extrinsics", "num_cams_x"))
        rows = _HCI_GRID if parameters is None else int(parameters.number("extrinsics", "num_cams_y"))
        if rows * columns != len(views):
            raise InputError(
                f"{views[0].parent}: expected {rows}x{columns} views, found {len(views)}. Complete the scene."
            )
        grid = tuple(tuple(views[row * columns : (row + 1) * columns]) for row in range(rows))
        if "truth" not in paths:
            return LightField(name, grid)
        disparity = read_pfm(paths["truth"])
        mask = np.isfinite(disparity)
        if disparity.ndim != 2 or not mask.any():
            raise InputError(
                f"{paths['truth']}: expected (H, W) finite px, found {disparity.shape}, "
                f"{np.count_nonzero(mask)} of them finite. Copy the file again."
            )
        if parameters is None:
            return LightField(name, grid, disparity, mask=mask)
        depth = parameters.depth(disparity)
        return LightField(name, grid, disparity, depth, mask & (depth > 0))

    def read(self, name: str) -> DpSample:
        """The half-aperture sums of the light field called ``name``."""
        return self.light_field(name).to_dual_pixel()


class LytroGrids(DpDataset):
    """Real light fields of a Lytro camera, each as the dual-pixel pair of its whole aperture; without ground truth.

    Layout: ``NAME_RR_CC.png``, the views of one light field by row and column of the decoded grid, two digits each; the
    numbers need not start at 0 and need be odd in count. The black corners of the views are masked.

    The images are gamma-encoded, as the decoder left them; sRGB is taken.

    Source: layout of github chshin10/epinet; decoding as in Dansereau et al., CVPR 2013. Licence: MIT (the repository).

    Args:
        root: the folder of the views, or of such folders; a name is that of the light field, after its path below it.
        strict: refuse a grid that lacks a view.

    Raises:
        InputError: as ``DpDataset``. On reading one: as ``LightField.to_dual_pixel``.
    """

    def __init__(self, root: str | Path, *, strict: bool = True) -> None:
        root = Path(root)
        listing = Listing()
        for folder in folders_in(root, depth=1):
            listing += _lytro_grids(folder, root)
        super().__init__(root, listing, load_sensor(_SENSOR), expected="NAME_RR_CC.png", strict=strict)

    def group(self, name: str) -> str:
        """The light field itself: each may have a size of its own."""
        return name

    def light_field(self, name: str) -> LightField:
        """The light field of that name, whose views are read when asked for.

        Raises:
            InputError: no such name; a grid of an even number of rows or columns, or of less than three columns.
        """
        rows: dict[str, list[Path]] = {}
        for role, path in sorted(self.paths(name).items()):
            rows.setdefault(role.rpartition("_")[0], []).append(path)
        return LightField(name, tuple(tuple(row) for row in rows.values()), black_corners=True)

    def read(self, name: str) -> DpSample:
        """The half-aperture sums of the light field called ``name``."""
        return self.light_field(name).to_dual_pixel()


class _Parameters:
    """What a ``parameters.cfg`` of the HCI benchmark says, field by field."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parser = configparser.ConfigParser(interpolation=None)
        try:
            self._parser.read_string(read_text(path))
        except configparser.Error as error:
            text = " ".join(str(error).split())
            raise InputError(
                f"{path}: expected sections of key = value, found: {text}. Copy the file again."
            ) from error

    def number(self, section: str, key: str) -> float:
        """A number above 0."""
        where = f"{self.path}: {section}.{key}"
        value = float(parse_numbers(self._parser.get(section, key, fallback="").split(), 1, where)[0])
        if value <= 0:
            raise InputError(f"{where}: expected a number above 0, found {value:g}. Correct it.")
        return value

    def depth(self, disparity: Array) -> Array:
        """(H, W) metres: the views look in parallel, their sensors shifted so that the focus distance has none.

        1/Z = 1/Zf + D s / (max(W, H) f b).
        """
        focus_m = self.number("extrinsics", "focus_distance_m")
        baseline_m = self.number("extrinsics", "baseline_mm") / 1000
        focal_px = max(disparity.shape) * (
            self.number("intrinsics", "focal_length_mm") / self.number("intrinsics", "sensor_size_mm")
        )
        inverse = 1 / focus_m + disparity.astype(np.float64) / (focal_px * baseline_m)
        return (1 / np.where(inverse == 0, np.inf, inverse)).astype(np.float32)


def _hci_scene(folder: Path, root: Path) -> Listing:
    """What one folder holds, those in folders below it left out."""
    present = list_folder(folder)
    count = sum(_HCI_VIEW.fullmatch(file) is not None for file in present)
    if count == 0:
        return Listing()
    views = [f"input_Cam{number:03d}.png" for number in range(max(count, _HCI_GRID**2))]
    if absent := [file for file in views if file not in present]:
        return Listing(
            problems=tuple(
                f"{folder / file}: expected {len(views)} views, found {count}. Complete the scene." for file in absent
            )
        )
    name = root.resolve().name if folder == root else folder.relative_to(root).as_posix()
    files = {f"view/{number:03d}": file for number, file in enumerate(views)}
    files |= {role: file for role, file in _HCI_OTHERS.items() if file in present}
    return Listing({name: {role: (folder / file).relative_to(root).as_posix() for role, file in files.items()}})


def _lytro_grids(folder: Path, root: Path) -> Listing:
    """The grids in one folder, those in folders below it left out."""
    above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    present = sorted(list_folder(folder))
    grids: dict[str, set[tuple[int, int]]] = {}
    for match in filter(None, map(_LYTRO_VIEW.fullmatch, present)):
        grids.setdefault(match[1], set()).add((int(match[2]), int(match[3])))
    if not grids:
        return Listing()
    files, problems = {}, []
    for stem, places in grids.items():
        rows, columns = (range(min(numbers), max(numbers) + 1) for numbers in zip(*places, strict=True))
        views = {(row, column): f"{stem}_{row:02d}_{column:02d}.png" for row in rows for column in columns}
        problems += [
            f"{folder / file}: expected a full grid of {len(rows)}x{len(columns)} views, found {len(places)}. Complete it."
            for place, file in views.items()
            if place not in places
        ]
        if len(places) == len(views):
            files[above + stem] = {
                f"view/{row:02d}_{column:02d}": above + file for (row, column), file in views.items()
            }
    unknown = (above + file for file in present if is_image(file) and not _LYTRO_VIEW.fullmatch(file))
    return Listing(files, tuple(problems), tuple(unknown))


def _black_corners(view: Array) -> Mask:
    """(H, W) True in the black regions that reach a corner of the view, and just beside them."""
    dark = (view.max(axis=0) <= _BLACK).astype(np.uint8)
    labels = cv2.connectedComponents(dark, connectivity=4)[1]
    corners = labels[[0, 0, -1, -1], [0, -1, 0, -1]]
    black = np.isin(labels, corners[corners > 0]).astype(np.uint8)
    size = 2 * _CORNER_MARGIN + 1
    return cv2.dilate(black, np.ones((size, size), np.uint8)).astype(bool)
