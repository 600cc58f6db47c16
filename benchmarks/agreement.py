"""What the benchmarks of exports share: a network in all its forms, one artifact at a time, how far outputs lie apart."""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.fx import GraphModule, Interpreter, Node

from edge_dp.bundle.manifest import Kernels
from edge_dp.converters.base import QuantisedGraphs, Source
from edge_dp.converters.calibration import Sample, read_samples
from edge_dp.converters.configs import FormatConfig
from edge_dp.converters.golden import Case, checkpoint_cases, network_cases
from edge_dp.converters.preflight import check_network
from edge_dp.converters.registry import make_converter
from edge_dp.converters.source import (
    Network,
    network_of_checkpoint,
    network_of_module,
    quantise_checkpoint,
    quantise_module,
)
from edge_dp.errors import ExportError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.quantization.graph import module_path
from edge_dp.quantization.half_up import half_up
from edge_dp.quantization.integer.graph import CLAMPS, IntegerGraph
from edge_dp.runtime.engines.base import Tensors

Outputs = Mapping[str, Tensors]
"""By the name of the case; each by the name of the output."""


@dataclass(frozen=True)
class Subject:
    """A quantised network and the inputs to compare its forms on."""

    network: Network
    graphs: QuantisedGraphs
    cases: Sequence[Case]

    @property
    def source(self) -> Source:
        """As converters take it."""
        return Source(self.network.name, self.network.module, self.graphs, self.network.signature)

    @property
    def steps(self) -> dict[str, float]:
        """Quantisation step of each output."""
        returned: Any = self.graphs.folded.graph.output_node().args[0]
        names = (name for name, _ in self.network.signature.outputs)
        return {name: float(node.args[1]) for name, node in zip(names, returned, strict=True)}

    def outputs_of(self, form: str) -> Outputs:
        """What a form of the network gives: ``float``, ``weights``, ``quantised``, or the bit-true ``reference``.

        Raises:
            ExportError: the reference has no rule for an operation.
        """
        if form == "reference":
            graph = IntegerGraph(self.graphs.folded)
            return self._run(lambda *inputs: map(torch.from_numpy, graph.run_float([x.numpy() for x in inputs])))
        forms = {
            "float": self.network.module,
            "weights": self.graphs.weights,
            "quantised": half_up(self.graphs.folded),
        }
        return self._run(forms[form])

    def _run(self, function: Callable[..., Any]) -> Outputs:
        names = [name for name, _ in self.network.signature.outputs]
        found = {}
        for case in self.cases:
            with torch.no_grad():
                results = function(*map(torch.from_numpy, case.inputs.values()))
            found[case.name] = {name: result.numpy() for name, result in zip(names, results, strict=True)}
        return found


def calibrated(module: nn.Module, inputs: Mapping[str, Sequence[int]], samples: Sequence[Sample], name: str) -> Subject:
    """Anyone's module, quantised with the ranges that ``samples`` show.

    Raises:
        ExportError: an operation has no integer rule.
    """
    network = network_of_module(module, inputs, None, name)
    calibration = read_samples(network, samples)
    return Subject(network, quantise_module(network, calibration.batches), network_cases(network, calibration))


def shipped(name: str, height: int, width: int) -> Subject:
    """A shipped student."""
    checkpoint = read_checkpoint(name)
    network = network_of_checkpoint(checkpoint, height, width)
    return Subject(network, quantise_checkpoint(network, checkpoint), checkpoint_cases(network, checkpoint.exposure))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One artifact that was written and proved, or refused.

    refused: the reason.
    outputs: empty where no engine here executes it.
    """

    config: FormatConfig
    seconds: float
    refused: str = ""
    kernels: Kernels | None = None
    outputs: Outputs | None = None

    @property
    def delegated(self) -> str:
        """In words: fully, or what is left outside the delegate with its share."""
        if self.kernels is None:
            return "-"
        return ", ".join(f"{name} {share:.0%}" for name, share in self.kernels.outside.items()) or "fully"


def place_of(subject: Subject, config: FormatConfig, folder: Path) -> Path:
    """Folder below ``folder`` of one artifact."""
    return folder / f"{subject.network.name}-{config.name}"


def attempt(subject: Subject, config: FormatConfig, folder: Path) -> Attempt:
    """Pre-flight, write and prove one artifact below ``folder``."""
    start = time.perf_counter()
    place = place_of(subject, config, folder)
    place.mkdir()
    try:
        check_network(subject.network, [config])
        probes = {case.name: case.inputs for case in subject.cases}
        written = make_converter(config.format).convert(subject.source, config, place, probes)
    except ExportError as error:
        return Attempt(config, time.perf_counter() - start, refused=" ".join(str(error).split()))
    return Attempt(config, time.perf_counter() - start, "", written.artifact.kernels, written.outputs)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far outputs lie from others, over all cases; each number that of the worst output.

    equal, within_1, within_2: shares of values, distances in quantisation steps.
    snr_db: infinite where all values are equal.
    """

    equal: float
    within_1: float
    within_2: float
    max_steps: float
    snr_db: float

    @classmethod
    def of(cls, found: Outputs, wanted: Outputs, steps: Mapping[str, float]) -> Agreement:
        """``found`` against ``wanted``; ``steps`` by output."""
        each = []
        for name, step in steps.items():
            one, two = (
                np.concatenate([outputs[case][name].ravel() for case in wanted]).astype(np.float64)
                for outputs in (found, wanted)
            )
            noise, signal = float(((one - two) ** 2).sum()), float((two**2).sum())
            snr = 10 * math.log10(signal / noise) if noise and signal else math.inf if not noise else -math.inf
            each.append((*_shares(np.abs(one - two) / step), snr))
        rows = np.array(each)
        equal, within_1, within_2, _, snr = (float(value) for value in rows.min(axis=0))
        return cls(equal, within_1, within_2, float(rows[:, 3].max()), snr)

    def to_json(self) -> dict[str, float | None]:
        """Plain values; ``snr_db`` is null where it is infinite."""
        return dataclasses.asdict(self) | {"snr_db": self.snr_db if math.isfinite(self.snr_db) else None}

    def cells(self) -> list[str]:
        """For a table: per cent, per cent, per cent, steps, dB."""
        shares = (f"{100 * share:.3f}" for share in (self.equal, self.within_1, self.within_2))
        return [*shares, f"{self.max_steps:.0f}", "equal" if math.isinf(self.snr_db) else f"{self.snr_db:.1f}"]


