"""What ONNX Runtime's CPU lacks in int8, put in terms of what it has: surgery on an exported QDQ graph.

Every rewrite gives the very integers of what it replaces, rounded once, and is made of standard ONNX operations, so that other
runtimes read the graph too. What is not rewritten, ONNX Runtime already runs in integers between its quantise nodes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from edge_dp.errors import ExportError

Array = NDArray[Any]


def make_integer(model: ir.Model) -> None:
    """Rewrite ``model`` in place.

    Args:
        model: int8 activations and weights between quantise and dequantise nodes, static shapes.

    Raises:
        ExportError: an interpolation whose weights do not repeat.
    """
    for rewrite in (_clamp, _rewrite, _bias):
        for node in list(model.graph):
            rewrite(model.graph, node)
    RemoveUnusedNodesPass()(model)


@dataclass(frozen=True)
class _Activation:
    """An int8 tensor with its quantisation: real = scale * (q - zero_point)."""

    value: ir.Value
    scale: float
    zero_point: int
    parameters: tuple[ir.Value, ir.Value]

    @property
    def shape(self) -> tuple[int, ...]:
        return _shape(self.value)

    def shares_range(self, other: _Activation) -> bool:
        return (self.scale, self.zero_point) == (other.scale, other.zero_point)


class _Splice:
    """New nodes that take the place of the int8 tensor ``target``; named after it."""

    def __init__(self, graph: ir.Graph, target: _Activation) -> None:
        self._graph, self.target = graph, target
        before = target.value.producer()
        assert before is not None
        self._before, self._count = before, 0

    def constant(self, array: Array) -> ir.Value:
        value = ir.Value(name=self._name(), const_value=ir.tensor(array))
        value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
        self._graph.register_initializer(value)
        return value

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        name = self._name()
        node = ir.node(kind, inputs, attributes, name=name)
        node.outputs[0].name = name
        self._graph.insert_before(self._before, node)
        return node.outputs[0]

    def read(self, value: ir.Value, like: _Activation) -> ir.Value:
        """The real numbers of an int8 tensor that is quantised as ``like``."""
        return self.op("DequantizeLinear", value, *like.parameters)

    def store(self, value: ir.Value, like: _Activation) -> ir.Value:
        """Real numbers as int8, quantised as ``like``."""
        return self.op("QuantizeLinear", value, *like.parameters)

    def weights(self, stored: Array, scales: Array) -> ir.Value:
        """Real weights of int8 ones, a scale per output channel; one for all where they are equal."""
        scales = scales.astype(np.float32)
        scales = scales[0] if np.ptp(scales) == 0 else scales
        zeros = np.zeros_like(scales, np.int8)
        return self.op("DequantizeLinear", *map(self.constant, (stored, scales, zeros)), axis=0)

    def crop(self, value: ir.Value, starts: Sequence[int], sizes: Sequence[int]) -> ir.Value:
        """Height and width of ``value`` from ``starts``."""
        ends = [start + size for start, size in zip(starts, sizes, strict=True)]
        return self.op("Slice", value, *(self.constant(np.array(v, np.int64)) for v in (starts, ends, (2, 3))))

    def interleave(self, rows: Sequence[ir.Value], shape: Sequence[int], factor: int) -> ir.Value:
        """(N, factor C, H, W) of each of R phases of rows, the phases of columns in each, to (N, C, R H, factor W).

        DepthToSpace in the layout that ONNX Runtime convolves in, where it copies whole rows: five times faster.
        """
        n, channels, height, width = shape
        flat = self.constant(np.array([n * height, 1, width * factor * channels], np.int64))
        image = self.constant(np.array([n, height * len(rows), width * factor, channels], np.int64))
        lines = [self.op("Reshape", self.op("Transpose", phase, perm=[0, 2, 3, 1]), flat) for phase in rows]
        joined = self.op("Reshape", self.op("Concat", *lines, axis=1), image)
        return self.op("Transpose", joined, perm=[0, 3, 1, 2])

    def finish(self, value: ir.Value) -> None:
        """Let ``value`` be what ``target`` was."""
        value.shape, value.type = self.target.value.shape, self.target.value.type
        self.target.value.replace_all_uses_with(value)

    def _name(self) -> str:
        self._count += 1
        return f"{self.target.value.name}_{self._count}"


def _rewrite(graph: ir.Graph, node: ir.Node) -> None:
    """One operation between dequantised inputs and a quantised output; others are in float on request."""
    rule = _RULES.get(node.op_type)
    output = _quantised_by(node.outputs[0]) if rule else None
    if rule is None or output is None:
        return
    tensors = [_dequantised(value) for value in node.inputs[: 2 if node.op_type == "Sub" else 1]]
    if all(tensors):
        rule(_Splice(graph, output), node, *tensors)


def _bilinear(splice: _Splice, node: ir.Node, x: _Activation) -> None:
    """By whole factors: a depthwise convolution of 2x2 for each phase, then the phases side by side.

    Between the pixels i and i + 1 lie ``factor`` results at i + t, each (1 - t) x[i] + t x[i + 1]; so the convolution's kernels
    are products of (1 - t, t), whole numbers over their sum.
    """
    if _text(node, "mode", "nearest") != "linear" or not x.shares_range(splice.target):
        return
    mode = _text(node, "coordinate_transformation_mode", "half_pixel")
    n, channels, *sizes = x.shape
    results = splice.target.shape[2:]
    found = [_Axis.of(mode, size, result) for size, result in zip(sizes, results, strict=True)]
    axes = [axis for axis in found if axis is not None]
    scales = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    exact = scales is None or np.allclose(scales[2:] * sizes, results, rtol=0, atol=1e-3) or mode == "align_corners"
    if not exact or len(axes) != len(sizes):
        raise ExportError(
            f"{node.name}: bilinear interpolation from {'x'.join(map(str, sizes))} to {'x'.join(map(str, results))} ({mode}) "
            "has no integer form in ONNX. Use a whole factor, n (size - 1) + 1 with align_corners, or average pooling to shrink."
        )
    vertical, horizontal = axes
    borders = [0, 0, vertical.before, horizontal.before, 0, 0, 1, 1]
    padded = splice.op("Pad", x.value, splice.constant(np.array(borders, np.int64)), mode="edge")
    repeated = splice.read(splice.op("Concat", *[padded] * horizontal.factor, axis=1), x)
    rows = []
    for taps in vertical.taps:
        products = np.stack([np.outer(taps, h) for h in horizontal.taps])
        # from factor 6 on they leave int8: rounded, they still sum to one, so that flat areas stay flat
        kernels = np.round(products * min(1, 127 / products.max())).astype(np.int8)
        kernels = np.repeat(kernels, channels, axis=0)[:, None]
        weights = splice.weights(kernels, 1 / kernels.sum(axis=(1, 2, 3)))
        convolved = splice.op("Conv", repeated, weights, group=len(kernels), kernel_shape=[2, 2])
        rows.append(splice.store(convolved, x))
    grid = [size + axis.before for size, axis in zip(sizes, axes, strict=True)]
    image = splice.interleave(rows, (n, channels, *grid), horizontal.factor)
    splice.finish(splice.crop(image, (vertical.start, horizontal.start), results))


@dataclass(frozen=True)
class _Axis:
    """Interpolation along one axis.

    taps: for each phase, weights of a pixel and the next one, as whole numbers of one sum.
    before: pixels of border that it needs before the first.
    start: of the result in the row of all phases.
    """

    factor: int
    taps: list[tuple[int, int]]
    before: int
    start: int

    @classmethod
    def of(cls, mode: str, size: int, result: int) -> _Axis | None:
        """None where the factor is no whole number."""
        corners = mode == "align_corners"
        if corners:
            factor, rest = divmod(result - 1, max(size - 1, 1))
        else:
            factor, rest = divmod(result, size)
        half = 0 if corners or factor % 2 else 1  # the phases of an even factor lie half a step off the pixels
        divisor = factor * (1 + half)
        known = mode in ("align_corners", "half_pixel", "pytorch_half_pixel") and result > 1
        if rest or factor < 1 or not known:
            return None
        numerators = [j * (1 + half) + half for j in range(factor)]
        start = 0 if corners else math.ceil(factor / 2)
        return cls(factor, [(divisor - t, t) for t in numerators], 0 if corners else 1, start)


def _transposed_convolution(splice: _Splice, node: ir.Node, x: _Activation) -> None:
    """A convolution for each phase of the stride, then the phases side by side; none multiplies by zeros put in between.

    Result u = s m + r of the uncropped row is the sum over j of x[m - j] w[s j + r]: a convolution over m for each r.
    """
    weight = _weight(node.inputs[1])
    if weight is None or _number(node, "group", 1) != 1 or any(d != 1 for d in _numbers(node, "dilations", [1, 1])):
        return
    stored, scales = weight
    _, outputs, *kernel = stored.shape
    n, _, *sizes = x.shape
    results = splice.target.shape[2:]
    strides, pads = _numbers(node, "strides", [1, 1]), _numbers(node, "pads", [0] * 4)[:2]
    taps = [-(-k // s) for k, s in zip(kernel, strides, strict=True)]
    firsts = [p // s for p, s in zip(pads, strides, strict=True)]
    counts = [(p + r - 1) // s - f + 1 for p, r, s, f in zip(pads, results, strides, firsts, strict=True)]
    before = [t - 1 - f for t, f in zip(taps, firsts, strict=True)]
    after = [c - size - b + t - 1 for c, size, b, t in zip(counts, sizes, before, taps, strict=True)]
    if min(before + after) < 0:
        return
    (sy, sx), (ty, tx) = strides, taps
    whole = np.zeros((stored.shape[0], outputs, ty * sy, tx * sx), np.int8)
    whole[:, :, : kernel[0], : kernel[1]] = stored
    by_phase = whole.reshape(-1, outputs, ty, sy, tx, sx)[:, :, ::-1, :, ::-1].transpose(3, 5, 1, 0, 2, 4)
    bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    rows = []
    for phase in by_phase:
        kernels = np.ascontiguousarray(phase).reshape(sx * outputs, -1, ty, tx)
        inputs = [splice.read(x.value, x), splice.weights(kernels, np.tile(scales, sx))]
        if bias is not None:
            inputs.append(splice.constant(np.tile(bias, sx)))
        convolved = splice.op("Conv", *inputs, kernel_shape=taps, pads=before + after)
        rows.append(splice.store(convolved, splice.target))
    image = splice.interleave(rows, (n, outputs, *counts), sx)
    starts = [p - f * s for p, f, s in zip(pads, firsts, strides, strict=True)]
    splice.finish(splice.crop(image, starts, results))


def _difference(splice: _Splice, _: ir.Node, a: _Activation, b: _Activation) -> None:
    """A sum with -b, quantised as -1 - q: every int8 has that counterpart, so nothing is lost."""
    zero_point = splice.constant(np.array(-1 - b.zero_point, np.int8))
    negated = _Activation(b.value, b.scale, -1 - b.zero_point, (b.parameters[0], zero_point))
    one, zero = splice.constant(np.array(1, np.float32)), splice.constant(np.array(0, np.int8))
    minus = splice.op("DequantizeLinear", splice.constant(np.array(-1, np.int8)), one, zero)
    stored = splice.store(splice.op("Mul", splice.read(b.value, b), minus), negated)
    total = splice.op("Add", splice.read(a.value, a), splice.read(stored, negated))
    splice.finish(splice.store(total, splice.target))


def _mean(splice: _Splice, node: ir.Node, x: _Activation) -> None:
    """Over height and width: the pooling of the whole image, which has an integer kernel."""
    axes = _constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None or len(x.shape) != 4 or sorted(axis % 4 for axis in axes.tolist()) != [2, 3]:
        return
    if _number(node, "keepdims", 1):
        pooled = splice.op("GlobalAveragePool", splice.read(x.value, x))
        splice.finish(splice.store(pooled, splice.target))


def _pad(splice: _Splice, node: ir.Node, x: _Activation) -> None:
    """Of the integers themselves."""
    if not x.shares_range(splice.target):
        return
    mode = _text(node, "mode", "constant")
    border = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    amounts = node.inputs[1]
    assert amounts is not None
    inputs = [x.value, amounts]
    if mode == "constant":
        real = 0.0 if border is None else float(border)
        inputs.append(splice.constant(np.array(_as_int8(real, x), np.int8)))
    splice.finish(splice.op("Pad", *inputs, mode=mode))


_RULES: dict[str, Callable[..., None]] = {
    "ConvTranspose": _transposed_convolution,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Resize": _bilinear,
    "Sub": _difference,
}


def _clamp(graph: ir.Graph, node: ir.Node) -> None:
    """After the quantisation instead of before it, where it compares integers; dropped where the range does the same."""
    output = _quantised_by(node.outputs[0]) if node.op_type in ("Relu", "Clip") else None
    if output is None:
        return
    quantise, source = output.value.producer(), node.inputs[0]
    assert quantise is not None
    low, high = 0.0, math.inf
    if node.op_type == "Clip":
        given = [None if value is None else _constant(value) for value in (*node.inputs[1:], None, None)][:2]
        low, high = (d if v is None else float(v) for v, d in zip(given, (-math.inf, math.inf), strict=True))
    quantise.replace_input_with(0, source)
    limits = [_as_int8(limit, output) for limit in (low, high)]
    if limits != [-128, 127]:
        users = list(output.value.uses())
        splice = _Splice(graph, output)
        clipped = ir.node("Clip", [output.value, *(splice.constant(np.array(v, np.int8)) for v in limits)])
        clipped.name = clipped.outputs[0].name = f"{output.value.name}_clipped"
        graph.insert_after(quantise, clipped)
        for user, index in users:
            user.replace_input_with(index, clipped.outputs[0])


def _bias(graph: ir.Graph, node: ir.Node) -> None:
    """As int32 in steps of the accumulator, input scale x weight scale: older runtimes convolve in float otherwise."""
    if node.op_type not in ("Conv", "Gemm") or len(node.inputs) < 3 or _number(node, "beta", 1.0) != 1:
        return
    x, weight, bias = _dequantised(node.inputs[0]), _weight(node.inputs[1]), _constant(node.inputs[2])
    if x is None or weight is None or bias is None or bias.ndim != 1:
        return
    scales = np.float32(x.scale) * np.broadcast_to(weight[1], bias.shape).astype(np.float32)
    steps = np.round(bias.astype(np.float64) / scales)
    if np.abs(steps).max() < 2**31:
        arrays = (steps.astype(np.int32), scales, np.zeros(len(scales), np.int32))
        values = [ir.Value(name=f"{node.name}_bias_{i}", const_value=ir.tensor(a)) for i, a in enumerate(arrays)]
        for value in values:
            graph.register_initializer(value)
        read = ir.node("DequantizeLinear", values, {"axis": 0}, name=f"{node.name}_bias")
        read.outputs[0].name = read.name
        graph.insert_before(node, read)
        node.replace_input_with(2, read.outputs[0])


def _as_int8(real: float, like: _Activation) -> int:
    if math.isinf(real):
        return -128 if real < 0 else 127
    return min(127, max(-128, round(real / like.scale) + like.zero_point))


def _dequantised(value: ir.Value | None) -> _Activation | None:
    """The int8 activation whose real numbers ``value`` holds."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear" or _constant(node.inputs[0]) is not None:
        return None
    return _activation(node, node.inputs[0])


