"""Edits of a ``.tflite`` after litert_torch: integer kernels where it left float ones, and kernels that XNNPACK has.

Each edit is exact: it computes the same values, or, where float becomes integer, those that the quantised graph asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edge_dp.converters.tflite_file import WEIGHTED, TFLiteFile
from edge_dp.converters.tflite_precision import widen_bias
from edge_dp.errors import ExportError
from edge_dp.quantization.ranges import ActivationRange

_XNNPACK_CONCATENATES = 5
"""XNNPACK's concatenation takes at most so many parts."""

_WIDTHS = (np.int8, np.int16)


def flat_biases(file: TFLiteFile) -> None:
    """Biases of transposed convolutions as a row: a folded batch-norm leaves four axes, which XNNPACK does not take."""
    for operator in list(file.operators):
        bias = operator.input(3) if operator.name == "TRANSPOSE_CONV" else None
        if bias is not None and len(file.shape(bias)) > 1 and file.is_constant(bias):
            inputs = list(operator.inputs)
            inputs[3] = file.add_constant(f"bias_{operator.outputs[0]}", file.values(bias).reshape(-1))
            operator.record.inputs = np.asarray(inputs, np.int32)
    file.remove_idle()


def transposed_convolutions(file: TFLiteFile, weights: Sequence[tuple[NDArray[np.int8], NDArray[np.float32]]]) -> None:
    """Dequantise, float transposed convolution, quantise: as one integer kernel.

    Args:
        weights: int8 (out, height, width, in) and scale of each output, of every transposed convolution of the model; the file
            holds their float values.
    """
    producers = {index: operator for operator in file.operators for index in operator.outputs}
    for operator in list(file.operators):
        (target,) = operator.outputs
        if operator.name != "TRANSPOSE_CONV" or file.dtype(target) is np.int8:
            continue
        after = [o for o in file.operators if target in o.inputs]
        before = producers.get(operator.inputs[2])
        if before is None or before.name != "DEQUANTIZE" or [o.name for o in after] != ["QUANTIZE"]:
            continue  # in float on request
        integers, scales = _find(file.values(operator.inputs[1]), weights)
        source, result = before.inputs[0], after[0].outputs[0]
        # new constants: other operators may share the float ones
        weight = file.add_constant(f"weight_{result}", integers)
        file.set_quantisation(weight, scales)
        inputs = [operator.inputs[0], weight, source]
        old = operator.input(3)
        if old is not None:
            steps = file.quantisation(source)[0].astype(np.float64) * scales
            bias = file.add_constant(f"bias_{result}", np.rint(file.values(old) / steps).astype(np.int32))
            file.set_quantisation(bias, steps)
            inputs.append(bias)
        operator.record.inputs = np.asarray(inputs, np.int32)
        operator.record.outputs = np.asarray([result], np.int32)
        file.remove_operator(after[0].record)
    file.remove_idle()


def mixed_widths(file: TFLiteFile, ranges: Sequence[ActivationRange]) -> None:
    """Between activations of 8 and of 16 bits: the requantisation, which the converter leaves out, and 64-bit biases.

    Args:
        ranges: of every activation of the model.

    Raises:
        ExportError: an operator without weights reads another width than it writes.
    """
    for operator in list(file.operators):
        width = file.dtype(operator.outputs[0])
        others = [i for i in operator.inputs if i in file.computed and file.dtype(i) is not width]
        if operator.name == "QUANTIZE" or width not in _WIDTHS or not any(file.dtype(i) in _WIDTHS for i in others):
            if width is np.int16 and operator.name in WEIGHTED:
                widen_bias(file, operator)
            continue
        if operator.name not in WEIGHTED:
            raise ExportError(f"{operator.name} joins 8 and 16 bits; give the modules before it 16 bits too")
        source, weight, bias = (operator.input(place) for place in WEIGHTED[operator.name])
        assert source is not None and weight is not None and bias is not None
        step = float(file.quantisation(bias)[0][0]) / float(file.quantisation(weight)[0][0])
        nearest = min(ranges, key=lambda entry: abs(entry.scale - step))
        if abs(nearest.scale - step) > 1e-5 * step:
            raise ExportError(f"{operator.name} reads an activation of scale {step:.6g}, which is none of the model's")
        read = file.add_tensor(f"requantised_{source}", width, file.shape(source))
        file.set_quantisation(read, np.asarray(nearest.scale), nearest.zero_point)
        position = file.position(operator.record)
        file.add_operator(position, "QUANTIZE", [source], read, schema.QuantizeOptionsT())
        operator.record.inputs = np.asarray([read if i == source else i for i in operator.inputs], np.int32)
        if width is np.int16:
            widen_bias(file, replace(operator, inputs=tuple(map(int, operator.record.inputs))))


