"""Resizing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, same_quantisation, shift_right

_WEIGHT_BITS = 11


def bilinear(
    x: Integers,
    size: Sequence[int] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None,
    *,
    output: Quantisation,
) -> Tensor:
    """(N, C, H, W) to (N, C, H', W') with weights of 11 bits.

    Source coordinate of output index i, in float32: i * s with s = (H - 1) / (H' - 1) where corners are aligned, else
    i * s + (s / 2 - 1 / 2) with s = H / H', clamped to [0, H - 1]; its fraction times 2^11, rint half to even, is the weight w
    of the next value. Per row t = left * 2^11 + (right - left) * w_x, exact; then
    q = (top * 2^11 + (bottom - top) * w_y + 2^21) >> 22: half up, on the stored integers, zero point and all.
    Source: XNNPACK ``s8-ibilinear`` and ``xnn_indirection_init_resize_bilinear2d_hwc_q11``.
    """
    same_quantisation(x, output, "bilinear")
    height, width = x.values.shape[-2:]
    if size is None:
        assert scale_factors is not None  # ATen's schema: one of the two is given
        size = [int(n * factor) for n, factor in zip((height, width), scale_factors, strict=True)]
    top, bottom, down = _taps(height, size[0], align_corners)
    left, right, across = _taps(width, size[1], align_corners)
    values = x.values.to(torch.int64)
    rows = (values[..., left] << _WEIGHT_BITS) + (values[..., right] - values[..., left]) * across
    upper, lower = rows[..., top, :], rows[..., bottom, :]
    total = (upper << _WEIGHT_BITS) + (lower - upper) * down[:, None]
    return output.saturate(shift_right(total + (1 << (2 * _WEIGHT_BITS - 1)), 2 * _WEIGHT_BITS))


def _taps(source: int, target: int, align_corners: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Index of the value before and after each output, and the weight of the latter in 2^-11."""
    index = torch.arange(target, dtype=torch.float32)
    if align_corners:
        scale = torch.tensor(source - 1 if target > 1 else source, dtype=torch.float32) / max(target - 1, 1)
        place = index * scale
    else:
        scale = torch.tensor(source, dtype=torch.float32) / target
        place = index * scale + (0.5 * scale - 0.5)
    place = torch.clamp(place, 0, source - 1)
    before = place.to(torch.int64)
    weight = torch.round((place - before) * 2.0**_WEIGHT_BITS).to(torch.int64)
    return before, torch.clamp(before + 1, max=source - 1), weight
