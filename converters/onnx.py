"""ONNX: a QDQ graph that ONNX Runtime turns into integer kernels, and a float one."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import torch

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Source

_MOVES_DATA = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "Transpose", "Reshape", "Slice", "Pad", "Concat", "Cast"}
)


class OnnxConverter(Converter):
    """int8 from the folded PT2E graph, fp32 from the float module."""

    format = "onnx"
    suffix = ".onnx"
    precisions: ClassVar = ("int8", "fp32")
    # ONNX Runtime's CPU has no rounding integer kernel for linear Resize: it interpolates in float between two conversions.
    float_kernels_allowed: ClassVar = frozenset({"Resize"})

    def _convert(self, source: Source, precision: str, path: Path) -> None:
        module = source.folded if precision == "int8" else source.module
        program = torch.onnx.export(
            module,
            source.example,
            input_names=source.input_names,
            output_names=source.output_names,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        path.write_bytes(_without_traces(program.model_proto).SerializeToString(deterministic=True))

    def _kernels(self, path: Path) -> Kernels:
        """From the graph as ONNX Runtime optimises it, since only that says which kernels run."""
        import onnx
        import onnxruntime

        from edge_dp.runtime.engines.onnxruntime import session_options

        with tempfile.TemporaryDirectory() as folder:
            options = session_options(threads=1)
            options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            graph = onnx.load(options.optimized_model_filepath).graph
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        for node in graph.node:
            if node.op_type not in _MOVES_DATA:
                (integer if node.op_type.startswith("QLinear") else floating)[node.op_type] += 1
        return Kernels(dict(integer), dict(floating))


def _without_traces(model: Any) -> Any:
    """Without the exporter's notes on every node: Python stack traces with the paths of the exporting machine."""
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    return model
