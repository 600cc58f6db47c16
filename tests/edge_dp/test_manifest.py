"""The bundle's manifest and golden arrays: what comes back, what is kept, what is refused, and that it says where."""

import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_dp.bundle.manifest import MANIFEST, manifest_of_json, read_bundle, write_manifest
from edge_dp.errors import ChecksumError, EdgeDpError, InputError, SchemaError

from .small_bundle import INPUTS, edit, mutated, write_bundle


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """JSON of a good manifest."""
    return write_bundle(tmp_path_factory.mktemp("example") / "bundle").to_json()


def test_reading_gives_back_what_was_written(tmp_path):
    written = write_bundle(tmp_path / "bundle")
    read = read_bundle(tmp_path / "bundle")
    assert read.manifest == written
    before = (tmp_path / "bundle" / MANIFEST).read_bytes()
    write_manifest(read.manifest, tmp_path / "bundle")
    assert (tmp_path / "bundle" / MANIFEST).read_bytes() == before


def test_fields_with_defaults_may_be_missing(folder, example):
    """As in the manifests of versions that did not have them."""
    optional = ("preprocessing", "sensor", "quantization", "metrics", "licences", "training", "versions", "host")
    edit(folder, lambda data: [data.pop(name) for name in optional])
    edit(folder, lambda data: [data["golden"][0].pop(name) for name in ("kind", "artifacts")])
    edit(folder, lambda data: [data["outputs"][0].pop(name) for name in ("dtype", "value_range", "meaning")])
    manifest = read_bundle(folder).manifest
    assert (manifest.preprocessing, manifest.sensor, manifest.metrics) == (None, None, {})
    assert manifest.golden[0].kind == "typical"
    assert manifest.outputs[0].dtype == "float32"


# Unknown fields


def test_unknown_fields_are_kept_when_the_manifest_is_changed(folder):
    """At every level; entries of lists are told by their name, so they keep theirs when others go."""
    invented = {"a": [1, {"b": None}]}
    places = (
        lambda d: d,
        lambda d: d["inputs"][1],
        lambda d: d["preprocessing"],
        lambda d: d["preprocessing"]["exposure"],
        lambda d: d["artifacts"][1],
        lambda d: d["artifacts"][1]["kernels"],
        lambda d: d["golden"][2],
        lambda d: d["quantization"][1],
    )
    edit(folder, lambda data: [place(data).update(invented_later=invented) for place in places])
    edit(folder, lambda data: data.update(origin="taken", sensor={**data["sensor"], "colour": "red"}))
    manifest = read_bundle(folder).manifest
    golden = tuple(replace(case, artifacts={}) for case in manifest.golden)
    changed = replace(
        manifest, model="other", artifacts=manifest.artifacts[1:], inputs=manifest.inputs[::-1], golden=golden
    )
    write_manifest(changed, folder)
    data = json.loads((folder / MANIFEST).read_text())
    assert (data["model"], data["origin"], data["sensor"]["colour"]) == ("other", "taken", "red")
    now = (*places[:1], lambda d: d["inputs"][0], *places[2:4], lambda d: d["artifacts"][0])
    now += (lambda d: d["artifacts"][0]["kernels"], *places[6:])
    assert all(place(data)["invented_later"] == invented for place in now)
    assert json.dumps(data).count("invented_later") == len(places)


def test_what_is_taken_out_of_a_known_field_stays_out(folder):
    manifest = read_bundle(folder).manifest
    write_manifest(replace(manifest, metrics={}, licences={"code": "MIT"}, preprocessing=None), folder)
    data = json.loads((folder / MANIFEST).read_text())
    assert (data["metrics"], data["licences"], data["preprocessing"]) == ({}, {"code": "MIT"}, None)


def test_manifest_of_the_first_schema_wants_light_itself_without_dither(folder):
    def older(data):
        data["schema"] = 1
        data["preprocessing"].pop("dither")
        data["preprocessing"]["exposure"].pop("transfer")

    edit(folder, older)
    found = read_bundle(folder).manifest.preprocessing
    assert (found.exposure.transfer, found.dither) == ("linear", None)


# What is refused


