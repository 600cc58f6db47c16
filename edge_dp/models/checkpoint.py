"""The checkpoint: a trained, quantised student as a folder of readable files. No pickle.

config.yaml           schema, student, input size, preprocessing, sha256 of the two files below
weights.safetensors   float32 weights, batch-norm folded
quantization.json     range, scale and zero point of every activation
training.json         data, teacher, licences of both, metrics, limits, recipe
card.md               the model card: the same for people, made of the others
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from edge_dp.config import from_mapping
from edge_dp.errors import ChecksumError, InputError, SchemaError
from edge_dp.files import atomic_folder, json_dump, json_load, sha256, yaml_load
from edge_dp.models.card import model_card
from edge_dp.models.registry import build_student
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization.ranges import ActivationRange

if TYPE_CHECKING:
    from edge_dp.models.dp_disparity import DpDisparity

SCHEMA = 2
SCHEMAS = (1, 2)
"""Those that are read: in 1 the exposure has no transfer, all light is linear."""
_CONFIG, _WEIGHTS, _RANGES, _TRAINING = "config.yaml", "weights.safetensors", "quantization.json", "training.json"
_CARD = "card.md"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained student.

    weights: float32 by parameter name, batch-norm folded.
    ranges: quantisation of every activation.
    training: where it comes from: data, teacher, licences, metrics.
    """

    student: str
    input_size: tuple[int, int]
    weights: dict[str, NDArray[np.float32]]
    ranges: tuple[ActivationRange, ...]
    exposure: ExposureNormalisation
    training: dict[str, Any]

    def build(self) -> DpDisparity:
        """The float student with these weights, in evaluation mode.

        Raises:
            InputError: the weights are not this student's.
        """
        import torch

        module = build_student(self.student)
        module.fold_batch_norm()
        module.eval()
        try:
            module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.weights.items()})
        except RuntimeError as error:
            raise InputError(f"weights do not fit {self.student}: {' '.join(str(error).split())[:200]}") from error
        return module


@dataclass(frozen=True, slots=True)
class _Config:
    schema: int
    student: str
    input_size: tuple[int, int]
    exposure: ExposureNormalisation
    sha256: dict[str, str]


def shipped_checkpoints() -> dict[str, Path]:
    """Checkpoints that come with edge_dp, by name."""
    folder = Path(str(resources.files("edge_dp.models"))) / "checkpoints"
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{_CONFIG}"))}


def write_checkpoint(checkpoint: Checkpoint, folder: Path) -> Path:
    """Write ``checkpoint`` to ``folder``, whole or not at all; an older checkpoint there is replaced."""
    with atomic_folder(folder, marker=_CONFIG) as temporary:
        (temporary / _WEIGHTS).write_bytes(
            save({name: np.array(array, order="C") for name, array in checkpoint.weights.items()})
        )
        json_dump(
            {"schema": SCHEMA, "activations": [dataclasses.asdict(r) for r in checkpoint.ranges]}, temporary / _RANGES
        )
        json_dump(checkpoint.training, temporary / _TRAINING)
        (temporary / _CARD).write_text(model_card(checkpoint), encoding="utf-8")
        config = _Config(
            SCHEMA,
            checkpoint.student,
            checkpoint.input_size,
            checkpoint.exposure,
            {name: sha256(temporary / name) for name in (_WEIGHTS, _RANGES)},
        )
        plain = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples become lists, as YAML knows no tuples
        (temporary / _CONFIG).write_text(yaml.safe_dump(plain, sort_keys=False), encoding="utf-8")
    return folder


def read_checkpoint(name_or_folder: str | Path) -> Checkpoint:
    """Read a checkpoint by the name of a shipped one or by folder.

    Raises:
        InputError: there is none, or a file is missing or damaged.
        ChecksumError: weights or quantisation differ from what was written.
        SchemaError: a field is wrong, or a newer version of edge_dp wrote it.
    """
    folder = shipped_checkpoints().get(str(name_or_folder), Path(name_or_folder))
    path = folder / _CONFIG
    if not path.is_file():
        known = ", ".join(shipped_checkpoints()) or "none"
        raise InputError(
            f"{name_or_folder}: no checkpoint there (no {_CONFIG}), and no shipped one of that name; shipped: {known}"
        )
    data = yaml_load(path)
    if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
        raise SchemaError(
            f"{path}: schema {data['schema']} is newer than this edge_dp reads ({SCHEMA}); upgrade edge-dp"
        )
    config = from_mapping(_Config, data, str(path), strict=False)
    for name in (_WEIGHTS, _RANGES):
        if (found := sha256(folder / name)) != config.sha256.get(name):
            raise ChecksumError(
                f"{folder / name}: checksum {found[:12]} is not the {str(config.sha256.get(name))[:12]} of {path}"
            )
    try:
        weights = load_file(folder / _WEIGHTS)
    except SafetensorError as error:
        raise InputError(f"{folder / _WEIGHTS}: not safetensors: {error}") from error
    table = json_load(folder / _RANGES)
    if table.get("schema") not in SCHEMAS or not isinstance(table.get("activations"), list):
        raise SchemaError(
            f"{folder / _RANGES}: expected schema {SCHEMA} with a list of activations, found schema {table.get('schema')} "
            f"and {type(table.get('activations')).__name__}; upgrade edge-dp or write the checkpoint again"
        )
    ranges = tuple(
        from_mapping(ActivationRange, row, f"{folder / _RANGES}: activations[{i}]", strict=False)
        for i, row in enumerate(table["activations"])
    )
    training = json_load(folder / _TRAINING)
    return Checkpoint(config.student, config.input_size, weights, ranges, config.exposure, training)
