"""The worker that executes artifacts in a process of its own: on this machine, in another Python environment, on a device.

One file that imports the standard library, numpy and the engine it is asked for (the Core ML reference evaluator also
edge_dp), and runs on Python 3.9 and later, so that it can be copied anywhere and started as ``python agent.py``. The classes
that speak to the engines live here, once: engines within the SDK's own process use the same ones.

It reads requests from standard input and writes replies to standard output, as frames:

    4 bytes    magic "EDPA"
    4 bytes    length of the header, little endian, at most 1 MiB
    header     JSON object; its key "arrays" lists [name, shape] of what follows
    arrays     float32, little endian, C order, one after the other

Requests ("op"): hello; load (engine, path, inputs, outputs, threads, options, memory_bytes); infer (arrays or, without any,
those of last time); time (count, seconds; arrays likewise); state; unload; quit. A reply holds "error" in words, or what was
asked for. The process ends when its standard input does, even in the middle of an inference.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import resource
import select
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROTOCOL = 1
MAGIC = b"EDPA"
MAX_HEADER = 1 << 20
MAX_ARRAYS = 1 << 30
"""Bytes of all arrays of one frame."""

Border = Sequence["tuple[str, tuple[int, ...]]"]
"""Names and shapes of the inputs or outputs of an artifact, in order."""
Arrays = dict[str, "NDArray[Any]"]
Read = Callable[[memoryview], None]
"""Fills a buffer from a stream; EOFError where the stream ends before."""


class ProtocolError(Exception):
    """A stream does not hold a frame."""


class AdapterError(Exception):
    """What is wrong with an artifact or a request, in words that do not name the artifact."""


def frame(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> list[bytes | memoryview]:
    """The pieces of one frame, to be written in order; no array is copied that is float32 and contiguous already."""
    plain = {name: np.asarray(array, dtype="<f4", order="C") for name, array in arrays.items()}
    listed = [[name, list(array.shape)] for name, array in plain.items()]
    text = json.dumps({**header, "arrays": listed}).encode()
    if len(text) > MAX_HEADER:
        raise ProtocolError(f"header of {len(text)} bytes, at most {MAX_HEADER} are allowed")
    return [MAGIC + struct.pack("<I", len(text)) + text, *(_bytes_of(array) for array in plain.values() if array.size)]


def read_frame(read: Read, most: int = MAX_ARRAYS) -> tuple[dict[str, Any], Arrays]:
    """One frame from a stream.

    Args:
        read: fills a buffer.
        most: bytes of all arrays that may follow; nothing is allocated for more.

    Raises:
        EOFError: the stream ends, before the frame or within it.
        ProtocolError: what comes is no frame, or a larger one.
    """
    start = _read_bytes(read, 8)
    if start[:4] != MAGIC:
        raise ProtocolError(f"expected a frame, found {start!r}")
    (length,) = struct.unpack("<I", start[4:])
    if length > MAX_HEADER:
        raise ProtocolError(f"header of {length} bytes, at most {MAX_HEADER} are allowed")
    try:
        header = json.loads(_read_bytes(read, length))
        entries = header.pop("arrays")
        if not isinstance(entries, list):  # an empty text or object has no entries either
            raise TypeError(f"arrays: found {type(entries).__name__}")
        listed = [(name, shape) for name, shape in entries]
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ProtocolError(f"header is not a JSON object with a list of arrays ({one_line(error)})") from error
    left, arrays = most, {}
    for name, shape in listed:
        is_shape = isinstance(shape, list) and all(type(size) is int and 0 <= size <= MAX_ARRAYS for size in shape)
        if not (isinstance(name, str) and is_shape):
            raise ProtocolError(f"expected the name and shape of an array, found {name!r} and {shape!r}")
        left -= 4 * math.prod(shape)
        if left < 0 or len(shape) > 32:  # of more dimensions numpy has no arrays
            raise ProtocolError(f"array {name!r} of shape {shape} is more than the {most} bytes allowed")
        arrays[name] = np.empty(shape, dtype="<f4")
        if arrays[name].size:
            read(_bytes_of(arrays[name]))
    return header, arrays


def _read_bytes(read: Read, count: int) -> bytes:
    buffer = bytearray(count)
    read(memoryview(buffer))
    return bytes(buffer)


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def one_line(error: BaseException) -> str:
    """An engine's own words, on one line and not too many of them."""
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- the engines ----------------------------------------------------------------------------------------------------------------


