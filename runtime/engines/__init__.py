"""The engines, as data. Nothing here imports one; ``make_engine`` does."""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from edge_dp.errors import EngineError, InputError, MissingExtraError
from edge_dp.extras import needs
from edge_dp.runtime.engines.base import Engine, Signature


def _needs_mac() -> str | None:
    if platform.system() != "Darwin":
        return "Core ML runs on macOS only; coreml-reference evaluates the same program here"
    return needs("coremltools")()


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One way to execute an artifact."""

    name: str
    formats: tuple[str, ...]
    target: str
    extra: str
    distribution: str
    note: str
    why_not: Callable[[], str | None]
    measures_speed: bool = True


ENGINES: dict[str, EngineEntry] = {
    entry.name: entry
    for entry in (
        EngineEntry(
            "executorch",
            ("executorch",),
            "edge_dp.runtime.engines.executorch:ExecuTorchEngine",
            "executorch",
            "executorch",
            "ExecuTorch runtime with XNNPACK",
            needs("executorch", "torch"),
        ),
        EngineEntry(
            "litert",
            ("tflite",),
            "edge_dp.runtime.engines.litert:LiteRTEngine",
            "tflite",
            "ai-edge-litert",
            "LiteRT interpreter with XNNPACK",
            needs("ai_edge_litert"),
        ),
        EngineEntry(
            "onnxruntime",
            ("onnx",),
            "edge_dp.runtime.engines.onnxruntime:OnnxRuntimeEngine",
            "onnx",
            "onnxruntime",
            "ONNX Runtime, CPU",
            needs("onnxruntime"),
        ),
        EngineEntry(
            "coreml",
            ("coreml",),
            "edge_dp.runtime.engines.coreml:CoreMLEngine",
            "coreml",
            "coremltools",
            "Core ML",
            _needs_mac,
        ),
        EngineEntry(
            "coreml-reference",
            ("coreml",),
            "edge_dp.runtime.engines.coreml:CoreMLReferenceEngine",
            "coreml",
            "coremltools",
            "evaluates the saved MIL program; says nothing of the Neural Engine, nor of speed",
            needs("coremltools", "torch"),
            measures_speed=False,
        ),
    )
}


def engine_for(format_name: str) -> EngineEntry:
    """The first engine that executes ``format_name`` here.

    Raises:
        MissingExtraError: an engine exists but is not installed; the message names the extra.
    """
    candidates = [entry for entry in ENGINES.values() if format_name in entry.formats]
    for entry in candidates:
        if entry.why_not() is None:
            return entry
    if not candidates:
        raise InputError(f"{format_name}: no engine executes this format")
    last = candidates[-1]
    raise MissingExtraError(f"{format_name}: {last.why_not()}: pip install 'edge-dp[{last.extra}]'")


def make_engine(entry: EngineEntry, artifact: Path, signature: Signature, threads: int = 1) -> Engine:
    """An engine object for one artifact, not yet active."""
    if reason := entry.why_not():
        raise MissingExtraError(f"{entry.name}: {reason}: pip install 'edge-dp[{entry.extra}]'")
    module, attribute = entry.target.split(":")
    try:
        cls = getattr(import_module(module), attribute)
    except ImportError as error:
        raise EngineError(f"{entry.name} is installed but cannot be imported: {error}") from error
    engine: Engine = cls(artifact, signature, threads)
    return engine
