"""Operations that move integers and change none: the output has the quantisation of the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, quantise, same_quantisation


def moving(operation: Any) -> Callable[..., Tensor]:
    """The rule of an ATen operation that only rearranges its first argument: itself, on the stored integers."""

    def rule(x: Integers, *arguments: Any, output: Quantisation) -> Tensor:
        same_quantisation(x, output, str(operation))
        return output.saturate(operation(x.values, *arguments))

    return rule


def concatenate(parts: Sequence[Integers], axis: int = 0, *, output: Quantisation) -> Tensor:
    """Parts after one another along ``axis``; all have the output's quantisation."""
    for part in parts:
        same_quantisation(part, output, "cat")
    return output.saturate(torch.cat([part.values for part in parts], axis))


def pad(
    x: Integers, widths: Sequence[int], mode: str = "constant", value: float | None = None, *, output: Quantisation
) -> Tensor:
    """Constant padding with the integer of ``value``: ``quantise``; the zero point for 0."""
    same_quantisation(x, output, "pad")
    filling = int(quantise(torch.tensor(value or 0.0), output))
    return output.saturate(F.pad(x.values, tuple(widths), mode, filling))


def constant_pad(x: Integers, widths: Sequence[int], value: float = 0.0, *, output: Quantisation) -> Tensor:
    """As ``pad``."""
    return pad(x, widths, "constant", value, output=output)


def max_pool(
    x: Integers,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
    *,
    output: Quantisation,
) -> Tensor:
    """Largest integer in each window; padding never wins. Source: XNNPACK ``s8-maxpool``."""
    same_quantisation(x, output, "max pooling")
    pooled = F.max_pool2d(
        x.values.double(), tuple(kernel), tuple(stride) or None, tuple(padding), tuple(dilation), ceil_mode
    )
    return output.saturate(pooled)


def nearest(
    x: Integers, size: Sequence[int] | None, scale_factors: Sequence[float] | None, *, output: Quantisation
) -> Tensor:
    """Value at index floor(i * H / H')."""
    same_quantisation(x, output, "nearest")
    factors = None if scale_factors is None else tuple(scale_factors)
    resized = F.interpolate(x.values.double(), None if size is None else tuple(size), factors, mode="nearest")
    return output.saturate(resized)
