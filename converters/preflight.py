"""What can be refused before the slow work starts: weights, operations, types, control flow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_leaves

from edge_dp.converters.configs import FormatConfig
from edge_dp.converters.int16 import int16_problems
from edge_dp.converters.operations import OPERATIONS
from edge_dp.errors import ExportError
from edge_dp.quantization.graph import capture, module_path, within
from edge_dp.quantization.portable import make_portable
from edge_dp.quantization.problems import Problem, problems
from edge_dp.quantization.qat import check_paths
from edge_dp.quiet import quiet

if TYPE_CHECKING:
    from edge_dp.converters.source import Network


_RANDOM = ("aten.rand", "aten.normal", "aten.bernoulli", "aten.multinomial", "aten.poisson")
_CONTROL_FLOW = ("cond", "while_loop", "map_impl", "scan")


def check_weights(module: nn.Module) -> None:
    """Raise ExportError naming the first weight that holds NaN or infinity."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise ExportError(
                f"{name}: expected finite weights, found NaN or infinity. The training diverged; train again."
            )


def check_network(
    network: Network, configs: Sequence[FormatConfig], keep_float: Sequence[str] = (), int16: Sequence[str] = ()
) -> None:
    """Refuse what some artifact cannot hold, all of it in one error.

    Args:
        configs: the artifacts to write.
        keep_float: paths of modules that stay in float in integer artifacts.
        int16: paths of modules with 16-bit activations.

    Raises:
        InputError: a path is no module.
        ExportError: PyTorch cannot capture the network as one static graph, or a format has no integer kernel for an
            operation; each is named with its module, the reason and what to do.
    """
    check_paths(network.module.get_submodule(network.prefix.rstrip(".")), [*keep_float, *int16])
    try:
        with quiet():
            graph = capture(network.module, network.example)
    except ExportError as error:
        where, _, what = str(error).partition(": ")
        raise ExportError(f"{_path(network, where)}: {what}") from error
    _refuse(network, "", _not_static(graph))
    integer = [config for config in configs if config.reference != "float"]
    if not integer:
        return
    graph = make_portable(graph)
    kept, wide = ([f"{network.prefix}{path}" for path in paths] for paths in (keep_float, int16))
    found = problems(graph, kept) + [problem for config in integer for problem in _refused(graph, config, kept)]
    found += int16_problems(graph, integer, wide, kept)
    _refuse(network, " in integers", found)


def _refuse(network: Network, how: str, found: Sequence[Problem]) -> None:
    if found:
        lines = "\n".join(
            f"  {_path(network, problem.module)}: {problem.operation}: {problem.reason}. {problem.suggestion}."
            for problem in found
        )
        raise ExportError(f"{network.name}: cannot be exported{how}:\n{lines}")


def _path(network: Network, path: str) -> str:
    """As the network's owner writes it."""
    return f"{path}.".removeprefix(network.prefix).rstrip(".") or network.name


def _not_static(graph: GraphModule) -> list[Problem]:
    """Operations whose result is no tensor of fixed shape that follows from the inputs alone; the first of each chain."""
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        reason, suggestion, name = "", "", str(node.target)
        if name.startswith(_RANDOM) or ("dropout" in name and node.args[2]):
            reason, suggestion = "its result is random", "Leave it out in evaluation mode"
        elif name in _CONTROL_FLOW:
            reason, suggestion = "what it computes is known only when it runs", "Compute the same for all inputs"
        elif _is_dynamic(node) and not any(map(_is_dynamic, node.all_input_nodes)):
            reason, suggestion = "its size or value is known only when it runs", "Keep to tensors of fixed shape"
        if reason:
            found.append(Problem(module_path(node), name, reason, suggestion))
    return found + _not_computed(graph)


def _not_computed(graph: GraphModule) -> list[Problem]:
    """Outputs that are an input or another output: Core ML's converter cannot name them twice."""
    (results,) = next(node for node in graph.graph.nodes if node.op == "output").args
    return [
        Problem(node.name, "output", "it is an input, or the same as another output", "Leave it out")
        for index, node in enumerate(results)
        if node.op == "placeholder" or node in results[:index]
    ]


def _is_dynamic(node: Node) -> bool:
    values = tree_leaves(node.meta.get("val"))
    sizes = [size for value in values for size in (value.shape if isinstance(value, torch.Tensor) else [value])]
    return any(isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool) for size in sizes)


def _refused(graph: GraphModule, config: FormatConfig, kept: Sequence[str]) -> list[Problem]:
    found = []
    for node in graph.graph.nodes:
        if node.op != "call_function" or within(node, kept):
            continue
        for operation in OPERATIONS.values():
            if config.name in operation.refused and operation.matches(node):
                reason, _, suggestion = operation.refused[config.name].partition("; ")
                said = f"{config.name}: {reason}"
                found.append(
                    Problem(module_path(node), str(node.target), said, suggestion[:1].upper() + suggestion[1:])
                )
    return found
