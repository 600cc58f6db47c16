"""Quantisation-aware training on a PT2E graph: prepare, freeze, save, restore and convert.

The quantisation of a model is one small table, the range of each activation; everything else follows from the weights. Every
int8 artifact is made from that table, so all of them carry the same integers.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from edge_dp.errors import InputError
from edge_dp.quantization._torchao import (
    FakeQuantizeBase,
    FixedQParamsFakeQuantize,
    convert_pt2e,
    prepare_qat_pt2e,
)
from edge_dp.quantization.graph import aten, attribute, capture
from edge_dp.quantization.portable import LINEAR_OPERATIONS, make_portable
from edge_dp.quantization.quantizer import PortableQuantizer
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.quantization.rules import CLAMPS, Choice, limits, moves_data

_FOLLOWED = 0.01  # of a batch, in the moving average of its quantiles
_TOLD_BY = 40  # values beyond a quantile
_ROUNDED_BIASES = "portable_rounded_biases"  # in a graph's meta: each bias before and after it was last rounded


def float_graph(module: nn.Module, example: Sequence[Tensor]) -> GraphModule:
    """The float graph that ``prepare`` quantises: batch-norm folded, rewritten so that engines have integer kernels for it.

    Args:
        module: any network of static shape; left as it is, the graph has its own copy of the weights and is in evaluation mode.
        example: a tensor for each input, in the shape that the network is exported at.

    Raises:
        ExportError: PyTorch cannot capture it as one static graph.
    """
    return make_portable(capture(module, example))


def prepare(
    module: nn.Module, example: Sequence[Tensor], *, keep_float: Sequence[str] = (), int16: Sequence[str] = ()
) -> GraphModule:
    """Export ``module`` at the shapes of ``example``, make it portable and insert fake quantisation.

    Args:
        module: any network of static shape, several inputs and outputs; left as it is.
        example: a tensor for each input.
        keep_float: paths of modules that stay in float, such as a head whose output must be finer than int8.
        int16: paths of modules with 16-bit activations. TFLite's 16x8 kernels alone can execute them.

    Returns:
        A graph to train like any module; parameter names are those of ``module``, batch-norm apart. Where nothing in the
        network depends on them, it accepts other sizes of batch, height and width than ``example``.

    Raises:
        InputError: a path is no module of the network.
        ExportError: PyTorch cannot capture the network, or operations have no integer rule: all of them are named.
    """
    check_paths(module, (*keep_float, *int16))
    choice = Choice(tuple(keep_float), tuple(int16))
    return prepare_qat_pt2e(float_graph(module, example), PortableQuantizer(choice))


def convert(prepared: GraphModule, fold: bool = True, *, keep_clamps: bool = False) -> GraphModule:
    """The quantised graph, quantise and dequantise around each operation; ``prepared`` is left as it is.

    Args:
        fold: store weights as int8 (ExecuTorch, Core ML, ONNX) or keep their quantise nodes (LiteRT wants them).
        keep_clamps: leave clamps in the graph that the saturation of int8 does anyway, for those who take the activations'
            quantisation out again.
    """
    prepared = copy.deepcopy(prepared)
    _snap_weights(prepared)
    converted = convert_pt2e(prepared, fold_quantize=fold)
    for node in list(converted.graph.nodes):
        if "portable_observed_only" in node.meta:
            _leave_out(node)
    converted.recompile()
    if not keep_clamps:
        _settle_clamps(converted)
    return converted


def freeze_ranges(prepared: GraphModule) -> None:
    """Stop observing activations: from now on only weights move.

    Each scale is rounded to a number that a half float holds exactly. It costs nothing (2^-12 of the range), Core ML's fp16
    programs then carry the very same scales, and products with int8 values are exact in float32, so that engines which
    interpolate in float break ties alike.
    """
    _widen_hard_swishes(prepared)
    for _, fake_quantize in activations(prepared):
        if not isinstance(fake_quantize, FixedQParamsFakeQuantize):
            scale, zero_point = fake_quantize.calculate_qparams()
            _set_range(fake_quantize, _exact(float(scale), fake_quantize.dtype), int(zero_point))
        fake_quantize.disable_observer()


def _widen_hard_swishes(prepared: GraphModule) -> None:
    """Let no step of a hard swish's input become more than two of its result: its slope ends at 3/2, so 3/4 of a step at least.

    Finer steps, which inputs that end before 7 or so would give it, mostly resolve the rounding of the input. What moves that by
    a step, as the halves do in which Core ML computes, would move the result by three. The price is 1 to 2.4 dB of the result.
    """
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if "portable_hard_swish" not in node.meta or len(node.users) != 1:
            continue
        (user,) = node.users
        both: list[Any] = [modules.get(tensor.target) for tensor in (node.args[0], user)]
        if all(isinstance(each, FakeQuantizeBase) and each.dtype is torch.int8 for each in both):
            read, written = both
            observer, smallest = written.activation_post_process, 0.75 * read.calculate_qparams()[0]
            if smallest > written.calculate_qparams()[0]:
                observer.max_val = (observer.min_val.clamp(max=0) + 255 * smallest).reshape(observer.max_val.shape)


def set_output_ranges(prepared: GraphModule, limits: Sequence[tuple[float, float]]) -> None:
    """Give the network's outputs the ranges that they are meant to have, instead of those that training happened to show.

    Args:
        limits: lowest and highest value of each output, in order; each range is widened to hold zero.
    """
    (outputs,) = next(node for node in prepared.graph.nodes if node.op == "output").args
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node, (lowest, highest) in zip(outputs, limits, strict=True):
        low, high = min(lowest, 0.0), max(highest, 0.0)
        fake_quantize = modules[node.target]
        scale = _exact((high - low) / 255, fake_quantize.dtype)
        _set_range(fake_quantize, scale, max(-128, min(127, round(-128 - low / scale))))


def read_ranges(prepared: GraphModule) -> list[ActivationRange]:
    """The quantisation of every activation, in the order of the graph; ranges must be frozen."""
    return [ActivationRange(tensor, float(fq.scale), int(fq.zero_point)) for tensor, fq in activations(prepared)]


def restore_ranges(prepared: GraphModule, ranges: Sequence[ActivationRange]) -> None:
    """Give a freshly prepared graph the quantisation of a trained one, and freeze it.

    Raises:
        InputError: the table is of another network, or a range that no engine can execute.
    """
    table = {entry.tensor: entry for entry in ranges}
    if len(table) != len(ranges):
        twice = next(name for name in table if sum(entry.tensor == name for entry in ranges) > 1)
        raise InputError(f"quantisation state has two entries of {twice}")
    places = list(activations(prepared))
    if missing := sorted({tensor for tensor, _ in places} ^ set(table)):
        raise InputError(f"quantisation state does not fit the network: no match for {', '.join(missing[:5])}")
    for tensor, fake_quantize in places:
        entry = table[tensor]
        if not entry.executable:
            raise InputError(
                f"quantisation state of {tensor}: expected a positive scale and a zero point in [-128, 127], found "
                f"{entry.scale} and {entry.zero_point}"
            )
        if not isinstance(fake_quantize, FixedQParamsFakeQuantize):
            _set_range(fake_quantize, entry.scale, entry.zero_point)
        fake_quantize.disable_observer()
    for entry in read_ranges(prepared):
        given = table[entry.tensor]
        if abs(given.scale - entry.scale) > 1e-6 * entry.scale or given.zero_point != entry.zero_point:
            raise InputError(
                f"quantisation state of {entry.tensor}: expected {entry.scale} and {entry.zero_point}, those of the tensor it "
                f"shares its quantisation with, found {given.scale} and {given.zero_point}"
            )


def observe_weights(prepared: GraphModule) -> None:
    """Take the ranges of the weights from the weights as they are now."""
    with torch.no_grad():
        for _, source, fake_quantize in fake_quantised(prepared):
            if source.op == "get_attr":
                fake_quantize(attribute(prepared, source.target))


def snap_biases(prepared: GraphModule) -> None:
    """Round each bias to a half float and then to the grid of its accumulator, input scale x weight scale.

    Integer engines use the grid, Core ML's fp16 programs halves: done here, the converted graph and every artifact share the
    very same biases. The grid is so much finer that a half float still comes back from it. Weights must have been observed.
    A bias that has not changed since it was last rounded starts again from what it was before: another range brings another
    grid, and roundings to both would add up.
    """
    modules = dict(prepared.named_modules(remove_duplicate=False))
    rounded: dict[str, tuple[Tensor, Tensor]] = prepared.meta.setdefault(_ROUNDED_BIASES, {})
    for node in prepared.graph.nodes:
        if node.target not in LINEAR_OPERATIONS or len(node.args) < 3 or node.args[2] is None:
            continue
        if node.args[1].op == "get_attr":
            continue  # its module stays in float
        scales = [modules[value.target].calculate_qparams()[0].double() for value in node.args[:2]]
        name = str(node.args[2].target)
        bias = attribute(prepared, name)
        whole = _whole(bias, rounded.get(name)).clone()
        with torch.no_grad():
            bias.copy_(torch.round(whole.half().double() / (scales[0] * scales[1])) * (scales[0] * scales[1]))
        rounded[name] = (whole, bias.detach().clone())


@contextlib.contextmanager
def whole_biases(prepared: GraphModule) -> Iterator[None]:
    """Within the block, biases are what they were before ``snap_biases`` rounded them."""
    rounded: dict[str, tuple[Tensor, Tensor]] = prepared.meta.get(_ROUNDED_BIASES, {})
    biases = {name: attribute(prepared, name).detach() for name in rounded}
    now = {name: bias.clone() for name, bias in biases.items()}
    for name, bias in biases.items():
        bias.copy_(_whole(bias, rounded[name]))
    try:
        yield
    finally:
        for name, bias in biases.items():
            bias.copy_(now[name])


def _whole(bias: Tensor, rounding: tuple[Tensor, Tensor] | None) -> Tensor:
    """What a bias was before its last rounding (before, after); the bias itself where it has changed since."""
    if rounding is None:
        return bias.detach()
    before, after = (each.to(bias.device) for each in rounding)
    return before if torch.equal(bias, after) else bias.detach()


def _snap_weights(prepared: GraphModule) -> None:
    """Put the rounded weights in the place of the trained ones.

    Toolchains that are given float weights round them themselves, some after a division and some after a product with the
    reciprocal of the scale: a weight halfway between two steps would go either way.
    """
    for _, source, fake_quantize in fake_quantised(prepared):
        if source.op == "get_attr":
            weight = attribute(prepared, source.target)
            with torch.no_grad():
                weight.copy_(fake_quantize(weight))


@contextlib.contextmanager
def quantile_ranges(prepared: GraphModule, quantile: float) -> Iterator[None]:
    """Let ranges follow quantiles of the activations instead of their extremes, within the block.

    A range ends at the moving averages of the ``1 - quantile`` and the ``quantile`` of each batch's values.
    What lies beyond is cut: otherwise one value in a thousand, of edges and highlights, makes every step several times as coarse.
    Outputs, and what is added up to them, are not cut, but hold all that was seen within the block: a rare value of those is
    what the network has to tell.

    Args:
        quantile: more than 0.5; 1 leaves everything as it is.

    Source: Wu et al., "Integer Quantization for Deep Learning Inference", 2020, section 3.3 (percentile calibration).
    """
    if quantile >= 1.0:
        yield
        return

    told = _parts_of_outputs(prepared)

    def follow(fake_quantize: Any, inputs: tuple[Tensor, ...]) -> None:
        observer = fake_quantize.activation_post_process
        with torch.no_grad():
            is_told = id(fake_quantize) in told
            ends = _widened(observer, inputs[0]) if is_told else _followed(observer, inputs[0], quantile)
            for kept, new in zip((observer.min_val, observer.max_val), ends, strict=True):
                kept.resize_(new.shape).copy_(new)
            scale, zero_point = fake_quantize.calculate_qparams()
            fake_quantize.scale.resize_(1).copy_(scale)
            fake_quantize.zero_point.resize_(1).copy_(zero_point)

    distinct = {
        id(fake_quantize): fake_quantize
        for _, fake_quantize in activations(prepared)
        if not isinstance(fake_quantize, FixedQParamsFakeQuantize)
    }
    handles = []
    for fake_quantize in distinct.values():
        fake_quantize.disable_observer()  # its own extremes, but rounding goes on
        handles.append(fake_quantize.register_forward_pre_hook(follow))
    try:
        yield
    finally:
        for handle, fake_quantize in zip(handles, distinct.values(), strict=True):
            handle.remove()
            fake_quantize.enable_observer()


def _parts_of_outputs(prepared: GraphModule) -> set[int]:
    """Identities of the fake quantisations of outputs, and of what moving of data and additions make outputs of."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    found, visited = set(), set()
    waiting = list(next(node for node in prepared.graph.nodes if node.op == "output").all_input_nodes)
    while waiting:
        node = waiting.pop()
        if node in visited:
            continue
        visited.add(node)
        fake_quantize = modules.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(fake_quantize, FakeQuantizeBase):
            found.add(id(fake_quantize))
        if fake_quantize is not None or node.target is aten.add.Tensor or moves_data(node):
            waiting += [source for source in node.all_input_nodes if source.op != "get_attr"]
    return found


