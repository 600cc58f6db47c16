"""Engines in the SDK's own process: nothing is copied, and nothing protects from an engine that crashes."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import EngineError
from edge_dp.quiet import quiet
from edge_dp.runtime.agent import ADAPTERS, Adapter, InstructionCounter, machine_state, measure
from edge_dp.runtime.engines.base import Engine, EngineState, Signature, Tensors, Timing


class InProcessEngine(Engine):
    """Executes an artifact here.

    Args:
        artifact, signature, threads: as of ``Engine``.
        name: of the engine.
        adapter: key in ``ADAPTERS``.
        options: of the adapter.
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
    ) -> None:
        super().__init__(artifact, signature, threads)
        self.name, self._kind, self._options = name, ADAPTERS[adapter], options
        self._adapter: Adapter | None = None
        self._counter: InstructionCounter | None = None
        self._adapter_ns = 0

    def _activate(self) -> None:
        self._counter = InstructionCounter()  # before the engine starts its threads, so that they count
        with quiet():
            for module in self._kind.modules:
                importlib.import_module(module)  # not part of loading
            start = time.perf_counter_ns()
            border = self.signature
            self._adapter = self._kind(str(self.artifact), border.inputs, border.outputs, self.threads, self._options)
            self._adapter_ns = time.perf_counter_ns() - start

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        assert self._adapter is not None  # the base class runs active engines only
        return self._adapter.run(inputs)

    def time(self, inputs: Mapping[str, NDArray[np.float32]], count: int) -> Timing:
        """Run ``count`` times on the same inputs, outputs dropped; errors as of ``infer``."""
        checked = self._check_inputs(inputs)
        assert self._adapter is not None and self._counter is not None
        with self._one_kind_of_error("failed while running"):
            nanoseconds, instructions = measure(self._adapter, checked, self._counter, count)
        return Timing(tuple(nanoseconds), tuple(instructions))

    def state(self) -> EngineState:
        """Of this process, whatever else it has done besides; EngineError where the engine is not active."""
        adapter = self._adapter
        if adapter is None:
            raise EngineError(f"{self.artifact}: {self.name} is not active; call activate() or use 'with engine:'")
        machine = machine_state()
        placement, version = adapter.placement(), adapter.version()
        return EngineState(version=version, load_ns=self._adapter_ns, placement=placement, **machine)

    def _deactivate(self) -> None:
        self._adapter = None
        if self._counter is not None:
            self._counter.close()
