"""The native runner as an engine: executes a ``.pte`` in a C++ program, on this machine or on a device.

Each call is one run of the program. Inputs go to its standard input and outputs come back on its standard output, so nothing but
the program and the artifact is left on the device.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import DeviceError, EngineError
from edge_dp.runtime.devices.base import Device
from edge_dp.runtime.devices.local import LocalDevice
from edge_dp.runtime.engines.base import Engine, EngineState, Signature, Tensors, Timing
from edge_dp.runtime.native.build import MACHINES, RUNNER, build, toolchain

BATCH_BYTES = 2**26
"""Of inputs or outputs in one run; a device of 768 MB has room for both."""
_MEGABYTES = 4096  # of address space: a damaged program asks for more
_WARMUP = 1
_CANNOT_START = (126, 127)  # what shells say of a program without its interpreter or libraries


class NativeEngine(Engine):
    """ExecuTorch in a process of its own, without Python.

    Args:
        artifact: the ``.pte``.
        signature: names and shapes; the program must have the same shapes.
        threads: of ExecuTorch's pool; with 1 there is none.
        device: open; None is this machine.
        runner: folder with a runner built elsewhere and its libraries, as for Android; it is built unless given.
        time_limit_s: for loading, and for each case; ``time`` is given what it needs beyond that.
    """

    name = "executorch-native"

    def __init__(
        self,
        artifact: Path,
        signature: Signature,
        threads: int = 1,
        device: Device | None = None,
        *,
        runner: Path | None = None,
        time_limit_s: float = 120.0,
    ) -> None:
        super().__init__(artifact, signature, threads)
        self._own_device = device is None
        self._device = device or LocalDevice()
        self._runner = runner
        self._limit_s = time_limit_s
        self._version: str | None = None
        self._program: list[str] = []
        self._result: dict[str, Any] = {}
        self._seconds = math.nan  # of this machine's clock for one inference, the way there and back included

    def _activate(self) -> None:
        folder = self._device.push(self._runner or self._built(), executable=True)
        self._program = [f"{folder}/{RUNNER.stem}", "--model", self._device.push(self.artifact)]
        self._program += ["--threads", str(self.threads), "--memory-limit", str(_MEGABYTES)]
        result, _ = self._run([], b"", self._limit_s)
        for kind, expected in (("inputs", self.signature.inputs), ("outputs", self.signature.outputs)):
            shapes = [tuple(shape) for shape in result[kind]]
            if shapes != [shape for _, shape in expected]:
                raise EngineError(
                    f"{self.artifact}: {kind}: expected shapes {[s for _, s in expected]}, found {shapes}"
                )

    def _deactivate(self) -> None:
        if self._own_device:
            self._device.close()

    def _built(self) -> Path:
        machine = self._device.facts().machine
        if machine not in MACHINES:
            raise EngineError(
                f"{self._device.address}: expected a machine of {' or '.join(MACHINES)} for the native runner, found {machine}"
            )
        tools = toolchain(machine)
        self._version = f"ExecuTorch {tools.version}"
        return build(RUNNER, tools)

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        return self._infer_batch([inputs])[0]

    def infer_all(self, cases: Sequence[Mapping[str, NDArray[np.float32]]]) -> list[Tensors]:
        """Run once for each case, in order, as many in one run as fit; errors as of ``infer``."""
        checked = [self._check_inputs(case) for case in cases]
        results: list[Tensors] = []
        for start, stop in self._batches(len(checked)):
            results += [self._named_outputs(outputs) for outputs in self._infer_batch(checked[start:stop])]
        return results

    def time(self, inputs: Mapping[str, NDArray[np.float32]], count: int) -> Timing:
        """Run ``count`` times in one process, after one that is not counted; errors as of ``infer``.

        The time limit grows with what an inference took before. Counts of instructions repeat, but for a few that an interrupt
        may add (in one of fifteen inferences on an emulated Cortex-A55, 9 to 54 of 1.5e8): compare the smallest of several.
        """
        checked = self._check_inputs(inputs)
        if math.isnan(self._seconds):
            self._infer_batch([checked])
        limit_s = self._limit_s + 5 * (count + _WARMUP) * self._seconds
        result, _ = self._run(["--repeats", str(count), "--warmup", str(_WARMUP)], _bytes_of([checked]), limit_s)
        return Timing(tuple(result["nanoseconds"]), tuple(result["instructions"] or ()))

    def trace(self, inputs: Mapping[str, NDArray[np.float32]], path: Path) -> None:
        """Run once with ExecuTorch's tracer and write its ETDump to ``path``, for ``executorch.devtools.Inspector``.

        Raises:
            EngineError: as of ``infer``.
            DeviceError: the device is gone or full.
        """
        remote = f"{self._device.scratch()}/trace.etdp"
        self._run(
            ["--etdump", remote, "--warmup", str(_WARMUP)], _bytes_of([self._check_inputs(inputs)]), self._limit_s
        )
        self._device.pull(remote, path)

    def state(self) -> EngineState:
        """As the program said when it last ran."""
        last = self._result
        return EngineState(
            version=self._version,
            load_ns=last.get("load_ns", 0),
            peak_memory_bytes=last.get("peak_memory_bytes"),
            temperature_c=last.get("temperature_c"),
            frequency_mhz=last.get("frequency_mhz"),
            affinity=tuple(last.get("affinity", ())),
        )

    @property
    def first_ns(self) -> int | None:
        """The first inference of the last run; null before there is one."""
        return self._result.get("first_ns")

    @property
    def last_run(self) -> Timing:
        """Every inference of the last run whose outputs or times were asked for, warm-up excluded.

        After ``infer_all`` it holds one per case; in the first of them the engine still allocates. Where instructions are counted
        the others need no run of their own.
        """
        return Timing(tuple(self._result.get("nanoseconds", ())), tuple(self._result.get("instructions") or ()))

    @property
    def cpu_features(self) -> tuple[str, ...]:
        """Of the processor that ran it, as /proc/cpuinfo names them."""
        return tuple(self._result.get("cpu_features", ()))

    def _batches(self, count: int) -> Iterator[tuple[int, int]]:
        border = (*self.signature.inputs, *self.signature.outputs)
        step = max(1, BATCH_BYTES // max(1, 4 * sum(math.prod(shape) for _, shape in border)))
        for start in range(0, count, step):
            yield start, min(start + step, count)

    def _infer_batch(self, cases: Sequence[Tensors]) -> list[list[NDArray[np.float32]]]:
        start = time.perf_counter()
        _, values = self._run(["--output", "-"], _bytes_of(cases), self._limit_s * len(cases))
        self._seconds = (time.perf_counter() - start) / len(cases)
        shapes = [shape for _, shape in self.signature.outputs]
        expected = len(cases) * sum(map(math.prod, shapes))
        if values.size != expected:
            raise EngineError(f"{self.artifact}: {self.name}: expected {expected} output values, found {values.size}")
        ends = np.cumsum([math.prod(shape) for _ in cases for shape in shapes])[:-1]
        pieces = iter(np.split(values, ends))
        return [[next(pieces).reshape(shape) for shape in shapes] for _ in cases]

    def _run(self, arguments: list[str], stdin: bytes, limit_s: float) -> tuple[dict[str, Any], NDArray[np.float32]]:
        """One run: its JSON, and the values after it."""
        # The program ends itself, also where only the line to it was cut; the device's own limit is the second net.
        limits = ["--time-limit", str(math.ceil(limit_s))]
        given = ["--input", "-"] if stdin else []
        done = self._device.run(
            [*self._program, *limits, *given, *arguments], timeout_s=math.ceil(limit_s) + 10, stdin=stdin
        )
        if done.code:
            raise EngineError(self._error(done.code, done.stderr))
        line, _, rest = done.stdout.partition(b"\n")
        try:
            self._result = json.loads(line)
            return self._result, np.frombuffer(rest, np.float32).copy()
        except ValueError as error:
            raise DeviceError(f"{self._device.address}: the native runner's answer was cut short or altered") from error

    def _error(self, code: int, stderr: bytes) -> str:
        """The program's own line, with the path that the user knows; or what there is, where it died without a word."""
        if code in _CANNOT_START:
            return (
                f"{self._device.address}: the native runner does not start there: {_last_line(stderr)[:200]}. It needs Linux "
                "with glibc; for Android build it with the NDK (runtime/native/README.md)"
            )
        said = _last_line(stderr)
        try:
            words = str(json.loads(said)["error"])
        except (KeyError, TypeError, ValueError):
            words = f"the native runner ended with code {code}: {said[:200]}"
        remote = self._program[2]
        return words.replace(remote, str(self.artifact)) if remote in words else f"{self.artifact}: {words}"


def _last_line(text: bytes) -> str:
    return (text.decode(errors="replace").strip().splitlines() or ["it said nothing"])[-1]


def _bytes_of(cases: Sequence[Tensors]) -> bytes:
    return b"".join(array.tobytes() for case in cases for array in case.values())
