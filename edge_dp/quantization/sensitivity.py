"""What the quantisation of each layer costs on a metric, so that a loss is pinned to the layer that made it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from edge_dp.quantization.graph import aten, module_path
from edge_dp.quantization.qat import fake_quantised
from edge_dp.quantization.rules import CLAMPS, moves_data

Network = Callable[..., Any]
"""Takes the inputs, returns what the network returns."""


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One layer: its weights and its output activation.

    tensor: name of the activation, as in the table of ranges.
    module: path of the module that computes it; the input's name for an input.
    around: paths of the modules that clamp, move or take it. It stays in float only where all of them and ``module`` do.
    alone: the metric with this layer quantised and all others in float.
    spared: the metric with this layer in float and all others quantised.
    """

    tensor: str
    module: str
    around: tuple[str, ...]
    alone: float
    spared: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """The metric of the float and of the quantised network, and each layer's part in the difference, the largest first."""

    floating: float
    quantised: float
    layers: tuple[LayerCost, ...]


def sensitivity(
    prepared: GraphModule,
    metric: Callable[[Network], float],
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Sensitivity:
    """Measure each layer's quantisation alone, and the network's without it.

    Args:
        prepared: with frozen ranges and observed weights; left as it is.
        metric: of a network, which it calls as often as it likes with the inputs of ``prepared``; without randomness.
        progress: called with the number of measurements done and in all, 2 per layer and 2.

    Returns:
        Layers by how far ``alone`` is from ``floating``, the largest first.
    """
    layers = _layers(prepared)
    everything = frozenset(node for nodes in layers.values() for node in nodes)
    total, done = 2 * len(layers) + 2, 0

    def measure(quantised: frozenset[Node]) -> float:
        nonlocal done
        with torch.no_grad():
            value = float(metric(PartlyQuantised(prepared, quantised).run))
        done += 1
        progress(done, total)
        return value

    floating, quantised = measure(frozenset()), measure(everything)
    costs = [
        LayerCost(
            tensor,
            module_path(layer),
            _around(layer, layers[tensor, layer]),
            measure(frozenset(layers[tensor, layer])),
            measure(everything - layers[tensor, layer]),
        )
        for tensor, layer in layers
    ]
    costs.sort(key=lambda cost: -abs(cost.alone - floating))
    return Sensitivity(floating, quantised, tuple(costs))


class PartlyQuantised(Interpreter):
    """Runs a prepared graph with some of its fake quantisation only.

    Args:
        prepared: with frozen ranges and observed weights.
        quantised: those nodes of ``fake_quantised`` that round; the others pass on what they get.
    """

    def __init__(self, prepared: GraphModule, quantised: frozenset[Node]) -> None:
        super().__init__(prepared)
        self._fake = {node for node, _, _ in fake_quantised(prepared)}
        self._quantised = quantised

    def run_node(self, n: Node) -> Any:
        """The value of ``n``."""
        if n in self._fake and n not in self._quantised:
            return self.env[n.args[0]]  # type: ignore[index]
        return super().run_node(n)


def _layers(prepared: GraphModule) -> dict[tuple[str, Node], set[Node]]:
    """Fake quantisation nodes of each layer, by the layer's activation and the node that computes it."""
    owner: dict[Node, Node] = {}
    names: dict[Node, str] = {}
    nodes: dict[Node, set[Node]] = {}
    fake = {node for node, _, _ in fake_quantised(prepared)}
    for node, source, _ in fake_quantised(prepared):
        if source.op == "get_attr":
            layer = next(iter(node.users))
        else:
            layer = _computes(source, fake, owner)
            names.setdefault(layer, source.name)
        owner[node] = layer
        nodes.setdefault(layer, set()).add(node)
    return {(names.get(layer, layer.name), layer): found for layer, found in nodes.items()}


def _around(layer: Node, fake: set[Node]) -> tuple[str, ...]:
    """Modules but the layer's own that the fake quantisation nodes of its activation lie between."""
    beside = {neighbour for node in fake for neighbour in (*node.all_input_nodes, *node.users)}
    paths = {module_path(node) for node in beside if node.op == "call_function"}
    return tuple(sorted(paths - {module_path(layer)}))


def _computes(source: Node, fake: set[Node], owner: dict[Node, Node]) -> Node:
    """The node whose arithmetic made ``source``: back over fused clamps, data movement and requantisation."""
    while source in fake or source.target in CLAMPS or (moves_data(source) and source.target is not aten.cat.default):
        if source in owner:
            return owner[source]
        before = source.args[0]
        assert isinstance(before, Node)
        if before.op == "placeholder":
            return before
        source = before
    return source
