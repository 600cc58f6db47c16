"""Executes a converted PT2E graph in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edge_dp.errors import ExportError, InputError
from edge_dp.quantization.graph import aten, attribute
from edge_dp.quantization.integer import convolution, elementwise, moves, reduction, resampling
from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, Weights, dequantise, quantise

_QUANTISE = "quantized_decomposed.quantize_per_tensor.default"
_DEQUANTISE = "quantized_decomposed.dequantize_per_tensor.default"
_DEQUANTISE_CHANNELS = "quantized_decomposed.dequantize_per_channel.default"
_BORDERS = (_QUANTISE, _DEQUANTISE, _DEQUANTISE_CHANNELS)

RULES: dict[Any, Callable[..., Tensor]] = {
    aten.conv2d.default: convolution.convolution,
    aten.conv_transpose2d.input: convolution.transposed_convolution,
    aten.linear.default: convolution.linear,
    aten.add.Tensor: elementwise.add,
    aten.sub.Tensor: elementwise.subtract,
    aten.mul.Tensor: elementwise.multiply,
    aten.sigmoid.default: elementwise.sigmoid,
    aten.mean.dim: reduction.mean,
    aten.upsample_bilinear2d.vec: resampling.bilinear,
    aten.upsample_nearest2d.vec: moves.nearest,
    aten.max_pool2d.default: moves.max_pool,
    aten.cat.default: moves.concatenate,
    aten.pad.default: moves.pad,
    aten.constant_pad_nd.default: moves.constant_pad,
}
"""By ATen operation: takes ATen's arguments in order, activations as ``Integers``, and the quantisation of its output."""
RULES |= {
    operation: moves.moving(operation)
    for operation in (
        aten.slice.Tensor,
        aten.reshape.default,
        aten.view.default,
        aten.flatten.using_ints,
        aten.permute.default,
    )
}

CLAMPS: dict[Any, Callable[..., tuple[float | None, float | None]]] = {
    aten.relu.default: lambda: (0.0, None),
    aten.clamp.default: lambda low=None, high=None: (low, high),
}
"""Operations that only narrow the range of what is before them: to real bounds, from their arguments after the first."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One integer operation with what is fused into it.

    name: of the node that computes the activation.
    quantise: the node that ends it; activations among ``arguments`` and ``options`` are such nodes, or inputs of the graph.
    """

    name: str
    quantise: Node
    rule: Callable[..., Tensor]
    arguments: tuple[Any, ...]
    output: Quantisation
    options: dict[str, Any] = field(default_factory=dict)


