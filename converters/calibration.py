"""Calibration data: samples of what a network will see."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edge_dp.errors import InputError

if TYPE_CHECKING:
    from edge_dp.converters.source import Network

Array = NDArray[Any] | Tensor
Sample = Mapping[str, Array] | Sequence[Array] | Array
"""One input of a network: arrays by name, arrays in order, or the array of a single input."""


class SampleFile(dict[str, NDArray[Any]]):
    """Arrays by name, and the file they are from."""

    def __init__(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(arrays)
        self.path = path


@dataclass(frozen=True)
class Calibration:
    """Samples as tensors by input name, and the range of each input over all of them; float32."""

    batches: list[dict[str, Tensor]]
    ranges: dict[str, tuple[float, float]]

    @classmethod
    def none(cls, network: Network) -> Self:
        """Of a network of which nothing is known: inputs from 0 to 1."""
        return cls([], {name: (0.0, 1.0) for name, _ in network.signature.inputs})


def read_samples(network: Network, samples: Iterable[Sample]) -> Calibration:
    """Check samples against the network's inputs.

    Raises:
        InputError: there are none; an input is missing, of another shape, not finite, or has one value in all samples.
    """
    given: Any = samples
    if isinstance(given, str | Mapping) or not isinstance(given, Iterable):
        raise InputError(f"calibration: expected a sequence of samples, found {type(given).__name__}")
    batches = [
        _named(network, sample, str(sample.path) if isinstance(sample, SampleFile) else f"calibration sample {index}")
        for index, sample in enumerate(given)
    ]
    if not batches:
        raise InputError("calibration: expected at least one sample, found none")
    ranges = {}
    for name, _ in network.signature.inputs:
        low = min(float(batch[name].min()) for batch in batches)
        high = max(float(batch[name].max()) for batch in batches)
        if low == high:
            raise InputError(
                f"calibration: input {name!r} is {low:g} everywhere in {len(batches)} samples: no range can be learnt from "
                f"it; pass real inputs"
            )
        ranges[name] = (low, high)
    return Calibration(batches, ranges)


def sample_files(folder: Path) -> list[SampleFile]:
    """Samples of a folder: each ``.npz`` holds one, its arrays by input name; an ``.npy`` that of a single input.

    Raises:
        InputError: the folder or a file cannot be read, or there is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of .npz or .npy files, one sample each")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".npz", ".npy"))
    if not files:
        raise InputError(f"{folder}: expected .npz or .npy files, one calibration sample each, found none")
    samples = []
    for path in files:
        try:
            loaded = np.load(path, allow_pickle=False)
            samples.append(SampleFile(path, dict(loaded) if path.suffix == ".npz" else {"": loaded}))
        except Exception as error:  # NumPy, zip and zlib raise anything
            raise InputError(f"{path}: not a readable {path.suffix} file: {error}") from error
    return samples


def _named(network: Network, sample: Sample, where: str) -> dict[str, Tensor]:
    wanted = network.signature.inputs
    if isinstance(sample, Mapping):
        given: dict[str, Any] = dict(sample)
        if set(given) == {""} and len(wanted) == 1:
            given = {wanted[0][0]: given[""]}
    else:
        is_sequence = isinstance(sample, Sequence) and not isinstance(sample, str)
        arrays: list[Any] = list(sample) if is_sequence else [sample]
        if len(arrays) != len(wanted):
            raise InputError(f"{where}: expected {len(wanted)} arrays, found {len(arrays)}")
        given = {name: array for (name, _), array in zip(wanted, arrays, strict=True)}
    if unknown := sorted(set(given) ^ {name for name, _ in wanted}, key=str):
        raise InputError(
            f"{where}: expected {', '.join(name for name, _ in wanted)}, found {', '.join(map(repr, given))} "
            f"({unknown[0]!r} does not fit)"
        )
    named = {}
    for name, shape in wanted:
        array = given[name]
        tensor = _tensor(array, f"{where}: {name}")
        if tuple(tensor.shape) != shape:
            raise InputError(f"{where}: {name}: expected shape {shape}, found {tuple(tensor.shape)}")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{where}: {name}: expected finite values, found NaN or infinity")
        named[name] = tensor
    return named


def _tensor(array: Any, where: str) -> Tensor:
    kind = getattr(array, "dtype", type(array).__name__)
    try:
        if isinstance(array, Tensor):
            array = array.detach().cpu().numpy()
        return torch.from_numpy(np.array(array).astype(np.float32, casting="same_kind", copy=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: expected an array of numbers, found {kind}") from error
