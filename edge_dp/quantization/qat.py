"""Quantisation-aware training on a PT2E graph: prepare, freeze, save, restore and convert.

The quantisation of a model is one small table, the range of each activation; everything else follows from the weights. Every
int8 artifact is made from that table, so all of them carry the same integers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from edge_dp.errors import InputError
from edge_dp.quantization._torchao import FakeQuantizeBase, convert_pt2e, prepare_qat_pt2e
from edge_dp.quantization.quantizer import PortableQuantizer
from edge_dp.quantization.ranges import ActivationRange


def prepare(module: nn.Module, shape: Sequence[int]) -> GraphModule:
    """Export ``module`` at one input shape and insert fake quantisation.

    Args:
        module: batch-norm folded, in evaluation mode; not changed, the graph has its own copy of the weights.
        shape: of the one input.

    Returns:
        A graph to train like any module; parameter names are those of ``module``. It accepts other sizes of batch, height and
        width than ``shape``: nothing in it depends on them.
    """
    program = torch.export.export(copy.deepcopy(module), (torch.zeros(tuple(shape)),), strict=True)
    return prepare_qat_pt2e(program.module(check_guards=False), PortableQuantizer())


def convert(prepared: GraphModule, fold: bool = True) -> GraphModule:
    """The quantised graph, quantise and dequantise around each operation; ``prepared`` is left as it is.

    Args:
        fold: store weights as int8 (ExecuTorch, Core ML, ONNX) or keep their quantise nodes (LiteRT wants them).
    """
    return convert_pt2e(copy.deepcopy(prepared), fold_quantize=fold)


def freeze_ranges(prepared: GraphModule) -> None:
    """Stop observing activations: from now on only weights move."""
    for _, fake_quantize in _activations(prepared):
        fake_quantize.disable_observer()


def read_ranges(prepared: GraphModule) -> list[ActivationRange]:
    """The quantisation of every activation, in the order of the graph."""
    ranges = []
    for tensor, fake_quantize in _activations(prepared):
        observer = fake_quantize.activation_post_process
        scale, zero_point = fake_quantize.calculate_qparams()
        low, high = float(observer.min_val), float(observer.max_val)
        ranges.append(ActivationRange(tensor, low, high, float(scale), int(zero_point)))
    return ranges


def restore_ranges(prepared: GraphModule, ranges: Sequence[ActivationRange]) -> None:
    """Give a freshly prepared graph the quantisation of a trained one, and freeze it.

    Raises:
        InputError: the table is of another network, or its numbers contradict each other.
    """
    table = {entry.tensor: entry for entry in ranges}
    places = list(_activations(prepared))
    if missing := sorted({tensor for tensor, _ in places} ^ set(table)):
        raise InputError(f"quantisation state does not fit the network: no match for {', '.join(missing[:5])}")
    for tensor, fake_quantize in places:
        entry, observer = table[tensor], fake_quantize.activation_post_process
        observer.min_val = torch.tensor(entry.minimum)
        observer.max_val = torch.tensor(entry.maximum)
        scale, zero_point = fake_quantize.calculate_qparams()
        if abs(float(scale) - entry.scale) > 1e-6 * entry.scale or int(zero_point) != entry.zero_point:
            raise InputError(
                f"quantisation state of {tensor}: range [{entry.minimum}, {entry.maximum}] gives scale {float(scale)} and "
                f"zero point {int(zero_point)}, but {entry.scale} and {entry.zero_point} are stored"
            )
        fake_quantize.scale.resize_(scale.shape).copy_(scale)
        fake_quantize.zero_point.resize_(zero_point.shape).copy_(zero_point)
    freeze_ranges(prepared)


def observe_weights(prepared: GraphModule, shape: Sequence[int]) -> None:
    """One forward pass on zeros, so that the ranges of the weights are those of the weights as they are now."""
    with torch.no_grad():
        prepared(torch.zeros(tuple(shape)))


def _activations(prepared: GraphModule) -> Iterator[tuple[str, Any]]:
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], FakeQuantizeBase):
            continue
        source = node.args[0]
        if isinstance(source, Node) and source.op != "get_attr":
            yield source.name, modules[node.target]