def _widened(observer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the observer's range, with all of ``x`` between them."""
    low, high = (end.to(observer.min_val) for end in x.detach().float().aminmax())
    return torch.minimum(observer.min_val, low), torch.maximum(observer.max_val, high)


def _followed(observer: Any, x: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """The ends of the observer's range, moved towards the quantiles of ``x``; at these where nothing was seen before."""
    low, high = (
        torch.lerp(kept, new.to(kept), _FOLLOWED) if kept.isfinite().all() else new
        for kept, new in zip((observer.min_val, observer.max_val), _quantiles(x, quantile), strict=True)
    )
    return low, high


def _quantiles(x: Tensor, quantile: float) -> tuple[Tensor, Tensor]:
    """The lower and the upper one, told by evenly spaced values: sorting all of them would take as long as the network."""
    values = x.detach().float().flatten()
    needed = math.ceil(_TOLD_BY / (1.0 - quantile))
    values = values[:: max(1, values.numel() // needed) | 1]  # odd: not always the same columns
    beyond = max(1, round((1.0 - quantile) * values.numel()))
    return -(-values).topk(beyond).values[-1], values.topk(beyond).values[-1]


@contextlib.contextmanager
def rounding_noise(prepared: GraphModule, amplitude: float) -> Iterator[None]:
    """Add uniform noise of +-``amplitude`` quantisation steps to each activation before it is rounded, within the block.

    Engines differ in how they round: by a step where PyTorch's value lies near the middle between two. Such a step grows on
    its way through a network that is sensitive to it; training with the noise makes it insensitive.
    """

    def disturb(fake_quantize: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = inputs[0]
        return (x + _uniform_noise(x) * (2.0 * amplitude * fake_quantize.scale),)

    # one hook each: tensors that share a quantisation, as an upsampling and its input do, share the module
    distinct = {id(fake_quantize): fake_quantize for _, fake_quantize in activations(prepared)}
    handles = [fake_quantize.register_forward_pre_hook(disturb) for fake_quantize in distinct.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _uniform_noise(x: Tensor) -> Tensor:
    """Independent values like ``x``, uniform over 256 levels of (-0.5, 0.5).

    Eight from each 64-bit random number: random floats would take a third of a training step.
    """
    words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
    layout = torch.empty_like(x, device="meta").stride()
    levels = words.view(torch.int8).as_strided(x.shape, layout)
    return levels.to(x.dtype).add_(0.5).mul_(1.0 / 256.0)


def _exact(scale: float, dtype: torch.dtype) -> float:
    """Nearest half float; 16-bit activations keep their scale, which lies below what half floats resolve."""
    return float(torch.tensor(scale).half()) if dtype is torch.int8 else scale


def _set_range(fake_quantize: Any, scale: float, zero_point: int) -> None:
    observer = fake_quantize.activation_post_process
    low, high = observer.quant_min - zero_point, observer.quant_max - zero_point
    if observer.qscheme is torch.per_tensor_symmetric:  # its scale is that of half the range
        low, high = (low - high) / 2, (high - low) / 2
    device = fake_quantize.scale.device
    observer.min_val, observer.max_val = (torch.tensor(limit * scale, device=device) for limit in (low, high))
    fake_quantize.scale.resize_(1).fill_(scale)
    fake_quantize.zero_point.resize_(1).fill_(zero_point)


def activations(prepared: GraphModule) -> Iterator[tuple[str, Any]]:
    """Name and fake quantisation of each activation, in the order of the graph; tensors that share a range share it.

    A tensor that is requantised from one format to another, with a range that no other tensor has, counts a second time, with
    the format in its name.
    """
    found = [(source, module) for _, source, module in fake_quantised(prepared) if source.op != "get_attr"]
    named = {id(module) for source, module in found if source.op != "call_module"}
    for source, module in found:
        if source.op != "call_module":
            yield source.name, module
        elif id(module) not in named:
            named.add(id(module))
            yield f"{source.all_input_nodes[0].name}.{str(module.dtype).removeprefix('torch.')}", module


def fake_quantised(prepared: GraphModule) -> Iterator[tuple[Node, Node, Any]]:
    """Each fake quantisation of the graph, in order: its node, the node that it quantises, its module."""
    modules = dict(prepared.named_modules(remove_duplicate=False))
    for node in prepared.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], FakeQuantizeBase):
            source = node.args[0]
            assert isinstance(source, Node)
            yield node, source, modules[node.target]


def _settle_clamps(converted: GraphModule) -> None:
    """Leave no clamp between arithmetic and its quantisation, but for a ReLU that all engines fuse.

    A clamp that the quantisation does anyway is removed. A limit that rounds to less than one step within the range counts as
    done. Where tensors that share the range made it wider than the clamp, the clamp works on integers: it gets a quantisation
    before it too.
    """
    for clamp in list(converted.graph.nodes):
        if clamp.target not in CLAMPS or len(clamp.users) != 1:
            continue
        source, (after,) = clamp.args[0], clamp.users
        is_fused_by_engines = clamp.target is aten.relu.default and source.target in _FUSES_RELU
        if is_fused_by_engines or source.target is _DEQUANTIZE or after.target is not _QUANTIZE:
            continue
        scale, zero_point, smallest, largest = after.args[1:5]
        low, high = (limit / scale + zero_point for limit in limits(clamp))
        if low < smallest + 1 and high > largest - 1:
            _leave_out(clamp)
            continue
        if low == zero_point and high > largest - 1:  # of 16 bits, which are symmetric
            clamp.target, clamp.args = aten.relu.default, (source,)
            if source.target in _FUSES_RELU:
                continue
        with converted.graph.inserting_before(clamp):
            integers = converted.graph.call_function(_QUANTIZE, (source, *after.args[1:]))
            clamp.args = (converted.graph.call_function(_DEQUANTIZE, (integers, *after.args[1:])), *clamp.args[1:])
    converted.recompile()


def _leave_out(clamp: Node) -> None:
    """What computes the tensor takes the clamp's name, so that the table of ranges still finds it."""
    source = clamp.args[0]
    assert isinstance(source, Node)
    clamp.replace_all_uses_with(source)
    clamp.graph.erase_node(clamp)
    source.name = clamp.name


def check_paths(module: nn.Module, paths: Sequence[str]) -> None:
    """Raise InputError for the first of ``paths`` that is no module within ``module``, with those that are near."""
    known = [name for name, _ in module.named_modules() if name]
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(path, known) or known[:5]
            raise InputError(
                f"{path}: expected the path of a module of the network, found none. Near: {', '.join(near)}."
            )


_FUSES_RELU = (aten.conv2d.default, aten.add.Tensor)
_QUANTIZE = torch.ops.quantized_decomposed.quantize_per_tensor.default
_DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
