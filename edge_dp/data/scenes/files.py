"""What lies in the files of scenes: light, depth, matrices and lists of numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from edge_dp.data.images import read_raw
from edge_dp.data.sample import Array, Mask
from edge_dp.data.scenes.scene_sample import Matrix, pose_problem
from edge_dp.errors import InputError
from edge_dp.srgb import LIGHT_OF_LEVEL

DepthDecoder = Callable[[Path], tuple[Array, Mask]]


def read_colour(path: Path) -> Array:
    """(C, H, W) float32 linear light of a gamma-encoded 8-bit image; red, green, blue, or one grey channel.

    The sets say nothing of their transfer curve: sRGB is taken, as for any 8-bit image without a profile.

    Raises:
        InputError: the file is missing, truncated, no image or not 8-bit.
    """
    levels = read_raw(path)
    if levels.dtype != np.uint8:
        raise InputError(f"{path}: expected an 8-bit image, found {levels.dtype}. Convert it to 8 bit.")
    planes = levels[None] if levels.ndim == 2 else np.moveaxis(levels[..., 2::-1], -1, 0)
    return np.ascontiguousarray(LIGHT_OF_LEVEL[planes])


def depth_decoder(levels_per_metre: float, invalid: tuple[int, ...] = (0,)) -> DepthDecoder:
    """A reader of 16-bit depth images: path -> ((H, W) float32 metres, 0 where unknown; (H, W) bool, where known).

    Args:
        levels_per_metre: 1000 for millimetres, 5000 for TUM RGB-D.
        invalid: levels that mean "unknown".
    """

    def decode(path: Path) -> tuple[Array, Mask]:
        levels = _depth_levels(path)
        mask = ~np.isin(levels, invalid)
        return np.where(mask, levels / levels_per_metre, 0).astype(np.float32), mask

    return decode


def read_sun_depth(path: str | Path) -> tuple[Array, Mask]:
    """Depth image of SUN RGB-D and SUN3D, whose 16 bits are rotated left by 3: z = ((v >> 3) | (v << 13)) / 1000 m.

    Returns:
        (H, W) float32 metres, 0 where unknown; (H, W) bool, True where known.

    Raises:
        InputError: the file is missing, truncated, or not 16-bit with one channel.
    """
    levels = _depth_levels(Path(path))
    millimetres = (levels >> 3) | (levels << 13)  # of uint16, which drops what leaves it on the left
    return (millimetres / 1000).astype(np.float32), millimetres > 0


def read_rgbd(colour: Path, depth: Path, decode: DepthDecoder) -> tuple[Array, Array, Mask]:
    """Image (C, H, W), depth (H, W) and mask (H, W) of one frame.

    Raises:
        InputError: as ``read_colour`` and ``decode``; the two differ in size.
    """
    image = read_colour(colour)
    metres, mask = decode(depth)
    if metres.shape != image.shape[1:]:
        raise InputError(
            f"{depth}: expected {image.shape[2]}x{image.shape[1]} as {colour.name}, found "
            f"{metres.shape[1]}x{metres.shape[0]}. Copy the frame again, or register its depth to its colour."
        )
    return image, metres, mask


def read_text(path: Path) -> str:
    """The text of a small file.

    Raises:
        InputError: it is missing, or not text in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: expected a text file, found: {error.strerror}. Check the path.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected text, found other bytes ({error.reason}). Copy the file again.") from error


def parse_numbers(words: list[str], count: int, where: str) -> Matrix:
    """(count,) float64, finite.

    Raises:
        InputError: another count, or a word that is no finite number; ``where`` names file and field.
    """
    try:
        values = np.array([float(word) for word in words])
    except ValueError as error:
        raise InputError(f"{where}: expected {count} numbers, found: {error}. Copy the file again.") from error
    if len(values) != count or not np.isfinite(values).all():
        found = f"{len(values)} numbers" if len(values) != count else "NaN or infinity"
        raise InputError(f"{where}: expected {count} finite numbers, found {found}. Copy the file again.")
    return values


def read_matrix(path: Path, rows: int, columns: int) -> Matrix:
    """(rows, columns) float64 from a text file of as many numbers.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    return parse_numbers(read_text(path).split(), rows * columns, str(path)).reshape(rows, columns)


def check_pose(matrix: Matrix, where: str) -> Matrix:
    """``matrix`` itself, (4, 4), known to be a rigid motion.

    Raises:
        InputError: it is none; ``where`` names file and field.
    """
    if problem := pose_problem(matrix):
        raise InputError(f"{where}: expected {problem[0]}, found {problem[1]}. Leave the frame out or mend its pose.")
    return matrix


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Matrix:
    """(3, 3) float64 intrinsics without skew, px."""
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=np.float64)


def _depth_levels(path: Path) -> np.ndarray[tuple[int, int], np.dtype[np.uint16]]:
    levels = read_raw(path)
    if levels.dtype != np.uint16 or levels.ndim != 2:
        raise InputError(
            f"{path}: expected 16-bit depth, one channel, found {levels.dtype} {levels.shape}. Copy the file again."
        )
    return levels
