"""Losses that need no label: what one camera saw must look alike where another camera saw the same point.

All maps are (N, 1, H, W) unless said otherwise, disparity in px of that size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.training.losses import edge_aware_smoothness

PHOTOMETRIC, FEATUREMETRIC, UNCERTAINTY, STRUCTURE, SMOOTHNESS = 12.0, 3.0, 1.2, 6.0, 0.18
"""Weights of KD-MVS."""
_SSIM_1, _SSIM_2 = 0.01**2, 0.03**2  # for light in [0, 1]


def warp(image: Tensor, disparity: Tensor) -> Tensor:
    """What ``image`` (N, C, H, W) shows at (x - disparity, y), bilinear along x; its border is repeated.

    Differentiable in both. A camera to the left has seen a point at x + D: give -D.
    """
    height, width = image.shape[2:]
    x = torch.arange(width, dtype=image.dtype, device=image.device) - disparity[:, 0]
    y = torch.arange(height, dtype=image.dtype, device=image.device).view(1, -1, 1).expand_as(x)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=False)


def seen_by(disparity: Tensor) -> Tensor:
    """Where x - disparity lies within a view of that width, (N, 1, H, W) bool."""
    x = torch.arange(disparity.shape[-1], dtype=disparity.dtype, device=disparity.device) - disparity
    return (x >= 0) & (x <= disparity.shape[-1] - 1)


def photometric_error(image: Tensor, warped: Tensor) -> Tensor:
    """(h(I - W) + h(dx (I - W)) + h(dy (I - W))) / 2, h the smooth L1 loss, mean over channels: (N, 1, H, W).

    Source: KD-MVS, Ding et al., ECCV 2022, its internal photometric and featuremetric losses; Khot et al. 2019 (gradients).
    """
    total = _smooth_l1(image - warped)
    for axis in (-1, -2):
        step = _smooth_l1((image - warped).diff(dim=axis))
        total = total + functional.pad(step, (0, 1, 0, 0) if axis == -1 else (0, 0, 0, 1))
    return 0.5 * total.mean(1, keepdim=True)


def structural_dissimilarity(image: Tensor, warped: Tensor) -> Tensor:
    """(1 - SSIM) / 2 in windows of 3x3, clamped to [0, 1], mean over channels: (N, 1, H, W).

    SSIM = (2 mu_x mu_y + c1)(2 sigma_xy + c2) / ((mu_x^2 + mu_y^2 + c1)(sigma_x^2 + sigma_y^2 + c2)).

    Source: Wang et al., TIP 2004, equation 13; 3x3 means as in Godard et al., CVPR 2017.
    """

    def mean(values: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(values, (1, 1, 1, 1), mode="reflect"), 3, 1)

    mean_x, mean_y = mean(image), mean(warped)
    var_x, var_y = mean(image * image) - mean_x**2, mean(warped * warped) - mean_y**2
    covariance = mean(image * warped) - mean_x * mean_y
    above = (2 * mean_x * mean_y + _SSIM_1) * (2 * covariance + _SSIM_2)
    below = (mean_x**2 + mean_y**2 + _SSIM_1) * (var_x + var_y + _SSIM_2)
    return ((1 - above / below) / 2).clamp(0, 1).mean(1, keepdim=True)


def best_of_views(
    error: Callable[[Tensor, Tensor], Tensor], image: Tensor, others: Sequence[Tensor], moves: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """The least error of each pixel over the other views, and where any of them can see it: twice (N, 1, H, W).

    What one camera cannot see, hidden by something nearer, another often can; the one that fits best is taken to be it.

    Args:
        error: of an image and a warped one, (N, C, H, W) each, to (N, 1, H, W).
        image: (N, C, H, W) of the first view.
        others: (N, C, H, W) of each other view.
        moves: how far to the left each of them sees a point, px: D for a camera to the right, -D for one as far to the left.

    Source: minimum reprojection, Godard et al., ICCV 2019, equation 4, pixel by pixel.
    """
    least = torch.full_like(moves[0], torch.inf)
    for other, move in zip(others, moves, strict=True):
        here = torch.where(seen_by(move), error(image, warp(other, move)), torch.full_like(move, torch.inf))
        least = torch.minimum(least, here)
    seen = torch.isfinite(least)
    return torch.where(seen, least, torch.zeros_like(least)), seen


def self_supervised_loss(
    disparity: Tensor,
    log_variance: Tensor,
    views: tuple[Tensor, Tensor, Tensor],
    features: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """12 <exp(-s) P> + 3 <exp(-s) F> + 1.2 <s> + 6 <S> + 0.18 smoothness, means over the pixels that another camera sees.

    P and F are ``photometric_error`` of views and of features, S ``structural_dissimilarity``, each of the better of the two
    other cameras; s discounts pixels that fit nowhere, and pays for it.

    Args:
        disparity: of the first view, px.
        log_variance: s.
        views: (N, 1, H, W) in [0, 1]: the first, one to the right, one as far to the left.
        features: of the same, (N, C, h, w) of any smaller size; no gradient flows into them.

    Source: KD-MVS, Ding et al., ECCV 2022, section 3.1, with the weights of its code; the best view of each pixel is taken, where
    theirs averages each view first and so drops whole views.
    """
    first, *others = views
    moves = (disparity, -disparity)
    photometric, seen = best_of_views(photometric_error, first, others, moves)
    structure, _ = best_of_views(structural_dissimilarity, first, others, moves)
    first_feature, *other_features = (feature.detach() for feature in features)
    height, width = first_feature.shape[2:]
    small = functional.interpolate(disparity, (height, width), mode="bilinear", align_corners=False) * (
        width / first.shape[3]
    )
    featuremetric, seen_small = best_of_views(photometric_error, first_feature, other_features, (small, -small))
    small_variance = functional.interpolate(log_variance, (height, width), mode="bilinear", align_corners=False)
    relative = disparity / disparity.mean((2, 3), keepdim=True).clamp(min=1.0)
    return (
        PHOTOMETRIC * _mean(torch.exp(-log_variance) * photometric, seen)
        + FEATUREMETRIC * _mean(torch.exp(-small_variance) * featuremetric, seen_small)
        + UNCERTAINTY * _mean(log_variance, seen)
        + STRUCTURE * _mean(structure, seen)
        + SMOOTHNESS * edge_aware_smoothness(relative, 10 * first, torch.ones_like(seen))
    )


def _smooth_l1(difference: Tensor) -> Tensor:
    return functional.smooth_l1_loss(difference, torch.zeros_like(difference), reduction="none")


def _mean(value: Tensor, mask: Tensor) -> Tensor:
    return (value * mask).sum() / mask.sum().clamp(min=1)
