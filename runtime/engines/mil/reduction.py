"""Reductions over axes, and what is built on them: softmax and the normalisations."""

from __future__ import annotations

import torch
from torch import Tensor

from edge_dp.runtime.engines.mil.registry import Ints, mil_op


def _axes(x: Tensor, axes: Ints | None) -> list[int]:
    """The axes to reduce; MIL reads none given as all of them."""
    return list(range(x.ndim)) if axes is None else list(axes)


def _along(vector: Tensor, x: Tensor, axis: int) -> Tensor:
    """A vector (C,) shaped to broadcast along ``axis`` of x."""
    return vector.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


@mil_op("reduce_mean")
def reduce_mean(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Mean over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return x.mean(_axes(x, axes), keepdim=keep_dims)


@mil_op("reduce_sum")
def reduce_sum(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return x.sum(_axes(x, axes), keepdim=keep_dims)


@mil_op("reduce_max", moves=True)
def reduce_max(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Largest element over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return x.amax(_axes(x, axes), keepdim=keep_dims)


@mil_op("reduce_min", moves=True)
def reduce_min(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Smallest element over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return x.amin(_axes(x, axes), keepdim=keep_dims)


@mil_op("reduce_l1_norm")
def reduce_l1_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Sum of magnitudes over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return x.abs().sum(_axes(x, axes), keepdim=keep_dims)


@mil_op("reduce_l2_norm")
def reduce_l2_norm(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Root of the sum of squares over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return torch.linalg.vector_norm(x, dim=_axes(x, axes), keepdim=keep_dims)


@mil_op("reduce_log_sum_exp")
def reduce_log_sum_exp(x: Tensor, axes: Ints | None = None, keep_dims: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials over ``axes``, all of them by default; ``keep_dims`` leaves them with size 1."""
    return torch.logsumexp(x, _axes(x, axes), keepdim=keep_dims)


@mil_op("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x_i - max x) / sum_j exp(x_j - max x) along ``axis``; same shape."""
    return torch.softmax(x, axis)


@mil_op("batch_norm")
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) gamma + beta with given statistics: x (N, C, *D), the others (C,)."""
    normal = (x - _along(mean, x, 1)) / torch.sqrt(_along(variance, x, 1) + epsilon)
    return _scaled(normal, None if gamma is None else _along(gamma, x, 1), None if beta is None else _along(beta, x, 1))


@mil_op("instance_norm")
def instance_norm(x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5) -> Tensor:
    """As ``batch_norm``, with mean and population variance of each sample's channel: x (N, C, *D), the others (C,)."""
    normal = _normal(x, list(range(2, x.ndim)), epsilon)
    return _scaled(normal, None if gamma is None else _along(gamma, x, 1), None if beta is None else _along(beta, x, 1))


@mil_op("layer_norm")
def layer_norm(
    x: Tensor,
    axes: Ints | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """As ``batch_norm``, with mean and population variance over ``axes``; gamma and beta have those axes' sizes."""
    reduced = {axis % x.ndim for axis in _axes(x, axes)}
    shape = [size if axis in reduced else 1 for axis, size in enumerate(x.shape)]
    normal = _normal(x, sorted(reduced), epsilon)
    return _scaled(
        normal, None if gamma is None else gamma.reshape(shape), None if beta is None else beta.reshape(shape)
    )


def _normal(x: Tensor, axes: list[int], epsilon: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)


def _scaled(normal: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    if gamma is not None:
        normal = normal * gamma
    return normal if beta is None else normal + beta
