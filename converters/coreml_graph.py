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
