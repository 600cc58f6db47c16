"""From a checkpoint, or from anyone's module, to the forms that converters need."""

from __future__ import annotations

import copy
import inspect
import keyword
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edge_dp.converters.base import QuantisedGraphs
from edge_dp.converters.calibration import Array
from edge_dp.converters.field import FieldCorrected, field_corrected, with_corrected_outputs
from edge_dp.converters.linear import Exposure, LinearInput, kept_paths, renamed
from edge_dp.converters.preflight import check_weights
from edge_dp.errors import InputError
from edge_dp.models.checkpoint import Checkpoint
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, observe_weights, prepare, read_ranges, restore_ranges, snap_biases
from edge_dp.quiet import quiet
from edge_dp.runtime.engines.base import Signature
from edge_dp.sensors.profile import SensorProfile

Progress = Callable[[int], None]
Batch = Mapping[str, Tensor]
Inputs = Mapping[str, Sequence[int] | Array] | Sequence[Array]
"""Shape or example by name, or examples in the order of ``forward``."""


@dataclass(frozen=True)
class Network:
    """A float network with names at its border.

    module: evaluation mode; takes the inputs in order and returns a tuple of outputs.
    """

    name: str
    module: nn.Module
    signature: Signature
    prefix: str = ""
    """Of module paths: what stands before them in ``module``'s own."""

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Zeros in the shape of each input."""
        return tuple(torch.zeros(shape) for _, shape in self.signature.inputs)


def network_of_checkpoint(
    checkpoint: Checkpoint, height: int, width: int, field: SensorProfile | None = None, linear: bool = False
) -> Network:
    """The checkpoint's network at one input size.

    Args:
        field: sensor whose field it corrects its disparity for; None leaves the disparity as the sensor shows it.
        linear: whether it takes linear light and does exposure, transfer and dither itself.

    Raises:
        InputError: the size, or weights that do not fit the student; a sensor whose field is not known.
        ExportError: weights that are not finite.
    """
    student = checkpoint.build()
    check_weights(student)
    shape = (1, 2, height, width)
    student.check_input_shape(shape)
    module: nn.Module = student
    prefix = ""
    if field is not None:
        module, prefix = field_corrected(student, field, shape), "student."
    if linear:
        step = next(entry.scale for entry in checkpoint.ranges if entry.tensor == "views")
        module, prefix = LinearInput(module, Exposure(checkpoint.exposure, height, width, step)), ""
    return _network(checkpoint.student, module.eval(), {"views": shape}, ("disparity", "confidence"), prefix)


def network_of_module(
    module: nn.Module, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str] | None, name: str
) -> Network:
    """Anyone's network at fixed input shapes.

    Args:
        inputs: shape by name, in the order of the module's ``forward``.
        outputs: names; unless given, the keys where the module returns a dict, else ``output``, or ``output_0`` and so on.

    Raises:
        InputError: shapes or names that do not fit the module.
        ExportError: weights that are not finite.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):  # files get it
        raise InputError(f"name {name!r}: expected letters, digits, dots, dashes and underscores")
    check_weights(module)
    _check_inputs(module, inputs)
    try:
        module = copy.deepcopy(module).cpu().eval()
        with torch.no_grad():
            result = module(*(torch.zeros(tuple(shape)) for shape in inputs.values()))
    except Exception as error:  # anyone's module raises anything
        words = " ".join(str(error).split())[:300] or type(error).__name__
        shapes = ", ".join(f"{key}={'x'.join(map(str, shape))}" for key, shape in inputs.items())
        raise InputError(f"{name}: does not run on float32 inputs {shapes}: {words}") from error
    found = _names_of(result)
    if outputs is not None and len(outputs) != len(found):
        raise InputError(f"{name}: expected {len(found)} names of outputs, found {', '.join(outputs)}")
    names = tuple(outputs or found)
    _check_names(names, inputs)
    for key, value in zip(names, _tensors(result), strict=True):
        if value.dtype != torch.float32 or not value.numel():
            what = f"{value.dtype} of shape {tuple(value.shape)}".removeprefix("torch.")
            raise InputError(f"{name}: output {key}: expected float32 values, found {what}. Leave the rest to the app.")
    return _network(name, _Flat(module), inputs, names, prefix="module.")


