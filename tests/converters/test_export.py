"""Export of the shipped student: every artifact, its integers, and what is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import edge_dp
from edge_dp.bundle.manifest import MANIFEST, read_bundle
from edge_dp.converters.base import Source
from edge_dp.converters.configs import CONFIGS, ExecuTorchConfig, OnnxConfig, TFLiteConfig
from edge_dp.converters.export import quantised_source
from edge_dp.converters.registry import CONVERTERS, make_converter
from edge_dp.converters.tflite import TFLiteConverter
from edge_dp.errors import ExportError, InputError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.quantization.qat import float_graph
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.validate import signature
from edge_dp.sensors import load_sensor

CONVOLUTIONS = 18  # of dp_disparity_s


@pytest.fixture(scope="module")
def source() -> Source:
    return quantised_source(read_checkpoint("dp_disparity_s"), 64, 96)


def infer(bundle, name, case):
    artifact = bundle.manifest.artifact(name)
    with make_engine(engine_for(artifact.format), bundle.path(artifact.path), signature(bundle)) as engine:
        return engine.infer(bundle.golden_inputs(case))


def test_every_format_and_precision_is_written(bundle):
    written = {(artifact.format, artifact.precision) for artifact in bundle.manifest.artifacts}
    assert written == {(config.format, precision) for config in CONFIGS.values() for precision in config.default}
    for artifact in bundle.manifest.artifacts:
        bundle.check_files(artifact.files)
        assert artifact.size_bytes == sum(bundle.path(file).stat().st_size for file in artifact.files)


def test_registry_and_converters_agree():
    assert set(CONVERTERS) == set(CONFIGS)
    for name in CONVERTERS:
        assert make_converter(name).format == name


@pytest.mark.parametrize("name", ["executorch-int8", "tflite-int8", "coreml-w8a8", "onnx-int8"])
def test_integer_artifacts_compute_in_integers(bundle, name):
    kernels = bundle.manifest.artifact(name).kernels
    convolutions = sum(
        count for kind, count in kernels.integer.items() if re.search(r"conv|fully connected", kind, re.IGNORECASE)
    )
    # ONNX Runtime interpolates in float: its five bilinear upsamplings are two convolutions each instead.
    assert convolutions == CONVOLUTIONS + (2 * 5 if name == "onnx-int8" else 0)
    assert sum(count for kind, count in kernels.integer.items() if "add" in kind.lower()) == 3
    assert kernels.floating == {} and kernels.outside == {}


@pytest.mark.parametrize("name", ["executorch-fp32", "tflite-fp32", "coreml-fp16", "onnx-fp32"])
def test_float_artifacts_hold_no_integer_kernels(bundle, name):
    kernels = bundle.manifest.artifact(name).kernels
    assert not kernels.integer
    assert sum(kernels.floating.values()) >= CONVOLUTIONS


def test_artifacts_tell_nothing_of_the_machine_that_made_them(bundle):
    """Toolchains note stack traces with paths in what they write."""
    for artifact in bundle.manifest.artifacts:
        for file in artifact.files:
            data = bundle.path(file).read_bytes()
            for trace in (b"site-packages", b".py", str(Path(__file__).parents[2]).encode()):
                assert trace not in data, (file, trace)


def test_integer_artifacts_are_a_third_of_the_float_ones(bundle):
    size = {artifact.name: artifact.size_bytes for artifact in bundle.manifest.artifacts}
    for fmt in ("executorch", "tflite", "onnx"):
        assert size[f"{fmt}-int8"] < 0.4 * size[f"{fmt}-fp32"]


def test_tflite_holds_the_trained_scales(bundle):
    from ai_edge_litert.interpreter import Interpreter

    path = bundle.path(bundle.manifest.artifact("tflite-int8").path)
    details = Interpreter(str(path)).get_tensor_details()
    found = {(round(float(d["quantization"][0]), 9), d["quantization"][1]) for d in details if d["dtype"] is np.int8}
    trained = {(round(entry.scale, 9), entry.zero_point) for entry in bundle.manifest.quantization}
    assert trained <= found


def test_onnx_holds_the_trained_scales(bundle):
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(bundle.path(bundle.manifest.artifact("onnx-int8").path)).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = {
        (round(float(values[node.input[1]]), 9), int(values[node.input[2]]))
        for node in graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert found == {(round(entry.scale, 9), entry.zero_point) for entry in bundle.manifest.quantization}


def test_artifacts_carry_the_names_of_the_tensors(bundle):
    import onnx
    from ai_edge_litert.interpreter import Interpreter

    graph = onnx.load(bundle.path(bundle.manifest.artifact("onnx-fp32").path)).graph
    assert [t.name for t in graph.input] == ["views"]
    assert [t.name for t in graph.output] == ["disparity", "confidence"]
    interpreter = Interpreter(str(bundle.path(bundle.manifest.artifact("tflite-int8").path)))
    (names,) = interpreter.get_signature_list().values()
    assert names["inputs"] == ["views"]
    assert sorted(names["outputs"]) == ["confidence", "disparity"]


def test_executorch_and_tflite_give_the_same_integers(bundle):
    """One quantisation, two toolchains: equal to the bit, also on noise, where nothing hides a difference."""
    for case in bundle.manifest.golden:
        pte, tflite = infer(bundle, "executorch-int8", case), infer(bundle, "tflite-int8", case)
        for spec in bundle.manifest.outputs:
            integers = [np.rint(outputs[spec.name] / spec.scale) for outputs in (pte, tflite)]
            np.testing.assert_array_equal(*integers)


def test_golden_references_are_the_models_own(bundle):
    checkpoint = read_checkpoint("dp_disparity_s")
    module = checkpoint.build()
    for case in bundle.manifest.golden:
        views = torch.from_numpy(bundle.golden_inputs(case)["views"])
        with torch.no_grad():
            disparity, confidence = module(views)
        expected = bundle.golden_outputs(case, "float")
        np.testing.assert_allclose(expected["disparity"], disparity.numpy(), atol=2e-5)
        np.testing.assert_allclose(expected["confidence"], confidence.numpy(), atol=2e-5)


def test_float_convolutions_between_quantise_nodes_are_refused(source, tmp_path):
    """What litert_torch writes without a quantisation config: it looks like an int8 artifact and computes in float."""

    class Careless(TFLiteConverter):
        def _convert(self, source, config, path):
            import litert_torch

            litert_torch.convert(source.quantised.unfolded, source.example).export(str(path))

    probes = {"zeros": {"views": np.zeros((1, 2, 64, 96), np.float32)}}
    with pytest.raises(ExportError, match=r"tflite int8: (expected integer kernels, found|written, but does not run)"):
        Careless().convert(source, TFLiteConfig(precision="int8"), tmp_path, probes)


def test_a_float_program_that_calls_itself_int8_is_refused(source, tmp_path):
    """The same for ExecuTorch: a float module exported under the name int8."""
    pretender = replace(source, graphs=replace(source.quantised, folded=float_graph(source.module, source.example)))
    with pytest.raises(ExportError, match="executorch int8: expected integer kernels, found none"):
        make_converter("executorch").convert(pretender, ExecuTorchConfig(precision="int8"), tmp_path, {})


@pytest.mark.parametrize(("scale", "zero_point"), [(1.001, 0), (1.0, 1)], ids=["scale", "zero point"])
def test_quantisation_other_than_the_trained_one_is_refused(source, tmp_path, scale, zero_point):
    """A toolchain that derives a scale anew: here the last activation, and what doubles it, are not those that the table has."""
    *others, head, doubled = source.quantised.ranges
    moved = (
        replace(entry, scale=entry.scale * scale, zero_point=entry.zero_point + zero_point) for entry in (head, doubled)
    )
    wrong = replace(source, graphs=replace(source.quantised, ranges=(*others, *moved)))
    with pytest.raises(
        ExportError, match="onnx int8: expected the trained quantisation, found an activation with scale"
    ):
        make_converter("onnx").convert(wrong, OnnxConfig(precision="int8"), tmp_path, {})


def test_another_size_keeps_the_quantisation(tmp_path):
    bundle = edge_dp.export_checkpoint(
        "dp_disparity_s", tmp_path / "small", formats=["onnx"], precision=["int8"], size=(96, 128)
    )
    assert bundle.manifest.inputs[0].shape == (1, 2, 96, 128)
    assert bundle.manifest.outputs[0].shape == (1, 1, 48, 64)
    assert bundle.manifest.quantization == read_checkpoint("dp_disparity_s").ranges


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"formats": ["tensorrt"]}, "tensorrt: no such format; known are executorch"),
        ({"precision": ["int4"]}, "int4: no such precision"),
        ({"formats": ["onnx"], "precision": ["w8a8"]}, "w8a8: no such precision; onnx have fp16, fp32, int8"),
        ({"size": (100, 128)}, r"multiples of 32, found \(1, 2, 100, 128\)"),
        ({"checkpoint": "nobody"}, "nobody: no checkpoint there .* shipped: dp_disparity_m, dp_disparity_s"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(tmp_path, arguments, words):
    out = tmp_path / "bundle"
    with pytest.raises(InputError, match=words):
        edge_dp.export_checkpoint(arguments.pop("checkpoint", "dp_disparity_s"), out, **arguments)
    assert not out.exists()
    assert not list(tmp_path.iterdir())


def test_a_foreign_folder_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"precious")
    with pytest.raises(InputError, match="photos"):
        edge_dp.export_checkpoint(
            "dp_disparity_s", tmp_path / "photos", formats=["onnx"], precision=["fp32"], size=(32, 32)
        )
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"precious"


def test_diverged_weights_are_refused_and_the_old_bundle_stays(tmp_path):
    out = tmp_path / "bundle"
    edge_dp.export_checkpoint("dp_disparity_s", out, formats=["onnx"], precision=["fp32"], size=(32, 32))
    before = (out / MANIFEST).read_bytes()
    checkpoint = read_checkpoint("dp_disparity_s")
    weights = dict(checkpoint.weights)
    weights["disparity.weight"] = np.full_like(weights["disparity.weight"], np.nan)
    with pytest.raises(ExportError, match=r"disparity.weight: expected finite weights, found NaN"):
        edge_dp.export_checkpoint(
            replace(checkpoint, weights=weights), out, formats=["onnx"], precision=["fp32"], size=(32, 32)
        )
    assert (out / MANIFEST).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    read_bundle(out)


def test_a_failing_toolchain_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx.export", lambda *_, **__: 1 / 0)
    with pytest.raises(ExportError, match="onnx fp32: the toolchain failed: division by zero"):
        edge_dp.export_checkpoint("dp_disparity_s", tmp_path / "b", formats=["onnx"], precision=["fp32"], size=(32, 32))
    assert not list(tmp_path.iterdir())


def test_a_named_sensor_puts_its_numbers_into_the_manifest(tmp_path):
    sensor = load_sensor("pixel4")
    manifest = edge_dp.export_checkpoint(
        "dp_disparity_s", tmp_path / "b", formats="onnx", precision="fp32", size=(32, 32), sensor=sensor
    ).manifest
    assert manifest.sensor == json.loads(json.dumps(sensor.to_dict()))
    assert manifest.preprocessing is not None
    assert (manifest.preprocessing.black_level, manifest.preprocessing.white_level) == (
        sensor.black_level,
        sensor.white_level,
    )
    assert manifest.preprocessing.right_gain == sensor.right_gain
