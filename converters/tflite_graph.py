"""Edits of a graph for litert_torch: what its converter cannot lower, or would leave in float, in words it knows.

Each edit is exact: the graph computes the same values before and after.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.quantization import _torchao  # noqa: F401  # registers the quantise nodes
from edge_dp.quantization.graph import argument, aten, attribute

_decomposed = torch.ops.quantized_decomposed
_QUANTIZE = _decomposed.quantize_per_tensor.default
_DEQUANTIZE = _decomposed.dequantize_per_tensor.default
_LAYERS = (aten.conv2d.default, aten.linear.default)
_WEIGHT_NODES = (_decomposed.quantize_per_channel.default, _decomposed.dequantize_per_channel.default)


def for_litert(graph_module: GraphModule) -> GraphModule:
    """An edited copy of a float graph, or of a converted one whose weights keep their quantise nodes."""
    edited = copy.deepcopy(graph_module)
    for node in list(edited.graph.nodes):
        if node.target is aten.conv_transpose2d.input:
            _transposed(edited, node)
        elif node.target is aten.clamp.default:
            _split_clamp(edited, node)
        elif _is_of_constant(node):
            _of_constant(edited, node)
        elif node.target is _QUANTIZE and node.args[0].target is _DEQUANTIZE:
            _requantise(edited, node)
    edited.graph.eliminate_dead_code()
    edited.recompile()
    return edited


def needs_edit(graph_module: GraphModule) -> bool:
    """Whether a float graph holds what litert_torch cannot lower, or lowers to something else."""
    return any(node.target is aten.conv_transpose2d.input or _is_of_constant(node) for node in graph_module.graph.nodes)


def transposed_weights(graph_module: GraphModule) -> list[tuple[Tensor, Tensor]]:
    """Of each quantised transposed convolution: int8 weights (out, height, width, in) and the scale of each output."""
    found = []
    for node in graph_module.graph.nodes:
        if node.target is aten.conv_transpose2d.input and node.args[1].target is _WEIGHT_NODES[1]:
            weight, scale, zero_point = (
                attribute(graph_module, source.target) for source in node.args[1].args[0].args[:3]
            )
            integers = _decomposed.quantize_per_channel(weight, scale, zero_point, 1, -127, 127, torch.int8)
            found.append((integers.permute(1, 2, 3, 0).contiguous(), scale))
    return found


def clamp_limits(graph_module: GraphModule) -> list[float]:
    """The numbers that the graph's clamps clamp to."""
    clamps = [node for node in graph_module.graph.nodes if node.target is aten.clamp.default]
    return [float(limit) for clamp in clamps for limit in clamp.args[1:3] if limit is not None]


def _transposed(graph_module: GraphModule, node: Node) -> None:
    """With a padding that TFLite has: none, or SAME, which cuts kernel - stride off, half of it at each end.

    Output padding lengthens the kernel by zeros at its end. Stride 1 is a plain convolution with the kernel turned round. Any
    other padding becomes none, and a slice.
    """
    if _weight(node).op != "get_attr" or argument(node, 6, 1) != 1 or _pair(argument(node, 7, 1)) != [1, 1]:
        return  # computed weights, groups and dilation are for float alone
    stride, padding, extra = (_pair(argument(node, index, default)) for index, default in ((3, 1), (4, 0), (5, 0)))
    if any(extra):
        _edit_weight(graph_module, node, lambda weight: F.pad(weight, (0, extra[1], 0, extra[0])))
    kernel = list(attribute(graph_module, _weight(node).target).shape[2:])
    bias = argument(node, 2)
    if stride == [1, 1] and all(p < k for p, k in zip(padding, kernel, strict=True)):
        _edit_weight(graph_module, node, lambda weight: weight.flip(2, 3).transpose(0, 1), axis=0)
        node.target = aten.conv2d.default
        node.args = (*node.args[:2], bias, [1, 1], [k - 1 - p for k, p in zip(kernel, padding, strict=True)])
        return
    is_same = all(2 * p == k - s for p, k, s in zip(padding, kernel, stride, strict=True))
    node.args = (*node.args[:2], bias, stride, padding if is_same else [0, 0])
    if not is_same and any(padding):
        _slice_after(graph_module, node, padding)


def _weight(node: Node) -> Node:
    """The parameter behind the weights of ``node``, through their quantise nodes."""
    weight = node.args[1]
    while isinstance(weight, Node) and weight.target in _WEIGHT_NODES:
        weight = weight.args[0]
    assert isinstance(weight, Node)
    return weight


def _edit_weight(
    graph_module: GraphModule, node: Node, edit: Callable[[Tensor], Tensor], axis: int | None = None
) -> None:
    """Give ``node`` edited weights of its own; ``axis``: their output channels, where that changes."""
    weight = _weight(node)
    name = f"litert_{node.name}_weight_{axis or 0}"
    graph_module.register_buffer(name, edit(attribute(graph_module, weight.target).detach()).contiguous())
    with graph_module.graph.inserting_before(node):
        current = graph_module.graph.get_attr(name)
        chain = [node.args[1].args[0], node.args[1]] if node.args[1] is not weight else []  # type: ignore[union-attr]
        for old in chain:
            assert isinstance(old, Node)
            rest = list(old.args[1:])
            rest[2] = rest[2] if axis is None else axis
            current = graph_module.graph.call_function(old.target, (current, *rest))  # type: ignore[arg-type]
    node.args = (node.args[0], current, *node.args[2:])