@pytest.mark.parametrize("schema", [4, 10**30])
def test_newer_schema_is_refused(folder, schema):
    edit(folder, lambda data: data.update(schema=schema, inputs="of another form"))
    with pytest.raises(SchemaError, match=rf"manifest.json: schema {schema} is newer .* upgrade"):
        read_bundle(folder)


@pytest.mark.parametrize(
    "path",
    ["../net.tflite", "/etc/passwd", "a/../../x", "", "..\\x", "golden/../../y", "a\0b", "x" * 5000 + "/..", ".."],
)
@pytest.mark.parametrize("where", ["artifact", "checksum", "golden"])
def test_paths_that_leave_the_bundle_are_refused(folder, path, where):
    def change(data):
        artifact, case = data["artifacts"][0], data["golden"][0]
        if where == "artifact":
            artifact["path"] = path
        elif where == "checksum":
            artifact["files"][path] = "0" * 64
        else:
            case["inputs"]["views"] = path

    edit(folder, change)
    with pytest.raises(
        SchemaError, match=r"manifest.json: .*expected (a path that stays inside the bundle|names of printable)"
    ):
        read_bundle(folder)


@pytest.mark.parametrize("target", ["outside", "loop"])
def test_links_that_leave_the_bundle_are_refused(folder, tmp_path, target):
    (tmp_path / "outside").write_bytes(b"artifact")
    (folder / "net.int8.tflite").unlink()
    aim = {"outside": tmp_path / "outside", "loop": folder / "net.int8.tflite"}[target]
    (folder / "net.int8.tflite").symlink_to(aim)
    with pytest.raises(SchemaError, match=r"'net.int8.tflite' leaves the bundle"):
        read_bundle(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("model"), "'model' is missing"),
        (lambda d: d.update(schema="1"), "schema: expected int, found str"),
        (lambda d: d.update(schema=0), "schema: expected 1 or 2 or 3, found 0"),
        (lambda d: d.update(model="a\x1b[2Jb"), "model: expected a name without control characters"),
        (lambda d: d.update(parameters="many"), "parameters: expected int"),
        (lambda d: d.update(parameters=-1), "parameters: expected a whole number from 0"),
        (lambda d: d.update(multiply_adds=10**400), "multiply_adds: expected a whole number from 0"),
        (lambda d: d.update(inputs=[]), "inputs: expected at least one tensor"),
        (lambda d: d["outputs"][0].update(scale="x"), r"outputs\[0\]: scale: expected float"),
        (lambda d: d["outputs"][0].update(scale=-0.5), r"outputs\[0\]: scale: expected a number above 0, found -0.5"),
        (lambda d: d["outputs"][0].update(scale=float("nan")), r"outputs\[0\].scale: expected a finite number"),
        (lambda d: d["outputs"][0].update(zero_point=128), r"zero_point: expected a whole number from -128 to 127"),
        (lambda d: d["outputs"][0].update(zero_point=None), r"outputs: disparity: .* found no zero_point"),
        (lambda d: d["outputs"][0].update(dtype="int4"), r"dtype: expected float32, found 'int4'"),
        (lambda d: d["outputs"][1].update(name="disparity"), "outputs: expected each name once, found 'disparity'"),
        (lambda d: d["inputs"][0].update(shape=[1, 0, 2]), r"shape\[1\]: expected a whole number above 0, found 0"),
        (
            lambda d: d["inputs"][0].update(shape=[65536, 65536]),
            "inputs: views: shape: expected at most 2147483647 values",
        ),
        (lambda d: d["inputs"][0].update(shape=[1] * 99), r"inputs\[0\]: shape: expected at most 8 sizes"),
        (
            lambda d: d["inputs"][0].update(value_range=[1, 0]),
            r"value_range: expected low and high, found \[1.0, 0.0\]",
        ),
        (lambda d: d["preprocessing"].update(axis="z"), "preprocessing: axis: expected x or y, found 'z'"),
        (
            lambda d: d["preprocessing"].update(right_gain={"coefficients": [[1.0], []], "field_px": [4, 4]}),
            "right_gain: expected rows of coefficients of equal length",
        ),
        (lambda d: d.update(artifacts=3), "artifacts: expected a list"),
        (
            lambda d: d["artifacts"][0].update(reference="best"),
            "reference: expected float or weights or quantised, found",
        ),
        (lambda d: d["artifacts"][0].update(files={}), "tflite-int8: files: expected checksums of 'net.int8.tflite'"),
        (lambda d: d["artifacts"][0].update(path="other"), "files: expected checksums of 'other' .* 'net.int8.tflite'"),
        (lambda d: d["artifacts"][0]["files"].update({"net.int8.tflite": "AB"}), "expected a sha256 of 64 lower-case"),
        (lambda d: d["artifacts"][1].update(name="tflite-int8"), "artifacts: expected each name once"),
        (
            lambda d: d["artifacts"][0]["kernels"]["outside"].update(ADD=1.5),
            "outside.ADD: expected a share from 0 to 1",
        ),
        (lambda d: d["golden"][0].update(kind="usual"), "kind: expected typical or extreme or random, found 'usual'"),
        (lambda d: d["golden"][0]["outputs"].pop("float"), "typical: outputs: expected 'float' for every bundle"),
        (
            lambda d: d["golden"][0]["outputs"].pop("quantised"),
            "outputs: expected 'quantised' for artifact tflite-int8",
        ),
        (lambda d: d["golden"][0]["inputs"].pop("focus"), "typical: inputs: expected 'focus', 'views', found 'views'"),
        (
            lambda d: d["golden"][1]["artifacts"].update(onnx={}),
            "extreme: artifacts: onnx: expected 'disparity', 'score'",
        ),
        (
            lambda d: d["golden"][1]["artifacts"].update(onnx=d["golden"][1]["artifacts"]["tflite-int8"]),
            "extreme: artifacts: expected names of artifacts, found 'onnx'",
        ),
        (lambda d: d["golden"][0].update(files={}), "typical: files: expected a checksum of every file, found none of"),
        (lambda d: d.update(training={"loss": float("inf")}), "training.loss: expected a finite number, found inf"),
        (lambda d: d.update(training={"note": "\ud800"}), "training.note.*: expected text, found half a character"),
        (lambda d: d.update(training={"a\nb": 1}), r"training: expected names of printable characters, found 'a\\nb'"),
        (lambda d: d.update(training=nested(80)), "training.*: expected at most 64 levels of nesting"),
    ],
)
def test_wrong_fields_are_named(folder, change, words):
    edit(folder, change)
    with pytest.raises(SchemaError, match=rf"manifest\.json.*{words}") as raised:
        read_bundle(folder)
    assert "\n" not in str(raised.value)


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema": ' + b"9" * 5000 + b"}", b"[" * 100_000]
)
def test_a_damaged_manifest_is_named(folder, content):
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(SchemaError, match=r"manifest\.json: expected"):
        read_bundle(folder)


