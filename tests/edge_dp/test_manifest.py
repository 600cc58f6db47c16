"""The bundle's manifest: what it refuses, and that it says where."""

import json

import numpy as np
import pytest

from edge_dp.bundle.manifest import (
    MANIFEST,
    Artifact,
    GoldenCase,
    Kernels,
    Manifest,
    Preprocessing,
    TensorSpec,
    hash_tree,
    read_bundle,
    write_manifest,
)
from edge_dp.errors import ChecksumError, InputError, SchemaError
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization.ranges import ActivationRange


@pytest.fixture
def folder(tmp_path):
    """A bundle with one artifact and one golden case."""
    (tmp_path / "golden").mkdir()
    views = np.zeros((1, 2, 4, 4), np.float32)
    disparity = np.ones((1, 1, 2, 2), np.float32)
    np.save(tmp_path / "golden/views.npy", views)
    np.save(tmp_path / "golden/disparity.npy", disparity)
    (tmp_path / "net.tflite").write_bytes(b"artifact")
    golden = GoldenCase(
        "case",
        {"views": "golden/views.npy"},
        {reference: {"disparity": "golden/disparity.npy"} for reference in ("float", "quantised")},
        hash_tree(tmp_path / "golden", tmp_path),
    )
    artifact = Artifact(
        name="tflite-int8",
        format="tflite",
        precision="int8",
        reference="quantised",
        path="net.tflite",
        size_bytes=8,
        files=hash_tree(tmp_path / "net.tflite", tmp_path),
        kernels=Kernels({"CONV_2D": 1}, {}),
    )
    manifest = Manifest(
        schema=1,
        model="net",
        created="2024-01-01T00:00:00+00:00",
        parameters=1,
        multiply_adds=1,
        inputs=(TensorSpec("views", (1, 2, 4, 4), "NCHW", "linear light", ("left", "right")),),
        outputs=(TensorSpec("disparity", (1, 1, 2, 2), "NCHW", "px", ("disparity",), 0.1, 0),),
        disparity_convention="",
        confidence_convention="",
        preprocessing=Preprocessing(ExposureNormalisation()),
        artifacts=(artifact,),
        golden=(golden,),
        quantization=(ActivationRange("views", 1 / 256, -128),),
        training={"teacher": "none"},
        versions={},
    )
    write_manifest(manifest, tmp_path)
    return tmp_path


def edit(folder, change):
    data = json.loads((folder / MANIFEST).read_text())
    change(data)
    (folder / MANIFEST).write_text(json.dumps(data))


def test_reading_gives_back_what_was_written(folder):
    bundle = read_bundle(folder)
    write_manifest(bundle.manifest, folder)
    assert read_bundle(folder).manifest == bundle.manifest
    assert bundle.manifest.inputs[0].shape == (1, 2, 4, 4)


def test_unknown_fields_are_passed_over(folder):
    edit(folder, lambda data: data.update(invented_later={"a": 1}))
    assert read_bundle(folder).manifest.model == "net"


def test_newer_schema_is_refused(folder):
    edit(folder, lambda data: data.update(schema=2))
    with pytest.raises(SchemaError, match=r"manifest.json: schema 2 is newer .* upgrade"):
        read_bundle(folder)


@pytest.mark.parametrize("path", ["../net.tflite", "/etc/passwd", "a/../../x", "", "..\\x", "golden/../../y"])
def test_paths_that_leave_the_bundle_are_refused(folder, path):
    edit(folder, lambda data: data["artifacts"][0].update(path=path))
    with pytest.raises(SchemaError, match="leaves the bundle"):
        read_bundle(folder)


def test_links_that_leave_the_bundle_are_refused(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "net.tflite"
    outside.write_bytes(b"artifact")
    (folder / "net.tflite").unlink()
    (folder / "net.tflite").symlink_to(outside)
    with pytest.raises(SchemaError, match="leaves the bundle"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("model"), "'model' is missing"),
        (lambda d: d.update(parameters="many"), "parameters: expected int"),
        (lambda d: d["outputs"][0].update(scale="x"), r"outputs\[0\]: scale: expected float"),
        (lambda d: d["artifacts"][0].update(reference="best"), "reference 'best', expected float or quantised"),
        (lambda d: d["golden"][0]["outputs"].pop("float"), "golden case case does not have every input and output"),
        (lambda d: d.update(artifacts=3), "artifacts: expected a list"),
    ],
)
def test_wrong_fields_are_named(folder, change, words):
    edit(folder, change)
    with pytest.raises(SchemaError, match=words):
        read_bundle(folder)


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"no bundle there .*edge-dp export"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("content", [b"artifacT", b"artifac", b""])
def test_an_edited_or_truncated_artifact_is_named(folder, content):
    (folder / "net.tflite").write_bytes(content)
    bundle = read_bundle(folder)
    with pytest.raises(ChecksumError, match=r"net.tflite: sha256 .* truncated or edited"):
        bundle.check_files(bundle.manifest.artifacts[0].files)


def test_a_missing_artifact_is_named(folder):
    (folder / "net.tflite").unlink()
    bundle = read_bundle(folder)
    with pytest.raises(InputError, match=r"net.tflite"):
        bundle.check_files(bundle.manifest.artifacts[0].files)


def test_golden_arrays_of_another_shape_or_type_are_refused(folder):
    bundle = read_bundle(folder)
    case = bundle.manifest.golden[0]
    np.save(folder / "golden/views.npy", np.zeros((1, 2, 4, 5), np.float32))
    with pytest.raises(InputError, match=r"views.npy: expected float32 \(1, 2, 4, 4\), found float32 \(1, 2, 4, 5\)"):
        bundle.golden_inputs(case)
    (folder / "golden/views.npy").write_bytes(b"no array")
    with pytest.raises(InputError, match=r"views.npy: not a readable .npy"):
        bundle.golden_inputs(case)


def test_pickled_golden_arrays_are_never_loaded(folder):
    np.save(folder / "golden/views.npy", np.array([print], dtype=object), allow_pickle=True)
    bundle = read_bundle(folder)
    with pytest.raises(InputError, match=r"views.npy: not a readable .npy"):
        bundle.golden_inputs(bundle.manifest.golden[0])


def test_unknown_artifact_lists_what_there_is(folder):
    with pytest.raises(InputError, match="onnx-int8: no such artifact in the bundle; it has tflite-int8"):
        read_bundle(folder).manifest.artifact("onnx-int8")
