"""The network of the teacher ``stereo_net``: a probability over disparities from a volume of matching costs, then a closer look.

The costs are classical (zero-mean normalised cross-correlation in windows of three sizes, absolute difference), for every whole
px of disparity, kept for cells of 4x4 px. What is learned is how to aggregate them, guided by the picture, and how sure to be.
Starting from correlation, the network is a block matcher before its first step; and costs that no training has seen do not
prefer the training's textures. At half the size nine hypotheses half a px apart are then looked at around what the cells found.
Both distributions are softmax; their means are disparities, and a head beside the second says how far off it expects to be.
Plain convolutions, and bilinear sampling along x, which a phone never runs.

Sources: several classical costs in one learned volume, Batsos et al., CVPR 2018; an hourglass over the volume, Kendall et al.,
ICCV 2017 (GC-Net); its excitation by the picture, Bangunharcana et al., IROS 2021 (CoEx); a narrow second volume, Gu et al., CVPR
2020 (cascade); convex upsampling, Teed and Deng, ECCV 2020 (RAFT).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

COARSE = 4
"""Px along a cell of the volume; and whole disparities that share one step of its third axis."""
FINE = 2
"""Px along a cell of the refinement."""
OFFSETS = tuple(0.5 * step for step in range(-4, 5))
"""Hypotheses of the refinement, px around the first estimate."""
_REACH = 3  # px to either side of the most probable disparity that a mean is taken over
_WINDOWS = (4, 8, 16)  # px, sides of the correlation's windows around a cell of the volume
_FINE_WINDOW = 6
_COSTS = len(_WINDOWS) + 1
_FAINT = 0.02  # spread, of views of spread 1, below which correlation fades to 0: it would be that of noise
_SHARPNESS = 6.0  # of the block matcher that the network starts as
_LOG_SIGMA = (math.log(0.02), math.log(64.0))  # px; what the network may claim
_DARKEST = 0.02  # spread of a view's light below which it is not amplified further


@dataclass(frozen=True, slots=True, eq=False)
class Belief:
    """What the network believes of the left view (N, 1, H, W).

    disparity: (N, 1, H, W) px, left(x) = right(x - D).
    log_sigma: (N, 1, H, W) ln px, of the standard deviation.
    coarse: (N, K, H/4, W/4), probability of the disparities 0, 1, 2, ... px.
    coarse_disparity: (N, 1, H/2, W/2) px, the mean around its peak, upsampled.
    fine: (N, 9, H/2, W/2), probability of ``OFFSETS`` around ``coarse_disparity``.
    features: (N, C, H/2, W/2) of the left view, by which a featuremetric loss compares.
    """

    disparity: Tensor
    log_sigma: Tensor
    coarse: Tensor
    coarse_disparity: Tensor
    fine: Tensor
    features: Tensor


class StereoNetwork(nn.Module):
    """Rectified grey pair in, ``Belief`` out.

    Args:
        width: channels of the volume and of the features at half the size; everything else is a multiple of it.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.width = width
        self.encoder = _Encoder(width)
        self.aggregation = _Aggregation(width, 2 * width)
        self.upsampling = _ConvexUpsampling(2 * width, FINE)
        self.refinement = _Refinement(width)

    def forward(self, left: Tensor, right: Tensor, disparities: int = 64, *, aggregate_in_bf16: bool = False) -> Belief:
        """Disparity of the left view.

        Args:
            left, right: (N, 1, H, W) light, gamma-encoded, H and W multiples of 4.
            disparities: the largest that is looked for, px.
            aggregate_in_bf16: the convolutions over the volume by autocast. They are most of the work, and PyTorch has no fast
                float32 ones for a single thread of a CPU.
        """
        left, right = normalised(left), normalised(right)
        half, quarter = self.encoder(left)
        with torch.no_grad():
            volume = matching_costs(left, right, -(-disparities // COARSE) + 1)
        with torch.autocast(left.device.type, torch.bfloat16, enabled=aggregate_in_bf16):
            logits = self.aggregation(volume, quarter)
        probability = logits.float().softmax(dim=1)
        coarse = self.upsampling(peak_mean(probability), quarter)
        offsets, log_sigma, weights = self.refinement(left, right, half, coarse.detach(), _certainty(probability))
        disparity = convex_upsample(coarse + _mean(offsets, OFFSETS), weights, FINE)
        log_sigma = convex_upsample(log_sigma, weights, FINE).clamp(*_LOG_SIGMA)
        return Belief(disparity, log_sigma, probability, coarse, offsets, half)


def matching_costs(left: Tensor, right: Tensor, steps: int) -> Tensor:
    """How alike the views are around each cell for each whole disparity: correlation in ``_WINDOWS``, absolute difference.

    Args:
        left, right: (N, 1, H, W), of mean 0 and spread 1.
        steps: of ``COARSE`` disparities each.

    Returns:
        (N, 16, steps, H/4, W/4); channel 4 c + i of step k is cost c at disparity 4 k + i. 0 where x - D is outside the view.

    Source: zero-mean normalised cross-correlation, e.g. Hirschmueller and Scharstein, TPAMI 2009.
    """
    count, _, height, width = left.shape
    disparities = steps * COARSE
    wide = functional.pad(right, (disparities - 1, 0, 0, 0), mode="replicate")
    # shifted[:, D, y, x] = right(x - D, y)
    shifted = wide.unfold(3, width, 1)[:, 0].flip(2).transpose(1, 2)
    costs = [*_correlations(left, shifted, _WINDOWS, COARSE), -functional.avg_pool2d((left - shifted).abs(), COARSE)]
    cells = torch.arange(width // COARSE, device=left.device) * COARSE + (COARSE - 1) / 2
    inside = cells >= torch.arange(disparities, device=left.device).view(1, -1, 1, 1)
    volume = torch.stack([cost * inside for cost in costs], dim=1)
    volume = volume.view(count, _COSTS, steps, COARSE, height // COARSE, width // COARSE)
    return volume.transpose(2, 3).flatten(1, 2)


def _correlations(left: Tensor, right: Tensor, windows: tuple[int, ...], stride: int) -> list[Tensor]:
    """Zero-mean normalised cross-correlation of (N, 1, H, W) with each of (N, K, H, W), in windows around cells of ``stride`` px.

    Means over 2x2 px are shared by all windows, whose sides are even and reach equally far beyond a cell.
    """
    pooled = [functional.avg_pool2d(values, 2) for values in (left, left * left, right, right * right, left * right)]
    result = []
    for window in windows:
        kernel, step, padding = window // 2, stride // 2, (window - stride) // 4
        of_left, square_left, of_right, square_right, product = (
            functional.avg_pool2d(values, kernel, step, padding, count_include_pad=False) for values in pooled
        )
        spread = (square_left - of_left**2).clamp(min=0) * (square_right - of_right**2).clamp(min=0)
        result.append((product - of_left * of_right) / (spread.sqrt() + _FAINT**2))
    return result


def peak_mean(probability: Tensor) -> Tensor:
    """Mean disparity, px, over the most probable one and its neighbours within ``_REACH``: (N, K, h, w) to (N, 1, h, w).

    A mean over all of them lies between two surfaces that are equally probable, where there is none.
    """
    peak = probability.detach().argmax(dim=1, keepdim=True)
    disparities = torch.arange(probability.shape[1], device=probability.device).view(1, -1, 1, 1)
    near = probability * ((disparities - peak).abs() <= _REACH)
    return (near * disparities).sum(1, keepdim=True) / near.sum(1, keepdim=True).clamp(min=1e-6)


def sample_along_x(image: Tensor, disparity: Tensor) -> Tensor:
    """Bilinear sample of ``image`` at (x - disparity, y); beyond its border the border is repeated.

    Args:
        image: (N, C, h, w).
        disparity: (N, K, h, w), px of this size.

    Returns:
        (N, C, K, h, w).
    """
    count, _, height, width = image.shape
    hypotheses = disparity.shape[1]
    x = torch.arange(width, device=image.device, dtype=image.dtype) - disparity
    y = torch.arange(height, device=image.device, dtype=image.dtype).view(1, 1, -1, 1).expand_as(x)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    sampled = functional.grid_sample(
        image, grid.view(count, hypotheses * height, width, 2), padding_mode="border", align_corners=False
    )
    return sampled.view(count, -1, hypotheses, height, width)


def normalised(view: Tensor) -> Tensor:
    """Each view (N, 1, H, W) with mean 0 and spread 1: two cameras never expose alike."""
    mean = view.mean((1, 2, 3), keepdim=True)
    spread = (view - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return (view - mean) / spread.clamp(min=_DARKEST)


def _mean(probability: Tensor, values: tuple[float, ...]) -> Tensor:
    return (probability * probability.new_tensor(values).view(1, -1, 1, 1)).sum(1, keepdim=True)


def _certainty(probability: Tensor) -> Tensor:
    """Highest probability and spread in cells' sizes, (N, 2, h, w): what the refinement may know of the volume."""
    steps = torch.arange(probability.shape[1], device=probability.device, dtype=probability.dtype).view(1, -1, 1, 1)
    mean = (probability * steps).sum(1, keepdim=True)
    spread = (probability * (steps - mean).square()).sum(1, keepdim=True).clamp(min=1e-6).sqrt() / COARSE
    return torch.cat([probability.amax(1, keepdim=True), spread], dim=1).detach()


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _conv3d(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(channels, channels, dilation=dilation), _conv(channels, channels)[:2])

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.body(x))


class _Encoder(nn.Module):
    """(N, 1, H, W) to features of half the size (width channels) and of a quarter (2 width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.to_half_size = nn.Sequential(_conv(1, width, 5, 2), _Residual(width))
        self.to_quarter_size = nn.Sequential(_conv(width, 2 * width, 3, 2), _Residual(2 * width))
        self.to_eighth_size = nn.Sequential(_conv(2 * width, 3 * width, 3, 2), _Residual(3 * width, 2))
        self.join_quarter = _conv(5 * width, 2 * width)
        self.quarter_head = nn.Conv2d(2 * width, 2 * width, 1)
        self.join_half = _conv(3 * width, width)
        self.half_head = nn.Conv2d(width, width, 1)

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        half = self.to_half_size(view)
        quarter = self.to_quarter_size(half)
        quarter = self.join_quarter(torch.cat([quarter, _resized(self.to_eighth_size(quarter), quarter)], dim=1))
        half = self.join_half(torch.cat([half, _resized(quarter, half)], dim=1))
        return self.half_head(half), self.quarter_head(quarter)


class _Aggregation(nn.Module):
    """Costs (N, 16, steps, h, w) to logits of whole disparities (N, 4 steps, h, w).

    An hourglass, each level of it excited by the left view's features, is added to the correlation that it starts from.
    """

    def __init__(self, width: int, features: int) -> None:
        super().__init__()
        widths = (width, 2 * width, 3 * width, 4 * width)
        self.first = _conv3d(_COSTS * COARSE, widths[0])
        self.down = nn.ModuleList(nn.Sequential(_conv3d(a, b, 2), _conv3d(b, b)) for a, b in pairwise(widths))
        self.up = nn.ModuleList(_conv3d(b, a) for a, b in pairwise(widths))
        self.join = nn.ModuleList(_conv3d(a, a) for a in widths[:-1])
        self.excite = nn.ModuleList(nn.Conv2d(features, a, 1) for a in widths)
        self.logits = nn.Conv3d(widths[0], COARSE, 3, padding=1)
        self.sharpness = nn.Parameter(torch.full((len(_WINDOWS),), _SHARPNESS / len(_WINDOWS)))

    def forward(self, volume: Tensor, features: Tensor) -> Tensor:
        levels = [self._excited(0, self.first(volume), features)]
        for index, down in enumerate(self.down):
            levels.append(self._excited(index + 1, down(levels[-1]), features))
        result = levels.pop()
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            skip = levels.pop()
            wide = functional.interpolate(up(result), skip.shape[2:], mode="trilinear", align_corners=False)
            result = join(wide + skip)
        count, _, *cells = volume.shape
        correlation = volume[:, : len(_WINDOWS) * COARSE].reshape(count, len(_WINDOWS), COARSE, *cells)
        start = (correlation * self.sharpness.view(1, -1, 1, 1, 1, 1)).sum(1)
        return (self.logits(result) + start).transpose(1, 2).flatten(1, 2)

    def _excited(self, level: int, volume: Tensor, features: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(features, (volume.shape[3], volume.shape[4])) if level else features
        return volume * torch.sigmoid(self.excite[level](pooled))[:, :, None]


class _ConvexUpsampling(nn.Module):
    """Each pixel of the larger map is a convex combination of 3x3 of the smaller one, by weights that the features give."""

    def __init__(self, features: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.weights = nn.Sequential(_conv(features, features), nn.Conv2d(features, 9 * factor**2, 1))

    def forward(self, value: Tensor, features: Tensor) -> Tensor:
        return convex_upsample(value, self.weights(features), self.factor)


def convex_upsample(value: Tensor, logits: Tensor, factor: int) -> Tensor:
    """(N, 1, h, w) to (N, 1, factor h, factor w), with logits (N, 9 factor^2, h, w) of the weights."""
    count, _, height, width = value.shape
    weights = logits.view(count, 9, factor, factor, height, width).softmax(dim=1)
    around = functional.unfold(functional.pad(value, (1, 1, 1, 1), mode="replicate"), 3).view(
        count, 9, 1, 1, height, width
    )
    fine = (weights * around).sum(1)  # (N, factor, factor, h, w)
    return fine.permute(0, 3, 1, 4, 2).reshape(count, 1, factor * height, factor * width)


class _Refinement(nn.Module):
    """Looks at ``OFFSETS`` around a first estimate, at half the size: their probability, ln sigma, and weights for upsampling."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = 2 * len(OFFSETS) + width + 3
        self.body = nn.Sequential(_conv(inputs, 2 * width), _Residual(2 * width), _Residual(2 * width, 2))
        self.logits = nn.Conv2d(2 * width, len(OFFSETS), 3, padding=1)
        self.log_sigma = nn.Conv2d(2 * width, 1, 3, padding=1)
        self.upsampling = nn.Conv2d(2 * width, 9 * FINE**2, 1)
        self.sharpness = nn.Parameter(torch.tensor(_SHARPNESS))

    def forward(
        self, left: Tensor, right: Tensor, features: Tensor, estimate: Tensor, certainty: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            full = functional.interpolate(estimate, scale_factor=FINE, mode="bilinear", align_corners=False)
            seen = sample_along_x(right, full + full.new_tensor(OFFSETS).view(1, -1, 1, 1))[:, 0]
            (correlation,) = _correlations(left, seen, (_FINE_WINDOW,), FINE)
            difference = functional.avg_pool2d((left - seen).abs(), FINE)
            relief = (estimate - functional.avg_pool2d(estimate, 9, 1, 4, count_include_pad=False)) / COARSE
        known = [correlation, difference, features, relief.clamp(-4, 4), _resized(certainty, features)]
        body = self.body(torch.cat(known, dim=1))
        logits = self.logits(body) + self.sharpness * correlation
        return logits.softmax(dim=1), self.log_sigma(body), self.upsampling(body)


def _resized(value: Tensor, like: Tensor) -> Tensor:
    return functional.interpolate(value, like.shape[2:], mode="bilinear", align_corners=False)
