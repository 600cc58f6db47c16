"""A PT2E quantiser whose annotations every engine can execute in integers.

Scheme: activations int8, affine, per tensor; weights int8, symmetric, per output channel, in [-127, 127]; biases int32 with
scale = input scale x weight scale, which engines derive themselves. ``rules`` says how each operation is quantised.
"""

from __future__ import annotations

from typing import Any

from torch.fx import GraphModule

from edge_dp.errors import ExportError
from edge_dp.quantization._torchao import FusedMovingAvgObsFakeQuantize, Quantizer
from edge_dp.quantization.graph import aten
from edge_dp.quantization.problems import problems
from edge_dp.quantization.rules import RULES, Choice
from edge_dp.quantization.scheme import joined


class PortableQuantizer(Quantizer):  # type: ignore[misc]  # torchao ships no types
    """Annotates a rewritten float graph.

    Args:
        choice: modules that depart from int8.

    Raises:
        ExportError: operations have no integer rule; all are named, with the modules they came from. Leaving them in float
            would put float arithmetic into an artifact that promises integers.
    """

    def __init__(self, choice: Choice | None = None) -> None:
        super().__init__()
        self._choice = choice or Choice()

    def annotate(self, model: GraphModule) -> GraphModule:
        """Put the scheme into the graph's nodes; PT2E calls this."""
        if found := problems(model, self._choice.keep_float):
            raise ExportError(" ".join(str(problem) for problem in found))
        for node in model.graph.nodes:
            is_fused = "quantization_annotation" in node.meta
            if node.op == "call_function" and not is_fused and not self._choice.keeps(node):
                RULES[node.target].annotate(node, self._choice)
        return model

    def prepare_obs_or_fq_callback(self, model: GraphModule, edge_or_node_to_obs_or_fq: dict[Any, Any]) -> None:
        """Give each group of concatenated tensors a range that covers all of them; PT2E calls this."""
        table = edge_or_node_to_obs_or_fq
        for node in model.graph.nodes:
            if node.target is aten.cat.default and isinstance(table.get(node), FusedMovingAvgObsFakeQuantize):
                old, new = table[node], joined(table[node])
                table.update({key: new for key, value in table.items() if value is old})

    def validate(self, model: GraphModule) -> None:
        """Nothing to add: ``annotate`` refuses what it cannot express."""
