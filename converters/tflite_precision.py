"""The same ``.tflite`` in other number formats: float borders, half weights, 16-bit activations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_dp.converters.tflite_file import WEIGHTED, Operator, TFLiteFile
from edge_dp.errors import ExportError

_SIGMOID = (1 / 256, -128)
"""Quantisation of a sigmoid's int8 result, the only one that kernels take; of its int16 result they take 1/32768."""

_HEADROOM = 4

_ONE_SIDED = {"RELU_0_TO_1": (0.0, 1.0), "RELU_N1_TO_1": (-1.0, 1.0)}
"""Clamps without a 16-bit kernel."""


def float_border(file: TFLiteFile) -> None:
    """Float32 inputs and outputs, with the conversions that an app would do otherwise inside."""
    for is_input, side in zip((True, False), file.signature, strict=True):
        for name, index in side.items():
            if file.dtype(index) is np.float32:
                continue
            new = file.add_tensor(name, np.float32, file.shape(index))
            if is_input:
                file.add_operator(0, "QUANTIZE", [new], index, schema.QuantizeOptionsT())
            else:
                file.add_operator(len(file.graph.operators), "DEQUANTIZE", [index], new, schema.DequantizeOptionsT())
            file.rebind(name, new, is_input=is_input)


def half_weights(file: TFLiteFile) -> None:
    """Weights and biases as half floats, each behind a DEQUANTIZE: XNNPACK expands them once, while loading.

    Raises:
        ExportError: a weight is too large for a half float.
    """
    done: set[int] = set()
    for operator in list(file.operators):
        for index in _constants(file, operator, np.float32):
            if index in done:
                continue
            values = file.values(index)
            largest = float(np.abs(values).max(initial=0.0))
            if largest > np.finfo(np.float16).max:
                raise ExportError(
                    f"a weight of {largest:.4g} does not fit a half float, whose largest is 65504. Use fp32."
                )
            half = file.add_constant(f"half_{index}", values.astype(np.float16))
            file.graph.tensors[index].buffer = 0
            file.add_operator(len(done), "DEQUANTIZE", [half], index, schema.DequantizeOptionsT())
            done.add(index)


def int16_activations(file: TFLiteFile, limits: Sequence[float]) -> None:
    """Symmetric 16-bit activations from the ranges of an int8 file: scale = 4 max(|low|, |high|) / 32767.

    Weights stay as they are. The factor leaves room: trained ranges cut off what is rare; where int8 saturates, 16 bits need
    not.

    Args:
        limits: of the model's clamps; the int8 file holds them rounded to its steps.
    """
    old = {index: file.quantisation(index) for index in range(len(file.graph.tensors))}
    for index in sorted(file.computed):
        if file.dtype(index) is np.int8:
            file.set_type(index, np.int16)
            file.set_quantisation(index, np.asarray(_int16_scale(*old[index])))
    done: set[int] = set()
    for operator in list(file.operators):
        if operator.name in _ONE_SIDED:
            _clamp_in_two(file, operator)
        elif operator.name not in WEIGHTED:
            for index in set(operator.inputs) - file.computed - done - {-1}:
                if file.dtype(index) is np.int8 and old[index][0].size == 1:
                    _widen_constant(file, index, limits, is_least=operator.name == "PADV2")
                    done.add(index)
        elif file.dtype(operator.outputs[0]) is np.int16:
            widen_bias(file, operator)


def widen_bias(file: TFLiteFile, operator: Operator) -> None:
    """To 64 bits, in steps of activation scale x weight scale as these are now; a constant of its own."""
    activation, weight, old = (operator.input(place) for place in WEIGHTED[operator.name])
    assert activation is not None and weight is not None and old is not None
    steps = file.quantisation(activation)[0].astype(np.float64) * file.quantisation(weight)[0]
    values = file.values(old) * file.quantisation(old)[0].astype(np.float64)
    new = file.add_constant(f"bias_{operator.outputs[0]}", np.rint(values / steps).astype(np.int64))
    file.set_quantisation(new, steps)
    operator.record.inputs = np.asarray([new if index == old else index for index in operator.inputs], np.int32)


def _constants(file: TFLiteFile, operator: Operator, dtype: type[np.generic]) -> list[int]:
    """Weights and bias of an operator that has some, where the file holds them as ``dtype``."""
    found = [operator.input(place) for place in WEIGHTED.get(operator.name, ())[1:]]
    return [index for index in found if index is not None and file.is_constant(index) and file.dtype(index) is dtype]


def _int16_scale(scale: np.ndarray, zero_point: np.ndarray) -> float:
    ((step,), (zero,)) = scale, zero_point
    if (float(step), int(zero)) == _SIGMOID:
        return 1 / 32768
    return _HEADROOM * max(128.0 + float(zero), 127.0 - float(zero)) * float(step) / 32767


def _widen_constant(file: TFLiteFile, index: int, limits: Sequence[float], *, is_least: bool) -> None:
    """An int8 constant that an activation is compared with. ``is_least``: -128 stands for what is less than everything."""
    (scale,), (zero_point,) = old = file.quantisation(index)
    integers = file.values(index)
    values = (integers.astype(np.float64) - zero_point) * scale
    for limit in limits:
        values = np.where(np.abs(values - limit) <= 0.51 * scale, limit, values)
    new = np.clip(np.rint(values / _int16_scale(*old)), -32767, 32767)
    file.set_values(index, np.where(is_least & (integers == -128), -32768, new).astype(np.int16))
    file.set_quantisation(index, np.asarray(_int16_scale(*old)))


def _clamp_in_two(file: TFLiteFile, operator: Operator) -> None:
    low, high = _ONE_SIDED[operator.name]
    source, target = operator.inputs[0], operator.outputs[0]
    ((scale,), _) = file.quantisation(target)
    position = file.remove_operator(operator.record)
    for name, limit, result in (
        ("MAXIMUM", low, file.add_like(target, file.shape(target))),
        ("MINIMUM", high, target),
    ):
        steps = np.clip(np.rint(np.asarray(limit) / scale), -32767, 32767).astype(np.int16)
        bound = file.add_constant(f"limit_{result}", steps)
        file.set_quantisation(bound, np.asarray(scale))
        file.add_operator(position, name, [source, bound], result, schema.MaximumMinimumOptionsT())
        source, position = result, position + 1
