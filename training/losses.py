"""Losses of the distillation, each with formula, source and shapes.

All take maps (N, 1, H, W) and a mask (N, 1, H, W) bool, and give the mean over the mask: a number, 0 where the mask is empty.
What lies outside the mask may be anything, NaN too, and has no gradient. ``mean`` takes that mean: processes that share a batch
divide by what all their masks hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.models.confidence import B_MAX, LOG_RATIO

_FLAT = 1e-12  # px^2: variance of a prediction that says nothing
_HARD = 1e-6  # px: the spread of a label that has none
_SIZES = 4  # that gradients are compared at
_STRAIGHT_FROM = 2.0  # px: where Huber's parabola ends

Mean = Callable[[Tensor, Tensor], Tensor]
"""Gives the mean of a map (N, 1, H, W) over a mask of its shape; 0 where the mask is empty."""


def masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    """Sum over the mask by its count; see ``Mean``."""
    weight = mask.to(value.dtype)
    return (value * weight).sum() / weight.sum().clamp(min=1.0)


def laplace_nll(disparity: Tensor, confidence: Tensor, label: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Negative log-likelihood of the label under a Laplace distribution with the student's own expected error.

    L = mean over mask of |d - t| / b + ln(2 b), with ln b affine in the confidence (``edge_dp.models.confidence``).

    Args:
        disparity, confidence, label: px, code, px.

    Source: Kendall and Gal, NeurIPS 2017, with Laplace in place of Gaussian noise.
    """
    disparity, confidence, label = _within(mask, disparity, confidence, label)
    log_b = math.log(B_MAX) + confidence * LOG_RATIO
    nll = (disparity - label).abs() * torch.exp(-log_b) + log_b + math.log(2.0)
    return mean(nll, mask)


