"""Ops that treat every element alike, with numpy's broadcasting between two operands; the result has that shape."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from edge_dp.runtime.engines.mil.registry import HELD_AS, mil_op

Operand = Tensor | float | int | tuple[int, ...]


@mil_op("add")
def add(x: Operand, y: Operand) -> Tensor:
    """Sum x + y."""
    return torch.add(*pair(x, y))


@mil_op("sub")
def sub(x: Operand, y: Operand) -> Tensor:
    """Difference x - y."""
    return torch.sub(*pair(x, y))


@mil_op("mul")
def mul(x: Operand, y: Operand) -> Tensor:
    """Product x y."""
    return torch.mul(*pair(x, y))


@mil_op("real_div")
def real_div(x: Operand, y: Operand) -> Tensor:
    """Quotient x / y."""
    return torch.true_divide(*pair(x, y))


@mil_op("pow")
def power(x: Operand, y: Operand) -> Tensor:
    """Power x ** y."""
    return torch.pow(*pair(x, y))


@mil_op("maximum", moves=True)
def maximum(x: Operand, y: Operand) -> Tensor:
    """The larger of x and y."""
    return torch.maximum(*pair(x, y))


@mil_op("minimum", moves=True)
def minimum(x: Operand, y: Operand) -> Tensor:
    """The smaller of x and y."""
    return torch.minimum(*pair(x, y))


@mil_op("relu", moves=True)
def relu(x: Tensor) -> Tensor:
    """Larger of x and 0."""
    return torch.relu(x)


@mil_op("relu6", moves=True)
def relu6(x: Tensor) -> Tensor:
    """Clamped min(max(x, 0), 6)."""
    return torch.clamp(x, 0.0, 6.0)


@mil_op("clip")
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Clamped min(max(x, alpha), beta)."""
    return torch.clamp(x, alpha, beta)


@mil_op("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Piecewise min(beta, x) where x >= 0, else min(beta, alpha x)."""
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@mil_op("thresholded_relu", moves=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """Piecewise x where x >= alpha, else 0; the converter writes hard swish with it."""
    return torch.where(x >= alpha, x, 0.0)


@mil_op("leaky_relu")
def leaky_relu(x: Tensor, alpha: float = 0.01) -> Tensor:
    """Piecewise x where >= 0, else alpha x."""
    return torch.where(x >= 0, x, alpha * x)


@mil_op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """Piecewise x where > 0, else alpha[c] x: x (N, C, *D), alpha (C,)."""
    return functional.prelu(x, alpha)


@mil_op("elu")
def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Piecewise x where > 0, else alpha (exp(x) - 1)."""
    return torch.where(x > 0, x, alpha * torch.expm1(x))


@mil_op("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Product x Phi(x), Phi the normal distribution function.

    EXACT: x / 2 (1 + erf(x / sqrt 2)). TANH_APPROXIMATION: x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    SIGMOID_APPROXIMATION: x sigmoid(1.702 x).
    """
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    return functional.gelu(x, approximate={"EXACT": "none", "TANH_APPROXIMATION": "tanh"}[mode])


@mil_op("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    """Logistic 1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


@mil_op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    """Clamped line min(max(alpha x + beta, 0), 1)."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@mil_op("silu")
def silu(x: Tensor) -> Tensor:
    """Product x sigmoid(x)."""
    return functional.silu(x)


@mil_op("softplus")
def softplus(x: Tensor) -> Tensor:
    """Smooth ramp log(1 + exp(x)), without overflow."""
    return torch.logaddexp(x, torch.zeros_like(x))


@mil_op("tanh")
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent of x."""
    return torch.tanh(x)


@mil_op("exp")
def exp(x: Tensor) -> Tensor:
    """Exponential of x."""
    return torch.exp(x)


@mil_op("log")
def log(x: Tensor, epsilon: float = 1e-45) -> Tensor:
    """Natural logarithm of x + epsilon."""
    return torch.log(x + epsilon)


@mil_op("sqrt")
def sqrt(x: Tensor) -> Tensor:
    """Square root of x."""
    return torch.sqrt(x)


@mil_op("rsqrt")
def rsqrt(x: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Reciprocal root 1 / sqrt(x + epsilon)."""
    return 1.0 / torch.sqrt(x + epsilon)


@mil_op("square")
def square(x: Tensor) -> Tensor:
    """Square x x."""
    return x * x


@mil_op("abs", moves=True)
def absolute(x: Tensor) -> Tensor:
    """The magnitude of x."""
    return torch.abs(x)


@mil_op("floor")
def floor(x: Tensor) -> Tensor:
    """The largest integer not above x."""
    return torch.floor(x)


@mil_op("round")
def nearest(x: Tensor) -> Tensor:
    """The nearest integer, halves to the even one: MIL says of 0.5 that it becomes 0."""
    return torch.round(x)


@mil_op("cast")
def cast(x: Tensor, dtype: str) -> Tensor:
    """As ``dtype``: fp16 to the nearest half, ties to even; integers by dropping the fraction; bool as x != 0."""
    return torch.as_tensor(x).to(HELD_AS[dtype])  # the program rounds to half


def pair(x: Operand, y: Operand) -> tuple[Tensor, Tensor]:
    """Both as tensors; a Python float becomes a scalar tensor, which does not widen the other operand."""
    return torch.as_tensor(x), torch.as_tensor(y)
