"""Convolutions and matrix products. Shapes: N batch, C channels, *D one to three spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.runtime.engines.mil.registry import Ints, mil_op

_CONV = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_CONV_TRANSPOSE = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


def spatial_padding(
    pad_type: str, pad: Ints, sizes: Sequence[int], windows: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Elements to add before and after each spatial dimension.

    valid: none. custom: ``pad[2i]`` before and ``pad[2i + 1]`` after. same, same_lower: as many as make the result
    ceil(size / stride) long, total = max(0, (ceil(size / stride) - 1) stride + window - size); an odd one goes after
    (same) or before (same_lower). That is TensorFlow's rule, and the one by which coremltools infers shapes.

    Args:
        pad_type: "valid", "custom", "same" or "same_lower".
        pad: two numbers per spatial dimension, read for "custom" alone.
        sizes: the spatial shape.
        windows: the extent of the kernel, dilation included, per spatial dimension.
        strides: the stride per spatial dimension.

    Raises:
        ValueError: an unknown ``pad_type``.
    """
    if pad_type == "valid":
        return [(0, 0)] * len(sizes)
    if pad_type == "custom":
        return [(pad[2 * i], pad[2 * i + 1]) for i in range(len(sizes))]
    if pad_type not in ("same", "same_lower"):
        raise ValueError(f"expected pad_type valid, custom, same or same_lower, found {pad_type!r}")
    padding = []
    for size, window, stride in zip(sizes, windows, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + window - size)
        less, more = total // 2, total - total // 2
        padding.append((less, more) if pad_type == "same" else (more, less))
    return padding


def padded(x: Tensor, padding: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """(..., *D) with ``padding`` elements of ``value`` around its last dimensions."""
    return functional.pad(x, [n for pair in reversed(padding) for n in pair], value=value)


@mil_op("conv")
def conv(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    strides: Ints | None = None,
    pad_type: str = "valid",
    pad: Ints = (),
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation, zero padded: y[o, p] = bias[o] + sum_{c, k} weight[o, c, k] x[c, p stride + k dilation - pad].

    x (N, C_in, *D), weight (C_out, C_in / groups, *K), bias (C_out,) -> (N, C_out, *D'), where
    D' = floor((D + pads - (K - 1) dilation - 1) / stride) + 1. Padding as in ``spatial_padding``.
    """
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    strides, dilations = strides or ones, dilations or ones
    windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    padding = spatial_padding(pad_type, pad, x.shape[2:], windows, strides)
    if all(before == after for before, after in padding):
        around = tuple(before for before, _ in padding)
    else:
        x, around = padded(x, padding), (0,) * len(kernel)
    return _CONV[len(kernel)](x, weight, bias, strides, around, dilations, groups)


@mil_op("conv_transpose")
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None = None,
    pad: Ints = (),
    output_shape: Ints | None = None,
    pad_type: str = "valid",
    strides: Ints | None = None,
    dilations: Ints | None = None,
    groups: int = 1,
) -> Tensor:
    """Transposed convolution: each x[c, q] adds weight[c, o, k] x[c, q] at p = q stride + k dilation - pad; then bias.

    x (N, C_in, *D), weight (C_in, C_out / groups, *K), bias (C_out,) -> (N, C_out, *D'). The uncropped result is
    full = (D - 1) stride + (K - 1) dilation + 1 long. valid: D' = full. custom: ``pad[2i]`` are cropped before and
    ``pad[2i + 1]`` after. same: D' = D stride, and what ``spatial_padding`` would add to a D' long input of the
    convolution is cropped. ``output_shape`` overrides D'; what it adds or takes away is at the end.
    """
    kernel = weight.shape[2:]
    ones = (1,) * len(kernel)
    strides, dilations = strides or ones, dilations or ones
    windows = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    full = [(n - 1) * s + window for n, s, window in zip(x.shape[2:], strides, windows, strict=True)]
    same = [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
    cropped = spatial_padding(pad_type, pad, same, windows, strides)
    if output_shape is not None:
        sizes = list(output_shape[2:])
    elif pad_type in ("same", "same_lower"):
        sizes = same
    else:
        sizes = [whole - before - after for whole, (before, after) in zip(full, cropped, strict=True)]
    # Beyond its end the full result is the bias alone; zeros after the input make torch compute that too.
    beyond = [max(0, before + n - whole) for (before, _), n, whole in zip(cropped, sizes, full, strict=True)]
    x = padded(x, [(0, -(-n // s)) for n, s in zip(beyond, strides, strict=True)])
    result = _CONV_TRANSPOSE[len(kernel)](x, weight, bias, strides, groups=groups, dilation=dilations)
    for axis, ((before, _), size) in enumerate(zip(cropped, sizes, strict=True), start=2):
        result = result.narrow(axis, before, size)
    return result


@mil_op("linear")
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Dense layer y = x weight^T + bias: x (*D, D_in), weight (D_out, D_in), bias (D_out,) -> (*D, D_out)."""
    return functional.linear(x, weight, bias)


@mil_op("matmul")
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Matrix product over the last two dimensions, leading ones broadcast: (*, M, K) (*, K, N) -> (*, M, N).

    ``transpose_x`` and ``transpose_y`` swap the last two dimensions of an operand first.
    """
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)
