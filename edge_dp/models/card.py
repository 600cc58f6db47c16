"""The model card of a checkpoint: where a student comes from and what it cannot do, in Markdown for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_dp.models.registry import student_entry
from edge_dp.preprocessing import TRANSFERS

if TYPE_CHECKING:
    from edge_dp.models.checkpoint import Checkpoint

_TRAINING = {
    "data": "Data",
    "data_licence": "Licence of the data",
    "teacher": "Teacher",
    "teacher_licence": "Licence of the teacher",
    "companion": "Joined with",
    "ground_truth_used": "Ground truth used",
    "minutes": "Minutes of training, simulation included",
    "machine": "Machine",
    "versions": "Versions",
}


def model_card(checkpoint: Checkpoint) -> str:
    """Markdown made of the checkpoint alone: network, training with licences, metrics, limits."""
    entry = student_entry(checkpoint.student)
    height, width = checkpoint.input_size
    parameters = sum(array.size for array in checkpoint.weights.values())
    training = checkpoint.training
    light = TRANSFERS[checkpoint.exposure.transfer]
    network = {
        "Parameters": f"{parameters:,}",
        "Input": f"views (1, 2, {height}, {width}): left and right green plane, {light}, exposure-normalised",
        "Sees": "the left view alone" if entry.monocular else "both views",
        "Outputs": f"disparity (px of the input) and confidence, (1, 1, {height // 2}, {width // 2})",
        "Quantised": f"int8, {len(checkpoint.ranges)} activations" if checkpoint.ranges else "no",
    }
    made = {title: _words(training[name]) for name, title in _TRAINING.items() if training.get(name) is not None}
    metrics = {name.replace("_", " "): _words(value) for name, value in training.get("metrics", {}).items()}
    parts = [f"# {checkpoint.student}", f"{entry.summary}.".capitalize(), _table(network)]
    parts += ["## Training", _table(made), "## Metrics", _table(metrics)]
    parts += ["## Limits", "\n".join(f"- {limit}" for limit in training.get("limits", ["not stated"]))]
    return "\n\n".join(parts) + "\n"


def _table(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(item)}" for name, item in value.items())
    return "unknown" if value is None else str(value).replace("|", "\\|")
