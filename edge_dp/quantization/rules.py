"""How each operation of the portable set is quantised: one rule, one function, and what keeps an operation out of its rule.

Arithmetic reads quantised tensors and writes one with a range of its own. A ReLU or clamp that follows it is fused: only what
comes out of it has a range. What moves data shares the range of its input, so that it rescales nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from edge_dp.quantization._torchao import QuantizationAnnotation, SharedQuantizationSpec
from edge_dp.quantization.graph import argument, aten, shape, within
from edge_dp.quantization.scheme import (
    ACTIVATION,
    ACTIVATION_16,
    CONSTANT,
    CONSTANT_16,
    CONSTANT_WEIGHT,
    SIGMOID,
    SIGMOID_16,
    WEIGHT,
    WEIGHT_TRANSPOSED,
)

_ANNOTATION = "quantization_annotation"

CLAMPS = (aten.relu.default, aten.clamp.default)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which modules depart from int8, by path.

    keep_float: stay in float.
    int16: activations in 16 bits, weights in 8.
    """

    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()

    def activation(self, node: Node) -> Any:
        """Format of what ``node`` computes."""
        return ACTIVATION_16 if within(node, self.int16) else ACTIVATION

    def keeps(self, node: Node) -> bool:
        """Whether ``node`` stays in float."""
        return within(node, self.keep_float)


@dataclass(frozen=True, slots=True)
class Rule:
    """How one operation is quantised.

    annotate: writes the annotation of a node.
    why_not: the reason where the operation, as this node uses it, has no integer kernel everywhere, else None.
    """

    annotate: Callable[[Node, Choice], None]
    why_not: Callable[[Node], str | None]


def _mark(node: Node, inputs: dict[Node, Any], output: Any | None) -> None:
    node.meta[_ANNOTATION] = QuantizationAnnotation(input_qspec_map=inputs, output_qspec=output, _annotated=True)


def _nodes(node: Node) -> list[Node]:
    """The distinct tensors that a node reads, without its weights."""
    return [value for value in node.all_input_nodes if value.op != "get_attr"]


def _format(tensor: Node) -> Any:
    """How a tensor is quantised by what computes it; int8 where that is in float or an input."""
    annotation = tensor.meta.get(_ANNOTATION)
    found = annotation.output_qspec if annotation else None
    while isinstance(found, SharedQuantizationSpec):
        source, user = found.edge_or_node
        found = user.meta[_ANNOTATION].input_qspec_map[source]
    return found or ACTIVATION


def _reads(tensor: Node, wanted: Any) -> Any:
    """How an operation that computes in ``wanted`` reads ``tensor``: as it is where the bits agree, else requantised."""
    found = _format(tensor)
    return found if found.dtype == wanted.dtype else wanted


def _clamp_after(node: Node, choice: Choice) -> Node | None:
    """The ReLU or clamp that is the only user of ``node`` and can be fused with it: the zero must lie within its limits."""
    users = list(node.users)
    if len(users) != 1 or users[0].target not in CLAMPS or choice.keeps(users[0]):
        return None
    low, high = limits(users[0])
    same = choice.activation(users[0]) is choice.activation(node)
    return users[0] if low <= 0 <= high and same else None


def limits(clamp: Node) -> tuple[float, float]:
    """Of a ReLU or clamp."""
    if clamp.target is aten.relu.default:
        return 0.0, float("inf")
    low, high = argument(clamp, 1), argument(clamp, 2)
    return (-float("inf") if low is None else low), (float("inf") if high is None else high)


def moves_data(node: Node) -> bool:
    """Whether ``node`` shares the range of its input."""
    return node.target in RULES and RULES[node.target].annotate in (_same_range, _concatenation)


def fuses_clamp(node: Node) -> bool:
    """Whether ``node`` is arithmetic, which takes a clamp that is its only user into its own range."""
    return node.target in RULES and RULES[node.target].annotate in (_arithmetic, _binary, _layer, _transposed)


def has_fixed_range(node: Node) -> bool:
    """Whether ``node`` is a sigmoid, or moves the data of nothing else."""
    if node.target is aten.sigmoid.default:
        return True
    return moves_data(node) and all(has_fixed_range(source) for source in _nodes(node))


def _arithmetic(node: Node, choice: Choice, weights: dict[Node, Any] | None = None) -> None:
    own = choice.activation(node)
    clamp = _clamp_after(node, choice)
    _mark(node, {value: _reads(value, own) for value in _nodes(node)} | (weights or {}), None if clamp else own)
    if clamp:
        _mark(clamp, {}, own)


def _binary(node: Node, choice: Choice) -> None:
    form = CONSTANT if choice.activation(node) is ACTIVATION else CONSTANT_16
    _arithmetic(node, choice, {value: form for value in node.all_input_nodes if value.op == "get_attr"})


def _layer(node: Node, choice: Choice) -> None:
    weight = node.args[1]
    assert isinstance(weight, Node)
    _arithmetic(node, choice, {weight: CONSTANT_WEIGHT if weight.meta.get("portable_constant") else WEIGHT})


def _transposed(node: Node, choice: Choice) -> None:
    weight = node.args[1]
    assert isinstance(weight, Node)
    _arithmetic(node, choice, {weight: WEIGHT_TRANSPOSED})


def _same_range(node: Node, _: Choice) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    _mark(node, {source: _format(source)}, SharedQuantizationSpec((source, node)))


