"""What the quantisation of each layer costs a checkpoint's or anyone's outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from edge_dp.converters.calibration import Sample, read_samples
from edge_dp.converters.golden import checkpoint_cases
from edge_dp.converters.source import (
    Network,
    input_shapes,
    network_of_checkpoint,
    network_of_module,
    prepare_checkpoint,
    prepare_module,
)
from edge_dp.errors import InputError
from edge_dp.models.checkpoint import Checkpoint, read_checkpoint
from edge_dp.quantization.sensitivity import LayerCost, Sensitivity, sensitivity
from edge_dp.quantization.sensitivity import Network as Function

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""

_WORTHWHILE = 0.1
"""Of the whole loss: what modules in float must spare to be named."""
_TRIED = 3


@dataclass(frozen=True, slots=True)
class Remedy:
    """What is left of the error with some modules in float, measured on a network quantised anew.

    keep_float: their paths: an activation stays in float only where all modules around it do.
    """

    keep_float: tuple[str, ...]
    error: float


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """Sensitivity of a model to the quantisation of its layers.

    measure: what ``report`` counts, in words; its unit, empty where it has none.
    samples: how many inputs it is the mean over.
    report: modules as the network's maker names them; inputs have none.
    remedies: what is worth keeping in float, the best first; each spares a tenth of the loss or more. Empty for a checkpoint,
        whose quantisation is trained.
    """

    model: str
    measure: str
    unit: str
    samples: int
    report: Sensitivity
    remedies: tuple[Remedy, ...] = ()


def checkpoint_costs(
    checkpoint: str | Path | Checkpoint,
    *,
    size: tuple[int, int] | None = None,
    of: str = "disparity",
    progress: Progress = lambda *_: None,
) -> LayerCosts:
    """Of a trained student, on the typical golden captures.

    Args:
        checkpoint, size: as in ``export_checkpoint``.
        of: the output that is measured: ``disparity``, in px of the input, or ``confidence``.

    Raises:
        InputError, SchemaError, ChecksumError, ExportError: as in ``export_checkpoint``; or there is no such output.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = read_checkpoint(checkpoint)
    network = network_of_checkpoint(checkpoint, *(size or checkpoint.input_size))
    _check_output(network, of)
    cases = [case for case in checkpoint_cases(network, checkpoint.exposure) if case.kind == "typical"]
    samples = [[torch.from_numpy(array) for array in case.inputs.values()] for case in cases]
    report = _report(network, prepare_checkpoint(network, checkpoint), _metric(network, samples, of), progress)
    return LayerCosts(network.name, _words(of), "px" if of == "disparity" else "", len(samples), report)


def network_costs(
    module: nn.Module,
    inputs: Mapping[str, Sequence[int] | Tensor] | Sequence[Tensor],
    calibration: Iterable[Sample],
    *,
    outputs: Sequence[str] | None = None,
    name: str | None = None,
    keep_float: Sequence[str] = (),
    of: str | None = None,
    samples: int = 4,
    progress: Progress = lambda *_: None,
) -> LayerCosts:
    """Of anyone's network, quantised after training with all of ``calibration`` and measured on the first ``samples`` of it.

    Args:
        module, inputs, calibration, outputs, name, keep_float: as in ``edge_dp.export``.
        of: the output whose mean absolute error is measured; unless given, the error of all outputs together, each over the
            size of its values (root of mean squares).
        samples: forward passes per measurement; there are two measurements per layer.

    Raises:
        InputError, ExportError: as in ``edge_dp.export``; or there is no such output, or no sample to measure on.
    """
    if samples < 1:
        raise InputError(f"samples: expected at least 1, found {samples}")
    network = network_of_module(module, input_shapes(module, inputs), outputs, name or type(module).__name__)
    _check_output(network, of)
    batches = read_samples(network, calibration).batches
    order = [key for key, _ in network.signature.inputs]
    metric = _metric(network, [[batch[key] for key in order] for batch in batches[:samples]], of)
    prepared = prepare_module(network, batches, keep_float, lambda done: progress("calibrate", done, len(batches)))
    report = _report(network, prepared, metric, progress)

    def error(paths: Sequence[str]) -> float:
        with torch.no_grad():
            return metric(prepare_module(network, batches, (*keep_float, *paths)))

    remedies = _remedies(network, report, error, progress)
    return LayerCosts(network.name, _words(of), "", min(samples, len(batches)), report, remedies)


