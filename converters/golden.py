"""Golden vectors: inputs, what the model makes of them, and what each artifact made of them where it was written."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from edge_dp.bundle.golden import golden_views
from edge_dp.bundle.manifest import GoldenCase, hash_tree
from edge_dp.converters.base import Source
from edge_dp.converters.configs import Reference
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization.half_up import half_up
from edge_dp.runtime.engines.base import Tensors

if TYPE_CHECKING:
    from edge_dp.converters.calibration import Calibration
    from edge_dp.converters.source import Network

_SEED = 10
_TYPICAL = 3  # calibration samples that become golden


@dataclass(frozen=True)
class Case:
    """One golden input, float32 arrays by name."""

    name: str
    kind: Literal["typical", "extreme", "random"]
    inputs: Tensors


def checkpoint_cases(network: Network, exposure: ExposureNormalisation | None) -> list[Case]:
    """Simulated captures, noise and the extremes of what a camera can deliver, for a dual-pixel student.

    Args:
        exposure: as of ``golden_views``.
    """
    ((name, (_, _, height, width)),) = network.signature.inputs
    cases = []
    for key, views in golden_views(height, width, exposure).items():
        kind: Literal["typical", "extreme", "random"] = "typical"
        if key == "random" or key.startswith("extreme"):
            kind = "random" if key == "random" else "extreme"
        cases.append(Case(key, kind, {name: views}))
    return cases


def network_cases(network: Network, calibration: Calibration) -> list[Case]:
    """The first calibration samples, noise over the inputs' ranges, and the ends of these ranges."""
    rng = np.random.default_rng(_SEED)
    cases = [
        Case(f"typical_{index}", "typical", {name: tensor.numpy() for name, tensor in batch.items()})
        for index, batch in enumerate(calibration.batches[:_TYPICAL])
    ]
    shapes, ranges = dict(network.signature.inputs), calibration.ranges
    noise = {name: rng.uniform(*ranges[name], shape).astype(np.float32) for name, shape in shapes.items()}
    cases.append(Case("random", "random", noise))
    for end, word in enumerate(("low", "high")):
        flat = {name: np.full(shape, ranges[name][end], np.float32) for name, shape in shapes.items()}
        cases.append(Case(f"extreme_{word}", "extreme", flat))
    return cases


def run_cases(source: Source, form: Callable[..., Any], cases: Sequence[Case]) -> dict[str, Tensors]:
    """Outputs by case of one form of the model: a module, or any function of its inputs."""
    outputs = {}
    for case in cases:
        with torch.no_grad():
            results = form(*(torch.from_numpy(array) for array in case.inputs.values()))
        outputs[case.name] = {name: result.numpy() for name, result in zip(source.output_names, results, strict=True)}
    return outputs


def expected_outputs(
    source: Source, cases: Sequence[Case], references: set[Reference]
) -> dict[str, dict[str, Tensors]]:
    """Outputs of the model's forms by reference and case.

    Args:
        references: which forms artifacts are compared with; the float one is always among them, and the quantised one where the
            model is quantised.
    """
    modules: dict[str, nn.Module] = {"float": source.module}
    if "weights" in references:
        modules["weights"] = source.quantised.weights
    if source.graphs is not None:
        modules["quantised"] = half_up(source.graphs.folded)
    return {reference: run_cases(source, module, cases) for reference, module in modules.items()}


def write_golden(
    cases: Sequence[Case],
    expected: Mapping[str, Mapping[str, Tensors]],
    found: Mapping[str, Mapping[str, Tensors]],
    folder: Path,
) -> list[GoldenCase]:
    """Write every case below ``folder``.

    Args:
        expected: outputs of the model by reference and case.
        found: outputs of each artifact by its name and the case's.
    """
    golden = []
    for case in cases:
        place = folder / "golden" / case.name
        place.mkdir(parents=True)
        inputs = {name: _save(folder, place / f"{name}.npy", array) for name, array in case.inputs.items()}
        references, artifacts = (
            {
                name: _save_all(folder, place, name, outputs[case.name])
                for name, outputs in known.items()
                if case.name in outputs
            }
            for known in (expected, found)
        )
        golden.append(
            GoldenCase(
                name=case.name,
                kind=case.kind,
                inputs=inputs,
                outputs=references,
                artifacts=artifacts,
                files=hash_tree(place, folder),
            )
        )
    return golden


def _save_all(folder: Path, place: Path, what: str, arrays: Tensors) -> dict[str, str]:
    return {name: _save(folder, place / f"{name}.{what}.npy", array) for name, array in arrays.items()}


def _save(folder: Path, path: Path, array: np.ndarray) -> str:
    buffer = io.BytesIO()  # of a full disk, writing to a file at once would tell no reason
    np.save(buffer, np.ascontiguousarray(array, dtype=np.float32))
    path.write_bytes(buffer.getvalue())
    return path.relative_to(folder).as_posix()
