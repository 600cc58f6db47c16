"""Export of anyone's network: what is asked for is what is written."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

import edge_dp
from edge_dp.converters.base import Source
from edge_dp.converters.calibration import read_samples
from edge_dp.converters.configs import OnnxConfig, TFLiteConfig
from edge_dp.converters.onnx import OnnxConverter
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.errors import ExportError
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.validate import signature

from .small_networks import LEFT, RIGHT, SHAPE, Small, TwoViews, samples


@pytest.fixture(scope="module")
def two_views():
    torch.manual_seed(1)
    network = TwoViews().train()
    network.tail.weight.requires_grad_(False)
    return network


@pytest.fixture(scope="module")
def written(two_views, tmp_path_factory):
    """Every format in integers, but for the head; and what the network was before."""
    before = copy.deepcopy(two_views.state_dict())
    bundle = edge_dp.export(
        two_views,
        {"left": LEFT, "right": RIGHT},
        tmp_path_factory.mktemp("export") / "bundle",
        formats=["executorch", "tflite", "coreml", "onnx", TFLiteConfig(precision="int8", float_io=True)],
        precision=["int8", "w8a8"],
        calibration=samples(LEFT, RIGHT),
        keep_float=["head"],
    )
    return bundle, before


INTEGER = ["executorch-int8", "tflite-int8", "coreml-w8a8", "onnx-int8", "tflite-int8-float-io"]


def test_names_are_kept_in_the_manifest(written):
    bundle, _ = written
    manifest = bundle.manifest
    assert manifest.model == "TwoViews"
    assert [(spec.name, spec.shape) for spec in manifest.inputs] == [("left", LEFT), ("right", RIGHT)]
    assert [(spec.name, spec.shape) for spec in manifest.outputs] == [
        ("disparity", (1, 1, 8, 12)),
        ("confidence", (1, 2, 8, 12)),
    ]
    assert [artifact.name for artifact in manifest.artifacts] == INTEGER
    assert [artifact.options for artifact in manifest.artifacts if artifact.format == "tflite"] == [
        {"float_io": False},
        {"float_io": True},
    ]
    kinds = [case.kind for case in manifest.golden]
    assert (kinds.count("typical"), kinds.count("random"), kinds.count("extreme")) == (3, 1, 2)


@pytest.mark.parametrize("name", INTEGER)
def test_every_format_keeps_names_and_the_quantised_values(written, name):
    """Each engine is fed and read by name; a swap of inputs or outputs could not give the model's values."""
    bundle, _ = written
    artifact = bundle.manifest.artifact(name)
    with make_engine(engine_for(artifact.format), bundle.path(artifact.path), signature(bundle)) as engine:
        for case in bundle.manifest.golden:
            found = engine.infer(bundle.golden_inputs(case))
            expected = bundle.golden_outputs(case, "quantised")
            assert list(found) == ["disparity", "confidence"]
            for key, step in (("disparity", 0.02), ("confidence", 1.01 / 256)):
                off = np.abs(found[key] - expected[key]) > step
                assert off.mean() <= 0.005, (case.name, key)


def test_files_carry_the_names_themselves(written):
    """As somebody else's tool would read them."""
    import coremltools
    import onnx
    from ai_edge_litert.interpreter import Interpreter

    bundle, _ = written
    paths = {artifact.name: bundle.path(artifact.path) for artifact in bundle.manifest.artifacts}
    graph = onnx.load(paths["onnx-int8"]).graph
    assert [tensor.name for tensor in (*graph.input, *graph.output)] == ["left", "right", "disparity", "confidence"]
    for name in ("tflite-int8", "tflite-int8-float-io"):
        (border,) = Interpreter(str(paths[name])).get_signature_list().values()
        assert (sorted(border["inputs"]), sorted(border["outputs"])) == (["left", "right"], ["confidence", "disparity"])
    description = coremltools.models.MLModel(str(paths["coreml-w8a8"]), skip_model_load=True).get_spec().description
    assert [feature.name for feature in description.input] == ["left", "right"]
    assert sorted(feature.name for feature in description.output) == ["confidence", "disparity"]


@pytest.mark.parametrize("name", INTEGER)
def test_the_head_alone_stays_in_float(written, name):
    bundle, _ = written
    kernels = bundle.manifest.artifact(name).kernels
    assert sum(kernels.floating.values()) == 1
    assert sum(count for kind, count in kernels.integer.items() if "conv" in kind.lower()) == 3
    disparity, confidence = bundle.manifest.outputs
    assert (disparity.scale, disparity.zero_point) == (None, None)
    case = next(case for case in bundle.manifest.golden if case.kind == "random")
    outputs = bundle.artifact_outputs(case, name)
    steps = outputs["confidence"] / confidence.scale
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    # on a grid of 8 bits, 96 random values would hardly differ from each other in all cases
    assert len(np.unique(outputs["disparity"])) >= 94


