"""The bundle's manifest: what an app needs to know to feed an artifact and read it, and proof of what was written.

A bundle is a folder that stands alone:

    manifest.json     this; ``manifest.schema.json`` beside this module is its JSON Schema
    *.pte *.tflite *.onnx *.mlpackage    artifacts
    golden/           inputs and the outputs expected of them, as .npy (float32)
    stages.json       what each stage between the float model and each artifact costs
    report.json, report.html, report_pictures/    written by ``edge-dp validate``

Within a schema fields may be added: readers pass over those they do not know and write them back. A change that an older reader
would misunderstand takes a new number, which older readers refuse.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self, Union, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.arrays import read_array
from edge_dp.bundle.schema import (
    MAX_VALUES,
    Count,
    Int8,
    Limit,
    Name,
    Positive,
    RelativePath,
    Sha256,
    Shape,
    Share,
    check_limits,
    check_plain,
    is_stored,
    json_schema,
    one_of,
)
from edge_dp.config import from_mapping
from edge_dp.errors import ChecksumError, InputError, SchemaError
from edge_dp.files import json_dump, json_load, sha256
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization.ranges import ActivationRange
from edge_dp.sensors.profile import FieldPolynomial, SensorProfile

SCHEMA = 3
SCHEMAS = (1, 2, 3)
"""Those that are read: 1 knows no transfer of the exposure and no dither, all light is linear; 1 and 2 no ``field_corrected``."""
MANIFEST = "manifest.json"
REFERENCES = ("float", "weights", "quantised")
"""The forms of the model whose outputs artifacts are compared with: as trained, with its int8 weights, and with int8 weights and
activations."""

_AT_LEAST_ONE = Limit("at least one tensor", {"minItems": 1})
TensorFiles = dict[Name, RelativePath]
Checksums = dict[RelativePath, Sha256]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor at the border of the model. Values are ``dtype`` in ``unit`` whatever the artifact stores inside.

    name: as the artifacts call it.
    shape: fixed; the batch is the first size.
    layout: one letter per size, such as NCHW; empty where unknown.
    unit: of the values; empty where unknown.
    channels: what each channel holds, in order; empty where unknown.
    scale, zero_point: quantisation in the int8 artifacts, real = scale * (q - zero_point) with q from -128 to 127; null where
    there is none.
    value_range: lowest and highest value that has a meaning; null where unknown.
    meaning: what the values say, with sign and formula.
    """

    name: Name
    shape: Shape
    layout: str = ""
    unit: str = ""
    channels: tuple[str, ...] = ()
    scale: Positive | None = None
    zero_point: Int8 | None = None
    dtype: Annotated[str, one_of("float32")] = "float32"
    value_range: tuple[float, float] | None = None
    meaning: str = ""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What the app does before inference, in this order.

    exposure: gain that brings the views' common mean to a fixed value, and how the model is told the light; null where it wants
    the light as it is.
    steps: everything that is done, in words.
    axis: of the input along which the views differ.
    views: their order in the channels of the first input.
    black_level, white_level: of the camera's files, in their levels; null where no sensor is named.
    dither: step of the noise that is added to the input, of float and integer artifacts alike; null where none is.
    right_gain: over the field, multiplies the right view; null where both are equally bright or no sensor is named.
    """

    exposure: ExposureNormalisation | None = None
    steps: tuple[str, ...] = (
        "x = clip((raw - black_level) / (white_level - black_level), 0, 1) of the green plane, in linear light",
        "multiply the right view by right_gain",
        "turn the image so that the dual-pixel axis is x; resize by area to height and width of the input",
        "exposure: multiply both views by target_mean / mean(left and right), at most max_gain; clip to [0, 1]",
        "transfer of the exposure: square_root, where it says so, takes the square root of that light",
        "stack (left, right) as channels",
        "dither, where it is given: add ((h >> 8) + 0.5) / 2^24 - 0.5 times it to the i-th value; h is i, then, in 32 bits, "
        "h ^= h >> 16, h *= 0x7feb352d, h ^= h >> 15, h *= 0x846ca68b, h ^= h >> 16",
    )
    axis: Annotated[str, one_of("x", "y")] = "x"
    views: tuple[str, ...] = ("left", "right")
    black_level: float | None = None
    white_level: float | None = None
    dither: Positive | None = None
    right_gain: FieldPolynomial | None = None

    @classmethod
    def for_sensor(cls, exposure: ExposureNormalisation, sensor: SensorProfile) -> Self:
        """Of a dual-pixel student whose views come from ``sensor``."""
        return cls(
            exposure,
            black_level=float(sensor.black_level),
            white_level=float(sensor.white_level),
            right_gain=sensor.right_gain,
        )

    def without_exposure(self) -> Self:
        """Of a model that does exposure, transfer and dither itself."""
        kept = (step for step in self.steps if not step.startswith(("exposure", "transfer", "dither")))
        return dataclasses.replace(self, exposure=None, dither=None, steps=tuple(kept))


@dataclass(frozen=True, slots=True)
class Kernels:
    """How the artifact's operations execute, counted by name in the artifact itself.

    outside: operations that the format's delegate did not take, with their share of the time or work.
    """

    integer: dict[str, Count]
    floating: dict[str, Count]
    outside: dict[str, Share] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file (or package folder) that an engine executes.

    reference: which golden outputs it must reproduce.
    files: sha256 by path, relative to the bundle; the artifact's only file, or each file of a package.
    options: of the format, as it was asked for.
    """

    name: Name
    format: Name
    precision: Name
    reference: Annotated[str, one_of(*REFERENCES)]
    path: RelativePath
    size_bytes: Count
    files: Checksums
    kernels: Kernels
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One input and the outputs expected of it. Tensors are given by name, as files relative to the bundle.

    outputs: of the model itself, by reference: always ``float``; ``weights`` and ``quantised`` where it has been quantised.
    files: sha256 of every file that the case names.
    kind: whether the input is what the model will see, an end of its range, or noise.
    artifacts: what each artifact gave on the machine that exported it; those that no engine there executes are left out.
    """

    name: Name
    inputs: TensorFiles
    outputs: dict[str, TensorFiles]
    files: Checksums
    kind: Annotated[str, one_of("typical", "extreme", "random")] = "typical"
    artifacts: dict[Name, TensorFiles] = field(default_factory=dict)

    def paths(self) -> Iterator[str]:
        """Every file that the case names."""
        for tensors in (self.inputs, *self.outputs.values(), *self.artifacts.values()):
            yield from tensors.values()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything a bundle says of itself.

    schema: version of this form.
    created: date and time, ISO 8601.
    multiply_adds: of one inference.
    preprocessing: null where the model takes its inputs as its maker defines them.
    sensor: profile of the sensor that the model was made for, in the form of its own JSON; null where there is none.
    field_corrected: whether the artifacts correct disparity and confidence for that sensor's field themselves, as
    ``edge_dp.data.correct_field`` does.
    quantization: of every activation, in the order of the graph; empty where the model is float.
    keep_float: paths of modules that stay in float in the integer artifacts, as was asked for.
    int16: likewise, of modules with 16-bit activations.
    metrics: what was measured of the model, by name.
    licences: by what they cover: code, weights, data, teacher.
    training: how the weights came about.
    versions: of the tools that wrote the bundle.
    host: machine (instruction set), system and Python that wrote it.
    """

    schema: Annotated[int, Limit(" or ".join(map(str, SCHEMAS)), {"enum": list(SCHEMAS)})]
    model: Name
    created: str
    parameters: Count
    multiply_adds: Count
    inputs: Annotated[tuple[TensorSpec, ...], _AT_LEAST_ONE]
    outputs: Annotated[tuple[TensorSpec, ...], _AT_LEAST_ONE]
    preprocessing: Preprocessing | None = None
    sensor: dict[str, Any] | None = None
    field_corrected: bool = False
    artifacts: tuple[Artifact, ...]
    golden: tuple[GoldenCase, ...]
    quantization: tuple[ActivationRange, ...] = ()
    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()
    metrics: dict[str, Any] = field(default_factory=dict)
    licences: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    host: dict[str, str] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False, metadata={"stored": False})
    """The JSON it was read from: fields that this version does not know are written back from here."""

    def artifact(self, name: str) -> Artifact:
        """The artifact called ``name``; InputError lists what there is."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise InputError(f"{name}: no such artifact in the bundle; it has {', '.join(a.name for a in self.artifacts)}")

    def checksums(self) -> Iterator[tuple[str, str]]:
        """Path and sha256 of every file of the bundle but the manifest."""
        for artifact in self.artifacts:
            yield from artifact.files.items()
        for case in self.golden:
            yield from case.files.items()

    def to_json(self) -> dict[str, Any]:
        """The JSON form: every field, and those of ``origin`` that this version does not know.

        Entries of a list are told by their name, so an artifact keeps its unknown fields when others come or go.
        """
        merged: dict[str, Any] = _merged(Manifest, self, self.origin)
        return merged


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest has been read."""

    folder: Path
    manifest: Manifest

    def path(self, relative: str) -> Path:
        """Absolute path of a file of the bundle; SchemaError where it would leave the bundle."""
        return _inside(self.folder, relative)

    def check_files(self, files: dict[str, str]) -> None:
        """Compare files with their checksums.

        Raises:
            InputError: a file is missing.
            ChecksumError: a file differs from what was written.
        """
        for relative, expected in files.items():
            path = self.path(relative)
            if not path.is_file():  # a pipe would wait for ever
                raise InputError(f"{path}: expected a file of the bundle, found none. Export the bundle again.")
            if (found := sha256(path)) != expected:
                raise ChecksumError(
                    f"{path}: sha256 {found[:12]} differs from {expected[:12]} in the manifest: the file was truncated or "
                    f"edited. Export the bundle again."
                )

    def golden_inputs(self, case: GoldenCase) -> dict[str, NDArray[np.float32]]:
        """Input arrays of one golden case by name; InputError where a file is damaged."""
        return self._arrays(case.inputs, self.manifest.inputs)

    def golden_outputs(self, case: GoldenCase, reference: str) -> dict[str, NDArray[np.float32]]:
        """Expected output arrays of one golden case, of one of ``REFERENCES``; InputError where there are none."""
        if reference not in case.outputs:
            raise InputError(
                f"{self.folder}: golden case {case.name}: no outputs of the {reference} model; it has {', '.join(case.outputs)}"
            )
        return self._arrays(case.outputs[reference], self.manifest.outputs)

    def artifact_outputs(self, case: GoldenCase, artifact: str) -> dict[str, NDArray[np.float32]] | None:
        """What an artifact gave for one golden case where it was exported; None where nothing there executed it."""
        files = case.artifacts.get(artifact)
        return None if files is None else self._arrays(files, self.manifest.outputs)

    def array(self, relative: str, spec: TensorSpec) -> NDArray[np.float32]:
        """The values of one tensor in a file of the bundle; InputError where it is damaged or another shape."""
        return read_array(self.path(relative), spec.shape, spec.name)

    def _arrays(self, files: dict[str, str], specs: tuple[TensorSpec, ...]) -> dict[str, NDArray[np.float32]]:
        return {spec.name: self.array(files[spec.name], spec) for spec in specs}


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json`` into ``folder``.

    Raises:
        SchemaError: a field that ``read_bundle`` would refuse.
    """
    path = folder / MANIFEST
    data = manifest.to_json()
    check_plain(data, str(path))
    check_limits(manifest, str(path))
    _check_whole(manifest, str(path))
    json_dump(data, path)


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle's manifest. Files are checked when they are used; ``check_bundle`` checks all.

    Raises:
        InputError: there is no bundle.
        SchemaError: a field is missing or wrong, a path leaves the bundle, or a newer edge_dp wrote it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: no bundle there (no {MANIFEST}). 'edge-dp export' writes one.")
    manifest = manifest_of_json(json_load(path), str(path))
    for artifact in manifest.artifacts:
        _inside(folder, artifact.path)
    for relative, _ in manifest.checksums():
        _inside(folder, relative)
    return Bundle(folder, manifest)


def manifest_of_json(data: Mapping[str, Any], where: str) -> Manifest:
    """Check the JSON form and make a manifest of it.

    Args:
        where: the file, for the messages.

    Raises:
        SchemaError: a field is missing or wrong, or a newer edge_dp wrote it.
    """
    schema = data.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise SchemaError(f"{where}: schema {schema} is newer than this edge_dp reads ({SCHEMA}); upgrade edge-dp")
    check_plain(data, where)
    stored = {f.name for f in dataclasses.fields(Manifest) if is_stored(f)}
    known = {name: value for name, value in data.items() if name in stored}
    manifest = dataclasses.replace(from_mapping(Manifest, known, where, strict=False), origin=data)
    check_limits(manifest, where)
    _check_whole(manifest, where)
    return manifest


def manifest_schema() -> dict[str, Any]:
    """JSON Schema of ``manifest.json``; ``manifest.schema.json`` is a copy of it."""
    return json_schema(Manifest, f"Manifest of an edge_dp bundle, schema {SCHEMA}")


def hash_tree(path: Path, root: Path) -> dict[str, str]:
    """sha256 of a file, or of each file below a folder, by path relative to ``root``, sorted."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.relative_to(root).as_posix(): sha256(file) for file in files}


