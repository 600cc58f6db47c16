"""What of a graph cannot be executed in integers everywhere, each with a reason and a way out."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node

from edge_dp.quantization.graph import aten, module_path, within
from edge_dp.quantization.portable import LINEAR_OPERATIONS
from edge_dp.quantization.rules import RULES


@dataclass(frozen=True, slots=True)
class Problem:
    """One operation that has no portable integer rule.

    module: path of the module it came from.
    operation: ATen name.
    """

    module: str
    operation: str
    reason: str
    suggestion: str

    def __str__(self) -> str:
        return (
            f"{self.module}: operation {self.operation} has no portable integer rule: {self.reason}. {self.suggestion}."
        )


def problems(graph: GraphModule, keep_float: Sequence[str] = ()) -> list[Problem]:
    """Every operation of a rewritten float graph that the quantiser would refuse, in the order of the graph.

    Args:
        graph: as ``qat.float_graph`` gives it.
        keep_float: modules that stay in float; nothing in them is a problem.
    """
    found = []
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            value = node.meta.get("val")
            if isinstance(value, torch.Tensor) and value.dtype != torch.float32 and node.users:
                reason = f"expected a float32 tensor, found {value.dtype}"
                found.append(Problem(node.name, "input", reason, "Convert it before the network"))
        elif node.op == "call_function" and node.target is not operator.getitem and not within(node, keep_float):
            reason, suggestion = _why_not(node)
            if reason:
                found.append(Problem(module_path(node), str(node.target), reason, suggestion))
    return found


def float_arithmetic(converted: GraphModule) -> list[Node]:
    """Operations of a converted graph that do not run between a dequantisation and a quantisation, in the order of the graph.

    An engine has to compute them in float. A ReLU fused with what is before it, and the bias of a layer, are no such thing.
    """
    return [
        node
        for node in converted.graph.nodes
        if node.op == "call_function" and not _converts(node) and not (_reads_integers(node) and _writes_integers(node))
    ]


def _converts(node: Node) -> bool:
    return node.op == "call_function" and "quantize_per_" in str(node.target)


def _reads_integers(node: Node) -> bool:
    biases = node.args[2:3] if node.target in LINEAR_OPERATIONS else ()
    sources = [source for source in node.all_input_nodes if source not in biases]
    return all(
        "dequantize" in str(s.target) or (node.target is aten.relu.default and _reads_integers(s)) for s in sources
    )


def _writes_integers(node: Node) -> bool:
    return all(
        (_converts(user) and "dequantize" not in str(user.target))
        or (user.target is aten.relu.default and _writes_integers(user))
        for user in node.users
    )


def _why_not(node: Node) -> tuple[str, str]:
    if node.target in RULES:
        reason, _, suggestion = (RULES[node.target].why_not(node) or "").partition(". ")
        return reason, suggestion or _KEEP_FLOAT
    return _REFUSED.get(node.target, ("engines have no integer kernel for it", _KEEP_FLOAT))


_KEEP_FLOAT = "Replace it, or keep its module in float with keep_float"
_CURVED = "it bends all along its range, engines approximate it differently"
_STATISTICS = "its statistics come from the data, in float"

_REFUSED: dict[Any, tuple[str, str]] = {
    aten.silu.default: (_CURVED, "Use hardswish"),
    aten.silu_.default: (_CURVED, "Use hardswish"),
    aten.gelu.default: (_CURVED, "Use relu or hardswish"),
    aten.elu.default: (_CURVED, "Use relu"),
    aten.mish.default: (_CURVED, "Use hardswish"),
    aten.tanh.default: (_CURVED, "Use hardtanh or a sigmoid"),
    aten.softplus.default: (_CURVED, "Use relu"),
    aten.leaky_relu.default: ("not every engine has it in int8", "Use relu"),
    aten.leaky_relu_.default: ("not every engine has it in int8", "Use relu"),
    aten.prelu.default: ("not every engine has it in int8", "Use relu"),
    aten.softmax.int: ("exponentials are in float", "Leave it out of the network, or keep its module in float"),
    aten.batch_norm.default: ("no convolution before it takes it in, and it is not on images", "Put it after a layer"),
    aten.layer_norm.default: (_STATISTICS, "Use BatchNorm2d, which folds into the convolution before it"),
    aten.group_norm.default: (_STATISTICS, "Use BatchNorm2d, which folds into the convolution before it"),
    aten.instance_norm.default: (_STATISTICS, "Use BatchNorm2d, which folds into the convolution before it"),
    aten.pixel_shuffle.default: ("engines have no integer kernel for it", "Use ConvTranspose2d or upsampling"),
    aten.grid_sampler.default: ("positions need more than 8 bits", "Leave it out of the network"),
    aten.matmul.default: ("both sides are computed", "Use nn.Linear, or keep its module in float with keep_float"),
    aten.conv1d.default: ("engines have images only", "Use Conv2d with a height of 1"),
    **dict.fromkeys(
        (aten.to.dtype, aten._to_copy.default),
        ("integers have one type", "Keep every tensor of the network in float32"),
    ),
    aten.conv3d.default: ("engines have images only", "Use Conv2d"),
    aten.avg_pool2d.default: (
        "a window over padding that does not count, or ceil_mode, divides by a varying number",
        "Use count_include_pad=True, ceil_mode=False",
    ),
    aten.adaptive_avg_pool2d.default: ("its windows differ in size", "Use an output size that divides the input size"),
    aten.adaptive_max_pool2d.default: ("its windows differ in size", "Use an output size that divides the input size"),
    aten._upsample_bilinear2d_aa.vec: ("engines have no antialiasing", "Use antialias=False"),
    aten.upsample_bicubic2d.vec: ("engines have no integer kernel for it", "Use bilinear"),
}
