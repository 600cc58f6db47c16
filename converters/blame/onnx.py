"""Taps of an ``.onnx``: its integers between quantise and dequantise nodes, as more outputs; of a float graph, every tensor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_dp.converters.blame.taps import Tap, Tapped, tap_name
from edge_dp.runtime.engines.base import Signature

_UNSIGNED = 128


def tap(artifact: Path, path: Path, signature: Signature) -> Tapped:
    """Write ``artifact`` to ``path`` with every activation as an output.

    A float tensor inside an integer graph is none: to show it, ONNX Runtime would compute around it in float.
    """
    import onnx
    from onnx import TensorProto, helper, shape_inference

    model = shape_inference.infer_shapes(onnx.load(artifact))
    graph = model.graph
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
    taps: list[Tap] = []
    for tensor, scale, zero_point, offset in list(_activations(graph)):
        kind = types.get(tensor)
        if kind is None or (scale is None and kind.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16)):
            continue
        shape = tuple(size.dim_value for size in kind.shape.dim)
        name = tap_name(len(taps))
        graph.node.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        taps.append(Tap(name, tensor, shape, scale, zero_point, offset))
    path.write_bytes(model.SerializeToString(deterministic=True))
    return Tapped.of(signature, taps)


def _activations(graph: Any) -> Iterator[tuple[str, float | None, int, int]]:
    """Tensor, scale, zero point and offset of each; no scale in a float graph."""
    from onnx.numpy_helper import to_array

    constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    constants |= {n.output[0]: to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"}
    integers: dict[str, tuple[float, int, int]] = {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or node.input[0] in constants:
            continue
        tensor = (node.output if node.op_type == "QuantizeLinear" else node.input)[0]
        scale, zero_point = (constants[name] for name in node.input[1:3])
        offset = _UNSIGNED if zero_point.dtype == "uint8" else 0
        # the first wins: as it was written, not as it is read
        integers.setdefault(tensor, (float(scale), int(zero_point) - offset, offset))
    for tensor, (scale, zero_point, offset) in integers.items():
        yield tensor, scale, zero_point, offset
    if not integers:
        for node in graph.node:
            for tensor in node.output:
                yield tensor, None, 0, 0
