"""What all rules share: integers with their scale, and the steps between real numbers and integers.

Integers are int32 tensors whatever their range: torch's int8 arithmetic would wrap around.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from edge_dp.errors import ExportError


@dataclass(frozen=True, slots=True)
class Quantisation:
    """real = scale * (q - zero_point), q in [lowest, highest].

    A ReLU or clamp that is fused with the operation before it narrows ``lowest`` and ``highest``.
    """

    scale: float
    zero_point: int
    lowest: int = -128
    highest: int = 127

    def clamped(self, low: float | None, high: float | None) -> Quantisation:
        """Narrowed to the integers of two real bounds; None where there is none.

        q = rint(float32(bound / scale) + zero_point), half to even, saturated. Source: XNNPACK ``xnn_qs8_quantize``.
        """
        lowest = self.lowest if low is None else max(self.lowest, self._bound(low))
        highest = self.highest if high is None else min(self.highest, self._bound(high))
        return replace(self, lowest=min(lowest, self.highest), highest=max(highest, self.lowest))

    def _bound(self, bound: float) -> int:
        steps = torch.tensor(bound, dtype=torch.float32) / torch.tensor(self.scale, dtype=torch.float32)
        return int(torch.clamp(torch.round(steps + self.zero_point), -128, 127))

    def saturate(self, values: Tensor) -> Tensor:
        """Clamp integers, zero point included, into the range."""
        return torch.clamp(values, self.lowest, self.highest).to(torch.int32)


@dataclass(frozen=True, slots=True)
class Integers:
    """An activation: int32 tensor of values in [-128, 127] and what they mean."""

    values: Tensor
    quantisation: Quantisation

    @property
    def centred(self) -> Tensor:
        """Values less the zero point; real = scale * centred. In [-255, 255]."""
        return self.values - self.quantisation.zero_point


@dataclass(frozen=True, slots=True)
class Weights:
    """int8 weights as an int32 tensor, symmetric, with one float32 scale per index of ``axis``."""

    values: Tensor
    scales: Tensor
    axis: int


def quantise(real: Tensor, output: Quantisation) -> Tensor:
    """Float32 to integers: q = rint(x * float32(1 / scale)) + zero_point, half to even, saturated.

    The product with the reciprocal is PyTorch's rule and that of XNNPACK's ``f32-qs8-vcvt``; dividing would differ in ties.
    """
    reciprocal = torch.tensor(1.0, dtype=torch.float32) / torch.tensor(output.scale, dtype=torch.float32)
    steps = torch.round(real.to(torch.float32) * reciprocal)
    # clamped before the conversion: a large float has no int32
    return output.saturate(torch.clamp(steps, -1e6, 1e6).to(torch.int32) + output.zero_point)


def dequantise(integers: Integers) -> Tensor:
    """Integers to float32: x = float32(q - zero_point) * scale; exact where the scale is a half float."""
    return integers.centred.to(torch.float32) * torch.tensor(integers.quantisation.scale, dtype=torch.float32)


def requantise(accumulator: Tensor, scale: Tensor, output: Quantisation) -> Tensor:
    """An exact sum of products to int8: XNNPACK's requantisation in float32.

    q = rint(float32(accumulator) * scale) + zero_point; the conversion to float32 and the product each round half to even, as
    does rint. Saturated to the output's limits.

    Args:
        accumulator: whole numbers, any dtype that holds them.
        scale: float32, input scale * weight scale / output scale, broadcast against ``accumulator``.
        output: of the result.

    Source: XNNPACK ``qs8-requantization`` (fp32) and the ``minmax-fp32`` micro-kernels.
    """
    steps = accumulator.to(torch.float32) * scale
    limited = torch.clamp(steps, output.lowest - output.zero_point, output.highest - output.zero_point)
    return torch.round(limited).to(torch.int32) + output.zero_point


def shift_right(values: Tensor, bits: int) -> Tensor:
    """Arithmetic shift of int64 values: floor(values / 2^bits), half up where 2^(bits-1) was added before."""
    return torch.bitwise_right_shift(values, bits)


def same_quantisation(x: Integers, output: Quantisation, operation: str) -> None:
    """Raise ExportError where an operation that moves integers would have to rescale them."""
    if (x.quantisation.scale, x.quantisation.zero_point) != (output.scale, output.zero_point):
        raise ExportError(
            f"{operation}: expected the quantisation of its input, scale {x.quantisation.scale} and zero point "
            f"{x.quantisation.zero_point}, found {output.scale} and {output.zero_point}; the quantiser must share them"
        )