def test_float_border_of_tflite(written):
    from ai_edge_litert.interpreter import Interpreter

    bundle, _ = written
    for name, expected in (("tflite-int8", np.int8), ("tflite-int8-float-io", np.float32)):
        interpreter = Interpreter(str(bundle.path(bundle.manifest.artifact(name).path)))
        assert {detail["dtype"] for detail in interpreter.get_input_details()} == {expected}
        types = {detail["shape"][-1]: detail["dtype"] for detail in interpreter.get_output_details()}
        assert set(types.values()) <= {expected, np.float32}


def test_the_network_is_left_as_it_is(two_views, written):
    _, before = written
    assert two_views.training and two_views.left[1].training
    assert not two_views.tail.weight.requires_grad and two_views.head.weight.requires_grad
    assert list(two_views.state_dict()) == list(before)
    for key, value in two_views.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_float_head_is_refused_where_none_was_asked_for(two_views, tmp_path):
    """The guard counts: as many float kernels as were kept, and no more."""
    network = network_of_module(two_views, {"left": LEFT, "right": RIGHT}, None, "two")
    batches = read_samples(network, samples(LEFT, RIGHT)).batches
    kept, all_integer = quantise_module(network, batches, ["head"]), quantise_module(network, batches)
    assert (kept.kept_float, all_integer.kept_float) == (1, 0)
    source = Source("two", network.module, dataclasses.replace(kept, kept_float=0), network.signature)
    with pytest.raises(ExportError, match=r"onnx int8: expected integer kernels, found float ones: 1 x Conv"):
        OnnxConverter().convert(source, OnnxConfig(precision="int8"), tmp_path, {})


def test_examples_give_the_same_bundle_as_shapes(tmp_path):
    """And one format, one precision: nothing else is written."""
    network = Small()
    by_shape = edge_dp.export(
        network, {"x": SHAPE}, tmp_path / "a", formats="onnx", precision="fp32", outputs=["depth"]
    )
    example = [torch.ones(SHAPE)]
    by_example = edge_dp.export(network, example, tmp_path / "b", formats="onnx", precision="fp32", outputs=["depth"])
    assert (tmp_path / "a/Small.fp32.onnx").read_bytes() == (tmp_path / "b/Small.fp32.onnx").read_bytes()
    assert by_shape.manifest.inputs == by_example.manifest.inputs
    assert [spec.name for spec in by_example.manifest.outputs] == ["depth"]
    assert [artifact.name for artifact in by_example.manifest.artifacts] == ["onnx-fp32"]
    case = by_shape.manifest.golden[0]
    with torch.no_grad():
        expected = network(torch.from_numpy(by_shape.golden_inputs(case)["x"]))
    np.testing.assert_allclose(by_shape.artifact_outputs(case, "onnx-fp32")["depth"], expected, atol=1e-5)


def test_full_delegation_can_be_required(tmp_path):
    """A head in float is outside ONNX Runtime's integer kernels, with its share; without it nothing is."""
    arguments = {"formats": "onnx", "precision": "int8", "calibration": samples(SHAPE), "require_full_delegation": True}
    with pytest.raises(ExportError, match=r"onnx int8: expected full delegation, found outside .*: Conv \(\d+%\)"):
        edge_dp.export(Small(), {"x": SHAPE}, tmp_path / "bundle", keep_float=["head"], **arguments)
    assert not list(tmp_path.iterdir())
    bundle = edge_dp.export(Small(), {"x": SHAPE}, tmp_path / "bundle", **arguments)
    assert bundle.manifest.artifact("onnx-int8").kernels.outside == {}


class Exchanged(torch.nn.Module):
    """What a toolchain makes of 1 - x that exchanges its sides."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return tuple(1 - output for output in self.network(x))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_artifact_that_computes_another_network_is_refused(monkeypatch, tmp_path, precision):
    convert = OnnxConverter._convert

    def wrong(self, source, config, path):
        convert(self, dataclasses.replace(source, module=Exchanged(source.module)), config, path)

    monkeypatch.setattr(OnnxConverter, "_convert", wrong)
    with pytest.raises(ExportError, match=f"onnx-{precision}: expected output as the network computes it"):
        edge_dp.export(Small(), {"x": SHAPE}, tmp_path / "bundle", formats="onnx", precision=precision)
    assert not (tmp_path / "bundle").exists()
