"""Mathematical functions of each element, and division with whole results; ``elementwise`` holds arithmetic and activations."""

from __future__ import annotations

import torch
from torch import Tensor

from edge_dp.runtime.engines.mil.elementwise import Operand, pair
from edge_dp.runtime.engines.mil.registry import mil_op


@mil_op("sin")
def sin(x: Tensor) -> Tensor:
    """Sine of x, in radians."""
    return torch.sin(x)


@mil_op("cos")
def cos(x: Tensor) -> Tensor:
    """Cosine of x, in radians."""
    return torch.cos(x)


@mil_op("tan")
def tan(x: Tensor) -> Tensor:
    """Tangent of x, in radians."""
    return torch.tan(x)


@mil_op("atan")
def atan(x: Tensor) -> Tensor:
    """Angle from -pi/2 to pi/2 whose tangent is x."""
    return torch.atan(x)


@mil_op("erf")
def erf(x: Tensor) -> Tensor:
    """Error function 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x."""
    return torch.erf(x)


@mil_op("exp2")
def exp2(x: Tensor) -> Tensor:
    """Power 2 ** x."""
    return torch.exp2(x)


@mil_op("inverse")
def inverse(x: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Reciprocal 1 / (x + epsilon)."""
    return 1.0 / (x + epsilon)


@mil_op("sign")
def sign(x: Tensor) -> Tensor:
    """The sign: -1, 0 or 1."""
    return torch.sign(x)


@mil_op("ceil")
def ceil(x: Tensor) -> Tensor:
    """The smallest integer not below x."""
    return torch.ceil(x)


@mil_op("floor_div")
def floor_div(x: Operand, y: Operand) -> Tensor:
    """The largest integer not above x / y."""
    return torch.floor_divide(*pair(x, y))


@mil_op("mod")
def mod(x: Operand, y: Operand) -> Tensor:
    """What is left, x - y floor(x / y); it has the sign of y."""
    return torch.remainder(*pair(x, y))
