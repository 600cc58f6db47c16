"""ONNX: a QDQ graph that ONNX Runtime turns into integer kernels, and float ones of 32 and 16 bits."""

from __future__ import annotations

import copy
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import Converter, Quantisation, Source
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import FormatConfig, OnnxConfig
from edge_dp.errors import ExportError

OPSET = 20
"""The oldest that PyTorch's exporter writes without converting."""

_REORDERS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "ReorderInput", "ReorderOutput"})
_CONVERTS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast"})
_MOVES = frozenset({"Slice", "Pad", "Concat", "QLinearConcat", "Split", "Gather", "Expand", "DepthToSpace"})
_INTEGERS = frozenset({"int8", "uint8", "int32"})
_PROFILED_RUNS = 3


class OnnxConverter(Converter):
    """int8 from the folded PT2E graph, fp32 and fp16 from the float module; float32 at the border of all of them."""

    format = "onnx"
    suffix = ".onnx"

    def _convert(self, source: Source, config: FormatConfig, path: Path) -> None:
        assert isinstance(config, OnnxConfig)
        if config.integer:
            module: nn.Module = source.quantised.folded
        else:
            module = _HalfInside(source.module) if config.precision == "fp16" else source.module
        program = torch.onnx.export(
            module,
            source.example,
            input_names=source.input_names,
            output_names=source.output_names,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        if config.integer:
            from edge_dp.converters.onnx_integer import make_integer

            make_integer(program.model)
            if config.unsigned:
                from edge_dp.converters.onnx_unsigned import make_unsigned

                make_unsigned(program.model)
        model = program.model_proto
        _without_traces(model)
        model.metadata_props.add(key=CARD_KEY, value=source.card)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _kernels(self, path: Path, config: FormatConfig) -> Kernels:
        """From a run of the graph as ONNX Runtime optimised it: only that says which kernels run, and on which types."""
        integer: Counter[str] = Counter()
        floating: Counter[str] = Counter()
        times: Counter[str] = Counter()
        kernels = _profile(path)
        for kernel in kernels:
            if kernel.operation in _REORDERS | _CONVERTS:
                continue
            if kernel.operation not in _MOVES:
                (integer if kernel.integer else floating)[kernel.operation] += 1
            elif config.integer and not kernel.integer:
                floating[kernel.operation] += 1
            if not kernel.integer:
                times[kernel.operation] += kernel.microseconds
        total = sum(kernel.microseconds for kernel in kernels) or 1
        outside = {name: times[name] / total for name in floating} if config.integer else {}
        return Kernels(dict(integer), dict(floating), outside)

    def _activations(self, path: Path, config: FormatConfig) -> list[Quantisation]:
        import onnx
        from onnx.numpy_helper import to_array

        graph = onnx.load(path).graph
        constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
        constants |= {n.output[0]: to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}
        made_by = {output: node for node in graph.node for output in node.output}
        found = []
        for node in graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in constants:
                continue
            scale, zero_point = (constants[name] for name in node.input[1:3])
            unsigned = 128 if zero_point.dtype == "uint8" else 0
            stored = Quantisation(float(scale), int(zero_point) - unsigned)
            found.append(_of_the_subtrahend(stored) if _is_negated(node, made_by, constants) else stored)
        return found


class _HalfInside(nn.Module):
    """The module in half floats between float32 inputs and outputs.

    Raises:
        ExportError: a weight that a half float cannot hold.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        largest = torch.finfo(torch.half).max
        for name, value in module.state_dict().items():
            if value.is_floating_point() and value.numel() and float(value.abs().max()) > largest:
                raise ExportError(
                    f"{name}: expected weights within +-{largest:g} for fp16, found larger ones. Use fp32."
                )
        self.module = copy.deepcopy(module).half()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        result = self.module(*(x.half() for x in inputs))
        return tuple(y.float() for y in ((result,) if isinstance(result, Tensor) else result))


class _Kernel(NamedTuple):
    operation: str
    integer: bool
    microseconds: int


def _profile(path: Path) -> list[_Kernel]:
    """Each kernel that ONNX Runtime launches in one inference on zeros, with its time."""
    import numpy as np
    import onnxruntime

    from edge_dp.runtime.agent import session_options

    with tempfile.TemporaryDirectory() as folder:
        options = session_options(threads=1)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        zeros = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in session.get_inputs()}
        for _ in range(_PROFILED_RUNS):
            session.run(None, zeros)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels: dict[str, _Kernel] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            (kind,) = event["args"]["output_type_shape"][0] or {"": ()}
            operation, earlier = event["args"]["op_name"], kernels.get(event["name"])
            time = event["dur"] + (earlier.microseconds if earlier else 0)
            kernels[event["name"]] = _Kernel(operation, kind in _INTEGERS or operation == "QGemm", time)
    return list(kernels.values())


def _is_negated(node: Any, made_by: dict[str, Any], constants: dict[str, Any]) -> bool:
    """Whether it stores -b of a difference a - b, which the int8 graph computes as a sum."""
    store = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else node
    product = made_by.get(store.input[0]) if store is not None else None
    factor = made_by.get(product.input[1]) if product is not None and product.op_type == "Mul" else None
    return factor is not None and factor.input[0] in constants and constants[factor.input[0]].size == 1


def _of_the_subtrahend(negated: Quantisation) -> Quantisation:
    return Quantisation(negated.scale, -1 - negated.zero_point)


def _without_traces(model: Any) -> None:
    """Without the exporter's notes on every node: Python stack traces with the paths of the exporting machine."""
    for item in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
