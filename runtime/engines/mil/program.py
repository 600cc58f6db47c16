"""Walks a MIL program: constants once, when it is loaded; everything else at each run."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_dp.errors import EngineError
from edge_dp.runtime.engines.mil.registry import HELD_AS, OPS, OpEntry

MilObject: TypeAlias = Any  # coremltools has no types: a function, op or variable of its MIL
Constant: TypeAlias = Tensor | float | int | bool | str | tuple[Any, ...]
Operand: TypeAlias = "Constant | _Varying | list[Operand]"


@dataclass(frozen=True, slots=True)
class TensorType:
    """Shape and MIL element type ("fp16", "fp32", "int8", ...) of one tensor of a program."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True)
class _Varying:
    """An operand that is computed at each run, by name; any other operand is a constant."""

    name: str


@dataclass(frozen=True, slots=True)
class _Step:
    op_type: str
    entry: OpEntry
    operands: dict[str, Operand]
    outputs: tuple[tuple[str, TensorType], ...]
    last_read: tuple[str, ...]  # tensors that no later step reads


class MilProgram:
    """One MIL function, ready to run. A reference: it says nothing about the Neural Engine.

    Arithmetic: an op computes in float32. Where the program declares its result float16, the result is rounded to the
    nearest half, ties to even, with overflow to infinity, and stays a half until the next op. No rounding happens
    inside an op, so a convolution sums in float32; what Apple's hardware does there is not public.

    Args:
        function: a function of a MIL program as coremltools reads it, with fixed shapes.
        source: what error messages call the program, such as the path of the package.
        halves: round results to half where the program declares them float16. Without it nothing is rounded between a
            ``dequantize`` and the next ``quantize``, as in a kernel that sums integers; what the two differ by is the
            rounding to halves.

    Attributes:
        inputs: the types of the inputs by name, in order.
        outputs: the types of the outputs by name, in order.
        op_types: the distinct ops that run at each inference, sorted; constants are not among them.

    Raises:
        EngineError: an op without a meaning here (named with its output), an operand the op does not take, a shape
            that is not fixed, or constants that do not fit together.
    """

    def __init__(self, function: MilObject, source: str, halves: bool = True) -> None:
        self._source, self._halves = source, halves
        self.inputs: dict[str, TensorType] = {name: self._type(var) for name, var in function.inputs.items()}
        self.outputs: dict[str, TensorType] = {var.name: self._type(var) for var in function.outputs}
        self._constants: dict[str, Constant] = {}
        steps: list[_Step] = []
        for op in function.operations:
            if op.op_type == "const":
                self._constants[op.outputs[0].name] = _constant(op.outputs[0].val)
                continue
            step = self._step(op)
            if any(_names(step.operands)):
                steps.append(step)
            else:  # dequantised weights and whatever else depends on constants alone
                with torch.inference_mode():
                    for (name, _), value in zip(step.outputs, self._results(step, {}), strict=True):
                        self._constants[name] = value if value.is_floating_point() else _constant(value.numpy())
        self._steps = _with_last_reads(steps, keep=frozenset(self.outputs))
        self.op_types = tuple(sorted({step.op_type for step in steps}))

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Evaluate the program once, with as many threads as torch is set to.

        Args:
            inputs: float32 arrays by name, shaped as in ``inputs``; rounded first where the input is float16.

        Returns:
            float32 arrays by name, shaped as in ``outputs``, freshly allocated.

        Raises:
            EngineError: a missing input or wrong shape, or an op that fails or contradicts its declared shape.
        """
        values: dict[str, Tensor] = {}
        with torch.inference_mode():
            for name, kind in self.inputs.items():
                if name not in inputs or inputs[name].shape != kind.shape:
                    found = inputs[name].shape if name in inputs else "nothing"
                    raise EngineError(f"{self._source}: input {name!r}: expected shape {kind.shape}, found {found}")
                values[name] = self._held(torch.tensor(inputs[name]), kind.dtype)  # a copy: arrays may be read-only
            for step in self._steps:
                for (name, _), value in zip(step.outputs, self._results(step, values), strict=True):
                    values[name] = value
                for name in step.last_read:
                    values.pop(name, None)
            return {name: np.array(self._output(name, values), dtype=np.float32) for name in self.outputs}

    def _output(self, name: str, values: Mapping[str, Tensor]) -> NDArray[Any]:
        return torch.as_tensor(values[name] if name in values else self._constants[name]).numpy()

    def _step(self, op: MilObject) -> _Step:
        label = f"{self._source}: MIL op {op.op_type!r} with output {op.outputs[0].name!r}"
        entry = OPS.get(op.op_type)
        if entry is None:
            raise EngineError(f"{label} has no reference here; write the model without it, or add one to {__package__}")
        operands = {name: self._operand(var) for name, var in op.inputs.items() if var is not None}
        try:
            inspect.signature(entry.function).bind(**operands)
        except TypeError as error:
            raise EngineError(f"{label}: {error}") from error
        return _Step(op.op_type, entry, operands, tuple((var.name, self._type(var)) for var in op.outputs), ())

    def _operand(self, var: MilObject) -> Operand:
        if isinstance(var, (list, tuple)):
            return [self._operand(element) for element in var]
        return self._constants[var.name] if var.name in self._constants else _Varying(var.name)

    def _type(self, var: MilObject) -> TensorType:
        from coremltools.converters.mil.mil import types

        if not all(isinstance(size, (int, np.integer)) for size in var.shape):
            raise EngineError(f"{self._source}: {var.name!r}: expected a fixed shape, found {tuple(var.shape)}")
        dtype = types.builtin_to_string(var.dtype)
        if dtype not in HELD_AS:
            raise EngineError(f"{self._source}: {var.name!r}: expected one of {sorted(HELD_AS)}, found {dtype!r}")
        return TensorType(tuple(int(size) for size in var.shape), dtype)

    def _results(self, step: _Step, values: Mapping[str, Tensor]) -> list[Tensor]:
        label = f"{self._source}: MIL op {step.op_type!r} with output {step.outputs[0][0]!r}"
        operands = {name: _resolved(operand, values) for name, operand in step.operands.items()}
        try:
            found = step.entry.function(**operands)
        except Exception as error:  # a kernel refuses in its own words; the caller needs to know which op it was
            raise EngineError(f"{label} failed: {' '.join(str(error).split())[:300]}") from error
        several = found if isinstance(found, (list, tuple)) else [found]
        results = []
        for (name, kind), result in zip(step.outputs, several, strict=True):
            value = torch.as_tensor(result)
            if value.shape != kind.shape:
                raise EngineError(f"{label}: {name!r} is declared {kind.shape}, computed {tuple(value.shape)}")
            results.append(value if step.entry.moves else self._held(value, kind.dtype))
        return results

    def _held(self, value: Tensor, dtype: str) -> Tensor:
        """The tensor as MIL type ``dtype`` stores it: rounded to half for fp16, held as in ``HELD_AS``."""
        return value.half().float() if self._halves and dtype == "fp16" else value.to(HELD_AS[dtype])


def _constant(value: object) -> Constant:
    """A MIL constant as ops receive it, see ``registry``."""
    if isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim == 0:
        scalar: Constant = array.item()
        return scalar
    if array.dtype.kind == "f":
        return torch.tensor(array.astype(np.float32))
    if array.dtype in (np.int8, np.uint8):
        return torch.tensor(array)
    return tuple(array.tolist())


def _resolved(operand: Operand, values: Mapping[str, Tensor]) -> Operand:
    if isinstance(operand, _Varying):
        return values[operand.name]
    if isinstance(operand, list):
        return [_resolved(element, values) for element in operand]
    return operand


def _names(operands: Mapping[str, Operand]) -> list[str]:
    """Names of the tensors that vary among the operands."""
    groups = (operand if isinstance(operand, list) else [operand] for operand in operands.values())
    return [element.name for group in groups for element in group if isinstance(element, _Varying)]


def _with_last_reads(steps: Sequence[_Step], keep: frozenset[str]) -> list[_Step]:
    """The steps, each with the tensors it may free, so that a run holds only what is still to be read."""
    seen: set[str] = set(keep)
    freed: list[tuple[str, ...]] = []
    for step in reversed(steps):
        names = {*_names(step.operands), *(name for name, _ in step.outputs)} - seen
        freed.append(tuple(sorted(names)))
        seen |= names
    return [
        _Step(step.op_type, step.entry, step.operands, step.outputs, last)
        for step, last in zip(steps, reversed(freed), strict=True)
    ]
