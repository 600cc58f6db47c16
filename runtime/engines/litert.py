"""LiteRT: executes a ``.tflite`` with the interpreter and its default XNNPACK delegate."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import EngineError
from edge_dp.runtime.engines.base import Engine, Tensors


class LiteRTEngine(Engine):
    """An integer artifact has int8 inputs and outputs; they are converted here with the scales stored in it."""

    name = "litert"
    _interpreter: Any

    def _activate(self) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(self.artifact), num_threads=self.threads)
        self._interpreter.allocate_tensors()
        self._inputs = _by_name(self._interpreter.get_input_details(), [n for n, _ in self.signature.inputs])
        self._outputs = _by_name(self._interpreter.get_output_details(), [n for n, _ in self.signature.outputs])
        for detail, (name, shape) in zip(self._inputs, self.signature.inputs, strict=True):
            if tuple(detail["shape"]) != shape:
                raise EngineError(
                    f"{self.artifact}: input {name!r} has shape {tuple(detail['shape'])}, expected {shape}"
                )

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        for detail, array in zip(self._inputs, inputs.values(), strict=True):
            self._interpreter.set_tensor(detail["index"], _quantise(array, detail))
        self._interpreter.invoke()
        return [_dequantise(self._interpreter.get_tensor(detail["index"]), detail) for detail in self._outputs]

    def _deactivate(self) -> None:
        del self._interpreter


def _by_name(details: list[dict[str, Any]], names: list[str]) -> list[dict[str, Any]]:
    """Details in the order of ``names``; a tensor is called ``serving_default_NAME`` or ``..._NAME:0`` and the like."""
    ordered = []
    for name in names:
        matches = [
            d for d in details if name in str(d["name"]).replace(":", "_").split("serving_default_")[-1].split("_")
        ]
        if len(matches) != 1:
            raise EngineError(f"no tensor for {name!r} among {[str(d['name']) for d in details]}")
        ordered.append(matches[0])
    return ordered


def _quantise(array: NDArray[np.float32], detail: dict[str, Any]) -> NDArray[Any]:
    dtype = np.dtype(detail["dtype"])
    if dtype == np.float32:
        return array
    scale, zero_point = detail["quantization"]
    limits = np.iinfo(dtype)
    # Multiplying by the reciprocal rounds as PyTorch and XNNPACK quantise.
    steps = np.rint(array * np.float32(1.0 / np.float32(scale))) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(dtype)


def _dequantise(array: NDArray[Any], detail: dict[str, Any]) -> NDArray[np.float32]:
    if array.dtype == np.float32:
        return array
    scale, zero_point = detail["quantization"]
    return ((array.astype(np.int32) - zero_point) * np.float32(scale)).astype(np.float32)
