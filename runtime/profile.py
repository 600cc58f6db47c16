"""Where an inference spends its time, operation by operation, as the engine itself tells.

Timing each operation slows the whole: compare shares, and take times from ``edge_dp.runtime.latency``. What XNNPACK runs it
tells of itself, operation by operation, within ExecuTorch's delegate and LiteRT's; LiteRT counts whole microseconds.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Bundle
from edge_dp.errors import EngineError, InputError
from edge_dp.quiet import quiet
from edge_dp.runtime import litert_profile
from edge_dp.runtime.agent import quantise, session_options
from edge_dp.runtime.engines import engine_for

Inputs = Mapping[str, NDArray[np.float32]]

_TIMEOUT_S = 600.0
_ET_WHOLES = ("DELEGATE_CALL", "OPERATOR_CALL", "Method::execute")  # hold others, which are listed themselves


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of an artifact.

    name: as the engine calls it, or its delegate; ``#2`` is the second of its kind. calls: that were timed.
    milliseconds: of one inference, mean.
    share: of the time in all operations.
    """

    name: str
    calls: int
    milliseconds: float
    share: float


def profile(
    bundle: Bundle, artifact: str, inputs: Inputs, *, rounds: int = 20, threads: int = 1
) -> tuple[Operation, ...]:
    """Profile one artifact in its usual engine, in this process, LiteRT in another; what takes longest comes first.

    Args:
        artifact: name in the manifest; of ``PROFILERS``' formats.
        inputs: by name, as of ``Engine.infer``.
        rounds: timed inferences, after one that is not.
        threads: CPU threads.

    Raises:
        InputError: no such artifact, or the engine of its format gives no profile.
        ChecksumError: the artifact is damaged.
        MissingExtraError: its engine is not installed.
        EngineError: it failed.
    """
    chosen = bundle.manifest.artifact(artifact)
    profiler = PROFILERS.get(chosen.format)
    if profiler is None:
        raise InputError(
            f"{artifact}: expected an artifact whose engine gives a profile ({', '.join(PROFILERS)}), found {chosen.format}: "
            f"{_NO_PROFILE.get(chosen.format, 'none is known')}. Profile another artifact of the bundle."
        )
    engine_for(chosen.format)
    bundle.check_files(chosen.files)
    path = bundle.path(chosen.path)
    ordered = {spec.name: np.ascontiguousarray(inputs[spec.name], np.float32) for spec in bundle.manifest.inputs}
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            return profiler(path, ordered, rounds, threads, Path(folder))
    except Exception as error:  # engines raise whatever they like
        raise EngineError(f"{path}: cannot be profiled: {' '.join(str(error).split())[:300]}") from error


def read_etdump(path: Path, skip: int = 0) -> tuple[Operation, ...]:
    """Operations of an ExecuTorch trace, also of one that the native runner wrote on a device; longest first.

    Args:
        path: the ETDump.
        skip: inferences at its beginning that do not count.
    """
    from executorch.devtools import Inspector

    try:
        with quiet():
            blocks = Inspector(etdump_path=str(path)).event_blocks
        execute = next(block for block in blocks if block.name == "Execute")
    except Exception as error:  # of the tool that decodes the file, whatever is wrong with it
        raise InputError(
            f"{path}: expected ExecuTorch's trace of an inference, found another file or a damaged one ({type(error).__name__})"
        ) from error
    calls: dict[str, list[float]] = {}
    for event in execute.events:
        if event.perf_data is not None:
            calls.setdefault(event.name, []).extend(event.perf_data.raw[skip:])
    rounds = len(calls["Method::execute"])
    return _operations({name: times for name, times in calls.items() if name not in _ET_WHOLES}, rounds)


def _executorch(path: Path, inputs: Inputs, rounds: int, threads: int, folder: Path) -> tuple[Operation, ...]:
    import executorch.kernels.quantized  # noqa: F401  # registers the quantise operations at a program's border
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
    module = portable_lib._load_for_executorch(str(path), enable_etdump=True)
    for _ in range(1 + rounds):
        module.run_method("forward", [torch.from_numpy(array) for array in inputs.values()])
    module.write_etdump_result_to_file(str(folder / "trace.etdp"))
    return read_etdump(folder / "trace.etdp", skip=1)


def _onnx(path: Path, inputs: Inputs, rounds: int, threads: int, folder: Path) -> tuple[Operation, ...]:
    import onnxruntime

    options = session_options(threads)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "trace")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(1 + rounds):
        session.run(None, dict(inputs))
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    calls: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = f"{event['args']['op_name']} {event['name'].removesuffix('_kernel_time')}"
            calls.setdefault(name, []).append(event["dur"] / 1e3)  # from microseconds
    return _operations({name: times[-rounds:] for name, times in calls.items()}, rounds)


def _tflite(path: Path, inputs: Inputs, rounds: int, threads: int, folder: Path) -> tuple[Operation, ...]:
    """In a process of its own, whatever the C interface makes of the artifact."""
    from ai_edge_litert.interpreter import Interpreter

    if reason := litert_profile.why_not():
        raise EngineError(reason)
    details = Interpreter(str(path)).get_signature_runner().get_input_details()
    stored = {name: quantise(array, details[name]) for name, array in inputs.items()}
    arrays = folder / "inputs.npz"
    np.savez(arrays, **stored)  # type: ignore[arg-type]  # its stub takes the arrays for the flag
    command = [
        sys.executable,
        "-m",
        litert_profile.__name__,
        str(path.resolve()),
        str(arrays),
        str(rounds),
        str(threads),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise EngineError(f"LiteRT's profiler ended with code {done.returncode}: {' | '.join(said[-1:])}")
    return _numbered(json.loads(done.stdout), rounds)


def _numbered(calls: Sequence[tuple[str, float]], rounds: int) -> tuple[Operation, ...]:
    """Of the microseconds of every call, in the order of ``rounds`` equal inferences."""
    each, seen = len(calls) // rounds, Counter[str]()
    names = []
    for kind, _ in calls[:each]:
        seen[kind] += 1
        names.append(f"{kind} #{seen[kind]}")
    return _operations({name: [us / 1e3 for _, us in calls[place::each]] for place, name in enumerate(names)}, rounds)


def _operations(calls: Mapping[str, Sequence[float]], rounds: int) -> tuple[Operation, ...]:
    """Longest first, of the milliseconds of every call."""
    total = sum(sum(times) for times in calls.values()) or 1.0
    rows = [
        Operation(name, len(times), sum(times) / rounds, sum(times) / total) for name, times in calls.items() if times
    ]
    return tuple(sorted(rows, key=lambda row: -row.milliseconds))


PROFILERS: dict[str, Callable[[Path, Inputs, int, int, Path], tuple[Operation, ...]]] = {
    "executorch": _executorch,
    "tflite": _tflite,
    "onnx": _onnx,
}
_NO_PROFILE: dict[str, Any] = {
    "coreml": "Core ML tells where operations run, not how long each takes",
}