def _check_output(network: Network, of: str | None) -> None:
    names = [name for name, _ in network.signature.outputs]
    if of is not None and of not in names:
        raise InputError(f"{network.name}: expected one of its outputs, {', '.join(names)}, found {of}")


def _words(of: str | None) -> str:
    return "error over the size of the values, all outputs" if of is None else f"mean absolute error of {of}"


def _metric(network: Network, samples: Sequence[Sequence[Tensor]], of: str | None) -> Callable[[Function], float]:
    """Error against the float model: of output ``of`` in its unit, or of all outputs over the size of their values."""
    with torch.no_grad():
        wanted = [network.module(*sample) for sample in samples]
    names = [name for name, _ in network.signature.outputs]
    measured = range(len(names)) if of is None else [names.index(of)]
    sizes = [_mean(result[index].square() for result in wanted) ** 0.5 or 1.0 for index in measured]

    def metric(candidate: Function) -> float:
        found = [candidate(*sample) for sample in samples]
        errors = [[f[index] - w[index] for f, w in zip(found, wanted, strict=True)] for index in measured]
        if of is not None:
            return _mean(error.abs() for error in errors[0])
        shares = [_mean(e.square() for e in output) ** 0.5 / size for output, size in zip(errors, sizes, strict=True)]
        return sum(shares) / len(shares)

    return metric


def _report(
    network: Network, prepared: GraphModule, metric: Callable[[Function], float], progress: Progress
) -> Sensitivity:
    """Sensitivity in the names of the network's maker: PyTorch's graph has its own for inputs."""
    places = [node.name for node in prepared.graph.nodes if node.op == "placeholder"]
    inputs = dict(zip(places, (name for name, _ in network.signature.inputs), strict=True))

    def named(cost: LayerCost) -> LayerCost:
        is_input = cost.tensor in inputs
        return replace(
            cost,
            tensor=inputs.get(cost.tensor, cost.tensor),
            module="" if is_input else _path(network, cost.module),
            around=tuple(_path(network, path) for path in cost.around),
        )

    report = sensitivity(prepared, metric, lambda done, total: progress("measure", done, total))
    return replace(report, layers=tuple(named(cost) for cost in report.layers))


def _path(network: Network, path: str) -> str:
    return f"{path}.".removeprefix(network.prefix).rstrip(".") or network.name


def _mean(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack([tensor.double().mean() for tensor in tensors]).mean())


def _remedies(
    network: Network, report: Sensitivity, error: Callable[[Sequence[str]], float], progress: Progress
) -> tuple[Remedy, ...]:
    """The layers that would spare most by themselves, tried with the modules around them."""
    enough = _WORTHWHILE * (report.quantised - report.floating)
    known = {name.removeprefix(network.prefix) for name, _ in network.module.named_modules() if "." in name}
    groups = []
    for cost in sorted(report.layers, key=lambda cost: cost.spared):
        paths = tuple(sorted(known.intersection((cost.module, *cost.around))))
        if paths and paths not in groups and enough > 0 and report.quantised - cost.spared >= enough:
            groups.append(paths)
    found = []
    for done, paths in enumerate(groups[:_TRIED], 1):
        found.append(Remedy(paths, error(paths)))
        progress("try in float", done, len(groups[:_TRIED]))
    return tuple(sorted((r for r in found if report.quantised - r.error >= enough), key=lambda remedy: remedy.error))