def prepare_checkpoint(network: Network, checkpoint: Checkpoint) -> GraphModule:
    """The network fake-quantised with the checkpoint's own ranges, ready to convert."""
    module, ranges = network.module, checkpoint.ranges
    with quiet(), torch.no_grad():
        prepared = prepare(module, network.example, keep_float=kept_paths(module))
        if isinstance(module, LinearInput):  # before the student, so that the graph numbers its operations otherwise
            ranges = renamed(prepared, ranges)
            module = module.student
        if isinstance(module, FieldCorrected):
            ranges = with_corrected_outputs(prepared, ranges, module)
        restore_ranges(prepared, ranges)
        observe_weights(prepared)
        snap_biases(prepared)
    return prepared


def prepare_module(
    network: Network,
    batches: Sequence[Batch],
    keep_float: Sequence[str] = (),
    progress: Progress = lambda _: None,
    *,
    int16: Sequence[str] = (),
) -> GraphModule:
    """The network fake-quantised with the ranges that ``batches`` show, ready to convert.

    Args:
        batches: input tensors by name, each shaped as in the signature.
        keep_float: paths of modules that stay in float.
        int16: paths of modules with 16-bit activations, for TFLite alone.

    Raises:
        InputError: the batches, or a path.
        ExportError: an operation has no integer rule.
    """
    names = [name for name, _ in network.signature.inputs]
    kept, wide = ([f"{network.prefix}{path}" for path in paths] for paths in (keep_float, int16))
    with torch.no_grad():
        with quiet():
            prepared = prepare(network.module, network.example, keep_float=kept, int16=wide)
        calibrate(prepared, [[batch[name] for name in names] for batch in batches], progress=progress)
    return prepared


def quantise_checkpoint(network: Network, checkpoint: Checkpoint) -> QuantisedGraphs:
    """The network with the checkpoint's own quantisation."""
    prepared = prepare_checkpoint(network, checkpoint)
    return _graphs(prepared, _kept(prepared))


def quantise_module(
    network: Network,
    batches: Sequence[Batch],
    keep_float: Sequence[str] = (),
    progress: Progress = lambda _: None,
    *,
    int16: Sequence[str] = (),
) -> QuantisedGraphs:
    """The network quantised after training; arguments and errors as in ``prepare_module``."""
    prepared = prepare_module(network, batches, keep_float, progress, int16=int16)
    return _graphs(prepared, _kept(prepared))


def _graphs(prepared: GraphModule, kept_float: int) -> QuantisedGraphs:
    with quiet(), torch.no_grad():
        folded, unfolded = convert(prepared), convert(prepared, fold=False)
        clamped = convert(prepared, fold=False, keep_clamps=True)
        weights = weights_only(convert(prepared, keep_clamps=True))
    return QuantisedGraphs(folded, unfolded, clamped, prepared, weights, tuple(read_ranges(prepared)), kept_float)


def weights_only(folded: GraphModule) -> GraphModule:
    """The converted graph without its activations' quantisation: int8 weights, float arithmetic."""
    graph_module = copy.deepcopy(folded)
    for node in list(graph_module.graph.nodes):
        if node.op != "call_function" or "dequantize_per_tensor" not in str(node.target):
            continue
        source = node.args[0]
        if source.op == "call_function" and "quantize_per_tensor" in str(source.target):
            node.replace_all_uses_with(source.args[0])
    graph_module.graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _kept(prepared: GraphModule) -> int:
    """How many operations compute in float: they were annotated by nobody."""
    return sum(
        node.op == "call_function" and "quantization_annotation" not in node.meta for node in prepared.graph.nodes
    )