CELLS = ("equal %", "within 1 %", "within 2 %", "max steps", "SNR dB")
"""Titles of ``Agreement.cells``."""


def _shares(distance: NDArray[np.float64]) -> tuple[float, ...]:
    """Shares at 0, within 1 and within 2 steps, and the largest; half a step is left for float32's rounding of the steps."""
    return (*((distance < limit).mean() for limit in (0.5, 1.5, 2.5)), np.round(distance.max()))


@dataclass(frozen=True, slots=True)
class Parting:
    """Where the steps between the converted graph and the integer reference arise.

    first: the first activation, in the order of the graph, at which they part; empty where they never do.
    first_share: of its values.
    fresh: by operation, the share of values that differ though both computed them from the same integers.
    """

    first: str
    first_operation: str
    first_share: float
    fresh: dict[str, float]

    def __str__(self) -> str:
        if not self.first:
            return "nowhere"
        fresh = ", ".join(f"{name} {share:.2%}" for name, share in self.fresh.items() if share)
        return f"first at {self.first} ({self.first_operation}, {self.first_share:.2%}); made by {fresh}"


def parting(subject: Subject) -> Parting:
    """Follow the first case, activation by activation.

    Raises:
        ExportError: the reference has no rule for an operation.
    """
    inputs = subject.cases[0].inputs
    forced = OneByOne(half_up(subject.graphs.folded), IntegerGraph(subject.graphs.folded).trace(list(inputs.values())))
    with torch.no_grad():
        forced.run(*map(torch.from_numpy, inputs.values()))
    values: Counter[str] = Counter()
    different: Counter[str] = Counter()
    for _, label, distance in forced.activations:
        values[label] += distance.size
        different[label] += int((distance > 0).sum())
    fresh = {
        label: different[label] / values[label] for label in sorted(values, key=lambda k: -different[k] / values[k])
    }
    for place, label, distance in forced.activations:
        if distance.any():
            return Parting(place, label, float((distance > 0).mean()), fresh)
    return Parting("", "", 0.0, fresh)


class OneByOne(Interpreter):
    """Runs a converted graph and puts, behind each operation, the reference's integers in place of its own.

    activations: of each in order, its module, its operation, and the distance in steps of every value that was computed.
    """

    def __init__(self, graph: GraphModule, trace: dict[str, NDArray[np.int8]]) -> None:
        super().__init__(graph)
        self.trace = trace
        self.activations: list[tuple[str, str, NDArray[np.int32]]] = []

    def run_node(self, n: Node) -> Any:
        """Called for each node in turn."""
        result = super().run_node(n)
        if "quantize_per_tensor" not in str(n.target) or "dequantize" in str(n.target):
            return result
        operation: Any = n.args[0]
        if operation.name not in self.trace:  # what ``half_up`` adds
            operation = operation.args[0]
        expected = self.trace[operation.name]
        while operation.target in CLAMPS:
            operation = operation.args[0]
        label = "input" if operation.op == "placeholder" else str(operation.target).removeprefix("aten.").split(".")[0]
        path = module_path(operation).removeprefix("module.")
        place = operation.name if path == "module" else path  # the network itself did it
        self.activations.append((place, label, np.abs(result.numpy().astype(np.int32) - expected).ravel()))
        return torch.from_numpy(expected)
