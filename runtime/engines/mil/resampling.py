"""Resizing of the last two dimensions. Shapes: (..., H, W) -> (..., H', W'), rank 3 or more."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.runtime.engines.mil.registry import Ints, mil_op


@mil_op("upsample_bilinear")
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Bilinear, H' = floor(H scale); the spacing of the samples comes from H and H', not from the scale.

    Sample i lies at, clamped to [0, H - 1]: i (H - 1) / (H' - 1) with ``align_corners``; else (i + 1/2) H / H' - 1/2
    with ``half_pixel_centers``, which is the default there; else i H / H'.

    Raises:
        ValueError: both flags are set.
    """
    if align_corners and half_pixel_centers:
        raise ValueError("align_corners excludes half_pixel_centers")
    corners, halves = align_corners, half_pixel_centers is not False
    mode = "STRICT_ALIGN_CORNERS" if corners else "UNALIGN_CORNERS" if halves else "DEFAULT"
    return bilinear(x, _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width), mode)


@mil_op("resize_bilinear")
def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Bilinear to (H', W') = the target size; the samples lie as ``sample_points`` says."""
    return bilinear(x, target_size_height, target_size_width, sampling_mode)


@mil_op("upsample_nearest_neighbor", moves=True)
def upsample_nearest_neighbor(x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Tensor:
    """Nearest, H' = floor(H scale): row i of the result is row floor(i H / H') of x; columns alike."""
    return _nearest(x, _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width))


@mil_op("resize_nearest_neighbor", moves=True)
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Nearest, H' = the target height: row i of the result is row floor(i H / H') of x; columns alike."""
    return _nearest(x, target_size_height, target_size_width)


@mil_op("resize")
def resize(
    x: Tensor,
    shape: Ints,
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resize to the last ``resized_dims`` sizes of ``shape``, 0 keeping the size of x; two dimensions at most here.

    LINEAR: as ``resize_bilinear``. NEAREST_NEIGHBOR: as ``resize_nearest_neighbor``, in sampling mode DEFAULT alone.

    Raises:
        ValueError: more than two dimensions, or a nearest neighbour with another sampling mode.
    """
    if resized_dims > 2:
        raise ValueError(f"expected 1 or 2 resized dimensions, found {resized_dims}")
    wanted = [size or x.shape[x.ndim - resized_dims + i] for i, size in enumerate(shape[len(shape) - resized_dims :])]
    height, width = [*x.shape[-2 : x.ndim - resized_dims], *wanted]
    if interpolation_mode == "LINEAR":
        return bilinear(x, height, width, sampling_mode)
    if sampling_mode != "DEFAULT":
        raise ValueError(f"nearest neighbour: expected sampling_mode DEFAULT, found {sampling_mode!r}")
    return _nearest(x, height, width)


def sample_points(size: int, count: int, mode: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Where ``count`` samples of an axis with ``size`` elements lie, in elements, within [0, size - 1].

    DEFAULT: i size / count. STRICT_ALIGN_CORNERS, ALIGN_CORNERS: i (size - 1) / (count - 1); a single sample lies at 0
    and in the middle, respectively. UNALIGN_CORNERS: (i + 1/2) size / count - 1/2. OFFSET_CORNERS: (i + 1/2) d,
    d = max(1, size - 1) / count.

    Raises:
        ValueError: an unknown mode.
    """
    i = np.arange(count, dtype=np.float64)
    if mode == "DEFAULT":
        points = i * size / count
    elif mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        single = (size - 1) / 2 if mode == "ALIGN_CORNERS" else 0.0
        points = i * (size - 1) / (count - 1) if count > 1 else i + single
    elif mode == "UNALIGN_CORNERS":
        points = (i + 0.5) * size / count - 0.5
    elif mode == "OFFSET_CORNERS":
        points = (i + 0.5) * max(1, size - 1) / count
    else:
        raise ValueError(f"unknown sampling mode {mode!r}")
    return np.clip(points, 0, size - 1)


def bilinear(x: Tensor, height: int, width: int, mode: str) -> Tensor:
    """(..., H, W) -> (..., height, width): x at the ``sample_points`` of both axes, linear between elements."""
    if mode == "UNALIGN_CORNERS" or (mode == "STRICT_ALIGN_CORNERS" and height > 1 and width > 1):
        planes = x.reshape(1, -1, *x.shape[-2:])  # torch knows these two samplings, and is faster
        corners = mode == "STRICT_ALIGN_CORNERS"
        planes = functional.interpolate(planes, (height, width), mode="bilinear", align_corners=corners)
        return planes.reshape(*x.shape[:-2], height, width)
    for axis, count in ((-2, height), (-1, width)):
        points = sample_points(x.shape[axis], count, mode)
        low = np.minimum(points.astype(np.int64), max(0, x.shape[axis] - 2))
        high = np.minimum(low + 1, x.shape[axis] - 1)
        share = torch.from_numpy((points - low).astype(np.float32)).reshape(-1, *(1,) * (-axis - 1))
        below = x.index_select(axis, torch.from_numpy(low))
        x = below + share * (x.index_select(axis, torch.from_numpy(high)) - below)
    return x


def _nearest(x: Tensor, height: int, width: int) -> Tensor:
    for axis, count in ((-2, height), (-1, width)):
        x = x.index_select(axis, torch.arange(count) * x.shape[axis] // count)
    return x


def _scaled(size: int, factor: float) -> int:
    """floor(size factor) in float32, the precision in which coremltools infers the shape of the result."""
    return int(np.floor(np.float32(size) * np.float32(factor)))
