"""Comparisons, whose results are truth values, what joins those, and the choice by them; operands broadcast as numpy's do."""

from __future__ import annotations

import torch
from torch import Tensor

from edge_dp.runtime.engines.mil.elementwise import Operand, pair
from edge_dp.runtime.engines.mil.registry import mil_op


@mil_op("greater", moves=True)
def greater(x: Operand, y: Operand) -> Tensor:
    """Whether x > y."""
    return torch.gt(*pair(x, y))


@mil_op("greater_equal", moves=True)
def greater_equal(x: Operand, y: Operand) -> Tensor:
    """Whether x >= y."""
    return torch.ge(*pair(x, y))


@mil_op("less", moves=True)
def less(x: Operand, y: Operand) -> Tensor:
    """Whether x < y."""
    return torch.lt(*pair(x, y))


@mil_op("less_equal", moves=True)
def less_equal(x: Operand, y: Operand) -> Tensor:
    """Whether x <= y."""
    return torch.le(*pair(x, y))


@mil_op("equal", moves=True)
def equal(x: Operand, y: Operand) -> Tensor:
    """Whether x = y."""
    return torch.eq(*pair(x, y))


@mil_op("not_equal", moves=True)
def not_equal(x: Operand, y: Operand) -> Tensor:
    """Whether x differs from y; a NaN differs from all."""
    return torch.ne(*pair(x, y))


@mil_op("logical_and", moves=True)
def logical_and(x: Operand, y: Operand) -> Tensor:
    """Whether both hold."""
    return torch.logical_and(*pair(x, y))


@mil_op("logical_or", moves=True)
def logical_or(x: Operand, y: Operand) -> Tensor:
    """Whether one holds, or both."""
    return torch.logical_or(*pair(x, y))


@mil_op("logical_not", moves=True)
def logical_not(x: Tensor) -> Tensor:
    """Whether x does not hold."""
    return torch.logical_not(x)


@mil_op("select", moves=True)
def select(cond: Operand, a: Operand, b: Operand) -> Tensor:
    """Choice of a where ``cond`` holds, else b."""
    return torch.where(torch.as_tensor(cond), *pair(a, b))
