"""Quantisation-aware training on a PT2E graph: prepare, freeze, save, restore and convert.

The quantisation of a model is one small table, the range of each activation; everything else follows from the weights. Every
int8 artifact is made from that table, so all of them carry the same integers.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
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
    """Stop observing activations: from now on only weights move.

    Each scale is rounded to a number that a half float holds exactly. It costs nothing (2^-12 of the range), Core ML's fp16
    programs then carry the very same scales, and products with int8 values are exact in float32, so that engines which
    interpolate in float break ties alike.
    """
    for _, fake_quantize in _activations(prepared):
        scale, zero_point = fake_quantize.calculate_qparams()
        _set_range(fake_quantize, float(scale.half()), int(zero_point))
        fake_quantize.disable_observer()


def read_ranges(prepared: GraphModule) -> list[ActivationRange]:
    """The quantisation of every activation, in the order of the graph; ranges must be frozen."""
    return [ActivationRange(tensor, float(fq.scale), int(fq.zero_point)) for tensor, fq in _activations(prepared)]


def restore_ranges(prepared: GraphModule, ranges: Sequence[ActivationRange]) -> None:
    """Give a freshly prepared graph the quantisation of a trained one, and freeze it.

    Raises:
        InputError: the table is of another network, or a range that no engine can execute.
    """
    table = {entry.tensor: entry for entry in ranges}
    if len(table) != len(ranges):
        twice = next(name for name in table if sum(entry.tensor == name for entry in ranges) > 1)
        raise InputError(f"quantisation state has two entries of {twice}")
    places = list(_activations(prepared))
    if missing := sorted({tensor for tensor, _ in places} ^ set(table)):
        raise InputError(f"quantisation state does not fit the network: no match for {', '.join(missing[:5])}")
    for tensor, fake_quantize in places:
        entry = table[tensor]
        if not entry.executable:
            raise InputError(
                f"quantisation state of {tensor}: expected a positive scale and a zero point in [-128, 127], found "
                f"{entry.scale} and {entry.zero_point}"
            )
        _set_range(fake_quantize, entry.scale, entry.zero_point)
        fake_quantize.disable_observer()
    for entry in read_ranges(prepared):
        given = table[entry.tensor]
        if abs(given.scale - entry.scale) > 1e-6 * entry.scale or given.zero_point != entry.zero_point:
            raise InputError(
                f"quantisation state of {entry.tensor}: expected {entry.scale} and {entry.zero_point}, those of the tensor it "
                f"shares its quantisation with, found {given.scale} and {given.zero_point}"
            )


def observe_weights(prepared: GraphModule, shape: Sequence[int]) -> None:
    """One forward pass on zeros, so that the ranges of the weights are those of the weights as they are now."""
    with torch.no_grad():
        prepared(torch.zeros(tuple(shape)))


def snap_biases(prepared: GraphModule) -> None:
    """Round each bias to a half float and then to the grid of its accumulator, input scale x weight scale.

    Integer engines use the grid, Core ML's fp16 programs halves: done here, the converted graph and every artifact share the
    very same biases. The grid is so much finer that a half float still comes back from it. Weights must have been observed.
    """
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.target is not torch.ops.aten.conv2d.default or len(node.args) < 3 or node.args[2] is None:
            continue
        scales = [modules[argument.target].calculate_qparams()[0].double() for argument in node.args[:2]]
        bias = prepared.get_parameter(node.args[2].target)
        with torch.no_grad():
            bias.copy_(torch.round(bias.half().double() / (scales[0] * scales[1])) * (scales[0] * scales[1]))


@contextlib.contextmanager
def rounding_noise(prepared: GraphModule, amplitude: float) -> Iterator[None]:
    """Add uniform noise of +-``amplitude`` quantisation steps to each activation before it is rounded, within the block.

    Engines differ in how they round: by a step where PyTorch's value lies near the middle between two. Such a step grows on
    its way through a network that is sensitive to it; training with the noise makes it insensitive.
    """

    def disturb(fake_quantize: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        return (x + (torch.rand_like(x) - 0.5) * (2.0 * amplitude * fake_quantize.scale),)

    # one hook each: tensors that share a quantisation, as an upsampling and its input do, share the module
    distinct = {id(fake_quantize): fake_quantize for _, fake_quantize in _activations(prepared)}
    handles = [fake_quantize.register_forward_pre_hook(disturb) for fake_quantize in distinct.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _set_range(fake_quantize: Any, scale: float, zero_point: int) -> None:
    observer = fake_quantize.activation_post_process
    observer.min_val = torch.tensor((-128 - zero_point) * scale)
    observer.max_val = torch.tensor((127 - zero_point) * scale)
    fake_quantize.scale.resize_(1).fill_(scale)
    fake_quantize.zero_point.resize_(1).fill_(zero_point)


def _activations(prepared: GraphModule) -> Iterator[tuple[str, Any]]:
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.op != "call_module" or not isinstance(modules[node.target], FakeQuantizeBase):
            continue
        source = node.args[0]
        if isinstance(source, Node) and source.op != "get_attr":
            yield source.name, modules[node.target]
