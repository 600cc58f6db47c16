"""The integers of an int8 ONNX graph shifted by 128: uint8 activations, for which x86 has the faster instructions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

_WEIGHTED = frozenset({"Conv", "Gemm", "MatMul", "Transpose"})


def make_unsigned(model: ir.Model) -> None:
    """Turn every activation q of ``model`` into q + 128, in place; zero points alike, so that real numbers stay what they are.

    Weights stay int8 and biases int32. Constants that meet activations (limits, borders, operands) are shifted like them.
    Each weight gets a zero point of its own: ONNX Runtime's session.x64quantprecision cannot load a graph that shares them.

    Args:
        model: int8 activations and weights between quantise and dequantise nodes.
    """
    shifted: dict[str, ir.Value] = {}
    for node in list(model.graph):
        if _dequantises_weights(node):
            _own_zero_point(model.graph, node)
            continue
        for index, value in enumerate(node.inputs):
            stored = ir.convenience.get_const_tensor(value) if value is not None else None
            if value is None or stored is None or stored.dtype != ir.DataType.INT8:
                continue
            name = f"{value.name}_unsigned"
            if name not in shifted:
                array = (stored.numpy().astype(np.int16) + 128).astype(np.uint8)
                shifted[name] = _constant(model.graph, name, ir.tensor(array))
            node.replace_input_with(index, shifted[name])
        for output in node.outputs:
            if output.dtype == ir.DataType.INT8:
                output.dtype = ir.DataType.UINT8
    RemoveUnusedNodesPass()(model)


def _dequantises_weights(node: ir.Node) -> bool:
    constant = node.op_type == "DequantizeLinear" and ir.convenience.get_const_tensor(node.inputs[0]) is not None
    return constant and all(user.op_type in _WEIGHTED for user, _ in node.outputs[0].uses())


def _own_zero_point(graph: ir.Graph, node: ir.Node) -> None:
    stored = ir.convenience.get_const_tensor(node.inputs[2])
    assert stored is not None
    name = f"{node.outputs[0].name}_zero_point"
    node.replace_input_with(2, _constant(graph, name, ir.tensor(stored.numpy())))


def _constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=name, const_value=tensor)
    value.shape, value.dtype = ir.Shape(tensor.shape), tensor.dtype
    graph.register_initializer(value)
    return value
