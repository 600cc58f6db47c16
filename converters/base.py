"""The base of every converter: it owns the guards, a format implements ``_convert`` and ``_kernels``.

An artifact counts as written only once it has been loaded from disk, run, and found to hold integer kernels where it promises
integers.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn
from torch.fx import GraphModule

from edge_dp.bundle.manifest import Artifact, Kernels, hash_tree
from edge_dp.errors import EdgeDpError, ExportError
from edge_dp.quiet import quiet
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.engines.base import Signature, Tensors

INTEGER_PRECISIONS = frozenset({"int8", "w8a8"})


@dataclass(frozen=True)
class Source:
    """A model in the three forms that converters need, all of one training.

    module: float, batch-norm folded, evaluation mode.
    folded: converted PT2E graph with int8 weights.
    unfolded: the same graph with the weights' quantise nodes left in.
    """

    name: str
    module: nn.Module
    folded: GraphModule
    unfolded: GraphModule
    signature: Signature

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


class Converter(ABC):
    """Writes one format."""

    format: ClassVar[str]
    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    float_kernels_allowed: ClassVar[frozenset[str]] = frozenset()
    """Operations that the format's engine has only in float, and that may stay so in an integer artifact."""

    def convert(self, source: Source, precision: str, folder: Path, probe: Tensors) -> Artifact:
        """Write one artifact into ``folder`` and prove it.

        Args:
            precision: one of ``precisions``.
            probe: inputs to run the artifact on once.

        Raises:
            ExportError: the toolchain failed, or the artifact does not run, or it computes in float what it promises in
                integers. The message says which.
        """
        if precision not in self.precisions:
            raise ExportError(f"{self.format}: no precision {precision!r}; it has {', '.join(self.precisions)}")
        path = folder / f"{source.name}.{precision}{self.suffix}"
        label = f"{self.format} {precision}"
        with _toolchain(label):
            self._convert(source, precision, path)
        try:
            with make_engine(engine_for(self.format), path, source.signature) as engine:
                engine.infer(probe)
        except EdgeDpError as error:
            raise ExportError(f"{label}: written, but does not run: {error}") from error
        with _toolchain(label):
            kernels = self._kernels(path)
        if precision in INTEGER_PRECISIONS:
            if not kernels.integer:
                raise ExportError(f"{label}: expected integer kernels, found none: {kernels.floating}")
            if unexpected := set(kernels.floating) - self.float_kernels_allowed:
                counts = ", ".join(f"{kernels.floating[name]} x {name}" for name in sorted(unexpected))
                raise ExportError(f"{label}: expected integer kernels, found float ones: {counts}")
        files = hash_tree(path, folder)
        return Artifact(
            name=f"{self.format}-{precision}",
            format=self.format,
            precision=precision,
            reference="quantised" if precision in INTEGER_PRECISIONS else "float",
            path=path.name,
            size_bytes=sum((folder / file).stat().st_size for file in files),
            files=files,
            kernels=kernels,
        )

    @abstractmethod
    def _convert(self, source: Source, precision: str, path: Path) -> None:
        """Write the artifact to ``path``."""

    @abstractmethod
    def _kernels(self, path: Path) -> Kernels:
        """Count the artifact's arithmetic by kernel name, read back from disk. Data movement does not count."""


@contextlib.contextmanager
def _toolchain(label: str) -> Iterator[None]:
    """Run a toolchain in silence; whatever it raises becomes an ExportError naming ``label``."""
    try:
        with quiet():
            yield
    except EdgeDpError:
        raise
    except Exception as error:  # toolchains raise anything
        words = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExportError(f"{label}: the toolchain failed: {words}") from error
