"""What engines lack in int8, from what they have."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.fx import Node

from edge_dp.quantization.graph import Editor, argument, aten, shape
from edge_dp.quantization.portable.folding import scaled
from edge_dp.quantization.portable.rewrite import Rewrite, pair
from edge_dp.quantization.rules import fuses_clamp, has_fixed_range


def _hard_sigmoid(editor: Editor, node: Node) -> None:
    """clamp(x / 6 + 1/2, 0, 1): a 1x1 depthwise convolution whose range saturates."""
    result = _hard_sigmoid_of(editor, node, fold=True)
    if result is not None:
        editor.replace(node, result)


def _hard_swish(editor: Editor, node: Node) -> None:
    """The input times its hard sigmoid; 0 below -3, so that the range of the input need not reach further, for finer steps."""
    x = node.args[0]
    assert isinstance(x, Node)
    if list(x.users) == [node] and fuses_clamp(x):
        clamped = editor.call(node, aten.clamp.default, x, -3.0, None)
        clamped.meta["portable_observed_only"] = True  # the product is 0 there without it
        clamped.meta["nn_module_stack"] = x.meta.get("nn_module_stack")  # in float or 16 bits where x is
        node.args = (clamped,)
    gate = _hard_sigmoid_of(editor, node, fold=False)
    if gate is not None:
        product = editor.call(node, aten.mul.Tensor, node.args[0], gate)
        product.meta["portable_hard_swish"] = True
        editor.replace(node, product)


def _hard_sigmoid_of(editor: Editor, node: Node, fold: bool) -> Node | None:
    x = node.args[0]
    assert isinstance(x, Node)
    gain, offset = torch.tensor(1 / 6, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    line = scaled(editor, node, x, gain, offset, fold)
    if line is None or line.target is not aten.reshape.default:
        return None if line is None else editor.call(node, aten.clamp.default, line, 0.0, 1.0)
    gate = editor.call(node, aten.clamp.default, line.args[0], 0.0, 1.0)  # before the reshape, so that they fuse
    return editor.call(node, aten.reshape.default, gate, line.args[1])


def _average_pool(editor: Editor, node: Node) -> None:
    """A depthwise convolution with constant weights 1 / (kernel area)."""
    kernel = pair(argument(node, 1))
    stride = pair(argument(node, 2) or kernel)
    padding = pair(argument(node, 3, 0))
    counts_padding, divisor = argument(node, 5, True), argument(node, 6)
    if (any(padding) and not counts_padding) or _ceil_counts(node, kernel, stride, padding):
        return
    editor.replace(node, _average(editor, node, kernel, stride, padding, divisor))


def _average(
    editor: Editor, node: Node, kernel: list[int], stride: list[int], padding: list[int], divisor: int | None = None
) -> Node:
    x = node.args[0]
    assert isinstance(x, Node)
    channels = shape(x)[1]
    weight = editor.constant(node, "mean", torch.full((channels, 1, *kernel), 1 / (divisor or math.prod(kernel))))
    return editor.call(node, aten.conv2d.default, x, weight, None, stride, padding, [1, 1], channels)


def _ceil_counts(node: Node, kernel: list[int], stride: list[int], padding: list[int]) -> bool:
    """Whether ``ceil_mode`` makes the result larger than it is without."""
    source = node.args[0]
    assert isinstance(source, Node)
    sizes = zip(shape(source)[-2:], kernel, stride, padding, strict=True)
    return tuple((size + 2 * p - k) // s + 1 for size, k, s, p in sizes) != shape(node)[-2:]


def _adaptive_average_pool(editor: Editor, node: Node) -> None:
    """Mean, or average pooling where the windows are equal."""
    kernel = _window(node)
    if kernel is None:
        return
    if shape(node)[2:] == (1, 1):
        editor.replace(node, editor.call(node, aten.mean.dim, node.args[0], [2, 3], True))
    else:
        editor.replace(node, _average(editor, node, kernel, kernel, [0, 0]))


def _adaptive_max_pool(editor: Editor, node: Node) -> None:
    """Max pooling where the windows are equal."""
    source = node.args[0]
    assert isinstance(source, Node)
    items = list(node.users)
    kernel = _window(node) if all(item.args[1] == 0 for item in items) else None
    for item in items if kernel else []:
        editor.replace(item, editor.call(item, aten.max_pool2d.default, source, kernel))


def _window(node: Node) -> list[int] | None:
    source, value = node.args[0], node.meta["val"]
    assert isinstance(source, Node)
    rows, columns = (value[0] if isinstance(value, (tuple, list)) else value).shape[-2:]
    height, width = shape(source)[-2:]
    if len(shape(source)) != 4 or height % rows or width % columns:
        return None
    return [height // rows, width // columns]


def _mean(editor: Editor, node: Node) -> None:
    """Over height and width: with the dimensions kept, then a reshape. Over channels: a 1x1 convolution."""
    source = node.args[0]
    assert isinstance(source, Node)
    if len(shape(source)) != 4 or node.kwargs:
        return
    dimensions = sorted(d % 4 for d in argument(node, 1) or range(4))
    if dimensions == [2, 3]:
        if node.args[1:] == ([2, 3], True):
            return
        result = editor.call(node, aten.mean.dim, source, [2, 3], True)
    elif dimensions == [1]:
        channels = shape(source)[1]
        weight = editor.constant(node, "mean", torch.full((1, channels, 1, 1), 1 / channels))
        result = editor.call(node, aten.conv2d.default, source, weight)
    else:
        return
    if shape(result) != shape(node):
        result = editor.call(node, aten.reshape.default, result, list(shape(node)))
    editor.replace(node, result)


def _concatenation(editor: Editor, node: Node) -> None:
    """Where a sigmoid meets other tensors, it is multiplied by one: a 1x1 depthwise convolution takes it to their range.

    Engines requantise a convolution alike. Between two bare quantisations XNNPACK has a multiplier of 8 bits in LiteRT, and
    goes through float in ExecuTorch.
    """
    parts = list(dict.fromkeys(node.all_input_nodes))
    fixed = [part for part in parts if has_fixed_range(part)]
    if len(fixed) == len(parts):
        return
    one = torch.ones((), dtype=torch.float64)
    for part in fixed:
        kept = scaled(editor, node, part, one, 0 * one, fold=False, prefix=f"{part.name}_")
        if kept is not None:
            node.replace_input_with(part, kept)


INTEGER: dict[Any, Rewrite] = {
    aten.hardsigmoid.default: _hard_sigmoid,
    aten.hardswish.default: _hard_swish,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_average_pool,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.mean.dim: _mean,
    aten.cat.default: _concatenation,
}
