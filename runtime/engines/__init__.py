"""The engines, as data. Nothing here imports one; ``make_engine`` does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edge_dp.errors import EdgeDpError, EngineError, InputError, MissingExtraError
from edge_dp.runtime.agent import ADAPTERS
from edge_dp.runtime.engines.base import Engine, Signature
from edge_dp.runtime.engines.environments import TFLITE_RUNTIME, Environment
from edge_dp.runtime.engines.limits import Limits

if TYPE_CHECKING:
    from edge_dp.runtime.devices.base import Device
    from edge_dp.runtime.engines.worker import Worker

__all__ = ["ENGINES", "EngineEntry", "Limits", "engine_for", "engine_named", "engines_for", "engines_on", "make_engine"]


def _native_why_not() -> str | None:
    from edge_dp.runtime.native.build import toolchain

    try:
        toolchain()
    except EdgeDpError as error:
        return str(error)
    return None


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One way to execute an artifact.

    extra: of edge-dp, which brings the engine to this machine.
    why_not: why it cannot run on this machine, in words; None where it can.
    adapter: key in the agent's table: the engine runs in the SDK's process, in a worker, and on any device that has Python with
    this engine. Null for the native runner, which runs here and on devices without Python.
    options: of the adapter, which make this engine what it is.
    measures_speed: whether how fast it runs says something of the artifact.
    environment: of its own on this machine, where it cannot share the SDK's.
    """

    name: str
    formats: tuple[str, ...]
    extra: str
    note: str
    why_not: Callable[[], str | None]
    adapter: str | None
    options: Mapping[str, str] = field(default_factory=dict)
    measures_speed: bool = True
    environment: Environment | None = None

    @property
    def needs_python(self) -> bool:
        """Whether a device must have Python to run it."""
        return self.adapter is not None

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Options that ``make_engine`` takes for it, each with its values, the default first."""
        every = ADAPTERS[self.adapter].choices if self.adapter else {}
        return {name: values for name, values in every.items() if name not in self.options}


ENGINES: dict[str, EngineEntry] = {
    entry.name: entry
    for entry in (
        EngineEntry(
            "executorch",
            ("executorch",),
            "executorch",
            "ExecuTorch runtime with XNNPACK",
            ADAPTERS["executorch"].why_not,
            "executorch",
        ),
        EngineEntry(
            "executorch-native",
            ("executorch",),
            "executorch",
            "ExecuTorch with XNNPACK in a C++ program, as in an app",
            _native_why_not,
            adapter=None,
        ),
        EngineEntry(
            "litert",
            ("tflite",),
            "tflite",
            "LiteRT interpreter with XNNPACK",
            ADAPTERS["litert"].why_not,
            "litert",
            {"kernels": "xnnpack"},
        ),
        EngineEntry(
            "litert-builtin",
            ("tflite",),
            "tflite",
            "LiteRT interpreter with its own optimised kernels, without XNNPACK",
            ADAPTERS["litert"].why_not,
            "litert",
            {"kernels": "builtin"},
        ),
        EngineEntry(
            "litert-reference",
            ("tflite",),
            "tflite",
            "LiteRT interpreter with its reference kernels, written to be read, not to be fast",
            ADAPTERS["litert"].why_not,
            "litert",
            {"kernels": "reference"},
            measures_speed=False,
        ),
        EngineEntry(
            "tflite-runtime",
            ("tflite",),
            "tflite",
            "tflite-runtime 2.14, as older apps carry it: XNNPACK for floats, its own kernels for integers",
            TFLITE_RUNTIME.why_not,
            "tflite-runtime",
            environment=TFLITE_RUNTIME,
        ),
        EngineEntry(
            "onnxruntime",
            ("onnx",),
            "onnx",
            "ONNX Runtime, CPU",
            ADAPTERS["onnxruntime"].why_not,
            "onnxruntime",
        ),
        EngineEntry(
            "coreml",
            ("coreml",),
            "coreml",
            "Core ML",
            ADAPTERS["coreml"].why_not,
            "coreml",
        ),
        EngineEntry(
            "coreml-reference",
            ("coreml",),
            "coreml",
            "evaluates the saved MIL program; says nothing of the Neural Engine, nor of speed",
            ADAPTERS["coreml-reference"].why_not,
            "coreml-reference",
            measures_speed=False,
        ),
    )
}


def engines_for(format_name: str) -> list[EngineEntry]:
    """The engines that execute ``format_name``, here or elsewhere, the usual one first; InputError where there is none."""
    found = [entry for entry in ENGINES.values() if format_name in entry.formats]
    if not found:
        raise InputError(f"{format_name}: no engine executes this format")
    return found


def engine_for(format_name: str) -> EngineEntry:
    """The first engine that executes ``format_name`` here. One that downloads an environment is taken only by its name.

    Raises:
        InputError: no engine executes it anywhere.
        MissingExtraError: an engine exists but is not installed; the message names the extra.
    """
    candidates = [entry for entry in engines_for(format_name) if entry.environment is None]
    for entry in candidates:
        if entry.why_not() is None:
            return entry
    raise _missing(candidates[-1], f"{format_name}: {candidates[-1].why_not()}")


def engine_named(name: str) -> EngineEntry:
    """The engine called ``name``; InputError lists what there is."""
    if name not in ENGINES:
        raise InputError(f"engine {name!r}: expected one of {', '.join(ENGINES)}. Correct the name.")
    return ENGINES[name]


def engines_on(device: Device) -> dict[str, str | None]:
    """Each engine, and why it cannot run on an open device, in words; null where it can.

    Raises:
        DeviceError: the device is gone.
    """
    from edge_dp.runtime.engines.place import OnDevice
    from edge_dp.runtime.native.build import MACHINES

    if device.address == "local":  # where environments can be made, too
        return {entry.name: entry.why_not() for entry in ENGINES.values()}
    facts = device.facts()
    told = OnDevice(device).hello()["engines"] if facts.python else {}
    reasons: dict[str, str | None] = {}
    for entry in ENGINES.values():
        if entry.adapter is None:
            fits = facts.machine in MACHINES
            reasons[entry.name] = None if fits else f"expected {' or '.join(MACHINES)}, found {facts.machine}"
        elif not facts.python:
            reasons[entry.name] = "no Python there"
        else:
            reasons[entry.name] = told.get(entry.adapter, {}).get("why_not", "the agent there does not know it")
    return reasons


def make_engine(
    entry: EngineEntry,
    artifact: Path,
    signature: Signature,
    threads: int = 1,
    *,
    device: Device | None = None,
    isolated: bool = False,
    options: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    worker: Worker | None = None,
) -> Engine:
    """An engine object for one artifact, not yet active.

    Args:
        entry: of ``ENGINES``.
        artifact: on this machine; copied to the device when the engine is activated.
        signature, threads: as of ``Engine``.
        device: open; None is this machine.
        isolated: on this machine, in a worker process; a device and an environment of its own always are.
        options: of the entry's ``choices``.
        limits: of the worker.
        worker: one that runs already on this machine and serves several engines, one after the other; it is left running.

    Raises:
        MissingExtraError: it cannot run on this machine; the message names the extra. What a device lacks shows in ``activate``.
        EngineError: an option that it does not have.
    """
    elsewhere = device is not None and device.address != "local"
    if not elsewhere and (reason := entry.why_not()):
        raise _missing(entry, f"{entry.name}: {reason}")
    for name, value in (options or {}).items():
        if value not in entry.choices.get(name, ()):
            known = "; ".join(f"{key} {', '.join(values)}" for key, values in entry.choices.items()) or "none"
            raise EngineError(f"{artifact}: {entry.name}: expected options {known}; found {name} {value!r}")
    limits = limits or Limits()
    if entry.adapter is None:
        from edge_dp.runtime.engines.native import NativeEngine

        return NativeEngine(artifact, signature, threads, device, time_limit_s=limits.seconds)
    chosen = {**entry.options, **(options or {})}
    if not (isolated or worker or elsewhere or entry.environment):
        from edge_dp.runtime.engines.in_process import InProcessEngine

        return InProcessEngine(artifact, signature, threads, name=entry.name, adapter=entry.adapter, options=chosen)
    from edge_dp.runtime.engines.isolated import IsolatedEngine
    from edge_dp.runtime.engines.place import Here, OnDevice

    place = OnDevice(device) if device is not None and elsewhere else Here(entry.environment)
    return IsolatedEngine(
        artifact,
        signature,
        threads,
        name=entry.name,
        adapter=entry.adapter,
        options=chosen,
        place=place,
        limits=limits,
        worker=worker,
    )


def _missing(entry: EngineEntry, words: str) -> MissingExtraError:
    return MissingExtraError(
        f"{words}: pip install 'edge-dp[{entry.extra}]'" if words.endswith("not installed") else words
    )
