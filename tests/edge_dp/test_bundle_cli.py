"""``edge-dp bundle``: what check finds, what diff sees, and that a bundle's texts cannot steer the terminal."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import edge_dp
from edge_dp.bundle.card import Card
from edge_dp.bundle.check import REPORT_FILES, REPORT_FOLDER, check_bundle
from edge_dp.bundle.diff import diff_bundles
from edge_dp.bundle.manifest import MANIFEST, hash_tree, manifest_of_json, manifest_schema, read_bundle
from edge_dp.cli import main
from edge_dp.converters.cards import CARD_KEY, card_readers
from edge_dp.errors import EdgeDpError, InputError, MissingExtraError
from edge_dp.runtime.report.model import PAGE, REPORT
from edge_dp.runtime.report.pictures import PICTURES

from .small_bundle import edit, mutated, rewrite_array, write_bundle


@pytest.fixture
def folder(tmp_path):
    write_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def call(*words):
    return main(["bundle", *(str(word) for word in words)])


def problems(folder):
    return check_bundle(folder).problems


# check


def test_a_good_bundle_passes(folder, capsys):
    assert call("check", folder, "--no-cards") == 0
    assert "33 files as they were written, 30 golden arrays read" in capsys.readouterr().out
    assert call("check", folder, "--no-cards", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["passed"], found["problems"], found["files"], found["arrays"]) == (True, [], 33, 30)


def test_files_of_a_report_are_no_surplus(folder):
    assert ({REPORT, PAGE}, PICTURES) == (set(REPORT_FILES), REPORT_FOLDER)
    (folder / REPORT).write_text("{}")
    (folder / PAGE).write_text("")
    (folder / PICTURES).mkdir()
    (folder / PICTURES / "left.png").write_bytes(b"")
    assert problems(folder) == ()


def test_every_kind_of_damage_is_found_at_once(folder, capsys):
    (folder / "net.int8.tflite").write_bytes(b"artifacT")
    (folder / "net.fp16.mlpackage/Data/weight.bin").unlink()
    (folder / "net.fp16.mlpackage/notes.txt").write_text("surplus")
    (folder / "left.raw").write_bytes(b"surplus")
    (folder / "away").symlink_to("/tmp", target_is_directory=True)
    (folder / "golden/random/focus.npy").write_bytes(b"no array")
    assert call("check", folder, "--no-cards") == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("wrong: ")]
    for words in (
        "net.int8.tflite: sha256",
        "weight.bin: expected a file of the bundle, found none",
        "net.fp16.mlpackage/notes.txt: not in the manifest",
        "left.raw: not in the manifest",
        "away: not in the manifest",
        "golden/random/focus.npy: sha256",
    ):
        assert sum(words in line for line in lines) == 1, words
    assert len(lines) == 6


@pytest.mark.parametrize(
    ("case", "tensor", "of", "array", "words"),
    [
        (
            0,
            "views",
            "inputs",
            np.full((1, 2, 4, 6), np.nan, np.float32),
            "views: expected finite values, found 48 of 48",
        ),
        (
            0,
            "views",
            "inputs",
            np.full((1, 2, 4, 6), 1.5, np.float32),
            "views: expected values from 0 to 1, found 1.5 to 1.5",
        ),
        (1, "score", "quantised", np.zeros(2, np.float32), r"score: expected float32 (1,), found float32 (2,)"),
        (
            2,
            "disparity",
            "tflite-int8",
            np.zeros((1, 1, 2, 3)),
            "disparity: expected float32 (1, 1, 2, 3), found float64",
        ),
    ],
)
def test_wrong_golden_arrays_are_named(folder, case, tensor, of, array, words):
    file = rewrite_array(folder, case, tensor, array, of)
    (found,) = problems(folder)
    assert file in found
    assert words in found


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda d: d["artifacts"][0].update(size_bytes=9),
            "tflite-int8: size_bytes: expected 8 as its files have, found 9",
        ),
        (lambda d: d["quantization"][1].update(scale=0), "quantization: relu: expected a scale above 0"),
        (lambda d: d["quantization"][1].update(zero_point=200), "found 0.25 and 200"),
        (
            lambda d: d["sensor"].update(white_level="high"),
            "sensor: white_level: expected a number above 0, found 'high'",
        ),
        (lambda d: d["sensor"].update(schema=99), "sensor: schema: expected at most"),
        (
            lambda d: d["preprocessing"].update(black_level=0),
            "black_level: expected 1024 as sensor pixel4 has it, found 0",
        ),
        (
            lambda d: d["preprocessing"].update(right_gain={"coefficients": [[2.0]], "field_px": [1, 1]}),
            "right_gain: expected",
        ),
    ],
)
def test_contradictions_in_the_manifest_are_named(folder, change, words):
    edit(folder, change)
    (found,) = problems(folder)
    assert MANIFEST in found
    assert words in found


def reader(text):
    def read(path):
        assert path.name == "net.int8.tflite"
        if isinstance(text, Exception):
            raise text
        return text

    return {"tflite": read}


def test_cards_are_compared_with_the_manifest(folder):
    card = Card.of(read_bundle(folder).manifest)
    found = check_bundle(folder, reader(card.text()))
    assert (found.problems, found.cards) == ((), 1)
    assert found.unchecked == ("coreml-fp16: no reader of cards in format coreml",)
    for text, words in (
        (replace(card, model="another").text(), "net.int8.tflite: card: model: expected 'net', found 'another'"),
        ("{}", "net.int8.tflite: card: field 'model' is missing"),
        (InputError("net.int8.tflite: damaged"), "net.int8.tflite: damaged"),
    ):
        found = check_bundle(folder, reader(text))
        assert found.cards == 0
        assert len(found.problems) == 1
        assert words in found.problems[0]
    for text, words in (
        (None, "tflite-int8: carries no card"),
        (MissingExtraError("no flatbuffers"), "no flatbuffers"),
    ):
        found = check_bundle(folder, reader(text))
        assert found.passed
        assert words in found.unchecked[0]


def test_check_without_a_readable_bundle_exits_2(folder, tmp_path, capsys):
    assert call("check", tmp_path) == 2
    assert "no bundle there" in capsys.readouterr().err
    (folder / MANIFEST).write_text("{")
    for action in (("check", folder), ("show", folder), ("diff", folder, folder)):
        assert call(*action) == 2
        error = capsys.readouterr().err
        assert error.startswith("edge-dp: ")
        assert error.count("\n") == 1
        assert "manifest.json: expected JSON" in error


def test_card_of_an_onnx_artifact_is_read(folder, tmp_path):
    onnx = pytest.importorskip("onnx")
    empty = onnx.helper.make_graph([], "g", [], [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])])
    model = onnx.helper.make_model(empty)
    onnx.save(model, tmp_path / "net.onnx")
    assert card_readers()["onnx"](tmp_path / "net.onnx") is None
    model.metadata_props.add(key=CARD_KEY, value=Card.of(read_bundle(folder).manifest).text())
    onnx.save(model, tmp_path / "net.onnx")
    assert card_readers()["onnx"](tmp_path / "net.onnx") == Card.of(read_bundle(folder).manifest).text()


@pytest.mark.parametrize("name", sorted(card_readers()))
def test_damaged_artifacts_are_named_by_the_readers_of_cards(tmp_path, name):
    artifact = tmp_path / "net"
    artifact.write_bytes(b"\xff" * 64)
    with pytest.raises(EdgeDpError, match="net"):
        card_readers()[name](artifact)


# diff


def test_a_copy_does_not_differ(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "copy")
    edit(tmp_path / "copy", lambda data: data.update(created="2030-01-01T00:00:00+00:00"))
    assert call("diff", folder, tmp_path / "copy") == 0
    assert "0 field(s), 0 artifact(s) and 0 of 30 golden array(s) differ" in capsys.readouterr().out
    assert call("diff", folder, tmp_path / "copy", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "same": True,
        "fields": [],
        "artifacts": [],
        "golden": [],
        "compared": 30,
    }


def test_what_differs_is_measured(folder, tmp_path, capsys):
    other = tmp_path / "other"
    write_bundle(other, metrics={"epe_px": 0.5}, licences={})
    edit(other, lambda data: data["artifacts"][1]["options"].update(float_io=True))
    edit(other, lambda data: data.update(invented_later=3))
    (other / "net.int8.tflite").write_bytes(b"a longer artifact")
    digest = hash_tree(other / "net.int8.tflite", other)
    edit(other, lambda data: data["artifacts"][0].update(files=digest, size_bytes=17))
    before = np.load(folder / "golden/extreme/disparity.quantised.npy")
    step = np.zeros_like(before)
    step[0, 0, 1, 2] = 0.5
    rewrite_array(other, 1, "disparity", before - step, "quantised")
    found = diff_bundles(read_bundle(folder), read_bundle(other))
    fields = {entry.field: (entry.first, entry.second) for entry in found.fields}
    assert fields == {
        "metrics.epe_px": (0.25, 0.5),
        "licences.code": ("Apache-2.0", None),
        "licences.weights": ("CC0-1.0", None),
        "licences.data": ("CC0-1.0", None),
        "licences.teacher": ("none", None),
        "licences": (None, {}),
        "invented_later": (None, 3),
        "artifacts.coreml-fp16.options.float_io": (False, True),
    }
    (artifact,) = found.artifacts
    assert (artifact.artifact, artifact.first_bytes, artifact.second_bytes) == ("tflite-int8", 8, 17)
    (golden,) = found.golden
    assert (golden.case, golden.what, golden.tensor) == ("extreme", "quantised", "disparity")
    assert golden.largest == pytest.approx(0.5, abs=1e-6)
    assert golden.steps == pytest.approx(2.0, abs=1e-5)
    assert call("diff", folder, other) == 1
    text = capsys.readouterr().out
    assert all(words in text for words in ("metrics.epe_px", "tflite-int8", "8 field(s), 1 artifact(s) and 1 of 30"))
    assert call("diff", folder, other, "--json") == 1
    assert json.loads(capsys.readouterr().out)["golden"][0]["steps"] == pytest.approx(2.0, abs=1e-5)


def test_artifacts_cases_and_shapes_that_one_bundle_lacks(folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(folder, other)

    def change(data):
        del data["artifacts"][1]
        del data["golden"][2]
        data["inputs"][1]["shape"] = [3, 1]
        data["golden"][0]["artifacts"] = {}

    edit(other, change)
    found = diff_bundles(read_bundle(folder), read_bundle(other))
    (artifact,) = found.artifacts
    assert (artifact.artifact, artifact.second_bytes) == ("coreml-fp16", None)
    assert artifact.files == ("Data/weight.bin", "Manifest.json")
    fields = {entry.field: (entry.first, entry.second) for entry in found.fields}
    assert fields["inputs.focus.shape"] == ([1, 3], [3, 1])
    assert fields["golden.random.kind"] == ("random", None)
    assert fields["golden.typical.artifacts"] == (["tflite-int8"], [])
    assert (
        found.compared == 2 * (1 + 2 * 3) + 2
    )  # views, two outputs of three references; of one case an artifact's too


# show, schema


def test_show_tells_what_there_is(folder, capsys):
    assert call("show", folder) == 0
    text = capsys.readouterr().out
    for words in (
        "views",
        "1x2x4x6",
        "left(x) = right(x + d)",
        "tflite-int8",
        "extreme",
        "pixel4",
        "epe_px",
        "CC0-1.0",
        "0 to 1",
    ):
        assert words in text
    assert call("show", folder, "--json") == 0
    data = json.loads(capsys.readouterr().out)
    assert manifest_of_json(data, "shown") == read_bundle(folder).manifest


def test_schema_is_printed(folder, capsys):
    assert call("schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == manifest_schema()
    Draft202012Validator(schema).validate(json.loads((folder / MANIFEST).read_text()))


def test_texts_of_a_bundle_cannot_steer_the_terminal(folder, tmp_path, capsys):
    edit(
        folder,
        lambda data: data.update(model="[/red]net", created="\x1b[2J", training={"a": "\x1b]0;x\x07", "b": "[bold"}),
    )
    edit(folder, lambda data: data["outputs"][0].update(meaning="\x1b[31m", unit="[/x]"))
    edit(folder, lambda data: data["artifacts"][0].update(format="[/x]"))
    shutil.copytree(folder, tmp_path / "other")
    edit(tmp_path / "other", lambda data: data.update(training={"a": "\x1b[1m"}))
    assert call("show", folder) == 0
    assert call("check", folder, "--no-cards") == 0
    assert call("diff", folder, tmp_path / "other") == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[/red]net" in text


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two bundles; the second one's manifest may be spoilt."""
    folders = tmp_path_factory.mktemp("pair") / "good", tmp_path_factory.mktemp("pair") / "spoilt"
    for folder in folders:
        write_bundle(folder)
    return folders


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)  # a loaded machine is slow, not wrong
@given(data=st.data())
def test_no_manifest_crashes_a_verb(pair, data):
    good, spoilt = pair
    (spoilt / MANIFEST).write_text(json.dumps(data.draw(mutated(json.loads((good / MANIFEST).read_text())))))
    codes = {
        call("check", spoilt, "--no-cards"),
        call("show", spoilt),
        call("diff", good, spoilt),
        call("diff", spoilt, good),
    }
    assert codes <= {0, 1, 2}


def test_help_is_light():
    """Neither torch nor an engine is imported to print help or to show a bundle."""
    imports = "import sys, edge_dp.cli, edge_dp.bundle.check, edge_dp.bundle.diff"
    code = f"{imports}; edge_dp.cli.build_parser(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_the_predictor_refuses_other_networks(folder):
    with pytest.raises(
        InputError, match=r"expected a dual-pixel student .* found net with views, focus, disparity, score"
    ):
        edge_dp.load(folder, "tflite-int8")
