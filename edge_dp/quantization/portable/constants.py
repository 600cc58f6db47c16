"""What follows from constants alone, such as a grid of positions or a parametrised weight, becomes a constant itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node, map_arg

from edge_dp.quantization.graph import Editor, aten, attribute

_KEEPS_VALUES = {aten.detach_.default: aten.detach.default}
"""In place by name, for lists of numbers in ``forward``, but it writes no values."""


@torch.no_grad()
def compute_constants(editor: Editor) -> None:
    """Let one constant take the place of operations that read no input of the network; in place.

    What follows from parameters becomes a parameter, and is trained in their stead. A graph that writes into a constant is left
    as it is: what it reads of one depends on when.
    """
    values: dict[Node, Any] = {}
    trained: set[Node] = set()
    for node in editor.graph.nodes:
        sources = node.all_input_nodes
        if node.op == "get_attr":
            values[node] = attribute(editor.module, node.target)
            if isinstance(values[node], nn.Parameter):
                trained.add(node)
        elif node.op != "call_function":
            continue
        elif _writes(node) and any(source in values for source in sources[:1]):
            return
        elif all(source in values for source in sources) and not _is_random(node):
            arguments, named = map_arg((node.args, node.kwargs), values.__getitem__)
            operation = _KEEPS_VALUES.get(node.target, node.target)
            values[node] = operation(*arguments, **named)
            if operation is not aten.detach.default and not trained.isdisjoint(sources):
                trained.add(node)
    for node, value in values.items():
        if node.op == "call_function" and isinstance(value, Tensor) and not all(user in values for user in node.users):
            stored = value.contiguous()
            if node in trained and value.is_floating_point():
                constant = editor.parameter(node, f"portable_{node.name}", stored)
            else:
                constant = editor.constant(node, "constant", stored)
            editor.replace(node, constant)


def _writes(node: Node) -> bool:
    """Whether ``node`` writes into the tensor that it reads."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and node.target not in _KEEPS_VALUES


def _is_random(node: Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
