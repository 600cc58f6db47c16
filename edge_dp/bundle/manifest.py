"""The bundle's manifest: what a camera app needs to know to feed an artifact and read it, and proof of what was written.

A bundle is a folder that stands alone:

    manifest.json     this
    *.pte *.tflite *.onnx *.mlpackage    artifacts
    golden/           inputs and the outputs expected of them, as .npy (float32, NCHW)
    report.json, report.html    written by ``edge-dp validate``
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.config import from_mapping
from edge_dp.errors import ChecksumError, InputError, SchemaError
from edge_dp.files import json_dump, json_load, sha256
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization.ranges import ActivationRange

SCHEMA = 1
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor at the border of the model. Values are float32 in ``unit`` whatever the artifact stores inside."""

    name: str
    shape: tuple[int, ...]
    layout: str
    unit: str
    channels: tuple[str, ...]
    scale: float | None = None
    """Quantisation step of the int8 artifacts, in ``unit``."""
    zero_point: int | None = None


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What the camera app does before inference, in this order; a sensor profile has the numbers of the first three."""

    exposure: ExposureNormalisation
    steps: tuple[str, ...] = (
        "x = clip((raw - black_level) / (white_level - black_level), 0, 1) of the green plane, in linear light",
        "multiply the right view by the sensor's right_gain",
        "turn the image so that the dual-pixel axis is x; resize by area to height and width of the input",
        "exposure: multiply both views by target_mean / mean(left and right), at most max_gain; clip to [0, 1]",
        "stack (left, right) as channels",
    )


@dataclass(frozen=True, slots=True)
class Kernels:
    """How the artifact's operations execute, counted by name in the artifact itself."""

    integer: dict[str, int]
    floating: dict[str, int]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file (or package folder) that an engine executes.

    reference: which golden outputs it must reproduce, ``float`` or ``quantised``.
    files: sha256 by path, relative to the bundle; the artifact's only file, or each file of a package.
    """

    name: str
    format: str
    precision: str
    reference: str
    path: str
    size_bytes: int
    files: dict[str, str]
    kernels: Kernels


@dataclass(frozen=True, slots=True)
class GoldenCase:
    """One input with the outputs of the model (``float``) and of its converted quantised graph (``quantised``).

    Each entry maps a tensor's name to its file, relative to the bundle.
    """

    name: str
    inputs: dict[str, str]
    outputs: dict[str, dict[str, str]]
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a bundle says of itself."""

    schema: int
    model: str
    created: str
    parameters: int
    multiply_adds: int
    """Of one inference, convolutions only."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    disparity_convention: str
    confidence_convention: str
    preprocessing: Preprocessing
    artifacts: tuple[Artifact, ...]
    golden: tuple[GoldenCase, ...]
    quantization: tuple[ActivationRange, ...]
    training: dict[str, Any]
    versions: dict[str, str]
    host: dict[str, str] = field(default_factory=dict)

    def artifact(self, name: str) -> Artifact:
        """The artifact called ``name``; InputError lists what there is."""
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise InputError(f"{name}: no such artifact in the bundle; it has {', '.join(a.name for a in self.artifacts)}")


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
            if (found := sha256(path)) != expected:
                raise ChecksumError(
                    f"{path}: sha256 {found[:12]} differs from {expected[:12]} in the manifest: the file was truncated or "
                    f"edited. Export the bundle again."
                )

    def golden_inputs(self, case: GoldenCase) -> dict[str, NDArray[np.float32]]:
        """Input arrays of one golden case by name."""
        specs = {spec.name: spec for spec in self.manifest.inputs}
        return {name: self._array(file, specs[name]) for name, file in case.inputs.items()}

    def golden_outputs(self, case: GoldenCase, reference: str) -> dict[str, NDArray[np.float32]]:
        """Expected output arrays of one golden case, of the ``float`` or the ``quantised`` reference."""
        specs = {spec.name: spec for spec in self.manifest.outputs}
        return {name: self._array(file, specs[name]) for name, file in case.outputs[reference].items()}

    def _array(self, relative: str, spec: TensorSpec) -> NDArray[np.float32]:
        path = self.path(relative)
        try:
            array: NDArray[np.float32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"{path}: not a readable .npy file: {error}") from error
        if array.dtype != np.float32 or array.shape != spec.shape:
            raise InputError(f"{path}: expected float32 {spec.shape}, found {array.dtype} {array.shape}")
        return array


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write ``manifest.json`` into ``folder``."""
    json_dump(dataclasses.asdict(manifest), folder / MANIFEST)


def read_bundle(folder: str | Path) -> Bundle:
    """Read a bundle's manifest. Unknown fields are passed over; files are checked when they are used.

    Raises:
        InputError: there is no bundle.
        SchemaError: a field is missing or wrong, a path leaves the bundle, or a newer edge_dp wrote it.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: no bundle there (no {MANIFEST}). 'edge-dp export' writes one.")
    data = json_load(path)
    schema = data.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise SchemaError(f"{path}: schema {schema} is newer than this edge_dp reads ({SCHEMA}); upgrade edge-dp")
    manifest = from_mapping(Manifest, data, str(path), strict=False)
    bundle = Bundle(folder, manifest)
    names = {spec.name for spec in manifest.inputs}, {spec.name for spec in manifest.outputs}
    for artifact in manifest.artifacts:
        for relative in (artifact.path, *artifact.files):
            bundle.path(relative)
        if artifact.reference not in ("float", "quantised"):
            raise SchemaError(
                f"{path}: artifact {artifact.name}: reference {artifact.reference!r}, expected float or quantised"
            )
    for case in manifest.golden:
        if set(case.inputs) != names[0] or any(
            set(case.outputs.get(r, ())) != names[1] for r in ("float", "quantised")
        ):
            raise SchemaError(f"{path}: golden case {case.name} does not have every input and output of the model")
        for relative in (*case.inputs.values(), *case.files, *(f for o in case.outputs.values() for f in o.values())):
            bundle.path(relative)
    return bundle


def hash_tree(path: Path, root: Path) -> dict[str, str]:
    """sha256 of a file, or of each file below a folder, by path relative to ``root``, sorted."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {file.relative_to(root).as_posix(): sha256(file) for file in files}


def _inside(folder: Path, relative: str) -> Path:
    pure = PurePosixPath(relative)
    if not relative or pure.is_absolute() or ".." in pure.parts or "\\" in relative or "\0" in relative:
        raise SchemaError(f"{folder / MANIFEST}: path {relative!r} leaves the bundle")
    path = folder / pure
    if not path.resolve().is_relative_to(folder.resolve()):  # a link may leave it too
        raise SchemaError(f"{folder / MANIFEST}: path {relative!r} leaves the bundle")
    return path
