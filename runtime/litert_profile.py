"""LiteRT's own trace of a ``.tflite``, operation by operation, through the C interface of the library in its Python package.

The Python classes of that package have no profiler, its ``libLiteRt`` has: the interpreter of its compiled models, the same
kernels and XNNPACK delegate behind another door. Called as a program of its own, since a C interface forgives nothing:

    python -m edge_dp.runtime.litert_profile MODEL INPUTS.npz ROUNDS THREADS

INPUTS holds the tensors of MODEL's signature by name, in the types that it stores. Prints one JSON list of
[name, microseconds of one call], in the order of the calls, the first inference left out.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSIONS = "2.3."
"""Of ai-edge-litert: the layout of an event and the forms of the functions are those of its C headers (litert/c)."""

_LIBRARIES = {"Linux": "libLiteRt.so", "Darwin": "libLiteRt.dylib", "Windows": "libLiteRt.dll"}
_CPU = 1  # kLiteRtHwAcceleratorCpu
_WRITE = 1  # kLiteRtTensorBufferLockModeWrite
_TENSOR_TYPE_BYTES = 128  # of a LiteRtRankedTensorType, and to spare
_BUILT_IN, _DELEGATED = 1 << 1, 1 << 3  # an operation of the interpreter; one that a delegate tells of in its place
_CPU_OPTIONS, _RUNTIME_OPTIONS = b"xnnpack", b"runtime_options_string"


class _Event(ctypes.Structure):
    """ProfiledEventData."""

    _fields_ = (
        ("tag", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("start_us", ctypes.c_uint64),
        ("elapsed_us", ctypes.c_uint64),
        ("memory", ctypes.c_int64 * 6),
        ("metadata", ctypes.c_uint64 * 2),
        ("source", ctypes.c_int),
    )


def why_not() -> str | None:
    """Why there is no trace here, in words; None where there is one."""
    try:
        version = importlib.metadata.version("ai-edge-litert")
    except importlib.metadata.PackageNotFoundError:
        return "ai-edge-litert not installed"
    if not version.startswith(VERSIONS):
        return f"its profiler is known for ai-edge-litert {VERSIONS}*, found {version}"
    return None if _library().is_file() else f"ai-edge-litert has no {_library().name} here"


def trace(model: Path, inputs: dict[str, NDArray[Any]], rounds: int, threads: int) -> list[tuple[str, int]]:
    """Every call of every operation in ``rounds`` inferences, after one that is not told of.

    Args:
        model: a ``.tflite`` with one signature.
        inputs: by name, in the types that it stores.

    Returns:
        Name and microseconds of each call. Of what the delegate does not take, the name is that of the kernel.

    Raises:
        RuntimeError: LiteRT refuses, with the function and its status.
    """
    with ExitStack() as stack:
        session = _Session(stack, model, threads)
        session.fill(inputs)
        session.run()
        session.call("LiteRtStartProfiler", session.profiler)
        for _ in range(rounds):
            session.run()
        session.call("LiteRtStopProfiler", session.profiler)
        return list(session.events())


class _Session:
    """A compiled model with a profiler; ``stack`` destroys what it holds."""

    def __init__(self, stack: ExitStack, model: Path, threads: int) -> None:
        self._library = ctypes.CDLL(str(_library()))
        self._stack = stack
        self._environment = self._made("Environment", ctypes.c_int(0), None)
        self._model = self._made("ModelFromFile", self._environment, str(model).encode(), destroy="Model")
        options = self._made("Options")
        self.call("LiteRtSetOptionsHardwareAccelerators", options, ctypes.c_int(_CPU))
        self._texts = [b"enable_profiling = true\n", b"num_threads = %d\n" % threads]
        # The options keep a pointer to their text, which this object outlives; nobody is to free it.
        self._keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
        for name, text in zip((_RUNTIME_OPTIONS, _CPU_OPTIONS), self._texts, strict=True):
            opaque = ctypes.c_void_p()
            self.call("LiteRtCreateOpaqueOptions", name, ctypes.c_char_p(text), self._keep, ctypes.byref(opaque))
            self.call("LiteRtAddOpaqueOptions", options, opaque)
        self._compiled = self._made("CompiledModel", self._environment, self._model, options)
        self.profiler = self._got("LiteRtCompiledModelGetProfiler", self._compiled)
        self._signature = self._got("LiteRtGetModelSignature", self._model, ctypes.c_size_t(0))
        self._inputs, self._outputs = self._buffers("Input"), self._buffers("Output")

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function of the library that returns a status."""
        function = getattr(self._library, name)
        function.restype = ctypes.c_int
        if status := function(*arguments):
            raise RuntimeError(f"{name}: status {status}")

    def fill(self, inputs: dict[str, NDArray[Any]]) -> None:
        """Write all inputs."""
        for index, buffer in enumerate(self._inputs):
            name = ctypes.c_char_p()
            self.call("LiteRtGetSignatureInputName", self._signature, ctypes.c_size_t(index), ctypes.byref(name))
            values = np.ascontiguousarray(inputs[(name.value or b"").decode()])
            size = ctypes.c_size_t()
            self.call("LiteRtGetTensorBufferPackedSize", ctypes.c_void_p(buffer), ctypes.byref(size))
            if size.value != values.nbytes:
                raise RuntimeError(f"input {name.value!r}: expected {size.value} bytes, found {values.nbytes}")
            address = ctypes.c_void_p()
            self.call("LiteRtLockTensorBuffer", ctypes.c_void_p(buffer), ctypes.byref(address), ctypes.c_int(_WRITE))
            ctypes.memmove(address, values.ctypes.data, values.nbytes)
            self.call("LiteRtUnlockTensorBuffer", ctypes.c_void_p(buffer))

    def run(self) -> None:
        """One inference."""
        sides = [argument for side in (self._inputs, self._outputs) for argument in (ctypes.c_size_t(len(side)), side)]
        self.call("LiteRtRunCompiledModel", self._compiled, ctypes.c_size_t(0), *sides)

    def events(self) -> Iterator[tuple[str, int]]:
        """Operations since the profiler was started."""
        count = ctypes.c_int()
        self.call("LiteRtGetNumProfilerEvents", self.profiler, ctypes.byref(count))
        events = (_Event * count.value)()
        self.call("LiteRtGetProfilerEvents", self.profiler, count, events)
        for event in events:
            if event.type in (_BUILT_IN, _DELEGATED):
                yield event.tag.decode(errors="replace"), int(event.elapsed_us)

    def _got(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        found = ctypes.c_void_p()
        self.call(name, *arguments, ctypes.byref(found))
        return found

    def _made(self, kind: str, *arguments: Any, destroy: str = "") -> ctypes.c_void_p:
        made = self._got(f"LiteRtCreate{kind}", *arguments)
        destructor = getattr(self._library, f"LiteRtDestroy{destroy or kind}")
        destructor.restype = None
        self._stack.callback(destructor, made)
        return made

    def _buffers(self, kind: str) -> Any:
        """One buffer for each input or output, of the type and alignment that the model wants."""
        count = ctypes.c_size_t()
        self.call(f"LiteRtGetNumSignature{kind}s", self._signature, ctypes.byref(count))
        buffers = (ctypes.c_void_p * count.value)()
        for index in range(count.value):
            place = ctypes.c_size_t(index)
            tensor = self._got(f"LiteRtGetSignature{kind}TensorByIndex", self._signature, place)
            tensor_type = ctypes.create_string_buffer(_TENSOR_TYPE_BYTES)
            self.call("LiteRtGetRankedTensorType", tensor, tensor_type)
            wanted = self._got(
                f"LiteRtGetCompiledModel{kind}BufferRequirements", self._compiled, ctypes.c_size_t(0), place
            )
            buffers[index] = self._made(
                "ManagedTensorBufferFromRequirements", self._environment, tensor_type, wanted, destroy="TensorBuffer"
            ).value
        return buffers


def _library() -> Path:
    package = importlib.util.find_spec("ai_edge_litert")
    folder = Path(package.origin).parent if package is not None and package.origin else Path()
    return folder / _LIBRARIES.get(platform.system(), _LIBRARIES["Linux"])


def main() -> None:
    """See the module."""
    model, inputs, rounds, threads = sys.argv[1:]
    with np.load(inputs, allow_pickle=False) as arrays:
        print(json.dumps(trace(Path(model), dict(arrays), int(rounds), int(threads))))


if __name__ == "__main__":
    main()
