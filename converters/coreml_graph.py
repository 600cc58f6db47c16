"""What Core ML's converter needs changed in an exported graph before it can read it."""

from __future__ import annotations

import torch
from torch.export import ExportedProgram

_aten = torch.ops.aten
_READ_BY_POSITION = frozenset({_aten.max_pool2d.default, _aten.avg_pool2d.default})
"""Operations whose arguments Core ML's converter counts; ``torch.export`` leaves out those at the end that are defaults."""


def complete_arguments(program: ExportedProgram) -> ExportedProgram:
    """Write out the default arguments of ``_READ_BY_POSITION``, in place; a pooling's stride is its window by default."""
    for node in program.graph.nodes:
        if node.op == "call_function" and node.target in _READ_BY_POSITION:
            schema = node.target._schema.arguments
            given = list(node.args)
            for argument in schema[len(given) :]:
                default = given[1] if argument.name == "stride" else argument.default_value
                given.append(node.kwargs.get(argument.name, default))
            node.args, node.kwargs = tuple(given), {}
    program.graph_module.recompile()
    return program


def exact(program: ExportedProgram) -> ExportedProgram:
    """What Core ML's converter would write as something else, in place.

    It adds 1e-4 to what it takes the reciprocal of, and leaves the factor (alpha) of a reversed subtraction out.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is _aten.reciprocal.default:
            node.target, node.args = _aten.pow.Tensor_Scalar, (node.args[0], -1)
        elif node.target in (_aten.rsub.Scalar, _aten.rsub.Tensor):
            alpha = node.args[2] if len(node.args) > 2 else node.kwargs.get("alpha", 1)
            if alpha != 1:
                with graph.inserting_before(node):
                    scaled = graph.call_function(_aten.mul.Scalar, (node.args[0], alpha))
                    scaled.meta["val"] = node.args[0].meta["val"]
                node.args, node.kwargs = (scaled, node.args[1]), {}
    program.graph_module.recompile()
    return program
