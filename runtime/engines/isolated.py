"""Engines in a process of their own: one that crashes, hangs or takes all memory is an error, and the SDK goes on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.config import from_mapping
from edge_dp.errors import EdgeDpError, EngineError
from edge_dp.runtime.agent import Arrays
from edge_dp.runtime.engines.base import Engine, EngineState, Signature, Tensors, Timing
from edge_dp.runtime.engines.limits import Limits
from edge_dp.runtime.engines.place import Place
from edge_dp.runtime.engines.worker import Worker, WorkerError

_SLICE_S = 1.0
"""A timing run is asked for in pieces of this length, so that the limit for one request holds whatever their number."""


class IsolatedEngine(Engine):
    """Executes an artifact in an agent: here, in another Python environment, or on a device.

    Args:
        artifact, signature, threads: as of ``Engine``.
        name: of the engine.
        adapter: key in the agent's ``ADAPTERS``.
        options: of the adapter.
        place: where the agent runs.
        limits: of the process.
        worker: one that runs already and serves several engines, one after the other; it is left running. Its own process else.
    """

    def __init__(
        self,
        artifact: Path,
        signature: Signature,
        threads: int,
        *,
        name: str,
        adapter: str,
        options: Mapping[str, str],
        place: Place,
        limits: Limits,
        worker: Worker | None = None,
    ) -> None:
        super().__init__(artifact, signature, threads)
        self.name, self._adapter, self._options = name, adapter, dict(options)
        self._place, self._limits = place, limits
        self._shared, self._worker = worker, worker
        self._path = ""
        self._sent: Tensors = {}
        self._nanoseconds: list[int] = []
        self._instructions: list[int] = []

    @property
    def worker(self) -> Worker | None:
        """The process, while there is one."""
        return self._worker

    def _activate(self) -> None:
        self._deactivate()  # what a worker that died has left
        self._path = self._place.path_of(self.artifact)
        if self._shared is None:
            self._worker = self._place.start()
        border = self.signature
        request = {
            "op": "load",
            "engine": self._adapter,
            "path": self._path,
            "inputs": border.inputs,
            "outputs": border.outputs,
            "threads": self.threads,
            "options": self._options,
            "memory_bytes": self._limits.memory_bytes,
        }
        try:
            self._ask(request)
        except EngineError:
            self._deactivate()
            raise

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        reply, outputs = self._ask({"op": "infer"}, inputs)
        self._nanoseconds += reply["nanoseconds"]
        self._instructions += reply["instructions"]
        return list(outputs.values())

    def infer_all(self, cases: Sequence[Mapping[str, NDArray[np.float32]]]) -> list[Tensors]:  # noqa: D102
        self._nanoseconds, self._instructions = [], []
        return super().infer_all(cases)

    @property
    def last_run(self) -> Timing:  # noqa: D102
        return Timing(tuple(self._nanoseconds), tuple(self._instructions))

    def time(self, inputs: Mapping[str, NDArray[np.float32]], count: int) -> Timing:
        """Run ``count`` times on the same inputs, by the worker's clock and around the engine alone; errors as of ``infer``."""
        checked = self._check_inputs(inputs)
        nanoseconds: list[int] = []
        instructions: list[int] = []
        while len(nanoseconds) < count:
            request = {"op": "time", "count": count - len(nanoseconds), "seconds": _SLICE_S}
            reply, _ = self._ask(request, checked)
            with self._checked_reply():
                nanoseconds += [int(value) for value in reply["nanoseconds"]]
                instructions += [int(value) for value in reply["instructions"]]
                if not reply["nanoseconds"]:
                    raise ValueError("no inference was timed")
        return Timing(tuple(nanoseconds), tuple(instructions))

    def state(self) -> EngineState:
        """Of the worker and its machine; EngineError where the engine is not active."""
        if not self._active:
            raise EngineError(f"{self.artifact}: {self.name} is not active; call activate() or use 'with engine:'")
        reply, _ = self._ask({"op": "state"})
        with self._checked_reply():
            return from_mapping(EngineState, reply, "state", strict=False)

    def _deactivate(self) -> None:
        self._sent = {}
        if self._worker is not None and self._worker is not self._shared:
            self._worker.close()
            self._worker = None
        else:
            with contextlib.suppress(EngineError):  # it has ended: nothing is left to free
                self._ask({"op": "unload"})

    def _ask(self, request: Mapping[str, Any], inputs: Tensors | None = None) -> tuple[dict[str, Any], Arrays]:
        """The agent's reply; inputs that it has already are not sent again."""
        if self._worker is None or not self._worker.alive:
            raise EngineError(f"{self.artifact}: the worker of {self.name} has ended; activate the engine again")
        new = inputs if inputs is not None and not _same_bits(inputs, self._sent) else {}
        most = sum(4 * math.prod(shape) for _, shape in self.signature.outputs)
        seconds = self._limits.seconds + float(request.get("seconds", 0.0))
        try:
            reply, arrays = self._worker.ask(request, new, seconds, most)
        except WorkerError as error:
            doing = f"{self.name} on {self._place.name}, in {request['op']}"
            memory = self._limits.memory_bytes
            allowed = "" if memory is None else f" (it may take {memory >> 20} MiB of memory)"
            raise EngineError(f"{self.artifact}: the worker of {doing}{allowed}: {error}") from None
        if new:
            self._sent = {name: array.copy() for name, array in new.items()}
        if "error" in reply:
            words = str(reply["error"])
            by = f"{self.name} " if reply.get("by_engine") else ""
            raise EngineError(f"{self.artifact}: {by}{words.replace(self._path, str(self.artifact))}")
        return reply, arrays

    @contextlib.contextmanager
    def _checked_reply(self) -> Iterator[None]:
        """Turn what goes wrong with a reply, which may come from a device, into an EngineError."""
        try:
            yield
        except (KeyError, TypeError, ValueError, EdgeDpError) as error:
            words = f"the worker of {self.name} on {self._place.name} gave no proper answer: {error}"
            raise EngineError(f"{self.artifact}: {words}") from error


def _same_bits(first: Tensors, second: Tensors) -> bool:
    """Whether both hold the same names and bits; a NaN equals itself, and 0 does not equal -0."""
    return first.keys() == second.keys() and all(
        np.array_equal(first[name].view(np.uint32), second[name].view(np.uint32)) for name in first
    )
