"""Plain forms: one spelling of each operation."""

from __future__ import annotations

from typing import Any

from torch.fx import Node

from edge_dp.quantization.graph import Editor, argument, aten, shape
from edge_dp.quantization.portable.rewrite import Rewrite, pair, same


def _nothing(editor: Editor, node: Node) -> None:
    """Checks of the capture itself, whose result nobody uses."""
    editor.graph.erase_node(node)


def _same_type(editor: Editor, node: Node) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    if source.meta["val"].dtype == node.meta["val"].dtype:
        same(editor, node)


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
        return same(editor, node)
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
        return same(editor, node)
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


def _convolution_same(editor: Editor, node: Node) -> None:
    """``padding='same'`` or ``'valid'`` in numbers; an odd row or column of padding goes to the end."""
    defaults: tuple[Any, ...] = (None, None, None, [1, 1], "valid", [1, 1], 1)
    x, weight, bias, stride, padding, dilation, groups = (
        argument(node, index, default) for index, default in enumerate(defaults)
    )
    dilation = pair(dilation)
    total = [0, 0] if padding == "valid" else [d * (k - 1) for d, k in zip(dilation, shape(weight)[2:], strict=True)]
    before, after = [t // 2 for t in total], [t - t // 2 for t in total]
    if before != after:
        x = editor.call(node, aten.pad.default, x, [before[1], after[1], before[0], after[0]])
        before = [0, 0]
    convolution = editor.call(node, aten.conv2d.default, x, weight, bias, pair(stride), before, dilation, groups)
    editor.replace(node, convolution)


PLAIN: dict[Any, Rewrite] = {
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
        same,
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