def _quantised_by(value: ir.Value) -> _Activation | None:
    """The int8 activation that ``value`` becomes, where it becomes nothing else."""
    users = [user for user, _ in value.uses()]
    if len(users) != 1 or users[0].op_type != "QuantizeLinear" or value.is_graph_output():
        return None
    return _activation(users[0], users[0].outputs[0])


def _activation(node: ir.Node, stored: ir.Value | None) -> _Activation | None:
    _, scale, zero_point = node.inputs
    scales, zero_points = _constant(scale), _constant(zero_point)
    if scales is None or zero_points is None or scales.size != 1 or zero_points.dtype != np.int8:
        return None
    assert stored is not None and scale is not None and zero_point is not None
    return _Activation(stored, float(scales), int(zero_points), (scale, zero_point))


def _weight(value: ir.Value | None) -> tuple[Array, Array] | None:
    """int8 weights and their scales, one for each output channel."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "DequantizeLinear":
        return None
    stored, scales = _constant(node.inputs[0]), _constant(node.inputs[1])
    return None if stored is None or scales is None else (stored, scales.reshape(-1))


def _constant(value: ir.Value | None) -> Array | None:
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def _shape(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(int(size) for size in value.shape)  # static


def _text(node: ir.Node, name: str, default: str) -> str:
    return node.attributes.get_string(name, default)


def _number(node: ir.Node, name: str, default: float) -> float:
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.value)


def _numbers(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes.get_ints(name, default))
