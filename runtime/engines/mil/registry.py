"""The table of MIL ops that can be evaluated.

An op is a plain function whose parameters carry MIL's own names. A tensor that varies, or a constant array of floats or
of 8-bit integers, arrives as a torch tensor; every other constant arrives as a Python value: a float, int, bool, str or
tuple of ints. Half-precision tensors arrive widened to float32, and the program rounds the result back (see
``program``), so a function computes in float32 and needs to know nothing about precision.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
Ints = tuple[int, ...]

# What holds a MIL type while a program runs. Half is held widened: its tensors are float32 whose values are all halves.
HELD_AS = {
    "fp16": torch.float32,
    "fp32": torch.float32,
    "int32": torch.int32,
    "int16": torch.int16,
    "uint16": torch.int32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


@dataclass(frozen=True, slots=True)
class OpEntry:
    """How to evaluate one MIL op.

    ``moves`` says that every element of the result is an element of an operand, or one that half precision holds
    exactly where its operands do: rounding such a result again would change nothing.
    """

    function: Callable[..., Any]
    moves: bool


OPS: dict[str, OpEntry] = {}


def mil_op(name: str, *, moves: bool = False) -> Callable[[Function], Function]:
    """Register the decorated function as the meaning of the MIL op ``name``.

    Raises:
        ValueError: the op already has a meaning.
    """

    def register(function: Function) -> Function:
        if name in OPS:
            raise ValueError(f"MIL op {name!r} is registered twice")
        OPS[name] = OpEntry(function, moves)
        return function

    return register