def test_a_wrong_manifest_is_never_written(tmp_path):
    with pytest.raises(SchemaError, match="outputs: expected at least one tensor"):
        write_bundle(tmp_path / "bundle", outputs=())
    with pytest.raises(SchemaError, match=r"metrics\.epe_px: expected a finite number"):
        write_bundle(tmp_path / "another", metrics={"epe_px": float("nan")})
    assert not list(tmp_path.rglob(MANIFEST))


def test_a_folder_without_manifest_says_how_to_make_one(tmp_path):
    with pytest.raises(InputError, match=r"no bundle there .*edge-dp export"):
        read_bundle(tmp_path)


@settings(suppress_health_check=[HealthCheck.too_slow])  # a loaded machine is slow, not wrong
@given(data=st.data())
def test_mutations_are_refused_or_read_never_a_crash(example, data):
    changed = data.draw(mutated(example))
    try:
        manifest = manifest_of_json(changed, "manifest.json")
    except EdgeDpError as error:
        assert re.fullmatch(r"manifest\.json: .+", str(error))  # one line that names the file
        assert str(error).encode()
    else:
        assert manifest_of_json(json.loads(json.dumps(manifest.to_json())), "manifest.json") == manifest


# Files


@pytest.mark.parametrize("content", [b"artifacT", b"artifac", b""])
def test_an_edited_or_truncated_artifact_is_named(folder, content):
    (folder / "net.int8.tflite").write_bytes(content)
    bundle = read_bundle(folder)
    with pytest.raises(ChecksumError, match=r"net.int8.tflite: sha256 .* truncated or edited"):
        bundle.check_files(bundle.manifest.artifacts[0].files)


