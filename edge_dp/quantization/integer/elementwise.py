"""Operations of one value, or of two values at the same place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edge_dp.errors import ExportError
from edge_dp.quantization.integer.arithmetic import (
    Integers,
    Quantisation,
    dequantise,
    quantise,
    requantise,
    same_quantisation,
    shift_right,
)

_MULTIPLIER_BITS = 20


def add(a: Integers, b: Integers, alpha: float = 1, *, output: Quantisation) -> Tensor:
    """Sum in fixed point, broadcast.

    r_i = float32(scale_i / output scale); shift = 20 - floor(log2(max r)); m_i = rint(r_i * 2^shift), half to even.
    q = (m_a (a - z_a) + m_b (b - z_b) + 2^(shift - 1)) >> shift, half up, + output zero point, saturated.
    Source: XNNPACK ``qs8-vadd-minmax``, parameters in ``xnn_init_qs8_add_minmax_*_params``.
    """
    return _weighted_sum(a, b, 1, alpha, output)


def subtract(a: Integers, b: Integers, alpha: float = 1, *, output: Quantisation) -> Tensor:
    """Difference: the rule of ``add`` with the second multiplier negated."""
    return _weighted_sum(a, b, -1, alpha, output)


def _weighted_sum(a: Integers, b: Integers, sign: int, alpha: float, output: Quantisation) -> Tensor:
    if alpha != 1:
        raise ExportError(f"add: expected alpha 1, found {alpha}; multiply before adding")
    ratios = [
        torch.tensor(x.quantisation.scale, dtype=torch.float32) / torch.tensor(output.scale, dtype=torch.float32)
        for x in (a, b)
    ]
    exponent = math.frexp(float(max(ratios)))[1] - 1
    shift = _MULTIPLIER_BITS - exponent
    first, second = (int(torch.round(ratio.double() * 2.0**shift)) for ratio in ratios)
    total = first * a.centred.to(torch.int64) + sign * second * b.centred.to(torch.int64)
    return output.saturate(shift_right(total + (1 << (shift - 1)), shift) + output.zero_point)


def multiply(a: Integers, b: Integers, *, output: Quantisation) -> Tensor:
    """Product, broadcast: (a - z_a)(b - z_b), ``requantise`` with float32(float32(scale_a scale_b) / output scale).

    Source: XNNPACK ``qs8-vmul-minmax-fp32``.
    """
    product = torch.tensor(a.quantisation.scale, dtype=torch.float32) * torch.tensor(
        b.quantisation.scale, dtype=torch.float32
    )
    return requantise(a.centred * b.centred, product / torch.tensor(output.scale, dtype=torch.float32), output)


def sigmoid(x: Integers, *, output: Quantisation) -> Tensor:
    """Table over the 256 inputs: q = rint(float32(sigmoid(scale (x - z))) * float32(1 / output scale)) + output zero point.

    The sigmoid in float64 of the float32 product; half to even. Source: XNNPACK ``x8-lut``, table of its reference operator.
    """
    codes = torch.arange(-128, 128, dtype=torch.int32)
    table = quantise(torch.sigmoid(dequantise(Integers(codes, x.quantisation)).double()), output)
    return table[(x.values + 128).to(torch.int64)]


def rescale(x: Integers, *, output: Quantisation) -> Tensor:
    """An activation in another quantisation, through float32: ``quantise`` of ``dequantise``.

    Source: XNNPACK ``qs8-f32-vcvt``, then ``f32-qs8-vcvt``.
    """
    return quantise(dequantise(x), output)


def clamp(x: Integers, *, output: Quantisation) -> Tensor:
    """A ReLU or clamp that is fused with nothing: min and max with the output's limits, on the stored integers.

    Source: XNNPACK ``s8-vclamp``.
    """
    same_quantisation(x, output, "clamp")
    return output.saturate(x.values)
