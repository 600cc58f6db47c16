"""Modules with 16-bit activations among int8 ones: who can execute them, and what litert_torch cannot write of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import GraphModule, Node

from edge_dp.converters.configs import FormatConfig
from edge_dp.converters.operations import OPERATIONS
from edge_dp.quantization.graph import aten, module_path, shape, within
from edge_dp.quantization.problems import Problem

_ONLY = "tflite-int8"


def int16_problems(
    graph: GraphModule, configs: Sequence[FormatConfig], int16: Sequence[str], keep_float: Sequence[str] = ()
) -> list[Problem]:
    """What keeps modules from having 16-bit activations, in an artifact or at all.

    Args:
        graph: as ``qat.float_graph`` gives it.
        configs: the artifacts to write.
        int16: paths of the modules.
        keep_float: paths of modules that stay in float, also within those.
    """
    if not int16:
        return []
    found = [
        Problem(", ".join(int16), config.name, *_why_not_format(config))
        for config in configs
        if (config.integer or config.precision == "int16x8") and not config.name.startswith(_ONLY)
    ]
    for node in graph.graph.nodes:
        if node.op == "call_function" and within(node, int16) and not within(node, keep_float):
            reason, suggestion = _why_not(node)
            if reason:
                found.append(Problem(module_path(node), str(node.target), reason, suggestion))
    return found


def _why_not_format(config: FormatConfig) -> tuple[str, str]:
    if config.precision == "int16x8":
        return "all its activations have 16 bits", f"Ask for {_ONLY}, or for it without int16"
    return "16-bit activations run in TFLite alone", "Use keep_float"


def _why_not(node: Node) -> tuple[str, str]:
    if node.target is aten.cat.default:
        return "litert_torch cannot write a concatenation in 16 bits", "Keep it out of the module with 16 bits"
    is_sum = node.target in (aten.add.Tensor, aten.sub.Tensor)
    if is_sum and len({shape(source) for source in node.all_input_nodes}) > 1:
        return (
            "litert_torch cannot write a sum of different shapes in 16 bits",
            "Keep it out of the module with 16 bits",
        )
    if OPERATIONS["bilinear to any size"].matches(node):
        return "LiteRT's 16-bit kernel is off by up to 2 int8 steps", "Use a whole factor"
    return "", ""
