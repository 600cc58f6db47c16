"""A planted fault is blamed on the layer that it was planted in, and on nothing where there is none."""

import json
import shutil
from dataclasses import asdict, replace
from importlib import import_module

import pytest
import torch
from torch import nn

import edge_dp
from edge_dp.bundle.manifest import MANIFEST, read_bundle, write_manifest
from edge_dp.cli.blame_table import blame_table, blame_words
from edge_dp.cli.target import named_model
from edge_dp.converters import blame as package
from edge_dp.converters.blame.find import TAPPINGS
from edge_dp.converters.bundle_model import reference_of_bundle
from edge_dp.errors import ChecksumError, EngineError, InputError, SchemaError
from edge_dp.runtime.cell import signature
from edge_dp.runtime.engines import engine_named, make_engine
from edge_dp.runtime.parity import identical

from . import planted
from .small_networks import samples

SHAPE = (1, 2, 16, 24)
INTEGER = ["executorch-int8", "tflite-int8", "onnx-int8", "coreml-w8a8"]
WIDE = ["coreml-w8a16", "tflite-int16x8"]
LAYERS = ["stem", "body.left", "body.right", "deep", "head", "tail"]


class Body(nn.Module):
    """Two branches from one input, and their sum."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        return self.left(x) + torch.relu(self.right(x))


class Branches(nn.Module):
    """Six convolutions, three of them with outputs of one shape; an addition; two outputs."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(2, 8, 3, stride=2, padding=1), Body()
        self.deep, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
        self.tail = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        deep = torch.relu(self.deep(self.body(torch.relu(self.stem(x)))))
        return {"disparity": self.head(deep), "confidence": torch.sigmoid(self.tail(deep))}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(5)
    return Branches().eval()


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    return edge_dp.export(
        network,
        {"x": SHAPE},
        tmp_path_factory.mktemp("blame") / "bundle",
        formats=["executorch", "tflite", "onnx", "coreml"],
        precision=["int8", "w8a8", "w8a16", "int16x8"],
        calibration=samples(SHAPE),
    )


@pytest.fixture
def copied(exported, tmp_path):
    """A copy of the bundle, to spoil."""
    shutil.copytree(exported.folder, tmp_path / "bundle")
    return read_bundle(tmp_path / "bundle")


def blame(bundle, artifact, network, **more):
    return package.blame(bundle, artifact, model=network, isolated=False, **more)


def spoil(bundle, artifact, plant, *arguments):
    """Plant a fault, as if the artifact had been exported with it."""
    plant(bundle.path(bundle.manifest.artifact(artifact).path), *arguments)
    return planted.rehash(bundle)


def activation(bundle, name):
    (entry,) = [entry for entry in bundle.manifest.quantization if entry.tensor == name]
    return entry


def weight(network, layer):
    return network.get_submodule(layer).weight.detach().numpy()


@pytest.mark.parametrize("artifact", INTEGER + WIDE)
def test_nobody_is_to_blame_for_an_artifact_as_exported(exported, network, artifact):
    found = blame(exported, artifact, network)
    assert found.guilty is None
    assert found.before == 0
    names = [layer.module for layer in found.layers]
    assert list(dict.fromkeys(name for name in names if name in LAYERS)) == LAYERS
    assert "body" in names
    assert [(layer.operation, layer.tensor) for layer in found.layers[-2:]] == [
        ("output", "disparity"),
        ("output", "confidence"),
    ]


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("artifact", INTEGER)
def test_a_changed_weight_scale_is_blamed_on_its_layer(copied, network, artifact, layer):
    found = blame(spoil(copied, artifact, planted.WEIGHT[artifact], weight(network, layer), 1.5), artifact, network)
    assert found.guilty is not None
    assert (found.guilty.module, found.guilty.operation) == (layer, "conv2d")
    assert found.guilty.max_steps > 2
    assert found.before < found.guilty.max_steps / 2


@pytest.mark.parametrize("artifact", INTEGER)
def test_a_changed_activation_scale_is_blamed_on_the_layer_that_writes_it(copied, network, artifact):
    spoilt = spoil(copied, artifact, planted.ACTIVATION[artifact], activation(copied, "add"), 1.25)
    found = blame(spoilt, artifact, network)
    assert found.guilty is not None
    assert (found.guilty.module, found.guilty.operation) == ("body", "add")
    assert found.before <= 1


def test_every_activation_in_turn(exported, network, tmp_path):
    """Scales that are shared change together; then the first that has one is to blame."""
    table = exported.manifest.quantization
    layers = blame(exported, "onnx-int8", network).layers[: len(table)]
    for index, entry in enumerate(table):
        shutil.copytree(exported.folder, tmp_path / str(index))
        spoilt = spoil(read_bundle(tmp_path / str(index)), "onnx-int8", planted.onnx_activation, entry, 1.25)
        found = blame(spoilt, "onnx-int8", network)
        first = next(place for place, other in enumerate(table) if other.scale == entry.scale)
        assert found.guilty is not None, entry
        assert (found.guilty.module, found.guilty.tensor) == (layers[first].module, layers[first].tensor)


