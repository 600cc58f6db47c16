"""The contract between the runtime and whatever executes an artifact.

An engine is activated once, infers many times and is deactivated; ``with engine:`` does the first and last. Inputs and
outputs are always float32 arrays in the model's own units, keyed by tensor name: an artifact with integer tensors at its
border is quantised and dequantised by its engine, with the parameters stored in the artifact.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import EdgeDpError, EngineError
from edge_dp.runtime.agent import AdapterError, one_line

Tensors = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Timing:
    """Inferences in a row, none left out.

    nanoseconds: of each, by the clock of the machine that ran it, transfer of inputs and outputs excluded.
    instructions: user instructions of each, where the machine counts them; else empty.
    """

    nanoseconds: tuple[int, ...]
    instructions: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine and the machine under it say of themselves; null where they do not tell.

    version: of the engine, as its package calls it.
    load_ns: from nothing to ready for the first inference.
    peak_memory_bytes: resident, of the process that runs the engine, its largest so far.
    temperature_c, frequency_mhz: of the processor, now.
    affinity: cores that the process may use.
    placement: number of operations by the processor they are planned for, as the engine calls it.
    """

    version: str | None = None
    load_ns: int = 0
    peak_memory_bytes: int | None = None
    temperature_c: float | None = None
    frequency_mhz: float | None = None
    affinity: tuple[int, ...] = ()
    placement: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signature:
    """Names and shapes at the border of an artifact, in order. The manifest is their only source."""

    inputs: tuple[tuple[str, tuple[int, ...]], ...]
    outputs: tuple[tuple[str, tuple[int, ...]], ...]


class Engine(ABC):
    """Executes one artifact. Not thread-safe: one engine object serves one thread at a time.

    Args:
        artifact: the file, or for Core ML the ``.mlpackage`` folder.
        signature: names and shapes of the inputs and outputs.
        threads: CPU threads for one inference, at least 1.

    Subclasses implement ``_activate``, ``_infer`` and ``_deactivate``; the public methods own every check.
    """

    name: str

    def __init__(self, artifact: Path, signature: Signature, threads: int = 1) -> None:
        if threads < 1:
            raise EngineError(f"{artifact}: expected at least 1 thread, found {threads}")
        self.artifact = artifact
        self.signature = signature
        self.threads = threads
        self._active = False
        self._load_ns = 0

    @abstractmethod
    def _activate(self) -> None:
        """Load the artifact and allocate what inference needs."""

    @abstractmethod
    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        """Outputs in the order of the signature. ``inputs`` are checked and contiguous."""

    def _deactivate(self) -> None:  # noqa: B027  # an engine may have nothing to free
        """Free what ``_activate`` took."""

    def activate(self) -> None:
        """Load the artifact.

        Raises:
            EngineError: the engine cannot load it; the message carries the engine's own words.
            DeviceError: the device that is to run it has gone, or has no room for it.
        """
        if not self.artifact.exists():
            raise EngineError(f"{self.artifact}: no such artifact")
        start = time.perf_counter_ns()
        with self._one_kind_of_error("cannot load it"):
            self._activate()
        self._load_ns = time.perf_counter_ns() - start
        self._active = True

    def infer(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        """Run once.

        Args:
            inputs: float32 arrays by name, shaped as in the signature.

        Returns:
            float32 arrays by name. Fresh arrays: a later call does not overwrite them.

        Raises:
            EngineError: not active, a missing or surplus input, a wrong shape, or a failure inside the engine.
        """
        checked = self._check_inputs(inputs)
        with self._one_kind_of_error("failed while running"):
            outputs = self._infer(checked)
        return self._named_outputs(outputs)

    def infer_all(self, cases: Sequence[Mapping[str, NDArray[np.float32]]]) -> list[Tensors]:
        """Run once for each case, in order; errors as of ``infer``. An engine behind a slow line sends them all at once."""
        return [self.infer(case) for case in cases]

    @property
    def last_run(self) -> Timing:
        """Of each case of the last ``infer_all``, where the engine tells; in the first it may still allocate."""
        return Timing(())

    def time(self, inputs: Mapping[str, NDArray[np.float32]], count: int) -> Timing:
        """Run ``count`` times on the same inputs, outputs dropped; errors as of ``infer``."""
        nanoseconds = []
        for _ in range(count):
            start = time.perf_counter_ns()
            self.infer(inputs)
            nanoseconds.append(time.perf_counter_ns() - start)
        return Timing(tuple(nanoseconds))

    def state(self) -> EngineState:
        """What is known of the engine and its machine just now."""
        return EngineState(load_ns=self._load_ns)

    def deactivate(self) -> None:
        """Free the engine's resources. Calling it twice does no harm."""
        if self._active:
            self._deactivate()
            self._active = False

    @contextmanager
    def _one_kind_of_error(self, what: str) -> Iterator[None]:
        """Turn whatever an engine raises into EngineErrors that name the artifact; the SDK's own pass."""
        try:
            yield
        except EdgeDpError:
            raise
        except AdapterError as error:
            raise EngineError(f"{self.artifact}: {error}") from error
        except Exception as error:
            raise EngineError(f"{self.artifact}: {self.name} {what}: {one_line(error)}") from error

    def _check_inputs(self, inputs: Mapping[str, NDArray[np.float32]]) -> Tensors:
        """``inputs`` in the order of the signature, contiguous; EngineError as of ``infer``."""
        if not self._active:
            raise EngineError(f"{self.artifact}: {self.name} is not active; call activate() or use 'with engine:'")
        checked: Tensors = {}
        for name, shape in self.signature.inputs:
            if name not in inputs:
                raise EngineError(f"{self.artifact}: input {name!r} is missing, found {sorted(inputs)}")
            array = np.asarray(inputs[name], dtype=np.float32, order="C")
            if array.shape != shape:
                raise EngineError(f"{self.artifact}: input {name!r}: expected shape {shape}, found {array.shape}")
            checked[name] = array
        if surplus := sorted(set(inputs) - set(checked)):
            raise EngineError(f"{self.artifact}: unknown inputs {surplus}, expected {sorted(checked)}")
        return checked

    def _named_outputs(self, outputs: Sequence[NDArray[np.float32]]) -> Tensors:
        """Outputs by name; EngineError where their number or a shape is not the signature's."""
        if len(outputs) != len(self.signature.outputs):
            raise EngineError(f"{self.artifact}: expected {len(self.signature.outputs)} outputs, found {len(outputs)}")
        result: Tensors = {}
        for (name, shape), output in zip(self.signature.outputs, outputs, strict=True):
            if output.shape != shape:
                raise EngineError(f"{self.artifact}: output {name!r}: expected shape {shape}, found {output.shape}")
            result[name] = output
        return result

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.deactivate()