class IntegerGraph:
    """A converted, folded graph, executed as XNNPACK executes its artifacts.

    Args:
        folded: of ``edge_dp.quantization.qat.convert``.

    Raises:
        ExportError: an operation without an integer rule, left in float, or with activations other than int8; named.
    """

    def __init__(self, folded: GraphModule) -> None:
        self._folded = folded
        nodes: list[Node] = list(folded.graph.nodes)
        self._inputs = [node for node in nodes if node.op == "placeholder"]
        self._executed: set[Node] = set()
        self._steps = [self._step(node) for node in nodes if _is(node, _QUANTISE)]
        for node in nodes:
            if node.op == "call_function" and not _is(node, *_BORDERS) and node not in self._executed:
                raise ExportError(f"{node.name}: {node.target} was left in float; no integer rule applies")
        returned: Any = folded.graph.output_node().args[0]
        self._outputs = [_source(node) for node in ([returned] if isinstance(returned, Node) else returned)]

    @property
    def output_quantisation(self) -> list[Quantisation]:
        """Of each output."""
        return [_quantisation(node) for node in self._outputs]

    def run(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int8]]:
        """int8 outputs in order.

        Args:
            inputs: float32 arrays, as the converted graph takes them.

        Raises:
            InputError: another number of inputs, or a shape for which the graph was not made.
        """
        values = self._execute(inputs)
        return [values[node].values.to(torch.int8).numpy() for node in self._outputs]

    def run_float(self, inputs: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """As ``run``, in the model's units."""
        values = self._execute(inputs)
        return [dequantise(values[node]).numpy() for node in self._outputs]

    def trace(self, inputs: Sequence[NDArray[np.float32]]) -> dict[str, NDArray[np.int8]]:
        """int8 values of every activation, inputs included, by the name of the graph node that computes it."""
        values = self._execute(inputs)
        return {step.name: values[step.quantise].values.to(torch.int8).numpy() for step in self._steps}

    def _execute(self, inputs: Sequence[NDArray[np.float32]]) -> dict[Node, Integers]:
        if len(inputs) != len(self._inputs):
            raise InputError(f"expected {len(self._inputs)} inputs, found {len(inputs)}")
        values: dict[Node, Any] = {}
        for node, array in zip(self._inputs, inputs, strict=True):
            shape = tuple(node.meta["val"].shape)
            if array.shape != shape:
                raise InputError(f"input {node.name}: expected shape {shape}, found {array.shape}")
            values[node] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
        with torch.no_grad():
            for step in self._steps:
                arguments, options = map_arg((step.arguments, step.options), values.__getitem__)
                values[step.quantise] = Integers(step.rule(*arguments, **options, output=step.output), step.output)
        return values

    def _step(self, node: Node) -> _Step:
        """What a quantise node ends: the clamps before it and the operation before them."""
        name, operation, output = _argument(node).name, _argument(node), _quantisation(node)
        while operation.target in CLAMPS:
            self._executed.add(operation)
            output = output.clamped(*CLAMPS[operation.target](*operation.args[1:], **operation.kwargs))
            operation = _argument(operation)
        if operation.op == "placeholder":
            return _Step(name, node, quantise, (operation,), output)
        if _is(operation, _DEQUANTISE):
            rule = elementwise.rescale if operation is _argument(node) else elementwise.clamp
            return _Step(name, node, rule, (_source(operation),), output)
        if operation.target not in RULES:
            raise ExportError(f"{operation.name}: the integer reference has no rule for {operation.target}")
        self._executed.add(operation)
        arguments, options = map_arg((operation.args, operation.kwargs), lambda used: self._operand(used, operation))
        return _Step(name, node, RULES[operation.target], arguments, output, options)

    def _operand(self, node: Node, user: Node) -> Any:
        """The quantise node of an activation, or what a constant holds."""
        if _is(node, _DEQUANTISE):
            stored = _argument(node)
            if stored.op == "get_attr":
                return Integers(attribute(self._folded, stored.target).to(torch.int32), _quantisation(node))
            return _source(node)
        if _is(node, _DEQUANTISE_CHANNELS):
            values, scales = (attribute(self._folded, _argument(node, place).target) for place in (0, 1))
            return Weights(values.to(torch.int32), scales.to(torch.float32), int(str(node.args[3])))
        is_bias = node.op == "get_attr" and node in user.args[2:]  # weights in float are those of a layer kept in float
        if is_bias:
            return attribute(self._folded, node.target)
        raise ExportError(f"{user.name}: takes {node.name} in float; it was left in float, no integer rule applies")


def _is(node: Node, *targets: str) -> bool:
    return str(node.target) in targets


def _argument(node: Node, place: int = 0) -> Node:
    argument = node.args[place]
    assert isinstance(argument, Node)
    return argument


def _source(node: Node) -> Node:
    """The quantise node of an activation that a dequantise node makes real again."""
    if not _is(node, _DEQUANTISE) or not _is(_argument(node), _QUANTISE):
        raise ExportError(f"{node.name}: expected a dequantised activation, found {node.target}; it was left in float")
    return _argument(node)


def _quantisation(node: Node) -> Quantisation:
    """Of a quantise node."""
    scale, zero_point, lowest, highest, dtype = node.args[1:6]
    if dtype != torch.int8:
        raise ExportError(
            f"{_argument(node).name}: expected int8, found {dtype}; the integer reference executes int8 only"
        )
    return Quantisation(float(str(scale)), int(str(zero_point)), int(str(lowest)), int(str(highest)))