def _slice_after(graph_module: GraphModule, node: Node, padding: Sequence[int]) -> None:
    """Cut ``padding`` off at the start, and what is too much at the end; quantised like the result."""
    size = node.meta["val"].shape[2:]
    users = list(node.users)
    quantise = users[0] if users[0].target is _QUANTIZE else None
    whole = last = quantise or node
    users = list(whole.users)
    for axis, (start, length) in enumerate(zip(padding, size, strict=True)):
        steps: list[tuple[Any, tuple[Any, ...]]] = [(aten.slice.Tensor, (2 + axis, start, start + length))]
        if quantise:
            steps = [(_DEQUANTIZE, quantise.args[1:]), *steps, (_QUANTIZE, quantise.args[1:])]
        for target, arguments in steps:
            with graph_module.graph.inserting_after(last):
                last = graph_module.graph.call_function(target, (last, *arguments))
    for user in users:
        user.replace_input_with(whole, last)


def _split_clamp(graph_module: GraphModule, clamp: Node) -> None:
    """Quantise before the clamp as after it: rounding is monotone, so that clamping before or after it is the same."""
    source, users = clamp.args[0], list(clamp.users)
    assert isinstance(source, Node)
    if source.target is _DEQUANTIZE or len(users) != 1 or users[0].target is not _QUANTIZE:
        return
    with graph_module.graph.inserting_before(clamp):
        current = source
        for target in (_QUANTIZE, _DEQUANTIZE):
            current = graph_module.graph.call_function(target, (current, *users[0].args[1:]))
    clamp.replace_input_with(source, current)


def _is_of_constant(node: Node) -> bool:
    """Whether it takes something from a constant, or divides one: after convolutions litert_torch 0.10.0 exchanges the two.

    Of 1 - convolution it writes convolution - 1, and of 1 / convolution the convolution itself.
    """
    if node.target in _OF_NUMBERS:
        return True
    return node.target in _NOT_COMMUTATIVE and _is_constant(node.args[0])


def _is_constant(value: Any) -> bool:
    """A number, or a tensor that no input has a part in."""
    seen, waiting = set(), [value] if isinstance(value, Node) else []
    while waiting:
        node = waiting.pop()
        if node.op == "placeholder":
            return False
        if node not in seen:
            seen.add(node)
            waiting += node.all_input_nodes
    return True


_OF_NUMBERS = (aten.rsub.Scalar, aten.rsub.Tensor, aten.reciprocal.default)
_NOT_COMMUTATIVE = (aten.sub.Tensor, aten.div.Tensor)


def _of_constant(graph_module: GraphModule, node: Node) -> None:
    """A difference c - a x as -a x + c; a quotient c / x in another shape, where the converter has no layouts to exchange."""
    if node.target is aten.div.Tensor:
        _divide(graph_module, node, node.args[0], node.args[1])
    elif node.target is aten.reciprocal.default:
        _divide(graph_module, node, 1.0, node.args[0])
    else:
        x, constant = node.args[:2] if node.target in _OF_NUMBERS else node.args[1::-1]
        alpha: Any = argument(node, 2, node.kwargs.get("alpha", 1))
        with graph_module.graph.inserting_before(node):
            scaled = graph_module.graph.call_function(aten.mul.Scalar, (x, -alpha))
        node.target = aten.add.Tensor if isinstance(constant, Node) else aten.add.Scalar
        node.args, node.kwargs = (scaled, constant), {}


def _divide(graph_module: GraphModule, node: Node, constant: Any, x: Any) -> None:
    graph, shape = graph_module.graph, list(node.meta["val"].shape)
    if not isinstance(constant, Node):
        name = f"litert_{node.name}_dividend"
        graph_module.register_buffer(name, torch.full((1,), float(constant)))
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
    rows = []
    with graph.inserting_before(node):
        for side in (constant, x):
            whole = graph.call_function(aten.expand.default, (side, shape))
            rows.append(graph.call_function(aten.reshape.default, (whole, [1, math.prod(shape)])))
        quotient = graph.call_function(aten.div.Tensor, tuple(rows))
    node.target, node.args, node.kwargs = aten.reshape.default, (quotient, shape), {}


def _requantise(graph_module: GraphModule, quantise: Node) -> None:
    """Between 8 and 16 bits: a 1x1 depthwise convolution by one after it, where no layer with weights reads it.

    The converter leaves the bare pair out. What it leaves out before a layer with weights, ``mixed_widths`` puts back.
    """
    source, reads = quantise.args[0], list(quantise.users)
    assert isinstance(source, Node) and isinstance(source.args[0], Node)
    origin = source.args[0].args[0]
    value = origin.meta.get("val") if isinstance(origin, Node) else None
    if value is None or value.ndim != 4 or source.args[5] is quantise.args[5]:
        return
    channels = value.shape[1]
    constants = {
        "weight": torch.ones(channels, 1, 1, 1),
        "scale": torch.full((channels,), 1 / 64),
        "zero_point": torch.zeros(channels, dtype=torch.int64),
    }
    for read in reads:
        if all(user.target in _LAYERS for user in read.users):
            continue
        users = list(read.users)
        nodes = []
        with graph_module.graph.inserting_before(read.next):
            for name, constant in constants.items():
                graph_module.register_buffer(f"litert_{read.name}_{name}", constant)
                nodes.append(graph_module.graph.get_attr(f"litert_{read.name}_{name}"))
            weight, *rest = nodes
            for target in _WEIGHT_NODES:
                weight = graph_module.graph.call_function(target, (weight, *rest, 0, -127, 127, torch.int8))
            arguments = (read, weight, None, [1, 1], [0, 0], [1, 1], channels)
            current = graph_module.graph.call_function(aten.conv2d.default, arguments)
            for target in (_QUANTIZE, _DEQUANTIZE):
                current = graph_module.graph.call_function(target, (current, *quantise.args[1:]))
        for user in users:
            user.replace_input_with(read, current)


def _pair(value: int | Sequence[int]) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values
