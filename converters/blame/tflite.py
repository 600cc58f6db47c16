"""Taps of a ``.tflite``: more outputs of the graph, so that XNNPACK still executes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edge_dp.converters.blame.taps import Tap, Tapped, tap_name
from edge_dp.converters.tflite_file import TFLiteFile
from edge_dp.runtime.engines.base import Signature

_INTEGERS = (np.int8, np.int16)


def tap(artifact: Path, path: Path, signature: Signature) -> Tapped:
    """Write ``artifact`` to ``path`` with every activation as an output.

    Raises:
        SchemaError: not a ``.tflite``.
    """
    file = TFLiteFile(artifact)
    order = [*file.signature[0].values(), *(index for operator in file.operators for index in operator.outputs)]
    taps: list[Tap] = []
    for index in dict.fromkeys(order):
        dtype = file.dtype(index)
        if dtype not in (*_INTEGERS, np.float32) or file.is_constant(index):
            continue
        name = tap_name(len(taps))
        tensor = file.graph.tensors[index].name.decode()
        scales, zero_points = file.quantisation(index)
        if dtype in _INTEGERS and scales.size != 1:
            continue
        scale = float(scales[0]) if dtype in _INTEGERS else None
        taps.append(Tap(name, tensor, file.shape(index), scale, int(zero_points[0]) if scale else 0, dequantised=True))
        _add_output(file, name, index)
    file.write(path)
    return Tapped.of(signature, taps)


def _add_output(file: TFLiteFile, name: str, index: int) -> None:
    (found,) = file.model.signatureDefs
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), index
    found.outputs.append(entry)
    if index not in set(map(int, file.graph.outputs)):
        file.graph.outputs = np.append(np.asarray(file.graph.outputs, np.int32), np.int32(index))
