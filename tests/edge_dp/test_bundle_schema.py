"""The published JSON Schema of the manifest, judged by jsonschema, and the card that artifacts carry."""

import copy
import json
from dataclasses import replace
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge_dp.bundle.card import Card, card_differences, read_card
from edge_dp.bundle.manifest import Manifest, TensorSpec, manifest_of_json, manifest_schema
from edge_dp.errors import EdgeDpError, SchemaError

from .small_bundle import write_bundle

PUBLISHED = json.loads(resources.files("edge_dp.bundle").joinpath("manifest.schema.json").read_text())
VALIDATOR = Draft202012Validator(PUBLISHED)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("schema") / "bundle")


def as_json(manifest):
    return json.loads(json.dumps(manifest.to_json()))


def test_the_published_schema_is_that_of_the_code():
    """To write it anew: edge-dp bundle schema > edge_dp/bundle/manifest.schema.json."""
    assert manifest_schema() == PUBLISHED
    Draft202012Validator.check_schema(PUBLISHED)


def test_good_manifests_are_valid(manifest, tmp_path):
    VALIDATOR.validate(as_json(manifest))
    foreign = write_bundle(
        tmp_path / "foreign", preprocessing=None, sensor=None, quantization=(), metrics={"a": [1, None]}
    )
    VALIDATOR.validate(as_json(foreign))
    VALIDATOR.validate({**as_json(manifest), "invented_later": {"a": 1}})


def test_the_bundle_of_the_shipped_student_is_valid(bundle):
    VALIDATOR.validate(json.loads((bundle.folder / "manifest.json").read_text()))


# Each place with values of the wrong type or beyond its limit, told by hand: neither the code nor the schema is the oracle.
WRONG = [
    (("schema",), [4, 0, "1", None, 1.5]),
    (("model",), ["", "a\nb", 3, None]),
    (("parameters",), [-1, 2**63, "1", 0.5]),
    (("inputs",), [[], {}, None, [1]]),
    (("inputs", 0, "shape"), [[0], [1.5], [1] * 9, "1x2", [2**31], None]),
    (("inputs", 0, "dtype"), ["float64", None]),
    (("outputs", 0, "scale"), [0, -1.0, "1"]),
    (("outputs", 0, "zero_point"), [-129, 128, 0.5]),
    (("outputs", 0, "value_range"), [[0.0], [0.0, 1.0, 2.0], ["a", "b"], 1]),
    (("preprocessing",), [[], "none", 1]),
    (("preprocessing", "axis"), ["z", None]),
    (("preprocessing", "exposure", "target_mean"), ["bright", None]),
    (("preprocessing", "exposure", "transfer"), ["srgb", "", None, 1]),
    (("preprocessing", "right_gain", "field_px"), [[1], [1, 2, 3], [0.5, 1]]),
    (("sensor",), [[], "pixel4"]),
    (("artifacts", 0, "path"), ["", "/a", "../a", "a/..", "a/../b", "..", "a\\b", "a\nb", 1]),
    (("artifacts", 0, "reference"), ["best", None]),
    (("artifacts", 0, "size_bytes"), [-1, "8"]),
    (("artifacts", 0, "files"), [{"../a": "0" * 64}, {"a": "0" * 63}, {"a": "G" * 64}, []]),
    (("artifacts", 0, "kernels", "integer"), [{"CONV_2D": -1}, {"CONV_2D": "many"}]),
    (("artifacts", 0, "kernels", "outside"), [{"CONV_2D": 1.01}, {"CONV_2D": -0.1}]),
    (("golden", 0, "kind"), ["usual", None]),
    (("golden", 0, "inputs"), [{"views": "/golden"}, {"": "golden"}, []]),
    (("golden", 0, "artifacts"), [{"a\nb": {}}, {"tflite-int8": "file"}]),
    (("quantization", 0, "scale"), ["1", None]),
    (("licences",), [{"code": 1}, []]),
    (("versions",), [{"edge-dp": None}]),
]


@pytest.mark.parametrize(("place", "value"), [(place, value) for place, values in WRONG for value in values])
def test_schema_and_reader_refuse_the_same(manifest, place, value):
    data = as_json(manifest)
    *way, last = place
    target = data
    for step in way:
        target = target[step]
    target[last] = value
    assert not VALIDATOR.is_valid(data)
    with pytest.raises(SchemaError, match=r"manifest\.json"):
        manifest_of_json(data, "manifest.json")