@pytest.mark.parametrize("instead", ["nothing", "folder", "pipe"])
def test_a_missing_artifact_is_named(folder, instead):
    path = folder / "net.int8.tflite"
    path.unlink()
    if instead != "nothing":
        {"folder": os.mkdir, "pipe": os.mkfifo}[instead](path)
    bundle = read_bundle(folder)
    with pytest.raises(InputError, match=r"net.int8.tflite: expected a file of the bundle, found none"):
        bundle.check_files(bundle.manifest.artifacts[0].files)


def npy(header, data=b""):
    """An ``.npy`` of version 1 with any header."""
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000, 1000000), }"
VIEWS = "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2, 4, 6), }"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a readable .npy"),
        (b"no array", "not a readable .npy"),
        (b"PK\x03\x04 half a zip", "not a readable .npy"),
        (npy(VIEWS, bytes(4 * 47)), "not a readable .npy"),
        (npy(HUGE), "not a readable .npy"),
        (npy("{'descr': '<f4', 'shape': (1,"), "not a readable .npy"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", b"pickle"), "not a readable .npy"),
        (
            npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }", bytes(8)),
            "(not a readable|expected float32)",
        ),
        (
            npy(VIEWS.replace("4, 6", "4, 5"), bytes(160)),
            r"expected float32 \(1, 2, 4, 6\), found float32 \(1, 2, 4, 5\)",
        ),
        (npy(VIEWS.replace("<f4", "<f8"), bytes(384)), r"expected float32 \(1, 2, 4, 6\), found float64"),
        (npy(VIEWS, b"\0\0\xc0\x7f" * 48), "expected finite values, found 48 of 48 NaN or infinite"),
    ],
)
def test_damaged_golden_arrays_are_refused(folder, content, words):
    (folder / "golden/typical/views.npy").write_bytes(content)
    bundle = read_bundle(folder)
    with pytest.raises(InputError, match=rf"golden/typical/views.npy: views: {words}"):
        bundle.golden_inputs(bundle.manifest.golden[0])


@given(cut=st.integers(0, 128 + 192), byte=st.integers(0, 255))
def test_damaged_headers_never_crash(tmp_path_factory, cut, byte):
    folder = tmp_path_factory.getbasetemp() / "headers"
    if not folder.exists():
        write_bundle(folder)
    good = npy(VIEWS, bytes(192))
    (folder / "golden/typical/views.npy").write_bytes(good[:cut] + bytes([byte]) + good[cut + 1 :])
    bundle = read_bundle(folder)
    try:
        views = bundle.golden_inputs(bundle.manifest.golden[0])["views"]
    except InputError as error:
        assert "views.npy: views: " in str(error)
    else:
        assert views.shape == INPUTS[0].shape


def test_golden_arrays_come_back_by_name_and_order(folder):
    bundle = read_bundle(folder)
    case = bundle.manifest.golden[1]
    assert list(bundle.golden_inputs(case)) == ["views", "focus"]
    for reference in ("float", "weights", "quantised"):
        outputs = bundle.golden_outputs(case, reference)
        assert list(outputs) == ["disparity", "score"]
        np.testing.assert_array_equal(outputs["score"], np.load(folder / f"golden/extreme/score.{reference}.npy"))
    found = bundle.artifact_outputs(case, "tflite-int8")
    np.testing.assert_array_equal(found["disparity"], np.load(folder / "golden/extreme/disparity.tflite-int8.npy"))
    assert bundle.artifact_outputs(case, "coreml-fp16") is None
    with pytest.raises(InputError, match="golden case extreme: no outputs of the best model; it has float, weights"):
        bundle.golden_outputs(case, "best")


def test_unknown_artifact_lists_what_there_is(folder):
    with pytest.raises(InputError, match="onnx-int8: no such artifact in the bundle; it has tflite-int8, coreml-fp16"):
        read_bundle(folder).manifest.artifact("onnx-int8")
