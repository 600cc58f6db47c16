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
        self._inputs, self._outputs = self._border()

    def _border(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Tensors of the file's signature in the order of ours: a file lists them in any order, and names them otherwise."""
        if len(self._interpreter.get_signature_list()) != 1:
            raise EngineError(
                f"{self.artifact}: expected one signature that names inputs and outputs, found none or several"
            )
        runner = self._interpreter.get_signature_runner()
        ordered = []
        for kind, details, expected in (
            ("input", runner.get_input_details(), self.signature.inputs),
            ("output", runner.get_output_details(), self.signature.outputs),
        ):
            if sorted(details) != sorted(name for name, _ in expected):
                names = [name for name, _ in expected]
                raise EngineError(f"{self.artifact}: expected {kind}s {names}, found {sorted(details)}")
            for name, shape in expected:
                if tuple(details[name]["shape"]) != shape:
                    found = tuple(map(int, details[name]["shape"]))
                    raise EngineError(f"{self.artifact}: {kind} {name!r} has shape {found}, expected {shape}")
            ordered.append([details[name] for name, _ in expected])
        return ordered[0], ordered[1]

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        for detail, array in zip(self._inputs, inputs.values(), strict=True):
            self._interpreter.set_tensor(detail["index"], _quantise(array, detail))
        self._interpreter.invoke()
        return [_dequantise(self._interpreter.get_tensor(detail["index"]), detail) for detail in self._outputs]

    def _deactivate(self) -> None:
        del self._interpreter


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
