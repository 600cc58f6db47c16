"""Folding: y = gain x + offset per channel, into the layer before it or into a depthwise convolution of its own.

Constants that vary over more than channels stay as products and sums with a map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from edge_dp.quantization.graph import Editor, argument, aten, attribute, shape
from edge_dp.quantization.portable.rewrite import Rewrite, same

LINEAR_OPERATIONS = (aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default)


def _expand(editor: Editor, node: Node) -> None:
    """Arithmetic broadcasts by itself."""
    if all(user.target in _BROADCASTING and shape(user) == shape(node) for user in node.users):
        same(editor, node)


def _batch_norm(editor: Editor, node: Node) -> None:
    """Gain and offset of the running statistics; y = (x - mean) / sqrt(var + eps) * weight + bias."""
    x, weight, bias, *statistics, training = node.args[:6]
    if training or len(shape(node)) == 3:
        return
    mean, variance = (_constant(editor, value) for value in statistics)
    if mean is None or variance is None:
        return
    gain = torch.rsqrt(variance + argument(node, 7))
    if isinstance(weight, Node):
        gain = gain * attribute(editor.module, weight.target).double()
    offset = -mean * gain
    if isinstance(bias, Node):
        offset = offset + attribute(editor.module, bias.target).double()
    _scale_channels(editor, node, x, gain, offset)


def _with_constant(editor: Editor, node: Node) -> None:
    """Arithmetic of a tensor and a number or constant: y = factor * x + offset, or products and sums with a map of values."""
    first, second = node.args[0], argument(node, 1)
    constants = [_constant(editor, value) for value in (first, second)]
    is_first = constants[0] is not None
    x, constant = (second, constants[0]) if is_first else (first, constants[1])
    if constant is None or not isinstance(x, Node) or x.op == "get_attr":
        return
    alpha: Any = node.kwargs.get("alpha", argument(node, 2, 1))
    is_trained = any(isinstance(given, nn.Parameter) for given in _stored(editor, node))
    if shape(node) == shape(x) and not is_trained:
        constant = _narrowed(constant)
    value = _per_channel(constant, shape(x)) if shape(node) == shape(x) else None
    factor, share = torch.ones((), dtype=torch.float64), 0.0
    values = constant if value is None else value
    if node.target in _PRODUCTS:
        factor = values
    elif node.target in _DIVISIONS and not is_first:
        factor = 1 / values
    elif node.target in _SUMS:
        of_first, of_second = _SUMS[node.target](float(alpha))
        factor, share = (factor * of_second, of_first) if is_first else (factor * of_first, of_second)
    else:
        return
    if value is not None:
        _scale_channels(editor, node, x, factor, share * value)
    elif len(shape(x)) == len(shape(node)):
        _meet_map(editor, node, x, factor, share * constant if share else None, is_trained)


def _meet_map(editor: Editor, node: Node, x: Node, factor: Tensor, offset: Tensor | None, is_trained: bool) -> None:
    """Factor * x, or factor * x + offset with one factor, where the constant varies over ``x``: as mul or add.

    The constant gets as many dimensions as ``x``: engines that keep images with their channels last would line it up otherwise.
    """
    constant = factor if offset is None else offset
    if not torch.isfinite(constant).all():
        return
    if offset is not None and float(factor) != 1:
        line = scaled(editor, node, x, factor, torch.zeros((), dtype=torch.float64))
        if line is None:
            return
        x = line
    values = constant.float().reshape([1] * (len(shape(node)) - constant.ndim) + list(constant.shape))
    target = f"portable_{node.name}_map"
    met = editor.parameter(node, target, values) if is_trained else editor.constant(node, "map", values)
    operation = aten.mul.Tensor if offset is None else aten.add.Tensor
    editor.replace(node, editor.call(node, operation, x, met))


def _negative(editor: Editor, node: Node) -> None:
    one = torch.ones((), dtype=torch.float64)
    _scale_channels(editor, node, node.args[0], -one, 0 * one)


def _constant(editor: Editor, value: Any) -> Tensor | None:
    if isinstance(value, Node):
        return attribute(editor.module, value.target).detach().double() if value.op == "get_attr" else None
    return torch.tensor(value, dtype=torch.float64)


def _stored(editor: Editor, node: Node) -> list[Any]:
    """Parameters and buffers that ``node`` reads."""
    return [attribute(editor.module, value.target) for value in node.all_input_nodes if value.op == "get_attr"]


def _narrowed(constant: Tensor) -> Tensor:
    """With a size of one where its values do not vary: what broadcasts it gives the size again."""
    for axis in range(constant.ndim):
        first = constant.narrow(axis, 0, 1)
        if bool((constant == first).all()):
            constant = first
    return constant


def _per_channel(constant: Tensor, of: tuple[int, ...]) -> Tensor | None:
    """The one value or the C values of a constant that is broadcast to a tensor of shape ``of``."""
    if constant.numel() == 1:
        return constant.reshape(())
    axis = 1 if len(of) == 4 else len(of) - 1
    extents = [1] * (len(of) - constant.ndim) + list(constant.shape)
    fits = constant.ndim <= len(of) and all(extent == 1 or index == axis for index, extent in enumerate(extents))
    return constant.reshape(-1) if fits and constant.numel() == of[axis] else None


def _scale_channels(editor: Editor, node: Node, x: Any, gain: Tensor, offset: Tensor) -> None:
    """Let gain * x + offset take the place of ``node``: in the layer before, or as a 1x1 depthwise convolution."""
    result = scaled(editor, node, x, gain, offset)
    if result is not None:
        editor.replace(node, result)


def scaled(
    editor: Editor, at: Node, x: Node, gain: Tensor, offset: Tensor, fold: bool = True, prefix: str = ""
) -> Node | None:
    """The node that computes gain * x + offset: per channel of images, per last dimension of anything flatter.

    prefix: of its constants' names, where ``at`` gets several.
    """
    rank = len(shape(x))
    is_layer = x.target in LINEAR_OPERATIONS and rank == (2 if x.target == aten.linear.default else 4)
    if x.meta["val"].dtype != torch.float32 or rank not in (2, 3, 4):
        return None
    if fold and is_layer and list(x.users) == [at] and _fold(editor, x, gain, offset):
        return x
    form = list(shape(x))
    image = x if rank == 4 else editor.call(at, aten.reshape.default, x, [math.prod(form[:-1]), form[-1], 1, 1])
    channels = shape(image)[1]
    weight = editor.constant(at, f"{prefix}gain", gain.expand(channels).float().reshape(channels, 1, 1, 1))
    bias = editor.constant(at, f"{prefix}offset", offset.expand(channels).float())
    result = editor.call(at, aten.conv2d.default, image, weight, bias, [1, 1], [0, 0], [1, 1], channels)
    return result if rank == 4 else editor.call(at, aten.reshape.default, result, form)


def _fold(editor: Editor, layer: Node, gain: Tensor, offset: Tensor) -> bool:
    """Put gain and offset into the weights of ``layer``; they become parameters of their own where others share them."""
    weight, bias = layer.args[1], argument(layer, 2)
    transposed = layer.target == aten.conv_transpose2d.input
    known = [value for value in (weight, bias) if value is not None]
    if not all(isinstance(value, Node) and value.op == "get_attr" for value in known):
        return False
    if transposed and argument(layer, 6, 1) != 1:
        return False
    assert isinstance(weight, Node)
    values = attribute(editor.module, weight.target).detach().double()
    channels = values.shape[1 if transposed else 0]
    form = [1] * values.ndim
    form[1 if transposed else 0] = channels
    gain, offset = gain.expand(channels), offset.expand(channels)
    old = 0.0 if bias is None else attribute(editor.module, bias.target).detach().double()
    target = str(weight.target)
    used = {value.target for value in known if isinstance(value, Node)}
    shared = any(n.op == "get_attr" and n.target in used and set(n.users) != {layer} for n in editor.graph.nodes)
    path = target.removesuffix("weight") if target.endswith("weight") else f"{target}_"
    prefix = f"portable_{layer.name}_" if shared else path
    constant = bool(weight.meta.get("portable_constant"))
    place = editor.constant if constant else editor.parameter
    names = ("folded_gain", "folded_offset") if constant else (f"{prefix}weight" if shared else target, f"{prefix}bias")
    new_weight = place(layer, names[0], (values * gain.reshape(form)).float())
    new_bias = place(layer, names[1], (old * gain + offset).float())
    layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
    return True


_SUMS: dict[Any, Callable[[float], tuple[float, float]]] = {
    # factors of the first and of the second operand, by alpha
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), lambda alpha: (1.0, alpha)),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), lambda alpha: (1.0, -alpha)),
    **dict.fromkeys((aten.rsub.Tensor, aten.rsub.Scalar), lambda alpha: (-alpha, 1.0)),
}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar}
_DIVISIONS = {aten.div.Tensor, aten.div.Scalar}
_BROADCASTING = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}

FOLDS: dict[Any, Rewrite] = {
    **dict.fromkeys((aten.expand.default, aten.expand_as.default), _expand),
    aten.batch_norm.default: _batch_norm,
    **dict.fromkeys((*_SUMS, *_PRODUCTS, *_DIVISIONS), _with_constant),
    aten.neg.default: _negative,
}
