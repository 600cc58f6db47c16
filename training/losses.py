"""Losses of the distillation, each with formula, source and shapes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edge_dp.models.confidence import B_MAX, LOG_RATIO


def laplace_nll(disparity: Tensor, confidence: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Negative log-likelihood of the label under a Laplace distribution with the student's own expected error.

    L = mean over mask of |d - t| / b + ln(2 b), with ln b affine in the confidence (``edge_dp.models.confidence``).

    Args:
        disparity, confidence, label: (N, 1, H, W); px, code, px.
        mask: (N, 1, H, W) bool; at least one pixel is expected, an empty mask gives 0.

    Source: Kendall and Gal, NeurIPS 2017, with Laplace in place of Gaussian noise.
    """
    log_b = math.log(B_MAX) + confidence * LOG_RATIO
    nll = (disparity - label).abs() * torch.exp(-log_b) + log_b + math.log(2.0)
    return _masked_mean(nll, mask)


def l1(disparity: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Mean of |d - t| over the mask, px; shapes as in ``laplace_nll``."""
    return _masked_mean((disparity - label).abs(), mask)


def _masked_mean(value: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(value.dtype)
    return (value * weight).sum() / weight.sum().clamp(min=1.0)
