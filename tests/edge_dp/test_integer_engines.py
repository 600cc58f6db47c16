"""The integer reference against LiteRT's XNNPACK, operation by operation, with scales that no trained network would have.

Each case is a TFLite file of one operation, written here from its numbers: no converter stands between the rule and the engine.
"""

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dp.quantization.integer import convolution, elementwise, moves, reduction, resampling
from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, Weights

some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32).map(np.random.default_rng)


class OneOperation:
    """A TFLite file of one operation; tensors are numbered in the order in which they are added."""

    def __init__(self):
        self.buffers, self.tensors = [schema.BufferT()], []

    def add(self, shape, data=None, scales=None, zero_point=0, axis=0):
        tensor = schema.TensorT()
        tensor.shape, tensor.name, tensor.buffer = list(shape), f"tensor_{len(self.tensors)}", 0
        kind = np.int8 if data is None else data.dtype
        tensor.type = {np.dtype("int8"): schema.TensorType.INT8, np.dtype("int32"): schema.TensorType.INT32}[
            np.dtype(kind)
        ]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.buffers.append(buffer)
            tensor.buffer = len(self.buffers) - 1
        if scales is not None:
            quantisation = schema.QuantizationParametersT()
            quantisation.scale = [float(s) for s in np.atleast_1d(scales)]
            quantisation.zeroPoint = [zero_point] * len(quantisation.scale)
            quantisation.quantizedDimension = axis
            tensor.quantization = quantisation
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def activation(self, shape, quantisation):
        return self.add(shape, None, quantisation.scale, quantisation.zero_point)

    def run(self, operator, arrays, arguments, output, version=2, options=None, **fields):
        """Output of ``operator``; ``arrays`` are the values of the activations among its arguments, by number."""
        code, call = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = getattr(schema.BuiltinOperator, operator)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
        call.inputs, call.outputs = list(arguments), [output]
        if options:
            call.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            call.builtinOptions = getattr(schema, f"{options}T")()
            for name, value in fields.items():
                assert hasattr(call.builtinOptions, name)
                setattr(call.builtinOptions, name, value)
        graph, model = schema.SubGraphT(), schema.ModelT()
        graph.tensors, graph.operators, graph.inputs, graph.outputs = self.tensors, [call], list(arrays), [output]
        model.version, model.buffers, model.operatorCodes, model.subgraphs = 3, self.buffers, [code], [graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        interpreter = Interpreter(model_content=bytes(builder.Output()))
        interpreter.allocate_tensors()
        assert interpreter._get_ops_details()[-1]["op_name"] == "DELEGATE", "XNNPACK did not take it"
        for index, array in arrays.items():
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return interpreter.get_tensor(output)


def scale(rng, low, high):
    """A half float, in half of the cases a power of two: then many results lie halfway between two steps."""
    return float(np.float16(2.0 ** (rng.integers(low, high) if rng.random() < 0.5 else rng.uniform(low, high))))


def quantisation(rng, low=-9, high=-1):
    return Quantisation(scale(rng, low, high), int(rng.integers(-128, 128)))


def codes(rng, shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def integers(array, meaning):
    """From LiteRT's channels-last to the reference's channels-first."""
    values = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
    return Integers(torch.from_numpy(np.ascontiguousarray(values).astype(np.int32)), meaning)


def channels_last(values):
    return np.moveaxis(values.numpy(), 1, -1) if values.ndim == 4 else values.numpy()


@pytest.mark.parametrize(
    ("operator", "options", "rule"),
    [
        ("ADD", "AddOptions", elementwise.add),
        ("SUB", "SubOptions", elementwise.subtract),
        ("MUL", "MulOptions", elementwise.multiply),
    ],
)
@pytest.mark.parametrize("other", [(1, 6, 7, 5), (1, 1, 1, 5)])
@given(seeds)
@some
def test_two_operands(operator, options, rule, other, rng):
    a, b = quantisation(rng), quantisation(rng)
    typical = 90 * a.scale * b.scale if operator == "MUL" else max(a.scale, b.scale)
    output = Quantisation(float(np.float16(typical * 2.0 ** rng.integers(-1, 3))), int(rng.integers(-128, 128)))
    x, y = codes(rng, (1, 6, 7, 5)), codes(rng, other)
    file = OneOperation()
    first, second, third = (file.activation(*t) for t in ((x.shape, a), (y.shape, b), (x.shape, output)))
    found = file.run(operator, {first: x, second: y}, (first, second), third, options=options)
    assert np.array_equal(found, channels_last(rule(integers(x, a), integers(y, b), output=output)))


@pytest.mark.parametrize("operator", ["CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"])
@given(seeds)
@some
def test_layers(operator, rng):
    inside, outside = (int(n) for n in rng.integers(1, 20, 2))
    depthwise, transposed, flat = (
        operator == name for name in ("DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
    )
    outside = inside if depthwise else outside
    kernel, stride = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    given_ = quantisation(rng)
    x = codes(rng, (3, inside) if flat else (1, 7, 9, inside))
    window = () if flat else (kernel, kernel)
    # channels first: (out, in, ...), for transposed convolution (in, out, ...)
    shape = (outside, 1 if depthwise else inside, *window)
    values = rng.integers(-127, 128, shape).astype(np.int8)
    scales = np.float32([scale(rng, -10, -5) for _ in range(outside)])
    output = Quantisation(
        float(np.float16(given_.scale * scales.mean() * 70 * (inside if not depthwise else 1))),
        int(rng.integers(-128, 128)),
    )
    steps = rng.integers(-3000, 3000, outside).astype(np.int32)
    bias = torch.from_numpy(steps * scales.astype(float) * given_.scale)
    weight = Weights(torch.from_numpy(values.astype(np.int32)), torch.from_numpy(scales), 0)
    source = integers(x, given_)
    if flat:
        expected = convolution.linear(source, weight, bias, output=output)
    elif transposed:
        turned = Weights(weight.values.transpose(0, 1), weight.scales, 1)
        expected = convolution.transposed_convolution(source, turned, bias, (stride, stride), output=output)
    else:
        groups = inside if depthwise else 1
        expected = convolution.convolution(source, weight, bias, (stride, stride), groups=groups, output=output)
    wanted = channels_last(expected)

    file = OneOperation()
    stored = values if flat else np.moveaxis(values, 1, -1)
    if depthwise:
        stored = np.moveaxis(stored, 0, -1).reshape(1, kernel, kernel, outside)
    first = file.activation(x.shape, given_)
    weights = file.add(stored.shape, stored, scales, axis=3 if depthwise else 0)
    biases = file.add((outside,), steps, scales * np.float32(given_.scale))
    result = file.activation(wanted.shape, output)
    arguments = (first, weights, biases)
    strides = {"strideH": stride, "strideW": stride, "padding": schema.Padding.VALID}
    dilation = {"dilationHFactor": 1, "dilationWFactor": 1}
    if flat:
        fields = {"options": "FullyConnectedOptions", "version": 4}
    elif transposed:
        arguments = (file.add((4,), np.array(wanted.shape, np.int32)), weights, first, biases)
        fields = {"options": "TransposeConvOptions", "version": 3, **strides}
    elif depthwise:
        fields = {"options": "DepthwiseConv2DOptions", "version": 3, "depthMultiplier": 1, **strides, **dilation}
    else:
        fields = {"options": "Conv2DOptions", "version": 3, **strides, **dilation}
    assert np.array_equal(file.run(operator, {first: x}, arguments, result, **fields), wanted)


@given(seeds, st.booleans())
@some
def test_bilinear(rng, corners):
    own = quantisation(rng)
    x = codes(rng, (1, *(int(n) for n in rng.integers(1, 12, 2)), 5))
    size = [2 * n for n in x.shape[1:3]] if rng.random() < 0.3 else [int(n) for n in rng.integers(1, 40, 2)]
    file = OneOperation()
    first, target = file.activation(x.shape, own), file.add((2,), np.array(size, np.int32))
    result = file.activation((1, *size, 5), own)
    options = {"options": "ResizeBilinearOptions", "alignCorners": corners, "halfPixelCenters": not corners}
    found = file.run("RESIZE_BILINEAR", {first: x}, (first, target), result, version=3, **options)
    assert np.array_equal(found, channels_last(resampling.bilinear(integers(x, own), size, corners, None, output=own)))


@given(seeds)
@some
def test_mean(rng):
    own = quantisation(rng)
    output = Quantisation(float(np.float16(own.scale * 2.0 ** rng.integers(-3, 1))), int(rng.integers(-128, 128)))
    x = codes(rng, (1, *(int(n) for n in rng.integers(1, 20, 2)), 16))
    file = OneOperation()
    first, axes = file.activation(x.shape, own), file.add((2,), np.array([1, 2], np.int32))
    result = file.activation((1, 1, 1, 16), output)
    found = file.run("MEAN", {first: x}, (first, axes), result, options="ReducerOptions", keepDims=True)
    assert np.array_equal(found, channels_last(reduction.mean(integers(x, own), (2, 3), True, output=output)))


@given(seeds)
@some
def test_sigmoid(rng):
    own, output = quantisation(rng, -8, 0), Quantisation(1 / 256, -128)
    x = np.arange(-128, 128, dtype=np.int8).reshape(1, 4, 8, 8)
    file = OneOperation()
    first, result = file.activation(x.shape, own), file.activation(x.shape, output)
    found = file.run("LOGISTIC", {first: x}, (first,), result)
    assert np.array_equal(found, channels_last(elementwise.sigmoid(integers(x, own), output=output)))


@given(seeds)
@some
def test_max_pooling(rng):
    own, x = quantisation(rng), codes(rng, (1, 8, 6, 5))
    file = OneOperation()
    first, result = file.activation(x.shape, own), file.activation((1, 4, 3, 5), own)
    options = {"filterHeight": 2, "filterWidth": 2, "strideH": 2, "strideW": 2, "padding": schema.Padding.VALID}
    found = file.run("MAX_POOL_2D", {first: x}, (first,), result, options="Pool2DOptions", **options)
    assert np.array_equal(found, channels_last(moves.max_pool(integers(x, own), (2, 2), output=own)))
