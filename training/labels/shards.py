"""Labels on disk: shards of a set, each with where it came from, so that nothing is mixed and every licence is known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp._version import VERSION
from edge_dp.errors import InputError, SchemaError
from edge_dp.files import atomic_write
from edge_dp.simulation.shards import first_difference, open_shard
from edge_dp.training.labels.config import LabelConfig
from edge_dp.training.labels.sources import CaptureSource
from edge_dp.training.labels.teachers import teacher_note
from edge_dp.training.teachers.base import Teacher

SCHEMA = 1
LABELS = 2
"""Raised whenever the same captures, teacher and configuration give other labels than before."""

_SETTINGS = ("schema", "labels", "teacher", "config", "source")


@dataclass(frozen=True, slots=True)
class Samples:
    """Training material, N captures.

    views: (N, 2, H, W) float16 linear light, the mean over colours, not exposure-normalised.
    label: (N, H/2, W/2) float16 mean of the label, dual-pixel disparity, px of the views; 0 where masked.
    sigma: (N, H/2, W/2) float16 px > 0, standard deviation of the label; 0 where masked.
    mask: (N, H/2, W/2) bool, where the label holds.
    truth: (N, H/2, W/2) float16 true disparity, for evaluation only; NaN where unknown.
    """

    views: NDArray[np.float16]
    label: NDArray[np.float16]
    sigma: NDArray[np.float16]
    mask: NDArray[np.bool_]
    truth: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.views)


_FIELDS = tuple(field.name for field in fields(Samples))


def label_settings(source: CaptureSource, teacher: Teacher, config: LabelConfig) -> dict[str, Any]:
    """All that the labels of a set depend on, as JSON values: equal settings, equal labels."""
    return {
        "schema": SCHEMA,
        "labels": LABELS,
        "teacher": teacher_note(teacher),
        "config": asdict(config),
        "source": source.note(),
    }


def write_shard(path: Path, samples: Samples, settings: Mapping[str, Any], captures: Mapping[str, Any]) -> None:
    """Write one shard atomically, with its provenance; the bytes depend on the arguments and the version alone.

    Args:
        settings: of ``label_settings``.
        captures: names of the "captures" in it, in order; name and reason of those with an "empty" mask; number and reason of
            those that "failed" and were left out.
    """
    provenance = {**settings, "edge_dp": VERSION, **captures}
    text = json.dumps(provenance, ensure_ascii=False, allow_nan=False)
    arrays = {name: getattr(samples, name) for name in _FIELDS}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, provenance=np.array(text), **arrays)


def read_provenance(path: Path, expected: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Where a shard's labels come from: teacher with licence, label configuration, source, captures, version.

    Args:
        expected: settings that it must have, as of ``label_settings``.

    Raises:
        InputError: the shard is damaged, or was made with other settings; the first that differs is named.
        SchemaError: it has no provenance, or one of a newer edge_dp.
    """
    with open_shard(path) as data:
        if "provenance" not in data.files:
            raise SchemaError(
                f"{path}: expected a shard with provenance, found none: of an older edge_dp. Delete it and run again."
            )
        return _provenance(path, data["provenance"], expected)


def read_shards(paths: Iterable[Path], expected: Mapping[str, Any] | None = None) -> Samples:
    """All shards in memory.

    Args:
        expected: settings that they must have; None: those of the first.

    Raises:
        InputError: a shard is damaged, has other settings, or captures of another size; it is named. Or no label of any
            holds, so that there is nothing to learn.
        SchemaError: as ``read_provenance``.
    """
    parts: list[tuple[NDArray[Any], ...]] = []
    paths = list(paths)
    for path in paths:
        provenance = read_provenance(path, expected)
        expected = expected or {name: provenance[name] for name in _SETTINGS}
        with open_shard(path) as data:
            arrays = tuple(data[name] for name in _FIELDS)
        if parts and arrays[0].shape[1:] != parts[0][0].shape[1:]:
            raise InputError(
                f"{path}: expected views of {parts[0][0].shape[1:]} as in {paths[0]}, found {arrays[0].shape[1:]}"
            )
        parts.append(arrays)
    samples = Samples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    if not samples.mask.any():
        raise InputError(
            f"{paths[0].parent}: expected labels, found every mask empty. The teacher and its checks agree nowhere: look at the "
            "rig's views, or loosen the label configuration."
        )
    return samples


def _provenance(path: Path, text: NDArray[Any], expected: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        provenance = json.loads(str(text))
        schema = provenance["schema"]
    except (ValueError, TypeError, KeyError) as error:
        raise SchemaError(
            f"{path}: expected provenance as JSON, found something else ({error}). Delete it and run again."
        ) from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise SchemaError(f"{path}: expected schema {SCHEMA} or older, found {schema}. Update edge_dp.")
    if lacking := [name for name in _SETTINGS if name not in provenance]:
        raise SchemaError(f"{path}: provenance: field {lacking[0]!r} is missing. Delete the shard and run again.")
    if expected is not None:
        found = {name: provenance[name] for name in expected}
        if difference := first_difference(json.loads(json.dumps(dict(expected))), found):
            raise InputError(
                f"{path}: labels made with other settings: {difference}. Keep sets apart, or delete it and run again."
            )
    return dict(provenance)
