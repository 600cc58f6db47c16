"""Operations that sum products: convolution in all its forms, transposed convolution and linear layers.

One rule for all of them. Bias to int32: rint(bias / (input scale * weight scale)). Sum of (x - input zero point) * weight over
the window, plus bias, in int32; padding counts as real zero. Then ``requantise`` with float32(float32(input scale * weight
scale) / output scale), one per output channel. Source: XNNPACK ``qs8-qc8w-gemm``, ``-igemm`` and ``-dwconv``, minmax-fp32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, Weights, requantise

# Sums are taken in float64: every product and partial sum is a whole number below 2^53 (an int32 accumulator is), which float64
# holds exactly, so no order of summation can round. torch has no fast integer convolution on CPUs.
_EXACT = torch.float64


def convolution(
    x: Integers,
    weight: Weights,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    *,
    output: Quantisation,
) -> Tensor:
    """(N, C, H, W) * (K, C / groups, kh, kw) to (N, K, H', W'); rule as in the module."""
    accumulator = F.conv2d(
        x.centred.to(_EXACT), weight.values.to(_EXACT), None, tuple(stride), tuple(padding), tuple(dilation), groups
    )
    return _finish(accumulator, x, weight.scales, bias, 1, output)


def transposed_convolution(
    x: Integers,
    weight: Weights,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    output_padding: Sequence[int] = (0, 0),
    groups: int = 1,
    dilation: Sequence[int] = (1, 1),
    *,
    output: Quantisation,
) -> Tensor:
    """(N, C, H, W) * (C, K / groups, kh, kw) to (N, K, H', W'); rule as in the module."""
    accumulator = F.conv_transpose2d(
        x.centred.to(_EXACT),
        weight.values.to(_EXACT),
        None,
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
    )
    # one scale per index of axis 1 serves the same channel of each group
    return _finish(accumulator, x, weight.scales.repeat(groups), bias, 1, output)


def linear(x: Integers, weight: Weights, bias: Tensor | None = None, *, output: Quantisation) -> Tensor:
    """(..., C) * (K, C) to (..., K); rule as in the module."""
    accumulator = F.linear(x.centred.to(_EXACT), weight.values.to(_EXACT))
    return _finish(accumulator, x, weight.scales, bias, accumulator.ndim - 1, output)


def _finish(
    accumulator: Tensor, x: Integers, weight_scales: Tensor, bias: Tensor | None, axis: int, output: Quantisation
) -> Tensor:
    """Add the bias and requantise; channels along ``axis``."""
    shape = [1] * accumulator.ndim
    shape[axis] = -1
    product = torch.tensor(x.quantisation.scale, dtype=torch.float32) * weight_scales.to(torch.float32)
    if bias is not None:
        accumulator = accumulator + torch.round(bias.to(_EXACT) / product.to(_EXACT)).reshape(shape)
    scale = product / torch.tensor(output.scale, dtype=torch.float32)
    return requantise(accumulator, scale.reshape(shape), output)
