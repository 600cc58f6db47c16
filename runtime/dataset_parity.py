"""Parity over the captures of a data set: an artifact's outputs against those of the model's form that it must reproduce.

Golden vectors are few and lie in the bundle; of a data set the bundle holds no expected outputs. The model gives them, made
again from its checkpoint by ``edge_dp.converters.bundle_model``, once for all artifacts.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Bundle, TensorSpec
from edge_dp.errors import EdgeDpError
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.parity import QUANTILES, ErrorStatistics, Tally

Reference = Callable[[str, Sequence[Tensors]], Sequence[Tensors]]
"""Outputs of a form of the model, one of ``edge_dp.bundle.manifest.REFERENCES``, for some inputs."""

_BELOW = 12  # bits of a float32 that a quantile does without: bins are 1/2048 of their value wide


@dataclass(frozen=True, slots=True)
class DatasetParity:
    """One artifact against its reference over a data set.

    samples: captures that were compared.
    statistics: by output name. Their quantiles are the next smaller error, less 1/2048 of itself at most.
    missing: why there are none, in words; null where there are.
    """

    dataset: str
    samples: int
    statistics: dict[str, ErrorStatistics] = field(default_factory=dict)
    missing: str | None = None


class Quantiles:
    """Quantiles of any number of values in little memory: counts of bins that are 1/2048 of their value wide."""

    def __init__(self) -> None:
        self._counts = np.zeros(1 << (31 - _BELOW), np.int64)

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values, finite and at least 0."""
        # Floats of one sign are in the order of their bits.
        bins = np.asarray(values, np.float32).view(np.uint32) >> _BELOW
        found, counts = np.unique(bins, return_counts=True)
        self._counts[found] += counts

    def at(self, shares: Sequence[float]) -> list[float]:
        """The lower end of the bin in which each quantile lies; 0 where nothing was counted."""
        total = np.cumsum(self._counts)
        if not total[-1]:
            return [0.0] * len(shares)
        bins = np.searchsorted(total, np.asarray(shares) * (total[-1] - 1), side="right").astype(np.uint32)
        return [float(value) for value in (bins << _BELOW).view(np.float32)]


class Comparison:
    """Collects the errors of one artifact.

    Args:
        run: executes it. expected: gives the outputs that it must reproduce. outputs: of the manifest.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Tensors]], Sequence[Tensors]],
        expected: Callable[[Sequence[Tensors]], Sequence[Tensors]],
        outputs: Sequence[TensorSpec],
    ) -> None:
        self._run, self._expected = run, expected
        self._tallies = {spec.name: (Tally(spec.scale or 1.0), Quantiles()) for spec in outputs}
        self._samples = 0

    def __call__(self, inputs: Sequence[Tensors]) -> Sequence[Tensors]:
        """Run the artifact on some inputs and compare; errors as of the engine and the reference."""
        found = self._run(inputs)
        for outputs, wanted in zip(found, self._expected(inputs), strict=True):
            for name, (tally, quantiles) in self._tallies.items():
                quantiles.add(tally.add(outputs[name], wanted[name]))
        self._samples += len(inputs)
        return found

    def result(self, dataset: str) -> DatasetParity:
        """Of everything that was run."""
        statistics = {
            name: tally.statistics(quantiles.at(QUANTILES)) for name, (tally, quantiles) in self._tallies.items()
        }
        return DatasetParity(dataset, self._samples, statistics)


class ExpectedOutputs:
    """Outputs of the model's forms, each computed once and kept on disk; serves several threads.

    Args:
        make: builds what computes them, given the bundle; called when they are first asked for.
        bundle: whose model it is.
    """

    def __init__(self, make: Callable[[Bundle], Reference], bundle: Bundle) -> None:
        self._make, self._bundle = make, bundle
        self._reference: Reference | None = None
        self._why_not: str | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="edge_dp_reference_")
        self._lock = threading.Lock()

    def why_not(self) -> str | None:
        """Why the model cannot be built, in words; None where it can."""
        with self._lock:
            if self._reference is None and self._why_not is None:
                try:
                    self._reference = self._make(self._bundle)
                except EdgeDpError as error:
                    self._why_not = str(error)
            return self._why_not

    def of(self, form: str, inputs: Sequence[Tensors]) -> list[Tensors]:
        """As of ``Reference``; only where ``why_not`` has said None."""
        return [self._one(form, tensors) for tensors in inputs]

    def _one(self, form: str, inputs: Tensors) -> Tensors:
        path = Path(self._folder.name) / f"{form}_{_digest(inputs)}.npz"
        with self._lock:  # PyTorch's threads are one pool, and one artifact computes what the next one reads
            if not path.is_file():
                assert self._reference is not None
                (outputs,) = self._reference(form, [inputs])
                np.savez(path, **outputs)  # type: ignore[arg-type]  # its stub takes the arrays for the flag
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)


def _digest(inputs: Mapping[str, NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for name, array in inputs.items():
        digest.update(name.encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]