def _concatenation(node: Node, choice: Choice) -> None:
    """All parts and the result share one range: XNNPACK and LiteRT copy integers here and rescale nothing.

    A part with a fixed range, as a sigmoid's result has, is requantised first.
    """
    parts = _nodes(node)
    free = [part for part in parts if not has_fixed_range(part)]
    first = (free or parts)[0]
    shared = SharedQuantizationSpec((first, node))
    own = _format(first) if not free else choice.activation(node)
    _mark(node, {first: own} | {part: shared for part in parts if part is not first}, shared)


def _sigmoid(node: Node, choice: Choice) -> None:
    source = node.args[0]
    assert isinstance(source, Node)
    own = choice.activation(node)
    _mark(node, {source: _reads(source, own)}, SIGMOID if own is ACTIVATION else SIGMOID_16)


# ---- what keeps an operation out -------------------------------------------------------------------------------------------


def _always(_: Node) -> str | None:
    return None


def _constant_weight(node: Node) -> str | None:
    fixed = all(isinstance(v, Node) and v.op == "get_attr" for v in node.args[1:3] if v is not None)
    return None if fixed else "its weights are computed from the input. Keep its module in float with keep_float"


def _not_convolution(node: Node) -> str | None:
    return (
        _constant_weight(node)
        if len(shape(node)) == 4
        else f"it has {len(shape(node))} dimensions, not a batch of images"
    )


def _not_transposed(node: Node) -> str | None:
    if argument(node, 6, 1) != 1:
        return "a grouped transposed convolution has no int8 kernel in LiteRT. Use groups=1, or upsampling and a convolution"
    if any(d != 1 for d in argument(node, 7, [1, 1])):
        return "a dilated transposed convolution has no int8 kernel in LiteRT. Use dilation=1"
    return _not_convolution(node)


def _not_binary(node: Node) -> str | None:
    sides = [value for value in node.args[:2] if isinstance(value, Node)]
    if len(sides) < 2:
        return f"one side is a number and the other has {len(shape(node))} dimensions. Use a tensor of 2 to 4"
    if all(side.op == "get_attr" for side in sides):
        return "both sides are constants. Compute it before the network"
    if node.kwargs.get("alpha", 1) != 1:
        return "it scales one side (alpha). Put the factor into the weights before it"
    return None


def _not_concatenation(node: Node) -> str | None:
    parts = node.args[0]
    assert isinstance(parts, (list, tuple))
    constant = any(not isinstance(part, Node) or part.op == "get_attr" for part in parts)
    return "one part is a constant. Pass it as an input" if constant else None


def _not_clamp(node: Node) -> str | None:
    if any(isinstance(value, Node) for value in node.args[1:]):
        return "its limits are tensors. Use numbers"
    return None


def _not_max_pool(node: Node) -> str | None:
    kernel, stride, _, dilation, ceil = (argument(node, i, d) for i, d in ((1, 1), (2, []), (3, 0), (4, 1), (5, False)))
    kernel, stride, dilation = _numbers(kernel), _numbers(stride) or _numbers(kernel), _numbers(dilation)
    if ceil:
        return "ceil_mode pads unevenly. Pad the input, or use ceil_mode=False"
    if any(d != 1 for d in dilation):
        return "a dilated maximum has no int8 kernel in LiteRT. Use dilation=1"
    if any(s > k for s, k in zip(stride * 2, kernel * 2, strict=False)):
        return "its stride is larger than its kernel, which XNNPACK refuses. Slice instead"
    return None


def _not_mean(node: Node) -> str | None:
    if len(shape(node)) == 4 and node.args[1:] == ([2, 3], True):
        return None
    return "a mean is portable over height and width, or over channels, of (N, C, H, W) alone"


def _not_nearest(node: Node) -> str | None:
    source = node.args[0]
    assert isinstance(source, Node)
    whole = all(out % size == 0 for out, size in zip(shape(node)[2:], shape(source)[2:], strict=True))
    return None if whole else "engines round positions differently unless the factor is a whole number"


def _not_pad(node: Node) -> str | None:
    mode = argument(node, 2, "constant") if node.target is aten.pad.default else "constant"
    value = argument(node, 3 if node.target is aten.pad.default else 2)
    if mode != "constant" or value:
        return f"padding ({mode}, {value or 0}) is not zeros. Use zero padding"
    amounts = argument(node, 1)
    return "it cuts the border off. Slice instead" if any(amount < 0 for amount in amounts) else None


def _numbers(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else list(value)


_MOVES = Rule(_same_range, _always)
_BINARY = Rule(_binary, _not_binary)

RULES: dict[Any, Rule] = {
    aten.conv2d.default: Rule(_layer, _not_convolution),
    aten.conv_transpose2d.input: Rule(_transposed, _not_transposed),
    aten.linear.default: Rule(_layer, _constant_weight),
    aten.add.Tensor: _BINARY,
    aten.sub.Tensor: _BINARY,
    aten.mul.Tensor: _BINARY,
    aten.mean.dim: Rule(_arithmetic, _not_mean),
    aten.cat.default: Rule(_concatenation, _not_concatenation),
    aten.sigmoid.default: Rule(_sigmoid, _always),
    aten.relu.default: _MOVES,  # reached only where it could not be fused with what is before it
    aten.clamp.default: Rule(_same_range, _not_clamp),
    aten.max_pool2d.default: Rule(_same_range, _not_max_pool),
    aten.upsample_bilinear2d.vec: _MOVES,
    aten.upsample_nearest2d.vec: Rule(_same_range, _not_nearest),
    aten.pad.default: Rule(_same_range, _not_pad),
    aten.constant_pad_nd.default: Rule(_same_range, _not_pad),
    aten.slice.Tensor: _MOVES,
    aten.reshape.default: _MOVES,
    aten.view.default: _MOVES,
    aten.flatten.using_ints: _MOVES,
    aten.permute.default: _MOVES,
}
