"""The converters, as data. Nothing here imports a toolchain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from edge_dp.errors import InputError, MissingExtraError
from edge_dp.extras import needs

if TYPE_CHECKING:
    from edge_dp.converters.base import Converter


@dataclass(frozen=True, slots=True)
class ConverterEntry:
    """One format."""

    format: str
    target: str
    extra: str
    why_not: Callable[[], str | None]


CONVERTERS: dict[str, ConverterEntry] = {
    entry.format: entry
    for entry in (
        ConverterEntry(
            "executorch",
            "edge_dp.converters.executorch:ExecuTorchConverter",
            "executorch",
            needs("torch", "torchao", "executorch"),
        ),
        ConverterEntry(
            "tflite",
            "edge_dp.converters.tflite:TFLiteConverter",
            "tflite",
            needs("torch", "torchao", "litert_torch", "ai_edge_litert"),
        ),
        ConverterEntry(
            "coreml",
            "edge_dp.converters.coreml:CoreMLConverter",
            "coreml",
            needs("torch", "torchao", "coremltools"),
        ),
        ConverterEntry(
            "onnx",
            "edge_dp.converters.onnx:OnnxConverter",
            "onnx",
            needs("torch", "torchao", "onnx", "onnxscript", "onnxruntime"),
        ),
    )
}


def make_converter(format_name: str) -> Converter:
    """The converter of a format.

    Raises:
        InputError: no such format; the message lists what there is.
        MissingExtraError: its toolchain is not installed; the message names the extra.
    """
    if format_name not in CONVERTERS:
        raise InputError(f"{format_name}: no such format; known are {', '.join(CONVERTERS)}")
    entry = CONVERTERS[format_name]
    if reason := entry.why_not():
        raise MissingExtraError(f"{format_name}: {reason}: pip install 'edge-dp[{entry.extra}]'")
    module, attribute = entry.target.split(":")
    converter: Converter = getattr(import_module(module), attribute)()
    return converter