@given(data=st.data())
def test_what_the_reader_takes_the_schema_takes(manifest, data):
    """Any field of any object replaced or removed: the reader may be stricter, as it compares fields with each other."""
    changed = as_json(manifest)
    objects = [item for item in walk(changed) if isinstance(item, dict) and item]
    target = data.draw(st.sampled_from(objects))
    name = data.draw(st.sampled_from(sorted(target)))
    if data.draw(st.booleans()):
        target[name] = data.draw(
            st.sampled_from([None, True, -1, 0, 1, 0.5, "", "x", "..", [], [0], ["x"], {}, {"x": 1}])
        )
    else:
        del target[name]
    try:
        manifest_of_json(copy.deepcopy(changed), "manifest.json")
    except EdgeDpError:
        return
    VALIDATOR.validate(changed)


def walk(value):
    yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from walk(item)


# Cards


def test_a_card_comes_back_and_is_small(manifest):
    card = Card.of(manifest)
    text = card.text()
    assert "\n" not in text
    assert text.isascii()
    assert len(text) < 4096
    assert read_card(text, "net.tflite") == card
    assert card_differences(card, Card.of(manifest)) == []
    data = json.loads(text)
    assert data["outputs"][0] == {
        "name": "disparity",
        "shape": [1, 1, 2, 3],
        "layout": "NCHW",
        "unit": "px",
        "channels": ["disparity"],
        "scale": 0.25,
        "zero_point": 3,
        "dtype": "float32",
        "meaning": "left(x) = right(x + d)",
    }
    assert data["preprocessing"]["black_level"] == 1024
    assert {"model", "inputs", "schema"} <= set(data)


def test_a_card_of_little_comes_back():
    """A scalar output, no preprocessing, nothing known of units."""
    card = Card("net", (TensorSpec("x", (1, 2)),), (TensorSpec("y", ()),))
    assert read_card(card.text(), "net.onnx") == card


def test_cards_may_have_more_than_this_version_knows(manifest):
    data = json.loads(Card.of(manifest).text()) | {"invented_later": 1}
    data["inputs"][0]["invented_later"] = 1
    assert read_card(json.dumps(data), "net.tflite") == Card.of(manifest)


def test_differences_name_the_field(manifest):
    card = Card.of(manifest)
    other = replace(card, model="another", outputs=(replace(card.outputs[0], scale=0.5), card.outputs[1]))
    first, second = card_differences(other, card)
    assert first == "model: expected 'net', found 'another'"
    assert second.startswith("outputs: expected (TensorSpec(")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "card: expected JSON"),
        ("[" * 100_000, "card: expected JSON"),
        ("[]", "card: expected a JSON object, found list"),
        ("{}", "card: field 'model' is missing"),
        ('{"schema": 4, "model": []}', "card: schema 4 is newer"),
        (
            '{"model": "m", "inputs": [{"name": "x", "shape": [1e400]}], "outputs": []}',
            r"card: inputs\[0\].shape\[0\]: expected a fin",
        ),
        (
            '{"model": "m", "inputs": [{"name": "x", "shape": [0]}], "outputs": []}',
            r"card: inputs\[0\]: shape\[0\]: expected a whole",
        ),
        (
            '{"model": "m", "inputs": [{"name": "x", "shape": [1], "scale": 1}], "outputs": []}',
            "card: inputs: x: .* no zero_point",
        ),
    ],
)
def test_damaged_cards_are_named(text, words):
    with pytest.raises(SchemaError, match=f"net.tflite: {words}"):
        read_card(text, "net.tflite")


@given(
    text=st.text()
    | st.recursive(
        st.none() | st.integers() | st.text(),
        lambda s: (
            st.dictionaries(
                st.sampled_from(["model", "inputs", "outputs", "preprocessing", "schema", "name", "shape"]), s
            )
            | st.lists(s)
        ),
    ).map(json.dumps)
)
def test_no_text_crashes_the_reader_of_cards(text):
    try:
        assert read_card(text, "net.tflite").model
    except EdgeDpError as error:
        assert "net.tflite: card" in str(error)


def test_every_field_of_the_manifest_is_explained():
    """The schema is what others read: each object says what its fields are."""
    assert all(len(entry["description"]) > 20 for entry in PUBLISHED["$defs"].values())
    assert set(PUBLISHED["$defs"]["Manifest"]["properties"]) == set(Manifest.__dataclass_fields__) - {"origin"}
