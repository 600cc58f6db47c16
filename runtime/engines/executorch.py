"""ExecuTorch: executes a ``.pte`` with the runtime that comes in the executorch wheel."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import EngineError
from edge_dp.runtime.engines.base import Engine, Tensors
from edge_dp.runtime.engines.torch_threads import torch_threads


class ExecuTorchEngine(Engine):
    """Inputs and outputs are float32; an int8 program quantises inside."""

    name = "executorch"
    _method: Any

    def _activate(self) -> None:
        import executorch.kernels.quantized  # noqa: F401  # registers the quantise operations at a program's border
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime, Verification

        # One thread pool serves the whole process and is resized for whoever activates last.
        portable_lib._unsafe_reset_threadpool(self.threads)
        program = Runtime.get().load_program(self.artifact, verification=Verification.InternalConsistency)
        method = program.load_method("forward")
        if method is None:
            raise EngineError(f"{self.artifact}: has no method 'forward'")
        self._method = method

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        import torch

        # The bindings copy through torch, whose thread pool then spins for milliseconds on the cores that XNNPACK wants.
        with torch_threads(1):
            outputs = self._method.execute([torch.from_numpy(array) for array in inputs.values()])
        return [output.detach().numpy().astype(np.float32, copy=True) for output in outputs]

    def _deactivate(self) -> None:
        del self._method
