"""The converted graph as integer engines mean it: what lies halfway between two steps goes up after a bilinear resize."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.fx import GraphModule

_NUDGE = 2.0**-10
"""Of a step: far less than the sixteenths that the weights of x2 are, far more than the errors of float32."""


def half_up(folded: GraphModule) -> GraphModule:
    """A copy of a converted graph for PyTorch to run, which rounds ties after a bilinear resize as XNNPACK's integers do.

    PyTorch rounds them to even. With the weights of x2, which are sixteenths, a thirtieth of all values lies halfway, so that its
    outputs and those of every phone would part without either being wrong. XNNPACK (``s8-ibilinear``) adds a half and shifts.

    Args:
        folded: of ``edge_dp.quantization.qat.convert``; itself unchanged.
    """
    graph_module = copy.deepcopy(folded)
    aten: Any = torch.ops.aten
    for node in list(graph_module.graph.nodes):
        if node.target is not aten.upsample_bilinear2d.vec:
            continue
        steps = {float(user.args[1]) for user in node.users if "quantize_per_tensor" in str(user.target)}
        if len(steps) != 1:  # left in float
            continue
        with graph_module.graph.inserting_after(node):
            nudged = graph_module.graph.call_function(aten.add.Tensor, (node, steps.pop() * _NUDGE))
        node.replace_all_uses_with(nudged, delete_user_cb=lambda user, nudged=nudged: user is not nudged)
    graph_module.recompile()
    return graph_module