def _find(
    values: NDArray[np.float32], weights: Sequence[tuple[NDArray[np.int8], NDArray[np.float32]]]
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """The integers and scales whose values these are, within rounding."""
    for integers, scales in weights:
        steps = scales.reshape(-1, 1, 1, 1)
        if integers.shape == values.shape and (np.abs(values - integers * steps) <= 0.51 * steps).all():
            return integers, scales
    raise ExportError("a transposed convolution's weights are none of the model's")


def nearest_upsampling(file: TFLiteFile) -> None:
    """By a whole factor up to 5: as concatenations and reshapes, which XNNPACK has, other than nearest upsampling itself.

    Rows of pixels (width, channels) joined with themselves along the channels are pixels repeated along the width.
    """
    for operator in list(file.operators):
        if operator.name != "RESIZE_NEAREST_NEIGHBOR":
            continue
        source, target = operator.inputs[0], operator.outputs[0]
        (batch, height, width, channels), (_, rows, columns, _) = file.shape(source), file.shape(target)
        factors = rows // height, columns // width
        if (rows % height, columns % width) != (0, 0) or not 1 < max(factors) <= _XNNPACK_CONCATENATES:
            continue
        position = file.remove_operator(operator.record)
        # (N, H, W, C) -> (N, H, W, f C) -> (N, H, 1, f W C) -> (N, H, 1, g f W C) -> (N, g H, f W, C)
        for repeats, shape in (
            (factors[1], (batch, height, 1, columns * channels)),
            (factors[0], (batch, rows, columns, channels)),
        ):
            if repeats > 1:
                wide = file.add_like(source, (*file.shape(source)[:3], repeats * file.shape(source)[3]))
                options = schema.ConcatenationOptionsT(axis=3)
                file.add_operator(position, "CONCATENATION", [source] * repeats, wide, options)
                source, position = wide, position + 1
            flat = target if shape == file.shape(target) else file.add_like(source, shape)
            _move(file, position, "RESHAPE", source, flat, None)
            source, position = flat, position + 1


def lone_clamps(file: TFLiteFile) -> None:
    """A clamp that is fused with nothing, as the clamp of a maximum over windows of one pixel, which XNNPACK has in int8."""
    for operator in list(file.operators):
        target = operator.outputs[0]
        if operator.name not in ("RELU", "RELU6") or file.dtype(target) is not np.int8 or len(file.shape(target)) != 4:
            continue
        options = schema.Pool2DOptionsT(
            padding=schema.Padding.VALID, strideW=1, strideH=1, filterWidth=1, filterHeight=1
        )
        options.fusedActivationFunction = getattr(schema.ActivationFunctionType, operator.name)
        position = file.remove_operator(operator.record)
        file.add_operator(position, "MAX_POOL_2D", operator.inputs, target, options)


def paddings(file: TFLiteFile) -> None:
    """Padding by the value that stands for zero is plain padding, which XNNPACK has."""
    for operator in list(file.operators):
        if operator.name != "PADV2" or file.dtype(operator.outputs[0]) is not np.int8:
            continue
        (zero_point,) = file.quantisation(operator.inputs[0])[1]
        if int(file.values(operator.inputs[2]).reshape(())) == zero_point:
            position = file.remove_operator(operator.record)
            file.add_operator(position, "PAD", operator.inputs[:2], operator.outputs[0], schema.PadOptionsT())


def strided_slices(file: TFLiteFile) -> None:
    """Every n-th entry of one axis: as slices and reshapes, which XNNPACK has, other than strides.

    The axis is cut to a whole number of groups of n, split into groups, and one entry of each group is kept.
    """
    for operator in list(file.operators):
        if operator.name != "STRIDED_SLICE":
            continue
        source, target = operator.inputs[0], operator.outputs[0]
        before, after = file.shape(source), file.shape(target)
        begin, _, strides = (file.values(index) for index in operator.inputs[1:4])
        axes = [axis for axis, (old, new) in enumerate(zip(before, after, strict=False)) if old != new]
        if len(axes) != 1 or len(before) != len(after) or strides[axes[0]] < 2:
            continue
        (axis,) = axes
        count, stride = after[axis], int(strides[axis])
        first = 0 if operator.record.builtinOptions.beginMask & (1 << axis) else int(begin[axis]) % before[axis]
        start = min(first, before[axis] - count * stride)
        if start < 0:
            continue
        cut = [start if a == axis else 0 for a in range(len(before))]
        outer, inner = math.prod(before[:axis]), math.prod(before[axis + 1 :])
        position = file.remove_operator(operator.record)
        for name, shape, place in (
            ("SLICE", (*before[:axis], count * stride, *before[axis + 1 :]), cut),
            ("RESHAPE", (outer, count, stride, inner), None),
            ("SLICE", (outer, count, 1, inner), [0, 0, first - start, 0]),
            ("RESHAPE", after, None),
        ):
            result = target if shape == after and name == "RESHAPE" else file.add_like(source, shape)
            _move(file, position, name, source, result, place)
            source, position = result, position + 1


def _move(file: TFLiteFile, position: int, name: str, source: int, result: int, place: Sequence[int] | None) -> None:
    """A reshape, or a slice at ``place``, into the shape of ``result``."""
    sizes = np.asarray(file.shape(result), np.int32)
    constants = [file.add_constant(f"size_{result}", sizes)]
    options = schema.ReshapeOptionsT(newShape=sizes)
    if place is not None:
        constants.insert(0, file.add_constant(f"place_{result}", np.asarray(place, np.int32)))
        options = schema.SliceOptionsT()
    file.add_operator(position, name, [source, *constants], result, options)