def check_border(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], preprocessing: Preprocessing | None, where: str
) -> None:
    """Refuse tensors that contradict themselves or share a name, and a gain that is no polynomial; SchemaError says which."""
    gain = preprocessing.right_gain if preprocessing is not None else None
    lengths = {len(row) for row in gain.coefficients} if gain is not None else {1}
    if len(lengths) != 1 or 0 in lengths or (gain is not None and min(gain.field_px) < 1):
        raise SchemaError(
            f"{where}: preprocessing: right_gain: expected rows of coefficients of equal length and a field of positive size, "
            f"found rows of {sorted(lengths)}"
        )
    for kind, specs in (("inputs", inputs), ("outputs", outputs)):
        _check_unique(specs, f"{where}: {kind}")
        for spec in specs:
            place = f"{where}: {kind}: {spec.name}"
            if (spec.scale is None) != (spec.zero_point is None):
                missing = "scale" if spec.scale is None else "zero_point"
                raise SchemaError(f"{place}: expected scale and zero_point, or neither, found no {missing}")
            if math.prod(spec.shape) > MAX_VALUES:
                raise SchemaError(f"{place}: shape: expected at most {MAX_VALUES} values, found {list(spec.shape)}")
            if spec.value_range is not None and spec.value_range[0] > spec.value_range[1]:
                raise SchemaError(f"{place}: value_range: expected low and high, found {list(spec.value_range)}")


