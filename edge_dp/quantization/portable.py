"""Rewrites of a float graph, so that every engine has an integer kernel for what is left.

Each rewrite computes what it replaces, up to float rounding, from operations that all engines have in int8. What cannot be
rewritten stays as it is; ``problems`` then says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edge_dp.quantization.graph import Editor, argument, aten, attribute, shape
from edge_dp.quantization.rules import fuses_clamp, has_fixed_range

Rewrite = Callable[[Editor, Node], None]
"""Replaces one node, or leaves it where it cannot."""

LINEAR_OPERATIONS = (aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default)


def make_portable(graph: GraphModule) -> GraphModule:
    """Rewrite ``graph`` in place: plain forms, batch-norm folded, then what engines lack.

    A graph that holds nothing to rewrite keeps its nodes and their names.
    """
    editor = Editor(graph)
    for rewrites in (_PLAIN, _FOLDS, _INTEGER):
        for node in list(editor.graph.nodes):
            if node.op == "call_function" and node.target in rewrites:
                rewrites[node.target](editor, node)
        editor.finish()
    return graph


# ---- plain forms: one spelling of each operation --------------------------------------------------------------------------


def _same(editor: Editor, node: Node) -> None:
    """Does nothing in evaluation: dropout, copies."""
    editor.replace(node, node.args[0])  # type: ignore[arg-type]


def _nothing(editor: Editor, node: Node) -> None:
    """Checks of the capture itself, whose result nobody uses."""
    editor.graph.erase_node(node)


def _same_type(editor: Editor, node: Node) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    if source.meta["val"].dtype == node.meta["val"].dtype:
        _same(editor, node)


def _out_of_place(target: Any) -> Rewrite:
    def rewrite(_: Editor, node: Node) -> None:
        node.target = target

    return rewrite


def _clamp(low: float | None, high: float | None) -> Rewrite:
    def rewrite(editor: Editor, node: Node) -> None:
        editor.replace(node, _clamped(editor, node, node.args[0], low, high))

    return rewrite


def _clamp_from_arguments(editor: Editor, node: Node) -> None:
    named = (node.kwargs.get("min"), node.kwargs.get("max"))
    low, high = argument(node, 1, named[0]), argument(node, 2, named[1])
    if node.target == aten.clamp_max.default:
        low, high = None, argument(node, 1, named[1])
    elif node.target == aten.hardtanh.default:
        low, high = argument(node, 1, -1.0), argument(node, 2, 1.0)
    if any(isinstance(limit, Node) for limit in (low, high)):
        return
    if node.target != aten.clamp.default or (low == 0 and high is None) or node.kwargs:
        editor.replace(node, _clamped(editor, node, node.args[0], low, high))


def _clamped(editor: Editor, at: Node, x: Any, low: float | None, high: float | None) -> Node:
    if low == 0 and high is None:
        return editor.call(at, aten.relu.default, x)
    return editor.call(at, aten.clamp.default, x, low, high)


def _reshape(editor: Editor, node: Node) -> None:
    editor.replace(node, editor.call(node, aten.reshape.default, node.args[0], list(shape(node))))


def _permute(editor: Editor, node: Node) -> None:
    rank = len(shape(node))
    order = list(range(rank))
    first, second = (argument(node, 1) % rank, argument(node, 2) % rank) if len(node.args) > 2 else (0, 1)
    if rank < 2:
        return _same(editor, node)
    order[first], order[second] = order[second], order[first]
    editor.replace(node, editor.call(node, aten.permute.default, node.args[0], order))
    return None


def _slice(editor: Editor, node: Node) -> None:
    """With limits within the tensor: engines read them as they stand."""
    source = node.args[0]
    assert isinstance(source, Node)
    dimension = argument(node, 1, 0) % len(shape(source))
    size, step = shape(source)[dimension], argument(node, 4, 1)
    start, stop, _ = slice(argument(node, 2), argument(node, 3)).indices(size)
    if (start, stop, step) == (0, size, 1):
        return _same(editor, node)
    node.args = (source, dimension, start, stop, *([step] if step != 1 else []))
    return None


def _parts(editor: Editor, node: Node) -> None:
    """Split and chunk, as slices."""
    source = node.args[0]
    assert isinstance(source, Node)
    dimension = argument(node, 2, 0) % len(shape(source))
    starts = [0]
    for part in node.meta["val"]:
        starts.append(starts[-1] + part.shape[dimension])
    for item in list(node.users):
        index = item.args[1]
        assert isinstance(index, int)
        part = editor.call(item, aten.slice.Tensor, source, dimension, starts[index], starts[index + 1])
        editor.replace(item, part)


def _select(editor: Editor, node: Node) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    dimension = argument(node, 1) % len(shape(source))
    index = argument(node, 2) % shape(source)[dimension]
    part = editor.call(node, aten.slice.Tensor, source, dimension, index, index + 1)
    editor.replace(node, editor.call(node, aten.reshape.default, part, list(shape(node))))


def _expand(editor: Editor, node: Node) -> None:
    """Arithmetic broadcasts by itself."""
    if all(user.target in _BROADCASTING and shape(user) == shape(node) for user in node.users):
        _same(editor, node)


def _convolution_same(editor: Editor, node: Node) -> None:
    """``padding='same'`` or ``'valid'`` in numbers; an odd row or column of padding goes to the end."""
    defaults: tuple[Any, ...] = (None, None, None, [1, 1], "valid", [1, 1], 1)
    x, weight, bias, stride, padding, dilation, groups = (
        argument(node, index, default) for index, default in enumerate(defaults)
    )
    dilation = _pair(dilation)
    total = [0, 0] if padding == "valid" else [d * (k - 1) for d, k in zip(dilation, shape(weight)[2:], strict=True)]
    before, after = [t // 2 for t in total], [t - t // 2 for t in total]
    if before != after:
        x = editor.call(node, aten.pad.default, x, [before[1], after[1], before[0], after[0]])
        before = [0, 0]
    convolution = editor.call(node, aten.conv2d.default, x, weight, bias, _pair(stride), before, dilation, groups)
    editor.replace(node, convolution)


# ---- folding: y = gain x + offset per channel -----------------------------------------------------------------------------


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
    """Arithmetic of a tensor and a number, or a constant of one value per channel."""
    first, second = node.args[0], argument(node, 1)
    constants = [_constant(editor, value) for value in (first, second)]
    is_first = constants[0] is not None
    x, constant = (second, constants[0]) if is_first else (first, constants[1])
    if constant is None or not isinstance(x, Node) or x.op == "get_attr" or shape(node) != shape(x):
        return
    alpha: Any = node.kwargs.get("alpha", argument(node, 2, 1))
    value = _per_channel(constant, shape(x))
    if value is None:
        return
    factor, share = torch.ones((), dtype=torch.float64), 0.0
    if node.target in _PRODUCTS:
        factor = value
    elif node.target in _DIVISIONS and not is_first:
        factor = 1 / value
    elif node.target in _SUMS:
        of_first, of_second = _SUMS[node.target](float(alpha))
        factor, share = (factor * of_second, of_first) if is_first else (factor * of_first, of_second)
    else:
        return
    _scale_channels(editor, node, x, factor, share * value)


def _negative(editor: Editor, node: Node) -> None:
    one = torch.ones((), dtype=torch.float64)
    _scale_channels(editor, node, node.args[0], -one, 0 * one)


def _constant(editor: Editor, value: Any) -> Tensor | None:
    if isinstance(value, Node):
        return attribute(editor.module, value.target).detach().double() if value.op == "get_attr" else None
    return torch.tensor(value, dtype=torch.float64)


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
    result = _scaled(editor, node, x, gain, offset)
    if result is not None:
        editor.replace(node, result)


def _scaled(
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


# ---- what engines lack in int8 --------------------------------------------------------------------------------------------


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
    line = _scaled(editor, node, x, gain, offset, fold)
    if line is None or line.target is not aten.reshape.default:
        return None if line is None else editor.call(node, aten.clamp.default, line, 0.0, 1.0)
    gate = editor.call(node, aten.clamp.default, line.args[0], 0.0, 1.0)  # before the reshape, so that they fuse
    return editor.call(node, aten.reshape.default, gate, line.args[1])


def _average_pool(editor: Editor, node: Node) -> None:
    """A depthwise convolution with constant weights 1 / (kernel area)."""
    kernel = _pair(argument(node, 1))
    stride = _pair(argument(node, 2) or kernel)
    padding = _pair(argument(node, 3, 0))
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
        scaled = _scaled(editor, node, part, one, 0 * one, fold=False, prefix=f"{part.name}_")
        if scaled is not None:
            node.replace_input_with(part, scaled)


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


_SUMS: dict[Any, Callable[[float], tuple[float, float]]] = {
    # factors of the first and of the second operand, by alpha
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), lambda alpha: (1.0, alpha)),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), lambda alpha: (1.0, -alpha)),
    **dict.fromkeys((aten.rsub.Tensor, aten.rsub.Scalar), lambda alpha: (-alpha, 1.0)),
}
_PRODUCTS = {aten.mul.Tensor, aten.mul.Scalar}
_DIVISIONS = {aten.div.Tensor, aten.div.Scalar}
_BROADCASTING = {aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor}

_PLAIN: dict[Any, Rewrite] = {
    **dict.fromkeys(
        (
            aten.dropout.default,
            aten.feature_dropout.default,
            aten.alpha_dropout.default,
            aten.clone.default,
            aten.contiguous.default,
            aten.alias.default,
            aten.detach.default,
            aten.lift_fresh_copy.default,
        ),
        _same,
    ),
    **dict.fromkeys((aten.to.dtype, aten._to_copy.default, aten.to.dtype_layout, aten.to.device), _same_type),
    aten._assert_tensor_metadata.default: _nothing,
    aten.relu_.default: _out_of_place(aten.relu.default),
    aten.add_.Tensor: _out_of_place(aten.add.Tensor),
    aten.sub_.Tensor: _out_of_place(aten.sub.Tensor),
    aten.mul_.Tensor: _out_of_place(aten.mul.Tensor),
    aten.div_.Tensor: _out_of_place(aten.div.Tensor),
    aten.sigmoid_.default: _out_of_place(aten.sigmoid.default),
    aten.hardswish_.default: _out_of_place(aten.hardswish.default),
    aten.hardsigmoid_.default: _out_of_place(aten.hardsigmoid.default),
    aten.relu6.default: _clamp(0.0, 6.0),
    aten.relu6_.default: _clamp(0.0, 6.0),
    **dict.fromkeys(
        (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default, aten.hardtanh.default),
        _clamp_from_arguments,
    ),
    aten.hardtanh_.default: lambda editor, node: _clamp(argument(node, 1, -1.0), argument(node, 2, 1.0))(editor, node),
    **dict.fromkeys(
        (
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.unsqueeze.default,
            aten.unflatten.int,
            aten.view_as.default,
            aten.reshape_as.default,
        ),
        _reshape,
    ),
    **dict.fromkeys((aten.transpose.int, aten.t.default), _permute),
    aten.slice.Tensor: _slice,
    **dict.fromkeys((aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default), _parts),
    aten.select.int: _select,
    aten.conv2d.padding: _convolution_same,
}

_FOLDS: dict[Any, Rewrite] = {
    **dict.fromkeys((aten.expand.default, aten.expand_as.default), _expand),
    aten.batch_norm.default: _batch_norm,
    **dict.fromkeys((*_SUMS, *_PRODUCTS, *_DIVISIONS), _with_constant),
    aten.neg.default: _negative,
}

_INTEGER: dict[Any, Rewrite] = {
    aten.hardsigmoid.default: _hard_sigmoid,
    aten.hardswish.default: _hard_swish,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_average_pool,
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.mean.dim: _mean,
    aten.cat.default: _concatenation,
}
