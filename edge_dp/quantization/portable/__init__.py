"""Rewrites of a float graph, so that every engine has an integer kernel for what is left.

Each rewrite computes what it replaces, up to float rounding, from operations that all engines have in int8. What cannot be
rewritten stays as it is; ``problems`` then says why.
"""

from __future__ import annotations

from torch.fx import GraphModule

from edge_dp.quantization.graph import Editor
from edge_dp.quantization.portable.constants import compute_constants
from edge_dp.quantization.portable.folding import FOLDS, LINEAR_OPERATIONS
from edge_dp.quantization.portable.integer import INTEGER
from edge_dp.quantization.portable.plain import PLAIN

__all__ = ["LINEAR_OPERATIONS", "make_portable"]


def make_portable(graph: GraphModule) -> GraphModule:
    """Rewrite ``graph`` in place: constants computed, plain forms, batch-norm folded, then what engines lack.

    A graph that holds nothing to rewrite keeps its nodes and their names.
    """
    editor = Editor(graph)
    compute_constants(editor)
    editor.finish()
    for rewrites in (PLAIN, FOLDS, INTEGER):
        for node in list(editor.graph.nodes):
            if node.op == "call_function" and node.target in rewrites:
                rewrites[node.target](editor, node)
        editor.finish()
    return graph