def gaussian_nll(disparity: Tensor, log_sigma: Tensor, label: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Negative log-likelihood of the label under the student's Gaussian.

    L = mean of (d - t)^2 / (2 sigma^2) + ln sigma + ln(2 pi) / 2.

    Args:
        disparity, log_sigma, label: px, ln px, px.

    Source: Kendall and Gal, NeurIPS 2017, equation 5.
    """
    disparity, log_sigma, label = _within(mask, disparity, log_sigma, label)
    squared = ((disparity - label) * torch.exp(-log_sigma)) ** 2
    return mean(0.5 * squared + log_sigma + 0.5 * math.log(2.0 * math.pi), mask)


def gaussian_kl(
    disparity: Tensor,
    log_sigma: Tensor,
    label: Tensor,
    label_sigma: Tensor,
    mask: Tensor,
    mean: Mean = masked_mean,
    *,
    floor: float = 0.02,
    of_label: bool = False,
) -> Tensor:
    """Kullback-Leibler divergence between the student's Gaussian s and the label's t.

    KL(s || t) = ln(sigma_t / sigma_s) + (sigma_s^2 + (mu_s - mu_t)^2) / (2 sigma_t^2) - 1/2: a label's own spread says how much
    an error on it counts, and the student's spread is drawn to it.

    Args:
        disparity, log_sigma: mu_s, px, and ln sigma_s, ln px.
        label, label_sigma: mu_t and sigma_t, px.
        floor: least sigma_t, px. Labels whose views agree by chance would count without bound.
        of_label: KL(t || s) instead, which lets the student's spread cover what it cannot predict.

    Source: Ding et al., KD-MVS, ECCV 2022, section 3.2. Their code puts standard deviations where variances belong; this is the
    divergence itself.
    """
    disparity, log_sigma, label = _within(mask, disparity, log_sigma, label)
    log_label = torch.log(torch.where(mask, label_sigma, torch.ones_like(label_sigma)).clamp(min=floor))
    log_p, log_q = (log_label, log_sigma) if of_label else (log_sigma, log_label)
    ratio = torch.exp(2.0 * (log_p - log_q)) + ((disparity - label) * torch.exp(-log_q)) ** 2
    return mean(log_q - log_p + 0.5 * ratio - 0.5, mask)


def expected_l1(
    disparity: Tensor, label: Tensor, label_sigma: Tensor, mask: Tensor, mean: Mean = masked_mean
) -> Tensor:
    """Mean of E |d - t| over the mask, px, where t is Gaussian around the label: ``l1`` for labels that know their spread.

    E |d - t| = sigma sqrt(2 / pi) exp(-z^2 / 2) + |d - mu| erf(|z| / sqrt 2), z = (d - mu) / sigma: the mean of the folded
    normal distribution (Leone et al., Technometrics 1961, equation 2). An error within the label's spread hardly
    counts; one far beyond it counts as in ``l1``, so that a wrong label has no more pull than any other.

    Args:
        disparity, label, label_sigma: px; a sigma of 0 is a hard label.
    """
    disparity, label = _within(mask, disparity, label)
    return mean(_expected_distance(disparity, label, label_sigma, mask), mask)


def laplace_cross_entropy(
    disparity: Tensor, confidence: Tensor, label: Tensor, label_sigma: Tensor, mask: Tensor, mean: Mean = masked_mean
) -> Tensor:
    """Cross-entropy of the label's Gaussian t under the student's Laplace distribution s: KL(t || s) but for a constant.

    L = mean over mask of E |d - t| / b + ln(2 b), see ``expected_l1`` and ``laplace_nll``, which it is for sigma = 0. The
    student's b takes up what the label does not know.

    Args:
        disparity, confidence, label, label_sigma: px, code, px, px.
    """
    disparity, confidence, label = _within(mask, disparity, confidence, label)
    log_b = math.log(B_MAX) + confidence * LOG_RATIO
    distance = _expected_distance(disparity, label, label_sigma, mask)
    return mean(distance * torch.exp(-log_b) + log_b + math.log(2.0), mask)


def l1(disparity: Tensor, label: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Mean of |d - t| over the mask, px."""
    disparity, label = _within(mask, disparity, label)
    return mean((disparity - label).abs(), mask)


def huber(disparity: Tensor, label: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Mean over the mask of e^2 / 2 for |e| = |d - t| up to 2 px and 2 (|e| - 1) beyond, px^2.

    Where the label can only be guessed, ``l1`` is least at its median, far off whenever it is wrong, and squares are least at
    its mean. What a square error counts, AI(2) or the error of depth beside edges, is better for some of both.

    Source: Huber, "Robust Estimation of a Location Parameter", 1964.
    """
    disparity, label = _within(mask, disparity, label)
    return mean(functional.huber_loss(disparity, label, reduction="none", delta=_STRAIGHT_FROM), mask)


def affine_invariant_l1(disparity: Tensor, label: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Mean of |a d + b - t| with the a and b of each map that fit best by least squares, in the label's unit.

    For labels whose focus distance and gain are unknown: dual-pixel disparity is affine in inverse depth. The fit is part of the
    loss, so that its gradient knows of it. Where a prediction is flat, or one pixel alone is labelled, a is 0.

    Source: Garg et al., ICCV 2019, section 4.3 (affine-invariant losses); Ranftl et al., TPAMI 2022, equation 4 (least squares).
    """
    disparity, label = _within(mask, disparity, label)
    weight = mask.to(disparity.dtype)
    count = weight.sum((1, 2, 3), keepdim=True).clamp(min=1.0)

    def of_map(values: Tensor) -> Tensor:
        return (values * weight).sum((1, 2, 3), keepdim=True) / count

    off, goal = disparity - of_map(disparity), label - of_map(label)
    variance = of_map(off * off)
    gain = of_map(off * goal) / torch.where(variance > _FLAT, variance, torch.full_like(variance, math.inf))
    return mean((gain * off - goal).abs(), mask)


def gradient_matching(disparity: Tensor, label: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Mean over the mask of |dx e| + |dy e|, e = d - t, summed over four sizes, px: as even as the label, steps as sharp.

    Each size is half the one before, of means over 2x2 px of what is known of them; a cell is known where half of it is. An error
    that a surface has everywhere costs nothing here, and one that varies over it costs at every size.

    Args:
        disparity, label: px.
        mask: a difference counts where both of its pixels are known.

    Source: the multi-scale, scale-invariant gradient matching term of Li and Snavely, "MegaDepth", CVPR 2018, of disparity in
    place of log depth, with means over the mask of each size.
    """
    disparity, label = _within(mask, disparity, label)
    error, total = disparity - label, disparity.new_zeros(())
    for size in range(_SIZES):
        if size:
            if min(error.shape[2:]) < 4:  # a difference needs two cells
                break
            weight = mask.to(error.dtype)
            share = functional.avg_pool2d(weight, 2)
            mask = share >= 0.5
            error = functional.avg_pool2d(error * weight, 2) / share.clamp(min=0.5)
        for axis in (-1, -2):
            length = mask.shape[axis] - 1
            both = mask.narrow(axis, 0, length) & mask.narrow(axis, 1, length)
            total = total + mean(error.diff(dim=axis).abs(), both)
    return total


def edge_aware_smoothness(disparity: Tensor, image: Tensor, mask: Tensor, mean: Mean = masked_mean) -> Tensor:
    """Mean of |dx d| exp(-|dx I|) + |dy d| exp(-|dy I|): depth may step where the picture does.

    Args:
        image: (N, C, H, W), normalised so that an edge is about 1; its channels' differences are averaged.
        mask: a difference counts where both of its pixels lie in it.

    Source: Godard et al., CVPR 2017, equation 3, as in KD-MVS.
    """
    (disparity,) = _within(mask, disparity)
    total = disparity.new_zeros(())
    for axis in (-1, -2):
        step = disparity.diff(dim=axis).abs()
        edge = image.diff(dim=axis).abs().mean(1, keepdim=True)
        length = mask.shape[axis] - 1
        both = mask.narrow(axis, 0, length) & mask.narrow(axis, 1, length)
        total = total + mean(step * torch.exp(-edge), both)
    return total


def _expected_distance(disparity: Tensor, label: Tensor, label_sigma: Tensor, mask: Tensor) -> Tensor:
    """E |d - t| of a Gaussian t, px; see ``expected_l1``."""
    sigma = torch.where(mask, label_sigma, torch.ones_like(label_sigma)).clamp(min=_HARD)
    distance = (disparity - label).abs()
    z = distance / sigma
    return sigma * math.sqrt(2.0 / math.pi) * torch.exp(-0.5 * z * z) + distance * torch.erf(z / math.sqrt(2.0))


def _within(mask: Tensor, *maps: Tensor) -> list[Tensor]:
    """The maps with 0 outside the mask: multiplying by a weight of 0 would leave a NaN there, in the loss or its gradient."""
    return [torch.where(mask, values, torch.zeros_like(values)) for values in maps]
