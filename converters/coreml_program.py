"""What a Core ML package holds, read back from disk: arithmetic and quantisation of its MIL program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Quantisation
from edge_dp.runtime.engines.coreml import load_function
from edge_dp.runtime.engines.mil import OPS

_CLAMPS = frozenset({"relu", "relu6", "clip"})
_NO_ARITHMETIC = frozenset({"const", "quantize", "dequantize", "constexpr_affine_dequantize", "cast"}) | _CLAMPS
_DATA = ("x", "y", "weight", "values")
"""Operands that hold data; the others are biases and numbers such as strides."""


def offered_kernels(package: Path) -> Kernels:
    """Arithmetic of the program by kind: in int8 where all its data comes from ``dequantize`` and all of it goes to ``quantize``.

    Whether the Neural Engine takes that offer, and what Core ML runs on which processor, is decided on the device and not known
    here: the program is read for what it offers, and ``outside`` stays empty.
    """
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    for operation in load_function(package).operations:
        if _computes(operation):
            data = list(_data(operation))
            quantised = bool(data) and all(map(_from_integers, data)) and _to_integers(operation)
            (integer if quantised else floating)[operation.op_type] += 1
    return Kernels(dict(integer), dict(floating))


def stored_quantisations(package: Path) -> list[Quantisation]:
    """Of every ``quantize`` and ``dequantize``; the converter writes int8 with zero point -128 as uint8 with none."""
    found = []
    for operation in load_function(package).operations:
        if operation.op_type in ("quantize", "dequantize"):
            stored = operation.zero_point
            zero_point = 0 if stored is None else int(stored.val)
            integers = operation.outputs[0] if operation.op_type == "quantize" else operation.input
            shift = 128 if is_unsigned(integers) else 0
            found.append(Quantisation(float(operation.scale.val), zero_point - shift))
    return found


def _computes(operation: Any) -> bool:
    """Whether it counts as arithmetic: all do but those that only move or compare values, also ones unknown here."""
    entry = OPS.get(operation.op_type)
    return operation.op_type not in _NO_ARITHMETIC and not (entry and entry.moves)


def _data(operation: Any) -> Iterator[Any]:
    for name in _DATA:
        value = operation.inputs.get(name)
        yield from value if isinstance(value, (list, tuple)) else () if value is None else (value,)


def _from_integers(value: Any) -> bool:
    return value.op is not None and value.op.op_type in ("dequantize", "constexpr_affine_dequantize")


def _to_integers(operation: Any) -> bool:
    users = [user for value in operation.outputs for user in value.child_ops]
    return bool(users) and all(
        user.op_type == "quantize" or (user.op_type in _CLAMPS and _to_integers(user)) for user in users
    )


def is_unsigned(value: Any) -> bool:
    """Whether a tensor of a MIL program holds uint8."""
    from coremltools.converters.mil.mil import types

    return bool(value.dtype == types.uint8)
