"""Quantisation of activations, and the ``constexpr`` ops that unpack quantised weights when a program is loaded."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from edge_dp.runtime.engines.mil.registry import Ints, mil_op

_RANGE = {"int8": (-128, 127, torch.int8), "uint8": (0, 255, torch.uint8)}


@mil_op("quantize")
def quantize(
    input: Tensor,  # noqa: A002 - MIL's own name
    scale: Tensor | float,
    output_dtype: str,
    zero_point: Tensor | float = 0,
    axis: int | None = None,
) -> Tensor:
    """Integers clamp(round(input / scale) + zero_point), to [-128, 127] for int8 and [0, 255] for uint8; same shape.

    Rounding is to the nearest integer with halves to the even one, as in MIL's own reference (numpy's ``around``), and
    comes before the zero point is added and the result clamped. The quotient is a float32 division, for half inputs
    too; the specification leaves that open. ``scale`` and ``zero_point`` are scalars, or vectors along ``axis``.

    A PT2E graph multiplies by 1 / scale instead, so a value in the middle of two steps may go the other way there: by
    one step, and at 0.03 % of the outputs of a network of 0.6 GMAC.
    """
    low, high, dtype = _RANGE[output_dtype]
    quotient = input / _along(scale, input, axis)
    return quotient.round_().add_(_along(zero_point, input, axis)).clamp_(low, high).to(dtype)


@mil_op("dequantize")
def dequantize(
    input: Tensor,  # noqa: A002 - MIL's own name
    scale: Tensor | float,
    zero_point: Tensor | float = 0,
    axis: int | None = None,
) -> Tensor:
    """Floats scale (input - zero_point): (...) int8 or uint8 -> (...) floats; parameters as in ``quantize``."""
    return (input.float() - _along(zero_point, input, axis)).mul_(_along(scale, input, axis))


@mil_op("constexpr_affine_dequantize")
def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor | float, scale: Tensor | float, axis: int
) -> Tensor:
    """Weights scale (quantized_data - zero_point), parameters scalar or along ``axis``: (...) 8-bit -> (...) floats."""
    return dequantize(quantized_data, scale, zero_point, axis)


@mil_op("constexpr_blockwise_shift_scale")
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Weights scale[i / b_i, ...] (data[i, ...] - offset[i / b_i, ...]), with blocks b = data.shape / scale.shape.

    data (...) 4- or 8-bit or float; scale and offset have the rank of data, and sizes that divide its own.
    """
    shift = 0.0 if offset is None else _repeated(offset.float(), data.shape)
    return (data.float() - shift) * _repeated(scale, data.shape)


@mil_op("constexpr_lut_to_dense", moves=True)
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: Ints | None = None, vector_axis: int | None = None
) -> Tensor:
    """Weights looked up in a palette of P = 2^bits entries.

    With ``shape`` (iOS 16): lut (P,), and indices hold ``bits`` per weight, packed from the least significant bit of
    the first byte on -> weights of that shape. Without (iOS 18): indices of the rank of the weights, one per element,
    and lut (*blocks, P, V): the table of a weight's block, each entry V weights along ``vector_axis``.
    """
    if shape is not None:
        bits, count = int(np.log2(len(lut))), int(np.prod(shape))
        stream = np.unpackbits(indices.numpy(), bitorder="little")[: bits * count].reshape(count, bits)
        return lut[torch.from_numpy(stream @ (1 << np.arange(bits)))].reshape(shape)
    tables = _repeated(lut, (*indices.shape, *lut.shape[-2:]))
    where = indices.long()[..., None, None].expand(*indices.shape, 1, lut.shape[-1])
    found = tables.gather(-2, where).squeeze(-2)  # (*indices.shape, V)
    if vector_axis is None:
        return found.squeeze(-1)
    axis = vector_axis % indices.ndim
    return found.movedim(-1, axis + 1).flatten(axis, axis + 1)


def _along(parameter: Tensor | float, data: Tensor, axis: int | None) -> Tensor | float:
    """A scalar as it is; a vector as float32, shaped to broadcast along ``axis`` of ``data``."""
    if not isinstance(parameter, Tensor):
        return parameter
    if axis is None:
        raise ValueError("a vector of scales or zero points needs an axis")
    return parameter.float().reshape([-1 if i == axis % data.ndim else 1 for i in range(data.ndim)])


def _repeated(blocks: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One value per block, repeated over its block so that the result has ``shape``."""
    for axis, size in enumerate(shape):
        blocks = blocks.repeat_interleave(size // blocks.shape[axis], axis)
    return blocks