def _check_whole(manifest: Manifest, where: str) -> None:
    """What no field says alone: names that must agree, and a checksum for every file."""
    check_border(manifest.inputs, manifest.outputs, manifest.preprocessing, where)
    if manifest.field_corrected and (manifest.sensor or {}).get("alpha_field") is None:
        raise SchemaError(f"{where}: field_corrected: expected a sensor with an alpha_field, found none")
    _check_unique(manifest.artifacts, f"{where}: artifacts")
    _check_unique(manifest.golden, f"{where}: golden")
    for artifact in manifest.artifacts:
        own = [file for file in artifact.files if file == artifact.path or file.startswith(f"{artifact.path}/")]
        if not own or len(own) != len(artifact.files):
            raise SchemaError(
                f"{where}: artifacts: {artifact.name}: files: expected checksums of {artifact.path!r} or of what is in it, found "
                f"{', '.join(map(repr, artifact.files)) or 'none'}"
            )
    for case in manifest.golden:
        _check_case(case, manifest, f"{where}: golden: {case.name}")


def _check_case(case: GoldenCase, manifest: Manifest, where: str) -> None:
    inputs, outputs = {spec.name for spec in manifest.inputs}, {spec.name for spec in manifest.outputs}
    for kind, tensors in (("outputs", case.outputs), ("artifacts", case.artifacts)):
        for name, files in tensors.items():
            if set(files) != outputs:
                raise SchemaError(f"{where}: {kind}: {name}: expected {_names(outputs)}, found {_names(set(files))}")
    if set(case.inputs) != inputs:
        raise SchemaError(f"{where}: inputs: expected {_names(inputs)}, found {_names(set(case.inputs))}")
    wanted = {a.reference: f"artifact {a.name}" for a in manifest.artifacts} | {"float": "every bundle"}
    for reference, reason in wanted.items():
        if reference not in case.outputs:
            raise SchemaError(
                f"{where}: outputs: expected {reference!r} for {reason}, found {_names(set(case.outputs))}"
            )
    if unknown := set(case.artifacts) - {artifact.name for artifact in manifest.artifacts}:
        raise SchemaError(f"{where}: artifacts: expected names of artifacts, found {_names(unknown)}")
    if bare := set(case.paths()) - set(case.files):
        raise SchemaError(f"{where}: files: expected a checksum of every file, found none of {_names(bare)}")


