"""Stage parity: what each step from the float model to each artifact costs, so that a loss is pinned to the step that made it.

    float               the model as it was trained
    rewritten           the graph that was quantised, nothing rounded yet but its biases
    weights             the same with int8 weights
    fake_quantised      the same with int8 activations too, as in training
    converted           the integer graph that artifacts are made from
    converted_weights   the float graph with int8 weights, where an artifact is made from it
    each artifact       what its engine gave

A row compares a stage with the one it was made from, over the golden cases. All stages but the artifacts are evaluated by PyTorch
in float arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_dp.bundle.check import STAGES
from edge_dp.config import from_mapping
from edge_dp.errors import InputError, SchemaError
from edge_dp.files import json_dump, json_load
from edge_dp.runtime.agent import torch_threads
from edge_dp.runtime.parity import ErrorStatistics, compare

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from edge_dp.bundle.manifest import Manifest
    from edge_dp.converters.base import Source
    from edge_dp.converters.golden import Case
    from edge_dp.runtime.engines.base import Tensors

SCHEMA = 2
FLOAT = "float"
_PARENTS = {
    "rewritten": FLOAT,
    "weights": "rewritten",
    "fake_quantised": "weights",
    "converted": "fake_quantised",
    "converted_weights": "weights",
}
"""What each stage of the model was made from."""

MEANINGS = {
    "rewritten": "batch-norm folded, operations rewritten for integer engines, biases on the grids of their accumulators",
    "weights": "weights rounded to int8, per channel",
    "fake_quantised": "activations rounded to int8",
    "converted": "integers between the operations instead of rounded floats, ties of a resize up as in engines",
    "converted_weights": "stored int8 weights instead of rounded floats",
}
_REFERENCES = {FLOAT: FLOAT, "weights": "converted_weights", "quantised": "converted"}
"""The stage by the name that golden outputs and artifacts have for it."""


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage against the one it was made from, its neighbour.

    stage: name of a stage of the model, or of an artifact.
    statistics: error against the neighbour by output, over all golden cases.
    typical: the same over the cases that are like what the model will see, not noise or extremes; empty where there are none.
    from_float: error against the float model by output: what all stages up to here cost.
    """

    stage: str
    neighbour: str
    statistics: dict[str, ErrorStatistics]
    typical: dict[str, ErrorStatistics]
    from_float: dict[str, ErrorStatistics]


@dataclass(frozen=True, slots=True)
class Stages:
    """Every stage of one export, each after its neighbour.

    cases: golden cases that the errors are over. Artifacts that no engine executed where they were written have no row.
    """

    schema: int
    model: str
    cases: tuple[str, ...]
    rows: tuple[StageRow, ...]

    @property
    def outputs(self) -> list[str]:
        """Of the model, in order."""
        return list(dict.fromkeys(name for row in self.rows for name in row.statistics))

    def worst(self, output: str) -> StageRow | None:
        """The row that loses most of ``output``; None if all are exact.

        That with most values that are not finite; then with the largest mean error over typical cases, where there are some, as
        noise and constant images lie outside the ranges that a network was quantised for; then over all cases.
        """

        def loss(row: StageRow) -> tuple[int, float, float]:
            error = row.statistics[output]
            typical = row.typical.get(output, error)
            return error.not_finite, typical.mean_abs, error.mean_abs

        row = max((row for row in self.rows if output in row.statistics), key=loss, default=None)
        return row if row is not None and any(loss(row)) else None


def measure_stages(
    source: Source,
    manifest: Manifest,
    cases: Sequence[Case],
    expected: Mapping[str, Mapping[str, Tensors]],
    found: Mapping[str, Mapping[str, Tensors]],
) -> Stages:
    """Run the stages that lie between those already known, and compare neighbours.

    Args:
        manifest: names artifacts, their references, outputs and their quantisation steps.
        expected: outputs of the model by reference and golden case, as ``golden.expected_outputs`` gives them.
        found: outputs of each artifact by its name and the case's; artifacts that did not run are left out.
    """
    outputs = {_REFERENCES[reference]: by_case for reference, by_case in expected.items()}
    if source.graphs is not None:
        with torch_threads(1):  # small steps: more threads would mostly wait for each other
            outputs |= _partly_quantised(source, cases)
    parents = {stage: parent for stage, parent in _PARENTS.items() if stage in outputs}
    for artifact in manifest.artifacts:
        if found.get(artifact.name):
            outputs[artifact.name] = found[artifact.name]
            parents[artifact.name] = _REFERENCES[artifact.reference]
    everything, typical = [case.name for case in cases], [case.name for case in cases if case.kind == "typical"]
    steps = {spec.name: spec.scale or 1.0 for spec in manifest.outputs}

    def errors(stage: str, reference: str, names: list[str]) -> dict[str, ErrorStatistics]:
        pairs = [(outputs[stage][case], outputs[reference][case]) for case in names]
        return {
            output: compare([a[output] for a, _ in pairs], [b[output] for _, b in pairs], step)
            for output, step in steps.items()
            if pairs
        }

    rows = (
        StageRow(
            stage,
            parent,
            statistics=errors(stage, parent, everything),
            typical=errors(stage, parent, typical),
            from_float=errors(stage, FLOAT, everything),
        )
        for stage, parent in parents.items()
    )
    return Stages(SCHEMA, manifest.model, tuple(everything), tuple(rows))


def write_stages(stages: Stages, folder: Path) -> None:
    """Write ``stages.json`` into a bundle's ``folder``."""
    json_dump(dataclasses.asdict(stages), folder / STAGES)


def read_stages(folder: Path) -> Stages:
    """Read the stages of the bundle in ``folder``.

    Raises:
        InputError: the bundle has none. SchemaError: a field is wrong, or another edge_dp wrote it.
    """
    path = folder / STAGES
    if not path.is_file():
        raise InputError(
            f"{folder}: expected {STAGES}, found none. Export the bundle again; exporting measures the stages."
        )
    data = json_load(path)
    schema = data.get("schema")
    if isinstance(schema, int) and schema != SCHEMA:
        age, remedy = ("newer", "upgrade edge-dp") if schema > SCHEMA else ("older", "export the bundle again")
        raise SchemaError(f"{path}: schema {schema} is {age} than this edge_dp reads ({SCHEMA}); {remedy}")
    return from_mapping(Stages, data, str(path), strict=False)


def _partly_quantised(source: Source, cases: Sequence[Case]) -> dict[str, dict[str, Tensors]]:
    from edge_dp.converters.golden import run_cases
    from edge_dp.quantization.sensitivity import PartlyQuantised

    prepared = source.quantised.prepared
    return {
        stage: run_cases(source, PartlyQuantised(prepared, frozenset(nodes)).run, cases)
        for stage, nodes in _rounding(prepared)
    }


def _rounding(prepared: GraphModule) -> Iterator[tuple[str, list[Any]]]:
    """Stages between the float model and the converted graph, each with the fake quantisation that rounds in it."""
    from edge_dp.quantization.qat import fake_quantised

    nodes = [(node, source.op == "get_attr") for node, source, _ in fake_quantised(prepared)]
    yield "rewritten", []
    yield "weights", [node for node, is_weight in nodes if is_weight]
    yield "fake_quantised", [node for node, _ in nodes]
