"""A student that takes linear planes: exposure, transfer and dither inside the artifact, in float."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.preprocessing import ExposureNormalisation, dither
from edge_dp.quantization.qat import activations
from edge_dp.quantization.ranges import ActivationRange

KEPT = ("exposure",)
"""Modules of ``LinearInput`` that stay in float in integer artifacts."""

_TILE = 16
"""Px, at most, of a square whose mean is taken first: engines add one by one in float32, where 200,000 values lose digits."""


class Exposure(nn.Module):
    """What ``edge_dp.preprocessing`` does to linear light, in operations that engines have.

    Args:
        normalisation: gain and transfer.
        height, width: of the input.
        step: of the input's quantisation, which is dithered; None leaves it as it is.
    """

    def __init__(self, normalisation: ExposureNormalisation, height: int, width: int, step: float | None) -> None:
        super().__init__()
        self.normalisation, self.tile = normalisation, math.gcd(_TILE, height, width)
        self.target_sum: Tensor
        # A quotient of tensors: that of a number would be a reciprocal, which is outside XNNPACK.
        self.register_buffer("target_sum", torch.full((1, 1, 1, 1), 2 * normalisation.target_mean))
        self.dither: Tensor | None
        self.register_buffer("dither", None if step is None else torch.from_numpy(dither(height, width, step))[None])

    def forward(self, views: Tensor) -> Tensor:
        """(1, 2, H, W) linear light in [0, 1] -> the same, as the student is told it; black views stay black."""
        # A mean over channels besides would be outside XNNPACK.
        means = F.avg_pool2d(views, self.tile).mean((2, 3), keepdim=True)
        gain = torch.clamp(self.target_sum / (means[:, :1] + means[:, 1:]), max=self.normalisation.max_gain)
        light = torch.clamp(torch.relu(views) * gain, max=1.0)  # LiteRT's one clamp to 0 and 1 is outside XNNPACK
        if self.normalisation.transfer == "square_root":
            light = torch.sqrt(light)
        return light if self.dither is None else light + self.dither


class LinearInput(nn.Module):
    """A student behind its exposure."""

    def __init__(self, student: nn.Module, exposure: Exposure) -> None:
        super().__init__()
        self.student, self.exposure = student, exposure

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """(1, 2, H, W) linear light -> disparity and confidence, (1, 1, h, w) each."""
        disparity, confidence = self.student(self.exposure(views))
        return disparity, confidence


def kept_paths(network: nn.Module) -> tuple[str, ...]:
    """Modules of a student's network that stay in float."""
    return KEPT if isinstance(network, LinearInput) else ()


def renamed(prepared: GraphModule, ranges: Sequence[ActivationRange]) -> tuple[ActivationRange, ...]:
    """The student's ranges under the names that its activations have behind an exposure; in the same order."""
    names = [name for name, _ in activations(prepared)]
    return tuple(replace(entry, tensor=name) for name, entry in zip(names, ranges, strict=False))
