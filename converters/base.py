"""The base of every converter: it owns the guards, a format implements how to write and how to read back.

An artifact counts as written only once it has been loaded from disk, run, and found to hold what it promises: integer kernels
and the trained quantisation, where it promises integers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import nn
from torch.fx import GraphModule

from edge_dp.bundle.manifest import Artifact, Kernels, hash_tree
from edge_dp.converters.configs import FormatConfig
from edge_dp.errors import EdgeDpError, ExportError
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.quiet import quiet
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.engines.base import Signature, Tensors


class Quantisation(NamedTuple):
    """Of one activation as an artifact stores it, in int8 terms: real = scale * (q - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class QuantisedGraphs:
    """One quantisation in the two forms that toolchains want.

    folded: converted PT2E graph with int8 weights.
    unfolded: the same graph with the weights' quantise nodes left in.
    clamped: ``unfolded`` with every clamp in it, where activations do not saturate as int8 does.
    prepared: the graph that all of these were converted from, fake-quantised, with frozen ranges.
    weights: the float model with its weights rounded to their int8 values.
    ranges: of every activation, in the order of the graph.
    kept_float: how many operations were left in float on request; artifacts may hold as many float kernels.
    """

    folded: GraphModule
    unfolded: GraphModule
    clamped: GraphModule
    prepared: GraphModule
    weights: nn.Module
    ranges: tuple[ActivationRange, ...]
    kept_float: int = 0


@dataclass(frozen=True)
class Source:
    """A model in the forms that converters need, all of one training.

    module: float, evaluation mode; takes the inputs in order, returns a tensor or a tuple of them.
    card: JSON text that says what inputs and outputs are; artifacts carry it under ``cards.CARD_KEY``.
    """

    name: str
    module: nn.Module
    graphs: QuantisedGraphs | None
    signature: Signature
    card: str = "{}"

    @property
    def quantised(self) -> QuantisedGraphs:
        """The quantised forms; ExportError where the model has none."""
        if self.graphs is None:
            raise ExportError(f"{self.name}: has no quantisation; pass calibration data, or a quantised checkpoint")
        return self.graphs

    @property
    def example(self) -> tuple[torch.Tensor, ...]:
        """Zeros in the shape of each input, for tracing."""
        return tuple(torch.zeros(shape) for _, shape in self.signature.inputs)

    @property
    def input_names(self) -> list[str]:
        """In order."""
        return [name for name, _ in self.signature.inputs]

    @property
    def output_names(self) -> list[str]:
        """In order."""
        return [name for name, _ in self.signature.outputs]


@dataclass(frozen=True, slots=True)
class Written:
    """An artifact that has been proved, and what it gave for each probe; no outputs where no engine here executes it."""

    artifact: Artifact
    outputs: dict[str, Tensors]


class Converter(ABC):
    """Writes one format."""

    format: ClassVar[str]
    suffix: ClassVar[str]
    float_kernels_allowed: ClassVar[frozenset[str]] = frozenset()
    """Operations that the format's engine has only in float, and that may stay so in an integer artifact."""

    def convert(
        self,
        source: Source,
        config: FormatConfig,
        folder: Path,
        probes: Mapping[str, Tensors],
        *,
        require_full_delegation: bool = False,
    ) -> Written:
        """Write one artifact into ``folder`` and prove it.

        Args:
            config: of this format.
            probes: inputs by case name, to run the artifact on.
            require_full_delegation: refuse an artifact that leaves work outside its delegate.

        Raises:
            ExportError: the toolchain failed, or the artifact does not run, or computes in float what it promises in integers,
                or holds another quantisation than the trained one. The message says which.
        """
        label = f"{self.format} {config.label}"
        path = folder / f"{source.name}.{config.label}{self.suffix}"
        with _toolchain(label):
            self._convert(source, config, path)
        outputs: dict[str, Tensors] = {}
        if self._runs_here(config):
            try:
                with make_engine(engine_for(self.format), path, source.signature) as engine:
                    outputs = {name: engine.infer(probe) for name, probe in probes.items()}
            except EdgeDpError as error:
                raise ExportError(f"{label}: written, but does not run: {error}") from error
        with _toolchain(label):
            kernels = self._kernels(path, config)
        if require_full_delegation and kernels.outside:
            shares = ", ".join(f"{name} ({share:.0%})" for name, share in kernels.outside.items())
            raise ExportError(f"{label}: expected full delegation, found outside the delegate: {shares}")
        if config.integer_arithmetic:
            self._check_kernels(label, kernels, source.quantised.kept_float)
        if config.integer:
            with _toolchain(label):
                found = self._activations(path, config)
            _check_quantisation(label, found, source.quantised.ranges)
        files = hash_tree(path, folder)
        artifact = Artifact(
            name=config.name,
            format=self.format,
            precision=config.precision,
            reference=config.reference,
            path=path.name,
            size_bytes=sum((folder / file).stat().st_size for file in files),
            files=files,
            kernels=kernels,
            options={k: v for k, v in dataclasses.asdict(config).items() if k != "precision"},
        )
        return Written(artifact, outputs)

    @abstractmethod
    def _convert(self, source: Source, config: FormatConfig, path: Path) -> None:
        """Write the artifact to ``path``."""

    @abstractmethod
    def _kernels(self, path: Path, config: FormatConfig) -> Kernels:
        """Count the artifact's arithmetic by kernel name, read back from disk. Data movement does not count."""

    @abstractmethod
    def _activations(self, path: Path, config: FormatConfig) -> list[Quantisation]:
        """Quantisation of every activation stored in an integer artifact, read back from disk, as int8."""

    def _runs_here(self, config: FormatConfig) -> bool:
        """Whether an engine on this machine can execute what ``config`` asks for."""
        return True

    def _check_kernels(self, label: str, kernels: Kernels, kept_float: int) -> None:
        if not kernels.integer:
            raise ExportError(f"{label}: expected integer kernels, found none: {kernels.floating}")
        unexpected = {name: n for name, n in kernels.floating.items() if name not in self.float_kernels_allowed}
        if sum(unexpected.values()) > kept_float:
            counts = ", ".join(f"{count} x {name}" for name, count in sorted(unexpected.items()))
            allowed = f" beyond the {kept_float} kept in float" if kept_float else ""
            raise ExportError(f"{label}: expected integer kernels, found float ones{allowed}: {counts}")


def _check_quantisation(label: str, found: list[Quantisation], trained: tuple[ActivationRange, ...]) -> None:
    """Every activation stored in the artifact must be one of the trained ones: toolchains derive scales anew without a word."""
    known = {entry.zero_point: [e.scale for e in trained if e.zero_point == entry.zero_point] for entry in trained}
    for scale, zero_point in found:
        if not any(abs(scale - other) <= 1e-6 * other for other in known.get(zero_point, ())):
            raise ExportError(
                f"{label}: expected the trained quantisation, found an activation with scale {scale:.8g} and zero point "
                f"{zero_point}, which no activation of the model has"
            )


@contextlib.contextmanager
def _toolchain(label: str) -> Iterator[None]:
    """Run a toolchain in silence; whatever it raises becomes an ExportError naming ``label``."""
    try:
        with quiet():
            yield
    except EdgeDpError:
        raise
    except Exception as error:  # toolchains raise anything, and the cause is told last
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        words = " ".join(str(cause).split()).partition(" While executing ")[0][:300] or type(cause).__name__
        raise ExportError(f"{label}: the toolchain failed: {words}") from error