class Adapter:
    """One artifact in one engine. Loading is constructing.

    Args:
        path: of the artifact.
        inputs, outputs: names and shapes that it must have.
        threads: CPU threads for one inference.
        options: a value for each of some ``choices``.

    Raises:
        AdapterError: the artifact is not what it should be. Engines raise whatever they like besides.
    """

    modules: tuple[str, ...] = ()
    """Python modules that it uses; imported before loading, so that loading does not seem to take that long."""
    without: tuple[str, ...] = ()
    """Modules that importing those would bring along for nothing."""
    system: tuple[str, str] | None = None
    """The only operating system it runs on, as ``platform`` calls it, and what to say elsewhere."""
    distribution = ""
    """The package whose version is the engine's."""
    choices: dict[str, tuple[str, ...]] = {}  # noqa: RUF012  # ClassVar says the same in more words
    """Options with their values; the first is the default."""

    def __init__(self, path: str, inputs: Border, outputs: Border, threads: int, options: Mapping[str, str]) -> None:
        self.path, self.inputs, self.outputs, self.threads = path, inputs, outputs, threads
        self.options = {name: values[0] for name, values in self.choices.items()}
        for name, value in options.items():
            if value not in self.choices.get(name, ()):
                known = "; ".join(f"{key}: {', '.join(values)}" for key, values in self.choices.items()) or "none"
                raise AdapterError(f"expected options {known}; found {name} {value!r}")
            self.options[name] = value
        self._load()

    @classmethod
    def why_not(cls) -> str | None:
        """Why it cannot run in this environment, in words; None where it can. Imports nothing."""
        if cls.system is not None and platform.system() != cls.system[0]:
            return cls.system[1]
        packages = dict.fromkeys(name.partition(".")[0] for name in cls.modules)
        missing = [name for name in packages if importlib.util.find_spec(name) is None]
        return f"{', '.join(missing)} not installed" if missing else None

    @classmethod
    def version(cls) -> str | None:
        """Of the engine, as its package calls it; None where it is not installed."""
        try:
            return importlib.metadata.version(cls.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def _load(self) -> None:
        raise NotImplementedError

    def run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        """Run once.

        Args:
            inputs: contiguous float32 arrays in the order of ``inputs``, by name.

        Returns:
            Fresh float32 arrays in the order of ``outputs``.
        """
        return self._run(inputs)

    def _run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        raise NotImplementedError

    def placement(self) -> dict[str, int]:
        """Number of operations by the processor they are planned for; empty where the engine does not tell."""
        return {}


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` threads in the block, and as many as before after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class ExecuTorch(Adapter):
    """A ``.pte`` in the runtime of the executorch wheel. Inputs and outputs are float32; an int8 program quantises inside."""

    modules = (
        "torch",
        "executorch.kernels.quantized",  # registers the quantise operations at a program's border
        "executorch.extension.pybindings.portable_lib",
        "executorch.runtime",
    )
    distribution = "executorch"

    def _load(self) -> None:
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification

        # One thread pool serves the whole process and is resized for whoever loads last.
        portable_lib._unsafe_reset_threadpool(self.threads)
        program = Runtime.get().load_program(Path(self.path), verification=Verification.InternalConsistency)
        self._method = program.load_method("forward")
        if self._method is None:
            raise AdapterError("has no method 'forward'")

    def _run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        import torch

        # The bindings copy through torch, whose thread pool then spins for milliseconds on the cores that XNNPACK wants.
        with torch_threads(1):
            outputs = self._method.execute([torch.from_numpy(array) for array in inputs.values()])
        return [output.detach().numpy().astype(np.float32, copy=True) for output in outputs]


class LiteRT(Adapter):
    """A ``.tflite`` in LiteRT's interpreter. Integer inputs and outputs are converted with the scales stored in it."""

    modules = ("ai_edge_litert.interpreter",)
    distribution = "ai-edge-litert"
    choices = {"kernels": ("xnnpack", "builtin", "reference")}  # noqa: RUF012

    def _load(self) -> None:
        interpreter = importlib.import_module(self.modules[0])
        resolver = interpreter.OpResolverType
        self._interpreter = interpreter.Interpreter(
            self.path,
            num_threads=self.threads,
            experimental_op_resolver_type={
                "xnnpack": resolver.AUTO,
                "builtin": resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                "reference": resolver.BUILTIN_REF,
            }[self.options["kernels"]],
        )
        self._interpreter.allocate_tensors()
        if len(self._interpreter.get_signature_list()) != 1:
            raise AdapterError("expected one signature that names inputs and outputs, found none or several")
        runner = self._interpreter.get_signature_runner()
        self._inputs = self._ordered("input", runner.get_input_details(), self.inputs)
        self._outputs = self._ordered("output", runner.get_output_details(), self.outputs)

    def _ordered(self, kind: str, details: dict[str, dict[str, Any]], border: Border) -> list[dict[str, Any]]:
        """Tensors of the file's signature in the order of ours: a file lists them in any order, and names them otherwise."""
        names = [name for name, _ in border]
        if sorted(details) != sorted(names):
            raise AdapterError(f"expected {kind}s {names}, found {sorted(details)}")
        for name, shape in border:
            found = tuple(map(int, details[name]["shape"]))
            if found != shape:
                raise AdapterError(f"{kind} {name!r} has shape {found}, expected {shape}")
        return [details[name] for name in names]

    def _run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        for detail, array in zip(self._inputs, inputs.values()):  # noqa: B905  # strict is of Python 3.10
            self._interpreter.set_tensor(detail["index"], quantise(array, detail))
        self._interpreter.invoke()
        return [_dequantise(self._interpreter.get_tensor(detail["index"]), detail) for detail in self._outputs]


class TFLiteRuntime(LiteRT):
    """A ``.tflite`` in tflite-runtime, LiteRT under its former name, as apps of a few years ago still have it."""

    modules = ("tflite_runtime.interpreter",)
    distribution = "tflite-runtime"


def quantise(array: NDArray[Any], detail: dict[str, Any]) -> NDArray[Any]:
    """Real values in the type and scale of a LiteRT tensor, of which ``detail`` is what its interpreter tells."""
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


def session_options(threads: int) -> Any:
    """ONNX Runtime's, under which a QDQ graph becomes integer kernels: off by default for int8 on x86, on everywhere here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


class OnnxRuntime(Adapter):
    """A ``.onnx`` in ONNX Runtime on the CPU. Inputs and outputs are float32; an int8 graph quantises inside."""

    modules = ("onnxruntime",)
    distribution = "onnxruntime"

    def _load(self) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            self.path, session_options(self.threads), providers=["CPUExecutionProvider"]
        )
        for kind, border, found in (
            ("input", self.inputs, self._session.get_inputs()),
            ("output", self.outputs, self._session.get_outputs()),
        ):
            names, wanted = [tensor.name for tensor in found], [name for name, _ in border]
            if sorted(names) != sorted(wanted):
                raise AdapterError(f"expected {kind}s {wanted}, found {names}")

    def _run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run([name for name, _ in self.outputs], dict(inputs))
        return outputs


class CoreML(Adapter):
    """A ``.mlpackage`` in Apple's Core ML, which chooses its own threads. macOS only."""

    modules = ("coremltools",)
    system = ("Darwin", "Core ML runs on macOS only; coreml-reference evaluates the same program here")
    distribution = "coremltools"
    choices = {"compute_units": ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")}  # noqa: RUF012

    def _load(self) -> None:
        import coremltools

        units = coremltools.ComputeUnit[self.options["compute_units"]]
        self._model = coremltools.models.MLModel(self.path, compute_units=units)

    def _run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        outputs = self._model.predict(dict(inputs))
        return [np.array(outputs[name], dtype=np.float32) for name, _ in self.outputs]

    def placement(self) -> dict[str, int]:
        """As Core ML's compute plan has it; constants, which no processor computes, are left out."""
        from coremltools.models.compute_plan import MLComputePlan

        plan = MLComputePlan.load_from_path(self._model.get_compiled_model_path(), self._model.compute_unit)
        counts: dict[str, int] = {}
        for operation in plan.model_structure.program.functions["main"].block.operations:
            usage = plan.get_compute_device_usage_for_mlprogram_operation(operation)
            if usage is not None:
                name = type(usage.preferred_compute_device).__name__.replace("ML", "", 1).replace("ComputeDevice", "")
                counts[name] = counts.get(name, 0) + 1
        return counts


class CoreMLReference(Adapter):
    """A ``.mlpackage`` in edge_dp's own evaluator of its program, on any machine. It says nothing of the Neural Engine."""

    modules = ("torch", "coremltools", "edge_dp.runtime.engines.coreml", "edge_dp.runtime.engines.mil")
    without = ("executorch", "sklearn", "tensorflow", "torchaudio", "torchvision", "transformers", "xgboost")
    distribution = "edge-dp"

    def _load(self) -> None:
        from edge_dp.runtime.engines.coreml import read_program

        with self._own_words():
            self._program = read_program(Path(self.path))
        for side, border, found in (
            ("inputs", self.inputs, self._program.inputs),
            ("outputs", self.outputs, self._program.outputs),
        ):
            shapes = {name: kind.shape for name, kind in found.items()}
            if shapes != dict(border):
                raise AdapterError(f"expected {side} {dict(border)}, found {shapes} in the package")

    def _run(self, inputs: Arrays) -> list[NDArray[np.float32]]:
        with torch_threads(self.threads), self._own_words():
            outputs = self._program.run(inputs)
        return [outputs[name] for name, _ in self.outputs]

    @contextlib.contextmanager
    def _own_words(self) -> Iterator[None]:
        from edge_dp.errors import EdgeDpError

        try:
            yield
        except EdgeDpError as error:
            words = str(error)
            prefix = f"{self.path}: "
            raise AdapterError(words[len(prefix) :] if words.startswith(prefix) else words) from error


ADAPTERS: dict[str, type[Adapter]] = {
    "executorch": ExecuTorch,
    "litert": LiteRT,
    "tflite-runtime": TFLiteRuntime,
    "onnxruntime": OnnxRuntime,
    "coreml": CoreML,
    "coreml-reference": CoreMLReference,
}


# --- measuring ------------------------------------------------------------------------------------------------------------------


class InstructionCounter:
    """User instructions of this thread and of those it starts from now on, where the machine counts them and lets us."""

    _CALL = {"x86_64": 298, "aarch64": 241, "riscv64": 241, "armv7l": 364}  # noqa: RUF012  # perf_event_open(2)

    def __init__(self) -> None:
        self._file = -1
        number = self._CALL.get(platform.machine())
        if platform.system() != "Linux" or number is None:
            return
        attributes = bytearray(128)
        # type PERF_TYPE_HARDWARE, size, config PERF_COUNT_HW_INSTRUCTIONS; flags inherit, exclude_kernel, exclude_hv
        struct.pack_into("=IIQ", attributes, 0, 0, len(attributes), 1)
        struct.pack_into("=Q", attributes, 40, 1 << 1 | 1 << 5 | 1 << 6)
        given = (ctypes.c_char * len(attributes)).from_buffer(attributes)
        self._file = ctypes.CDLL(None).syscall(number, given, 0, -1, -1, 1 << 3)  # this thread, any core; close on exec

    def read(self) -> int | None:
        """Instructions so far; None where they are not counted."""
        return None if self._file < 0 else int.from_bytes(os.read(self._file, 8), sys.byteorder)

    def close(self) -> None:
        """Stop counting."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def measure(
    adapter: Adapter, inputs: Arrays, counter: InstructionCounter, count: int, seconds: float = math.inf
) -> tuple[list[int], list[int]]:
    """Run ``count`` times, or until ``seconds`` have passed but once at least.

    Returns:
        Nanoseconds of each inference, and user instructions of each; the latter is empty where they are not counted.
    """
    nanoseconds: list[int] = []
    instructions: list[int] = []
    end = time.perf_counter() + seconds
    while len(nanoseconds) < count and (not nanoseconds or time.perf_counter() < end):
        _, took, counted = run_once(adapter, inputs, counter)
        nanoseconds.append(took)
        instructions += counted
    return nanoseconds, instructions


def run_once(
    adapter: Adapter, inputs: Arrays, counter: InstructionCounter
) -> tuple[list[NDArray[np.float32]], int, list[int]]:
    """Outputs, nanoseconds and user instructions of one inference; the latter is empty where they are not counted."""
    before = counter.read()
    start = time.perf_counter_ns()
    outputs = adapter.run(inputs)
    took = time.perf_counter_ns() - start
    after = counter.read()
    return outputs, took, [] if before is None or after is None else [after - before]


def machine_state() -> dict[str, Any]:
    """What the machine tells of this process and its processor, by the names of ``EngineState``; absent where it does not."""
    state: dict[str, Any] = {"peak_memory_bytes": _peak_memory()}
    if hasattr(os, "sched_getaffinity"):
        state["affinity"] = tuple(sorted(os.sched_getaffinity(0)))
    zones = list(Path("/sys/class/thermal").glob("thermal_zone*"))
    named = [zone for zone in zones if any(word in _text(zone / "type").lower() for word in ("cpu", "soc", "pkg"))]
    temperatures = [float(text) / 1e3 for zone in named or zones if _is_number(text := _text(zone / "temp"))]
    if temperatures:
        state["temperature_c"] = max(temperatures)
    cores = [Path(f"/sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq") for core in state.get("affinity", ())]
    frequencies = [float(text) / 1e3 for core in cores if _is_number(text := _text(core))]
    if not frequencies:
        frequencies = [float(value) for name, value in _cpuinfo() if name == "cpu MHz" and _is_number(value)]
    if frequencies:
        state["frequency_mhz"] = max(frequencies)
    return state


def _peak_memory() -> int:
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):  # ru_maxrss would hold the parent's too, from before exec
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if platform.system() == "Darwin" else 1024)


def _cpuinfo() -> list[tuple[str, str]]:
    pairs = (line.partition(":") for line in _text(Path("/proc/cpuinfo")).splitlines())
    return [(name.strip(), value.strip()) for name, _, value in pairs]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _is_number(text: str) -> bool:
    return text.strip().replace(".", "", 1).lstrip("-").isdigit()


# --- requests -------------------------------------------------------------------------------------------------------------------


class Session:
    """Answers requests, one at a time."""

    def __init__(self) -> None:
        self._counter = InstructionCounter()
        self._adapter: Adapter | None = None
        self._inputs: Arrays = {}
        self._load_ns = 0
        self._unlimited = resource.getrlimit(resource.RLIMIT_DATA)

    def answer(self, request: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        """The reply to a request: never an exception, except for what ends the process."""
        answers: dict[str, Callable[..., tuple[dict[str, Any], Arrays]]] = {
            "hello": self._hello,
            "load": self._load,
            "infer": self._infer,
            "time": self._time,
            "state": self._state,
            "unload": self._unload,
        }
        operation = request.pop("op", None)
        if not isinstance(operation, str) or operation not in answers:
            return {"error": f"unknown request {operation!r}"}, {}
        if arrays:
            self._inputs = arrays
        try:
            return answers[operation](**request)
        except AdapterError as error:
            return {"error": str(error)}, {}
        except MemoryError as error:
            return {"error": f"ran out of memory in {operation}: {one_line(error)}"}, {}
        except Exception as error:  # an engine raises whatever it likes
            doing = {"load": "cannot load it", "infer": "failed while running", "time": "failed while running"}
            return {
                "error": f"{doing.get(operation, f'failed in {operation}')}: {one_line(error)}",
                "by_engine": True,
            }, {}

    def _hello(self) -> tuple[dict[str, Any], Arrays]:
        features = [value for name, value in _cpuinfo() if name in ("flags", "Features")]
        return {
            "protocol": PROTOCOL,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "features": features[0].split() if features else [],
            "engines": {name: {"version": cls.version(), "why_not": cls.why_not()} for name, cls in ADAPTERS.items()},
        }, {}

    def _load(
        self,
        engine: str,
        path: str,
        inputs: list[Any],
        outputs: list[Any],
        threads: int = 1,
        options: dict[str, str] | None = None,
        memory_bytes: int | None = None,
    ) -> tuple[dict[str, Any], Arrays]:
        self._unload()
        if engine not in ADAPTERS:
            raise AdapterError(f"this agent has no engine {engine!r}, only {', '.join(ADAPTERS)}")
        cls = ADAPTERS[engine]
        if reason := cls.why_not():
            raise AdapterError(f"{engine} cannot run there: {reason}")
        if memory_bytes is not None:
            # Data, not address space: engines reserve much of the latter and never touch it.
            hard = self._unlimited[1]
            allowed = memory_bytes if hard == resource.RLIM_INFINITY else min(memory_bytes, hard)
            resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
        _import(cls)
        borders = [[(name, tuple(shape)) for name, shape in side] for side in (inputs, outputs)]
        start = time.perf_counter_ns()
        self._adapter = cls(path, borders[0], borders[1], threads, options or {})
        self._load_ns = time.perf_counter_ns() - start
        return {}, {}

    def _infer(self) -> tuple[dict[str, Any], Arrays]:
        outputs, took, counted = run_once(self._loaded(), self._inputs, self._counter)
        told = {"nanoseconds": [took], "instructions": counted}
        return told, {str(index): output for index, output in enumerate(outputs)}

    def _time(self, count: int, seconds: float) -> tuple[dict[str, Any], Arrays]:
        nanoseconds, instructions = measure(self._loaded(), self._inputs, self._counter, count, seconds)
        return {"nanoseconds": nanoseconds, "instructions": instructions}, {}

    def _state(self) -> tuple[dict[str, Any], Arrays]:
        adapter = self._loaded()
        own = {"version": adapter.version(), "load_ns": self._load_ns, "placement": adapter.placement()}
        return {**machine_state(), **own}, {}

    def _unload(self) -> tuple[dict[str, Any], Arrays]:
        self._adapter, self._inputs, self._load_ns = None, {}, 0
        resource.setrlimit(resource.RLIMIT_DATA, self._unlimited)
        return {}, {}

    def _loaded(self) -> Adapter:
        if self._adapter is None:
            raise AdapterError("nothing is loaded")
        return self._adapter


def _import(cls: type[Adapter]) -> None:
    """Import what an adapter uses, without what it does not: coremltools looks for all it could convert from, for seconds."""
    hidden = [name for name in cls.without if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None is how Python itself marks them absent
    try:
        for module in cls.modules:
            importlib.import_module(module)
    finally:
        for name in hidden:
            del sys.modules[name]


def serve(read: Read, write: Callable[[bytes | memoryview], Any]) -> int:
    """Answer requests until the stream ends or says quit; the exit code: 2 after something that is no request."""
    session = Session()
    while True:
        try:
            request, arrays = read_frame(read)
            reply, outputs = ({}, {}) if request.get("op") == "quit" else session.answer(request, arrays)
        except EOFError:
            return 0
        except ProtocolError as error:  # where the next frame would begin is unknown
            request, reply, outputs = {"op": "quit"}, {"error": f"the agent was sent no frame: {error}"}, {}
        for piece in frame(reply, outputs):
            write(piece)
        if request.get("op") == "quit":
            return 2 if reply else 0


def main() -> int:
    """Serve standard input and output. What an engine prints goes to standard error, away from the replies."""
    sys.path[:] = [
        entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)
    ]  # holds no modules for engines
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt in a terminal is for the one who gave us work
    requests, replies = os.dup(0), os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(requests,), daemon=True).start()
    with os.fdopen(requests, "rb", buffering=0) as stdin, os.fdopen(replies, "wb", buffering=0) as stdout:

        def read(buffer: memoryview) -> None:
            while buffer:
                count = stdin.readinto(buffer)
                if not count:
                    raise EOFError
                buffer = buffer[count:]

        def write(piece: bytes | memoryview) -> None:
            rest = memoryview(piece)
            while rest:
                rest = rest[stdout.write(rest) :]

        return serve(read, write)


def _end_with(descriptor: int) -> None:
    """End the process once nobody can send requests any more, whatever the engine is doing."""
    poll = select.poll()
    poll.register(descriptor, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
