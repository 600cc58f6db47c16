"""The converted graph, layer by layer: what each layer gives for inputs that are handed to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from edge_dp.converters.blame.taps import Array
from edge_dp.quantization.graph import attribute, module_path
from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, dequantise, quantise
from edge_dp.quantization.qat import fake_quantised
from edge_dp.quantization.rules import CLAMPS

OUTPUT = "output"


@dataclass(frozen=True, slots=True)
class Activation:
    """One activation of the graph and the layer that computes it.

    name: unique in the graph; of an output of the network, the output's.
    module, operation: what computes it. The operation is ``quantize`` for an input of the network, and ``OUTPUT`` for what
    leaves it in real numbers; then ``quantisation`` is that of the activation before.
    inputs: names of the activations that it reads.
    quantisation: as trained; null for an output that was left in float.
    """

    name: str
    module: str
    operation: str
    inputs: tuple[str, ...]
    quantisation: Quantisation | None

    @property
    def step(self) -> float:
        """Of its quantisation; 1 where it has none."""
        return self.quantisation.scale if self.quantisation else 1.0

    def quantise(self, real: Array) -> Array:
        """As the integers of the trained quantisation."""
        assert self.quantisation is not None
        return np.asarray(quantise(torch.from_numpy(real), self.quantisation).numpy(), np.float32)

    def dequantise(self, integers: Array) -> Array:
        """What integers of the trained quantisation mean."""
        assert self.quantisation is not None
        values = torch.from_numpy(np.ascontiguousarray(integers)).to(torch.int32)
        return np.asarray(dequantise(Integers(values, self.quantisation)).numpy(), np.float32)


class LayerGraph:
    """A prepared graph with frozen ranges, of which any layer can be run by itself.

    Args:
        prepared: of ``quantization.qat.prepare``, with observed weights.
        weights: whether they are rounded to int8.
        prefix: of module paths, which a user's own network does not have.
        inputs, outputs: names of the graph's inputs and outputs, in order.

    Attributes:
        activations: in the order of the graph, the outputs of the network behind all others.
    """

    def __init__(
        self, prepared: GraphModule, *, weights: bool, prefix: str, inputs: Sequence[str], outputs: Sequence[str]
    ) -> None:
        self._graph, self._weights, self._prefix = prepared, weights, prefix
        placeholders = [node for node in prepared.graph.nodes if node.op == "placeholder"]
        found = list(fake_quantised(prepared))
        self._fake: dict[Node, Any] = {node: module for node, _, module in found}
        self._of_weights = {node for node, source, _ in found if source.op == "get_attr"}
        # nodes whose values are handed over, by the name under which they are
        self._given: dict[Node, str] = dict(zip(placeholders, inputs, strict=True))
        self._computed: dict[str, Node] = {}
        self.activations: list[Activation] = []
        for node, source, _ in found:
            if node not in self._of_weights:
                self._add_activation(node, source)
        returned: Any = prepared.graph.output_node().args[0]
        for name, node in zip(outputs, [returned] if isinstance(returned, Node) else returned, strict=True):
            self._add_output(name, node)

    def run(self, activation: Activation, given: Mapping[str, Array]) -> Array:
        """What the layer of an activation gives in real numbers, not yet quantised.

        Args:
            given: real values of the activations that it reads by name, or of the network's inputs by theirs.
        """
        with torch.no_grad():
            return np.asarray(self._value(self._computed[activation.name], given, {}).numpy(), np.float32)

    def _add_activation(self, node: Node, source: Node) -> None:
        operation, read = source, self._read(source)
        while operation.target in CLAMPS and isinstance(operation.args[0], Node):
            operation = operation.args[0]
        label, path = str(operation.target).removeprefix("aten.").split(".")[0], module_path(operation)
        if operation in self._given and operation.op == "placeholder":
            label, path = "quantize", self._given[operation]
        elif f"{path}." == self._prefix:  # the network itself
            path = operation.name
        path = path.removeprefix(self._prefix)
        self._add(Activation(node.name, path, label, read, _quantisation(self._fake[node])), source)
        self._given[node] = node.name

    def _add_output(self, name: str, source: Node) -> None:
        read = self._read(source)
        before = next((entry for entry in reversed(self.activations) if entry.name in read), None)
        path, quantisation = (before.module, before.quantisation) if before else (name, None)
        self._add(Activation(name, path, OUTPUT, read, quantisation), source)

    def _add(self, activation: Activation, source: Node) -> None:
        self._computed[activation.name] = source
        self.activations.append(activation)

    def _read(self, node: Node) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._names_before(node)))

    def _names_before(self, node: Node) -> Iterator[str]:
        if node in self._given:
            yield self._given[node]
        else:
            for source in node.all_input_nodes:
                yield from self._names_before(source)

    def _value(self, node: Node, given: Mapping[str, Array], known: dict[Node, Tensor]) -> Any:
        if node not in known:
            known[node] = self._compute(node, given, known)
        return known[node]

    def _compute(self, node: Node, given: Mapping[str, Array], known: dict[Node, Tensor]) -> Any:
        if node in self._given:
            return torch.from_numpy(np.ascontiguousarray(given[self._given[node]]))
        if node.op == "get_attr":
            return attribute(self._graph, node.target)
        if node in self._of_weights:
            weight = self._value(node.all_input_nodes[0], given, known)
            return self._fake[node](weight) if self._weights else weight
        target: Any = node.target
        arguments, options = map_arg((node.args, node.kwargs), lambda used: self._value(used, given, known))
        return target(*arguments, **options)


def _quantisation(fake: Any) -> Quantisation:
    return Quantisation(float(fake.scale), int(fake.zero_point), int(fake.quant_min), int(fake.quant_max))