def test_a_layer_that_overflows_half_floats_is_blamed_in_finite_numbers(copied, network):
    spoilt = spoil(copied, "coreml-w8a16", planted.coreml_weight, weight(network, "body.right"), 3e4)
    found = blame(spoilt, "coreml-w8a16", network)
    assert found.guilty is not None
    assert found.guilty.module == "body.right"
    assert json.loads(json.dumps(asdict(found), allow_nan=False))["guilty"]["max_steps"] > 1e3


@pytest.mark.parametrize("artifact", INTEGER + WIDE)
def test_taps_change_no_output(exported, tmp_path, artifact):
    entry = exported.manifest.artifact(artifact)
    tapping, path = TAPPINGS[entry.format], exported.path(entry.path)
    copy, border = tmp_path / path.name, signature(exported)
    tapped = import_module(tapping.tap).tap(path, copy, border)
    inputs = exported.golden_inputs(exported.manifest.golden[0])
    outputs = []
    for file, names in ((path, border), (copy, tapped.signature)):
        with make_engine(engine_named(tapping.engine), file, names) as engine:
            outputs.append(engine.infer(inputs))
    plain, more = outputs
    assert len(more) == len(plain) + len(tapped.taps)
    assert identical([plain], [{name: more[name] for name in plain}]) == dict.fromkeys(plain, 0)


def test_a_model_is_named_as_a_network_or_as_a_checkpoint():
    assert isinstance(named_model("torch.nn:ReLU"), nn.ReLU)
    assert named_model("dp_disparity_s") == "dp_disparity_s"
    assert named_model(None) is None
    with pytest.raises(InputError, match=r"torch\.nn:Absent: expected package\.module:factory"):
        named_model("torch.nn:Absent")


def test_a_worker_finds_the_same(copied, network):
    spoilt = spoil(copied, "onnx-int8", planted.onnx_weight, weight(network, "head"), 2.0)
    assert package.blame(spoilt, "onnx-int8", model=network) == blame(spoilt, "onnx-int8", network)


@pytest.mark.parametrize(("written", "reader"), [("add", "deep"), ("conv2d_4", "head")])
def test_right_integers_that_are_misread_are_blamed_on_the_reader(copied, network, written, reader):
    spoilt = spoil(copied, "onnx-int8", planted.onnx_reading, activation(copied, written), 1.5)
    found = blame(spoilt, "onnx-int8", network)
    assert found.guilty is not None
    assert found.guilty.module == reader
    assert found.guilty.operation == ("output" if reader == "head" else "conv2d")


def test_of_two_faults_the_first_is_blamed_and_both_are_shown(copied, network):
    for layer in ("head", "body.left"):
        planted.onnx_weight(copied.path("Branches.int8.onnx"), weight(network, layer), 2.0)
    found = blame(planted.rehash(copied), "onnx-int8", network)
    assert found.guilty is not None
    assert found.guilty.module == "body.left"
    wrong = [layer.module for layer in found.layers if layer.own_max_steps > 1.5]
    assert wrong == ["body.left", "head"]


def test_an_error_that_is_handed_on_is_nobodys_but_the_first_layers(copied, network):
    spoilt = spoil(copied, "tflite-int8", planted.tflite_weight, weight(network, "stem"), 2.0)
    found = blame(spoilt, "tflite-int8", network)
    assert [layer.module for layer in found.layers if layer.own_max_steps > 1.5] == ["stem"]
    after = [layer.max_steps for layer in found.layers if layer.module in LAYERS]
    assert min(after) > 1.5


@pytest.mark.parametrize("artifact", ["tflite-int8", "tflite-fp32", "onnx-fp32", "coreml-fp16"])
def test_the_shipped_student_is_compared_with_the_checkpoint_that_its_manifest_names(bundle, artifact):
    found = blame(bundle, artifact, None)
    assert found.guilty is None
    assert len(found.layers) >= 28


def test_an_artifact_that_was_edited_after_its_export_is_refused(copied, network):
    planted.onnx_weight(copied.path("Branches.int8.onnx"), weight(network, "head"), 2.0)
    with pytest.raises(ChecksumError, match=r"Branches\.int8\.onnx: sha256"):
        blame(copied, "onnx-int8", network)


def test_another_model_is_refused(exported):
    with pytest.raises(InputError, match=r"bundle: expected the model that it was exported from, .* --model"):
        blame(exported, "onnx-int8", Branches())


def test_a_model_that_no_checkpoint_is_called_after_is_asked_for(exported):
    with pytest.raises(InputError, match=r"bundle: the model .* is needed .*Branches.* Pass it with --model"):
        blame(exported, "onnx-int8", None)


def test_unknown_names_are_refused(exported, network):
    with pytest.raises(InputError, match="onnx-int4: no such artifact"):
        blame(exported, "onnx-int4", network)
    with pytest.raises(InputError, match="night: no such golden case; the bundle has typical_0"):
        blame(exported, "onnx-int8", network, case="night")


