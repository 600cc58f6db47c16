"""ONNX Runtime on the CPU: executes a ``.onnx``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import EngineError
from edge_dp.runtime.engines.base import Engine, Tensors


def session_options(threads: int) -> Any:
    """Options under which a QDQ graph becomes integer kernels: off by default for int8 on x86, on everywhere here."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


class OnnxRuntimeEngine(Engine):
    """Inputs and outputs are float32; an int8 graph quantises inside."""

    name = "onnxruntime"
    _session: Any

    def _activate(self) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(
            str(self.artifact), session_options(self.threads), providers=["CPUExecutionProvider"]
        )
        for kind, expected, found in (
            ("input", self.signature.inputs, self._session.get_inputs()),
            ("output", self.signature.outputs, self._session.get_outputs()),
        ):
            names, wanted = [tensor.name for tensor in found], [name for name, _ in expected]
            if sorted(names) != sorted(wanted):
                raise EngineError(f"{self.artifact}: expected {kind}s {wanted}, found {names}")

    def _infer(self, inputs: Tensors) -> list[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self._session.run(
            [name for name, _ in self.signature.outputs], dict(inputs)
        )
        return outputs

    def _deactivate(self) -> None:
        del self._session
