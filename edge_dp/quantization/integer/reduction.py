"""Means over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from edge_dp.quantization.integer.arithmetic import Integers, Quantisation


def mean(x: Integers, axes: Sequence[int], keepdim: bool = False, *, output: Quantisation) -> Tensor:
    """Mean in float32 of the sum of the stored integers, zero point and all.

    m = float32(scale / output scale) * float32(1 / count); q = rint(sum * m + (output zero point - (count * zero point) * m)),
    each operation rounded to float32, rint half to even; saturated. The zero points take part before the rounding, other than
    in ``requantise``. Source: XNNPACK ``qs8-rsum`` and ``qs8-rdsum``; the order was found by trying all of them on its outputs.
    """
    count = math.prod(x.values.shape[axis] for axis in axes)
    ratio = torch.tensor(x.quantisation.scale, dtype=torch.float32) / torch.tensor(output.scale, dtype=torch.float32)
    multiplier = ratio * (torch.tensor(1.0, dtype=torch.float32) / count)
    offset = output.zero_point - torch.tensor(count * x.quantisation.zero_point, dtype=torch.float32) * multiplier
    total = x.values.to(torch.int64).sum(tuple(axes), keepdim).to(torch.float32)
    return output.saturate(torch.round(total * multiplier + offset))