def test_a_bundle_without_quantisation_is_refused(copied, network):
    write_manifest(replace(copied.manifest, quantization=()), copied.folder)
    with pytest.raises(InputError, match="expected a quantisation table, found none"):
        blame(read_bundle(copied.folder), "onnx-int8", network)


@pytest.mark.parametrize("artifact", INTEGER)
def test_a_damaged_artifact_is_an_error_that_names_it(copied, network, artifact):
    path = copied.path(copied.manifest.artifact(artifact).path)
    for file in [path] if path.is_file() else [path / "Data/com.apple.CoreML/model.mlmodel"]:
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises((SchemaError, EngineError), match=path.name):
        blame(planted.rehash(copied), artifact, network)


@pytest.fixture(scope="module")
def partly(network, tmp_path_factory):
    """By what was asked for: the head in float in all formats, and in 16 bits in the only one that has them."""
    bundles = {}
    every = ["executorch", "tflite", "onnx", "coreml"]
    for what, formats, precision in (("keep_float", every, ["int8", "w8a8"]), ("int16", ["tflite"], ["int8"])):
        bundles[what] = edge_dp.export(
            network,
            {"x": SHAPE},
            tmp_path_factory.mktemp("partly") / "bundle",
            formats=formats,
            precision=precision,
            calibration=samples(SHAPE),
            **{what: ["head"]},
        )
    return bundles


PARTLY = [*(("keep_float", artifact) for artifact in INTEGER), ("int16", "tflite-int8")]


@pytest.mark.parametrize(("what", "artifact"), PARTLY)
def test_the_manifest_says_what_was_kept_from_int8(partly, network, what, artifact):
    """Without the paths the graph is another one, and its table of ranges does not fit."""
    bundle = partly[what]
    assert (bundle.manifest.keep_float, bundle.manifest.int16) == (
        (("head",), ()) if what == "keep_float" else ((), ("head",))
    )
    found = blame(bundle, artifact, network)
    assert found.guilty is None
    names = [layer.module for layer in found.layers]
    assert [name for name in LAYERS if name != "head" and name in names] == [name for name in LAYERS if name != "head"]
    assert [layer.tensor for layer in found.layers[-2:]] == ["disparity", "confidence"]


@pytest.mark.parametrize(("what", "artifact"), PARTLY)
@pytest.mark.parametrize("layer", ["body.left", "tail"])
def test_a_fault_beside_what_was_kept_is_blamed_on_its_layer(partly, network, tmp_path, what, artifact, layer):
    shutil.copytree(partly[what].folder, tmp_path / "bundle")
    spoilt = spoil(read_bundle(tmp_path / "bundle"), artifact, planted.WEIGHT[artifact], weight(network, layer), 1.5)
    found = blame(spoilt, artifact, network)
    assert found.guilty is not None
    assert found.guilty.module == layer


def test_a_fault_in_what_has_16_bits_is_blamed_on_it(partly, network, tmp_path):
    shutil.copytree(partly["int16"].folder, tmp_path / "bundle")
    spoilt = spoil(read_bundle(tmp_path / "bundle"), "tflite-int8", planted.tflite_weight, weight(network, "head"), 1.5)
    found = blame(spoilt, "tflite-int8", network)
    assert found.guilty is not None
    assert found.guilty.module == "head"


@pytest.mark.parametrize("what", ["keep_float", "int16"])
def test_a_manifest_without_the_paths_is_older_and_they_can_be_handed_over(partly, network, tmp_path, what):
    shutil.copytree(partly[what].folder, tmp_path / "bundle")
    path = tmp_path / "bundle" / MANIFEST
    data = json.loads(path.read_text())
    del data["keep_float"], data["int16"]
    path.write_text(json.dumps(data))
    older = read_bundle(tmp_path / "bundle")
    assert older.manifest.keep_float == older.manifest.int16 == ()
    assert blame(older, "tflite-int8", network, **{what: ["head"]}).guilty is None


@pytest.mark.parametrize("what", ["keep_float", "int16"])
def test_the_model_made_again_keeps_the_same(partly, network, what):
    """Its quantised form gives the golden outputs that the export wrote, to the bit."""
    bundle = partly[what]
    reference = reference_of_bundle(bundle, network)
    for case in bundle.manifest.golden:
        (found,) = reference("quantised", [bundle.golden_inputs(case)])
        assert identical([found], [bundle.golden_outputs(case, "quantised")]) == {"disparity": 0, "confidence": 0}


def test_blame_in_words(exported, network, capsys):
    clean = blame(exported, "onnx-int8", network)
    assert blame_words(clean, "onnx-int8").startswith("onnx-int8: no layer is to blame")
    found = replace(clean, guilty=clean.layers[2], before=0.5)
    assert f"at {clean.layers[2].module} (conv2d): max error 0.5 steps before it" in blame_words(found, "onnx-int8")
    blame_table(found, "onnx-int8")
    text = capsys.readouterr().out
    assert text.count("to blame") == 1
    assert all(layer.module in text for layer in clean.layers)
