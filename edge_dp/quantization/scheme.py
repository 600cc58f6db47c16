"""The number formats of the portable scheme, as PT2E specifications."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from edge_dp.quantization._torchao import (
    FakeQuantize,
    FixedQParamsQuantizationSpec,
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    QuantizationSpec,
)

_SMALLEST_SCALE = 2.0**-12  # XNNPACK's requantisation loses precision below it

ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, eps=_SMALLEST_SCALE
    ),
)


class _PeakObserver(MovingAverageMinMaxObserver):  # type: ignore[misc]  # torchao ships no types
    """Range of several tensors that share it: widens at once, narrows by a hundredth of the way.

    An average would end between the ranges of the tensors and cut the widest.
    """

    def forward(self, x: Tensor) -> Tensor:
        low, high = (torch.as_tensor(value).clone() for value in (self.min_val, self.max_val))
        super().forward(x)
        if torch.isfinite(low) and torch.isfinite(high):
            self.min_val.copy_(torch.minimum(self.min_val, x.detach().amin()))
            self.max_val.copy_(torch.maximum(self.max_val, x.detach().amax()))
        return x


def joined(activation: Any) -> Any:
    """Fake quantisation for tensors that are concatenated, in the format of ``activation``, that of one of them."""
    return FakeQuantize(
        observer=_PeakObserver,
        quant_min=activation.activation_post_process.quant_min,
        quant_max=activation.activation_post_process.quant_max,
        dtype=activation.dtype,
        qscheme=activation.qscheme,
        eps=float(activation.activation_post_process.eps),
    )


ACTIVATION_16 = QuantizationSpec(
    dtype=torch.int16,
    quant_min=-32768,
    quant_max=32767,
    qscheme=torch.per_tensor_symmetric,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, eps=_SMALLEST_SCALE / 256
    ),
)
"""Symmetric: TFLite's 16x8 kernels, the only ones that execute it, know no zero point."""


class _AsItIs(MovingAverageMinMaxObserver):  # type: ignore[misc]  # torchao ships no types
    """Range of a constant as it is now; in 8 bits with a scale that a half float holds exactly, as activations have."""

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        return (scale.half().float() if self.dtype is torch.int8 else scale), zero_point


def _constant(activation: QuantizationSpec) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=activation.dtype,
        quant_min=activation.quant_min,
        quant_max=activation.quant_max,
        qscheme=activation.qscheme,
        observer_or_fake_quant_ctr=FakeQuantize.with_args(
            observer=_AsItIs, averaging_constant=1.0, eps=_SMALLEST_SCALE / (1 if activation is ACTIVATION else 256)
        ),
    )


CONSTANT, CONSTANT_16 = _constant(ACTIVATION), _constant(ACTIVATION_16)
"""Of a constant that arithmetic meets, such as a map of gains or of positions: as an activation, and no part of the table."""

SIGMOID = FixedQParamsQuantizationSpec(
    dtype=torch.int8, scale=1 / 256, zero_point=-128, quant_min=-128, quant_max=127, qscheme=torch.per_tensor_affine
)
"""Of every sigmoid's result: 0 to 255/256. LiteRT and XNNPACK know no other."""

SIGMOID_16 = FixedQParamsQuantizationSpec(
    dtype=torch.int16,
    scale=1 / 32768,
    zero_point=0,
    quant_min=-32768,
    quant_max=32767,
    qscheme=torch.per_tensor_symmetric,
)
"""The same in 16 bits."""


class _HalfScaleObserver(MovingAveragePerChannelMinMaxObserver):  # type: ignore[misc]  # torchao ships no types
    """Per-channel range of the weights as they are now, with scales that a half float holds exactly.

    No averaging, so that a checkpoint's weights give their ranges back. Exact halves, so that Core ML's fp16 programs hold
    the same weights: 2^-12 of gain error per channel would be systematic.
    """

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        return scale.half().float(), zero_point


def _weight(axis: int, smallest_scale: float) -> QuantizationSpec:
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric,
        ch_axis=axis,
        observer_or_fake_quant_ctr=FakeQuantize.with_args(
            observer=_HalfScaleObserver, averaging_constant=1.0, eps=smallest_scale, ch_axis=axis
        ),
    )


WEIGHT = _weight(0, _SMALLEST_SCALE)
WEIGHT_TRANSPOSED = _weight(1, _SMALLEST_SCALE)
"""A transposed convolution's weights are (in, out, height, width)."""
CONSTANT_WEIGHT = _weight(0, 2.0**-14)
"""Of constants such as 1 / (kernel area), which are small and all equal; 2^-14 is the smallest normal half float."""
