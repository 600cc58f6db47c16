"""A PT2E quantiser whose annotations every engine can execute in integers.

Scheme: activations int8, affine, per tensor; weights int8, symmetric, per output channel, in [-127, 127]; biases int32 with
scale = input scale x weight scale, which engines derive themselves. A ReLU shares the range of the convolution or addition
before it; an upsampling shares the range of its input, so that it moves integers and rescales nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from edge_dp.errors import ExportError
from edge_dp.quantization._torchao import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
    SharedQuantizationSpec,
)

_SMALLEST_SCALE = 2.0**-12  # XNNPACK's requantisation loses precision below it

ACTIVATION = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-128,
    quant_max=127,
    qscheme=torch.per_tensor_affine,
    observer_or_fake_quant_ctr=FusedMovingAvgObsFakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, eps=_SMALLEST_SCALE
    ),
)


class _HalfScaleObserver(MovingAveragePerChannelMinMaxObserver):  # type: ignore[misc]  # torchao ships no types
    """Per-channel range of the weights as they are now, with scales that a half float holds exactly.

    No averaging, so that a checkpoint's weights give their ranges back. Exact halves, so that Core ML's fp16 programs hold
    the same weights: 2^-12 of gain error per channel would be systematic.
    """

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super().calculate_qparams()
        return scale.half().float(), zero_point


WEIGHT = QuantizationSpec(
    dtype=torch.int8,
    quant_min=-127,
    quant_max=127,
    qscheme=torch.per_channel_symmetric,
    ch_axis=0,
    observer_or_fake_quant_ctr=FakeQuantize.with_args(
        observer=_HalfScaleObserver, averaging_constant=1.0, eps=_SMALLEST_SCALE
    ),
)

_aten = torch.ops.aten


def _mark(node: Node, inputs: dict[Node, Any], output: Any | None) -> None:
    node.meta["quantization_annotation"] = QuantizationAnnotation(
        input_qspec_map=inputs, output_qspec=output, _annotated=True
    )


def _clamp_after(node: Node) -> Node | None:
    """The ReLU that is the only user of ``node``: engines fuse the two, so only its output has a range."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is _aten.relu.default else None


def _node(argument: Any) -> Node:
    assert isinstance(argument, Node)
    return argument


def _with_clamp(node: Node, inputs: dict[Node, Any]) -> None:
    relu = _clamp_after(node)
    _mark(node, inputs, None if relu else ACTIVATION)
    if relu:
        _mark(relu, {}, ACTIVATION)


def _convolution(node: Node) -> None:
    _with_clamp(node, {_node(node.args[0]): ACTIVATION, _node(node.args[1]): WEIGHT})


def _addition(node: Node) -> None:
    if not all(isinstance(argument, Node) for argument in node.args[:2]):
        raise ExportError(f"{_module_path(node)}: addition of a number has no portable integer rule; add it to a bias")
    _with_clamp(node, {_node(argument): ACTIVATION for argument in node.args[:2]})


def _same_range(node: Node) -> None:
    source = _node(node.args[0])
    _mark(node, {source: ACTIVATION}, SharedQuantizationSpec((source, node)))


_RULES: dict[Any, Callable[[Node], None]] = {
    _aten.conv2d.default: _convolution,
    _aten.add.Tensor: _addition,
    _aten.relu.default: _same_range,  # reached only where it could not be fused with what is before it
    _aten.upsample_bilinear2d.vec: _same_range,
}


class PortableQuantizer(Quantizer):  # type: ignore[misc]  # torchao ships no types
    """Annotates a graph exported by ``torch.export``; batch-norm must be folded before.

    Raises:
        ExportError: an operation has no integer rule, named with the module it came from. Leaving it in float would put
            float arithmetic into an artifact that promises integers.
    """

    def annotate(self, model: GraphModule) -> GraphModule:
        """Put the scheme into the graph's nodes; PT2E calls this."""
        for node in model.graph.nodes:
            if node.op != "call_function" or "quantization_annotation" in node.meta:
                continue
            if node.target not in _RULES:
                raise ExportError(
                    f"{_module_path(node)}: operation {node.target} has no portable integer rule; "
                    f"known are {', '.join(sorted(str(target) for target in _RULES))}"
                )
            _RULES[node.target](node)
        return model

    def validate(self, model: GraphModule) -> None:
        """Nothing to add: ``annotate`` refuses what it cannot express."""


def _module_path(node: Node) -> str:
    stack = node.meta.get("nn_module_stack")
    path = str(list(stack.values())[-1][0]) if stack else ""
    return path or node.name
