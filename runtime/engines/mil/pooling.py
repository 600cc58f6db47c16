"""Pooling over windows. Shapes: N batch, C channels, *D one to three spatial dimensions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.runtime.engines.mil.convolution import padded, spatial_padding
from edge_dp.runtime.engines.mil.registry import Ints, mil_op

_AVG = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MAX = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


@mil_op("avg_pool")
def avg_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    *,
    strides: Ints | None = None,
    pad: Ints = (),
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean over each window, zero padded: (N, C, *D) -> (N, C, *D'), D' = floor((D + pads - kernel) / stride) + 1.

    The divisor is the size of the window, or with ``exclude_padding_from_average`` the number of its elements that
    belong to x. ``ceil_mode`` rounds D' up and drops a window that would start beyond x and the padding before it; the
    part of a window beyond the padding counts for nothing, nor in the divisor.
    """
    strides = strides or (1,) * len(kernel_sizes)
    padding = spatial_padding(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _AVG[len(kernel_sizes)]
    around = tuple(before for before, _ in padding)
    if all(before == after for before, after in padding) and _fits(around, kernel_sizes):
        return pool(x, kernel_sizes, strides, around, ceil_mode, not exclude_padding_from_average)
    _refuse_ceil_mode(ceil_mode)
    mean = pool(padded(x, padding), kernel_sizes, strides)
    if exclude_padding_from_average:
        mean = mean / pool(padded(torch.ones_like(x[:1, :1]), padding), kernel_sizes, strides)
    return mean


@mil_op("max_pool", moves=True)
def max_pool(
    x: Tensor,
    kernel_sizes: Ints,
    pad_type: str,
    *,
    strides: Ints | None = None,
    pad: Ints = (),
    ceil_mode: bool = False,
) -> Tensor:
    """Largest element of each window, padding never chosen: (N, C, *D) -> (N, C, *D'), sizes as in ``avg_pool``."""
    strides = strides or (1,) * len(kernel_sizes)
    padding = spatial_padding(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    around = tuple(before for before, _ in padding)
    if all(before == after for before, after in padding) and _fits(around, kernel_sizes):
        return _MAX[len(kernel_sizes)](x, kernel_sizes, strides, around, ceil_mode=ceil_mode)
    _refuse_ceil_mode(ceil_mode)
    return _MAX[len(kernel_sizes)](padded(x, padding, -math.inf), kernel_sizes, strides)


def _fits(around: Ints, kernel_sizes: Ints) -> bool:
    """Torch pads by at most half a window."""
    return all(2 * pad <= kernel for pad, kernel in zip(around, kernel_sizes, strict=True))


def _refuse_ceil_mode(ceil_mode: bool) -> None:
    if ceil_mode:
        raise ValueError("ceil_mode needs padding that is symmetric and at most half a window")
