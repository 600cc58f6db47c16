"""What differs between two bundles: fields, artifacts, and the numbers that their golden vectors hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edge_dp.bundle.manifest import Artifact, Bundle, GoldenCase, TensorSpec

_APART = frozenset({"artifacts", "golden", "created"})
"""Compared by what they hold; and when a bundle was written says nothing of what is in it."""


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field of the manifest, ``None`` where a bundle does not have it."""

    field: str
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class ArtifactDifference:
    """An artifact whose files differ, or that one bundle does not have: size in bytes in each, and which files."""

    artifact: str
    first_bytes: int | None
    second_bytes: int | None
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GoldenDifference:
    """Where golden vectors of one case differ most.

    what: ``inputs``, a reference such as ``quantised``, or an artifact. largest: absolute, in the tensor's unit. steps: the same
    in quantisation steps of the first bundle; null where it has none.
    """

    case: str
    what: str
    tensor: str
    largest: float
    steps: float | None


@dataclass(frozen=True, slots=True)
class BundleDiff:
    """All that differs; ``compared`` counts the golden arrays that both bundles have in one shape."""

    fields: tuple[FieldDifference, ...]
    artifacts: tuple[ArtifactDifference, ...]
    golden: tuple[GoldenDifference, ...]
    compared: int

    @property
    def same(self) -> bool:
        """Whether nothing differs."""
        return not (self.fields or self.artifacts or self.golden)


def diff_bundles(first: Bundle, second: Bundle) -> BundleDiff:
    """Compare two bundles; ``created`` is passed over.

    Raises:
        InputError: a golden array is missing or damaged.
    """
    fields = list(_field_differences(_plain(first), _plain(second)))
    fields += _golden_fields(first, second)
    golden: list[GoldenDifference] = []
    compared = 0
    for case, what, spec, arrays in _common_arrays(first, second):
        compared += 1
        largest = float(np.abs(arrays[0].astype(np.float64) - arrays[1]).max(initial=0.0))
        if largest > 0:
            golden.append(
                GoldenDifference(case, what, spec.name, largest, largest / spec.scale if spec.scale else None)
            )
    return BundleDiff(tuple(fields), tuple(_artifact_differences(first, second)), tuple(golden), compared)


def _plain(bundle: Bundle) -> dict[str, Any]:
    """Manifest fields by their path, lists of things with names told by these; artifacts without sizes and checksums."""
    data = bundle.manifest.to_json()
    flat = dict(_flatten({name: value for name, value in data.items() if name not in _APART}, ""))
    for artifact in data["artifacts"]:
        told = {name: value for name, value in artifact.items() if name not in ("files", "size_bytes", "name")}
        flat |= dict(_flatten(told, f"artifacts.{artifact['name']}"))
    return flat


def _flatten(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, entry in value.items():
            yield from _flatten(entry, f"{place}.{name}".lstrip("."))
    elif isinstance(value, list | tuple) and value and all(isinstance(entry, Mapping) for entry in value):
        for index, entry in enumerate(value):
            yield from _flatten(entry, f"{place}.{entry.get('name', entry.get('tensor', index))}")
    else:
        yield place, list(value) if isinstance(value, tuple) else value


def _field_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[FieldDifference]:
    for field in dict.fromkeys((*first, *second)):
        if first.get(field) != second.get(field):
            yield FieldDifference(field, first.get(field), second.get(field))


def _artifact_differences(first: Bundle, second: Bundle) -> Iterator[ArtifactDifference]:
    ours, theirs = ({a.name: a for a in bundle.manifest.artifacts} for bundle in (first, second))
    for name in dict.fromkeys((*ours, *theirs)):
        one, other = ours.get(name), theirs.get(name)
        before, after = _files(one), _files(other)
        changed = tuple(sorted(file for file in {*before, *after} if before.get(file) != after.get(file)))
        if changed:
            first_bytes, second_bytes = (None if entry is None else entry.size_bytes for entry in (one, other))
            yield ArtifactDifference(name, first_bytes, second_bytes, changed)


def _files(artifact: Artifact | None) -> dict[str, str]:
    """Checksums by path within the artifact, which may have another name in another bundle."""
    if artifact is None:
        return {}
    return {file.removeprefix(artifact.path).lstrip("/") or "file": digest for file, digest in artifact.files.items()}


def _golden_fields(first: Bundle, second: Bundle) -> Iterator[FieldDifference]:
    ours, theirs = ({case.name: case for case in bundle.manifest.golden} for bundle in (first, second))
    for name in dict.fromkeys((*ours, *theirs)):
        told = [_told(case[name]) if name in case else {} for case in (ours, theirs)]
        for difference in _field_differences(*told):
            yield FieldDifference(f"golden.{name}.{difference.field}", difference.first, difference.second)


def _told(case: GoldenCase) -> dict[str, Any]:
    """What a case has, without the names of its files."""
    return {"kind": case.kind, "outputs": sorted(case.outputs), "artifacts": sorted(case.artifacts)}


def _common_arrays(first: Bundle, second: Bundle) -> Iterator[tuple[str, str, TensorSpec, list[Any]]]:
    """Every golden array that both bundles have, of tensors of one shape."""
    cases = {case.name: case for case in second.manifest.golden}
    for case in first.manifest.golden:
        if case.name not in cases:
            continue
        ours, theirs = _tensors(case), _tensors(cases[case.name])
        for what in (name for name in ours if name in theirs):
            specs = [m.inputs if what == "inputs" else m.outputs for m in (first.manifest, second.manifest)]
            other = {spec.name: spec for spec in specs[1]}
            for spec in specs[0]:
                if spec.name in other and other[spec.name].shape == spec.shape:
                    arrays = [first.array(ours[what][spec.name], spec), second.array(theirs[what][spec.name], spec)]
                    yield case.name, what, spec, arrays


def _tensors(case: GoldenCase) -> dict[str, dict[str, str]]:
    return {"inputs": case.inputs, **case.outputs, **case.artifacts}