class _Flat(nn.Module):
    """Returns a tuple whatever the module returns."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return _tensors(self.module(*inputs))


def _tensors(result: Any) -> tuple[Tensor, ...]:
    """In order, whatever a module returned them in."""
    if isinstance(result, Tensor):
        return (result,)
    return tuple(result.values() if isinstance(result, Mapping) else result)


def input_shapes(module: nn.Module, inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """Shape by name, from shapes or examples by name, or from examples alone, which get the names of ``forward``.

    Raises:
        InputError: no module; a shape that is none; an example that holds no real numbers.
    """
    given: Any = module
    if not isinstance(given, nn.Module):
        raise InputError(f"expected a torch.nn.Module, found {getattr(given, '__name__', type(given).__name__)}")
    if not isinstance(inputs, Mapping):
        examples = list(inputs) if isinstance(inputs, Sequence) else [inputs]
        names = [p.name for p in inspect.signature(module.forward).parameters.values()]
        if len(names) < len(examples):
            names = [f"input_{index}" for index in range(len(examples))]
        inputs = dict(zip(names, examples, strict=False))
    shapes = {}
    for name, value in inputs.items():
        kind = getattr(value, "dtype", torch.float32)
        if not (kind.is_floating_point if isinstance(kind, torch.dtype) else np.issubdtype(kind, np.floating)):
            raise InputError(f"input {name}: expected float32 values, found {kind}. Convert them before the network.")
        try:
            shapes[name] = tuple(operator.index(size) for size in getattr(value, "shape", value))
        except TypeError as error:
            raise InputError(f"input {name}: expected a shape of whole numbers, found {value!r}") from error
    return shapes


def _network(
    name: str, module: nn.Module, inputs: Mapping[str, Sequence[int]], outputs: Sequence[str], prefix: str = ""
) -> Network:
    shapes = tuple((key, tuple(shape)) for key, shape in inputs.items())
    with torch.no_grad():
        results = module(*(torch.zeros(shape) for _, shape in shapes))
    named = tuple((key, tuple(value.shape)) for key, value in zip(outputs, results, strict=True))
    return Network(name, module, Signature(shapes, named), prefix)


def _names_of(result: Any) -> tuple[str, ...]:
    of_a_kind = isinstance(result, Tensor | Mapping | Sequence)
    if not (of_a_kind and _tensors(result) and all(isinstance(value, Tensor) for value in _tensors(result))):
        raise InputError(
            f"expected a module that returns a tensor, or a tuple or dict of tensors, found {type(result).__name__}"
        )
    if isinstance(result, Mapping):
        return tuple(str(key) for key in result)
    if isinstance(result, Tensor):
        return ("output",)
    fields = getattr(result, "_fields", None)  # of a named tuple
    return tuple(fields) if fields else tuple(f"output_{i}" for i in range(len(result)))


def _check_inputs(module: nn.Module, inputs: Mapping[str, Sequence[int]]) -> None:
    if not inputs:
        raise InputError("expected the shape of at least one input")
    _check_names(inputs)
    for name, shape in inputs.items():
        if not shape or min(shape) < 1:
            raise InputError(f"input {name}: expected positive sizes, found {'x'.join(map(str, shape))}")
    parameters = inspect.signature(module.forward).parameters.values()
    wanted = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    least = sum(p.default is p.empty for p in wanted)
    any_number = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if len(inputs) < least or (len(inputs) > len(wanted) and not any_number):
        raise InputError(
            f"expected the shapes of {', '.join(p.name for p in wanted)}, in this order, found {', '.join(inputs)}"
        )
    places = {parameter.name: place for place, parameter in enumerate(wanted)}
    if moved := [name for place, name in enumerate(inputs) if places.get(name, place) != place]:
        raise InputError(
            f"input {moved[0]}: expected the order of forward: {', '.join(places)}; found {', '.join(inputs)}"
        )


def _check_names(names: Collection[str], taken: Collection[str] = ()) -> None:
    """All formats and the golden files must be able to hold them."""
    for name in names:
        if not (isinstance(name, str) and name.isidentifier()) or keyword.iskeyword(name):
            raise InputError(
                f"tensor {name!r}: expected a name of letters, digits and underscores, no word of Python's"
            )
    if twice := [name for index, name in enumerate(names) if name in taken or name in list(names)[:index]]:
        raise InputError(f"output {twice[0]}: expected a name that no other tensor has; name the outputs yourself")