def _check_unique(entries: tuple[Any, ...], where: str) -> None:
    names = [entry.name for entry in entries]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SchemaError(f"{where}: expected each name once, found {_names(twice)} more than once")


def _names(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "none"


def _merged(hint: Any, new: Any, old: Any) -> Any:
    """``new`` as JSON, with what ``old`` has besides in the places where dataclasses stand."""
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is tuple and new is not None:
        return _merged_list(hint, new, old)
    if not dataclasses.is_dataclass(new):
        return new
    old = old if isinstance(old, Mapping) else {}
    hints = get_type_hints(type(new))
    stored = [f.name for f in dataclasses.fields(new) if is_stored(f)]
    known = {name: _merged(hints[name], getattr(new, name), old.get(name)) for name in stored}
    return known | {name: value for name, value in old.items() if name not in known}


def _merged_list(hint: Any, new: tuple[Any, ...], old: Any) -> list[Any]:
    kind = get_args(hint)[0]
    if not dataclasses.is_dataclass(kind):
        return list(new)
    key = "name" if "name" in {f.name for f in dataclasses.fields(kind)} else "tensor"
    by_key = {entry.get(key): entry for entry in old or () if isinstance(entry, Mapping)}
    return [_merged(kind, entry, by_key.get(getattr(entry, key))) for entry in new]


def _inside(folder: Path, relative: str) -> Path:
    pure = PurePosixPath(relative)
    try:
        path = folder / pure
        whole = not (not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative)
        if whole and path.resolve().is_relative_to(folder.resolve()):  # a link may leave it too
            return path
    except (OSError, RuntimeError, ValueError):  # a name too long, links in a circle, a NUL
        pass
    raise SchemaError(f"{folder / MANIFEST}: path {relative!r} leaves the bundle")
