"""A stereo network without weights, exported as real ones are: it blames any input that is not what its preset says."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_dp.training.teachers.adapters import PRESETS

LARGEST = 12


class Matcher(nn.Module):
    """Absolute differences in windows of 5x5, the best of ``LARGEST`` disparities.

    The darkest value of the views must be black, the brightest white, and the size a multiple of the preset's: else the
    answer is far off, or an error. Answers in the preset's sign, as flow with an empty second channel where that is negative.
    """

    def __init__(self, preset: str, size_is_fixed: bool = False) -> None:
        super().__init__()
        conventions = PRESETS[preset]
        self.register_buffer("mean", torch.tensor(conventions.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(conventions.std).view(1, 3, 1, 1))
        self.white: float = conventions.white
        self.sign: int = conventions.sign
        self.multiple: int = conventions.multiple
        self.size_is_fixed: bool = size_is_fixed
        self.disparities: int = LARGEST

    def forward(self, left: Tensor, right: Tensor) -> list[Tensor]:
        if not self.size_is_fixed and (left.shape[2] % self.multiple != 0 or left.shape[3] % self.multiple != 0):
            raise RuntimeError("size is not a multiple")
        left, right = (left * self.std + self.mean) / self.white, (right * self.std + self.mean) / self.white
        blame = 1000.0 * ((left.max() - 1.0).abs() + left.min().abs() + (right.max() - 1.0).abs() + right.min().abs())
        costs: list[Tensor] = []
        for d in range(self.disparities):
            shifted = functional.pad(right, [d, 0, 0, 0], mode="replicate")[:, :, :, : right.shape[3]]
            costs.append(functional.avg_pool2d((left - shifted).abs().mean(1, keepdim=True), 5, 1, 2))
        disparity = torch.cat(costs, 1).argmin(1, keepdim=True).to(left.dtype)
        disparity = self.sign * (disparity + blame.clamp(min=0.5) - 0.5)
        coarse = functional.avg_pool2d(disparity, 4)  # as networks do that answer the rough one first
        if self.sign < 0:
            disparity = torch.cat([disparity, torch.zeros_like(disparity)], 1)
        return [coarse, disparity]


class NotANumber(nn.Module):
    """Answers NaN in one pixel."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        disparity = left[:, :1] * 0.0 + right[:, :1] * 0.0 + 5.0
        disparity[:, :, 0, 0] = float("nan")
        return disparity


class Unsigned(nn.Module):
    """Finds flow along x of either sign, and answers how much of it there is."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        costs: list[Tensor] = []
        for d in range(-12, 13):
            shifted = torch.roll(right, [d], [3])
            costs.append(functional.avg_pool2d((left - shifted).abs().mean(1, keepdim=True), 5, 1, 2))
        return (torch.cat(costs, 1).argmin(1, keepdim=True).to(left.dtype) - 12.0).abs()
