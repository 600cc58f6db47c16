"""ONNX: every operation in ONNX Runtime's integer kernels, the integers of the converted graph, and each precision."""

import argparse
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import from_array, to_array
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.cli import export
from edge_dp.converters.base import Source, _check_quantisation
from edge_dp.converters.cards import CARD_KEY
from edge_dp.converters.configs import OnnxConfig
from edge_dp.converters.onnx import OPSET, OnnxConverter
from edge_dp.converters.operations import OPERATIONS
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.errors import ExportError, InputError

INT8 = OnnxConfig(precision="int8")
UNSIGNED = OnnxConfig(precision="int8", unsigned=True)


class After(nn.Module):
    """A convolution, then a function of its result and further layers."""

    def __init__(self, function, **layers):
        super().__init__()
        self.first, self.function = nn.Conv2d(8, 8, 3, padding=1), function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, self.first(x))


class Constant(nn.Module):
    """A factor per channel."""

    def __init__(self):
        super().__init__()
        self.register_buffer("factor", torch.randn(1, 8, 1, 1))

    def forward(self):
        return self.factor


def make_source(module, shapes, keep_float=()):
    """Random weights, calibrated on random data."""
    names = [f"in_{i}" for i in range(len(shapes))]
    network = network_of_module(module, dict(zip(names, shapes, strict=True)), None, "net")
    batches = [dict(zip(names, map(torch.randn, shapes), strict=True)) for _ in range(3)]
    graphs = quantise_module(network, batches, keep_float)
    return Source("net", network.module, graphs, network.signature, card='{"note": "µ"}')


def saturates():
    """Whether this CPU adds pairs of uint8 x int8 products in 16 bits: x86 without VNNI."""
    a, b, y = (onnx.helper.make_tensor_value_info(n, k, [4, 4]) for n, k in (("a", 2), ("b", 3), ("y", 6)))
    graph = onnx.helper.make_graph([onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])], "g", [a, b], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    found = session.run(None, {"a": np.full((4, 4), 255, np.uint8), "b": np.full((4, 4), 127, np.int8)})[0]
    return bool((found != 4 * 255 * 127).any())


def convert(source, folder: Path, config=INT8):
    """The artifact's outputs on random inputs, those of the module it must reproduce, and what was written."""
    random = torch.Generator().manual_seed(1)
    inputs = [torch.randn(shape, generator=random) for _, shape in source.signature.inputs]
    probe = {name: x.numpy() for name, x in zip(source.input_names, inputs, strict=True)}
    written = OnnxConverter().convert(source, config, folder, {"random": probe})
    onnx.checker.check_model(onnx.load(folder / written.artifact.path), full_check=True)
    reference = source.quantised.folded if config.integer else source.module
    with torch.no_grad():
        expected = {name: y.numpy() for name, y in zip(source.output_names, reference(*inputs), strict=True)}
    return written.outputs["random"], expected, written


def within_a_step(source, found, expected):
    """Share of values no more than a quantisation step off, of a network with one output, the last activation."""
    step = source.quantised.ranges[-1].scale
    ((_, y),), ((_, reference),) = found.items(), expected.items()
    assert len(np.unique(reference)) > min(8, reference.size // 2)  # a constant would prove nothing
    return np.mean(np.abs(y - reference) <= 1.001 * step)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS.values() if INT8.name not in o.refused], ids=lambda o: o.name
)
def test_operation_runs_in_integers_and_gives_those_of_the_converted_graph(operation, tmp_path):
    source = make_source(operation.build(), operation.shapes)
    found, expected, written = convert(source, tmp_path)
    assert written.artifact.kernels.integer
    assert written.artifact.kernels.floating == written.artifact.kernels.outside == {}
    assert within_a_step(source, found, expected) >= 0.999
    stored = {(round(scale, 9), z) for scale, z in OnnxConverter()._activations(tmp_path / "net.int8.onnx", INT8)}
    assert {(round(entry.scale, 9), entry.zero_point) for entry in source.quantised.ranges} == stored

    same, _, unsigned = convert(source, tmp_path, UNSIGNED)
    if not saturates():
        np.testing.assert_array_equal(same["output"], found["output"])
    assert unsigned.artifact.kernels.integer == written.artifact.kernels.integer
    assert unsigned.artifact.kernels.floating == unsigned.artifact.kernels.outside == {}
    path = tmp_path / "net.int8-unsigned.onnx"
    assert {(round(scale, 9), z) for scale, z in OnnxConverter()._activations(path, UNSIGNED)} == stored


def test_unsigned_activations_beside_signed_weights(tmp_path):
    source = make_source(OPERATIONS["sub"].build(), OPERATIONS["sub"].shapes)
    convert(source, tmp_path, UNSIGNED)
    graph = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "net.int8-unsigned.onnx"), strict_mode=True).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    weights = {node.input[0] for node in graph.node if constants.get(node.input[0]) == onnx.TensorProto.INT8}
    assert {len(tensor.dims) for tensor in graph.initializer if tensor.name in weights} == {4}
    assert onnx.TensorProto.INT8 not in {kind for name, kind in kinds.items() if name not in constants}
    stored = [node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert {kinds[name] for name in stored} == {onnx.TensorProto.UINT8}


@pytest.mark.parametrize(
    "build",
    [
        lambda: After(lambda _, x: F.pad(x.clamp(-0.1, 0.2), (1, 2)) * F.pad(torch.relu(x), (1, 2))),
        lambda: After(lambda self, x: x * self.gain(), gain=Constant()),
        lambda: nn.Sequential(*(nn.Conv2d(8, 8, 3) for _ in range(4))),
    ],
    ids=["limits and borders", "constant operand", "several weights of one shape"],
)
def test_unsigned_gives_the_same_numbers_in_either_mode_of_the_engine(build, tmp_path):
    """The exact mode of x86 without VNNI turns the weights unsigned too; it refuses weights that share a zero point."""
    source = make_source(build(), [(1, 8, 16, 24)])
    signed, _, _ = convert(source, tmp_path)
    unsigned, _, written = convert(source, tmp_path, UNSIGNED)
    if not saturates():
        np.testing.assert_array_equal(unsigned["output"], signed["output"])
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(tmp_path / written.artifact.path), options)
    x = torch.randn(source.signature.inputs[0][1], generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(session.run(None, {"in_0": x.numpy()})[0], signed["output"])


def test_unsigned_is_an_option_of_int8():
    assert UNSIGNED.name == "onnx-int8-unsigned"
    assert UNSIGNED.integer
    with pytest.raises(InputError, match="onnx: unsigned is an option of int8, found precision 'fp16'"):
        OnnxConfig(precision="fp16", unsigned=True)


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (["--unsigned-onnx", "--format", "onnx"], ["onnx-int8-unsigned", "onnx-fp32"]),
        (["--unsigned-onnx", "--float-io", "--precision", "int8", "--format", "onnx", "--format", "tflite"],
         ["onnx-int8-unsigned", "tflite-int8-float-io"]),
        (["--unsigned-onnx", "--format", "tflite"], "--unsigned-onnx: expected the format onnx in precision int8"),
        (["--unsigned-onnx", "--precision", "fp32"], "--unsigned-onnx: expected the format onnx in precision int8"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_unsigned_on_the_command_line(words, labels):
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    options = parser.parse_args(["dp_disparity_s", "--out", "x", *words])
    if isinstance(labels, str):
        with pytest.raises(InputError, match=labels):
            export._formats(options)
    else:
        assert [config.name for config in export._formats(options)] == labels


def bilinear(**arguments):
    return lambda: After(lambda _, x: F.interpolate(x, mode="bilinear", **arguments))


def transposed(*arguments, **named):
    return lambda: After(lambda self, x: self.layer(x), layer=nn.ConvTranspose2d(8, 6, *arguments, **named))


@pytest.mark.parametrize(
    "build",
    [
        bilinear(scale_factor=3),
        bilinear(scale_factor=(2, 5)),
        bilinear(scale_factor=8),
        bilinear(size=(46, 24), align_corners=True),
        transposed(2, stride=2),
        transposed(3, stride=2, padding=1, output_padding=1),
        transposed(5, stride=3, padding=2, output_padding=2, bias=False),
        transposed(2, stride=3),
        transposed((4, 2), stride=(2, 1), padding=(1, 0)),
        lambda: After(lambda _, x: torch.relu(x) + x),
        lambda: After(lambda _, x: x.clamp(-0.2, 0.3) * x),
        lambda: After(lambda _, x: torch.relu(F.interpolate(x, scale_factor=2, mode="bilinear"))),
        lambda: After(lambda _, x: x - x.mean((2, 3), keepdim=True)),
        lambda: After(lambda self, x: self.layer(x.flatten(2)), layer=nn.Linear(384, 20)),
    ],
    ids=lambda build: "",
)
def test_forms_that_the_matrix_leaves_out(build, tmp_path):
    source = make_source(build(), [(1, 8, 16, 24)])
    found, expected, written = convert(source, tmp_path)
    assert written.artifact.kernels.floating == {}
    assert within_a_step(source, found, expected) >= 0.999


def test_rewritten_interpolation_and_clamp_are_exact(tmp_path):
    """Rounded once, as the converted graph rounds; a chain of roundings or a truncation would be off here and there."""
    for function in (
        lambda _, x: F.interpolate(x, scale_factor=2, mode="bilinear"),
        lambda _, x: F.interpolate(x, size=(31, 47), mode="bilinear", align_corners=True),
        lambda _, x: torch.relu(x) * x.clamp(-0.1, 0.2),
    ):
        source = make_source(After(function), [(2, 8, 16, 24)])
        found, expected, _ = convert(source, tmp_path)
        np.testing.assert_array_equal(found["output"], expected["output"])


def test_interpolation_without_an_integer_form_is_refused(tmp_path):
    source = make_source(bilinear(size=(17, 24))(), [(1, 8, 16, 24)])
    with pytest.raises(
        ExportError, match=re.escape("from 16x24 to 17x24 (half_pixel) has no integer form in ONNX. Use")
    ):
        convert(source, tmp_path)


def test_float_kernels_are_named_with_their_share_of_time(tmp_path):
    """A head in float on request is no fallback, but it is outside."""
    module = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 3))
    source = make_source(module, [(1, 8, 16, 24)], keep_float=["1"])
    _, _, written = convert(source, tmp_path)
    assert written.artifact.kernels.floating == {"Conv": 1}
    assert 0 < written.artifact.kernels.outside["Conv"] < 1
    with pytest.raises(ExportError, match=r"expected full delegation, found outside the delegate: Conv \(\d+%\)"):
        OnnxConverter().convert(source, INT8, tmp_path, {}, require_full_delegation=True)


def test_float_fallback_is_fatal(tmp_path, monkeypatch):
    """Without the rewriting, ONNX Runtime interpolates in float."""
    monkeypatch.setattr("edge_dp.converters.onnx_integer.make_integer", lambda _: None)
    source = make_source(bilinear(scale_factor=2)(), [(1, 8, 16, 24)])
    with pytest.raises(ExportError, match="expected integer kernels, found float ones: 1 x Resize"):
        convert(source, tmp_path)


def test_a_changed_scale_is_detected(tmp_path):
    source = make_source(OPERATIONS["add"].build(), OPERATIONS["add"].shapes)
    convert(source, tmp_path)
    path = tmp_path / "net.int8.onnx"
    model = onnx.load(path)
    node = [node for node in model.graph.node if node.op_type == "QuantizeLinear"][-1]
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    scale.CopyFrom(from_array((to_array(scale) * np.float32(1.001)).astype(np.float32), scale.name))
    onnx.save(model, path)
    with pytest.raises(ExportError, match="expected the trained quantisation, found an activation with scale"):
        _check_quantisation("onnx int8", OnnxConverter()._activations(path, INT8), source.quantised.ranges)


class TwoInTwoOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, left, right):
        both = self.a(left) + self.b(right)
        return {"sum": both, "half": F.interpolate(both, scale_factor=2, mode="bilinear")}


@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 0.1), ("fp16", 5e-3), ("fp32", 1e-5)])
def test_each_precision_keeps_names_and_float_borders(precision, tolerance, tmp_path):
    source = make_source(TwoInTwoOut().eval(), [(1, 8, 16, 24)] * 2)
    found, expected, written = convert(source, tmp_path, OnnxConfig(precision=precision))
    model = onnx.load(tmp_path / written.artifact.path)
    assert [tensor.name for tensor in model.graph.input] == ["in_0", "in_1"]
    assert [tensor.name for tensor in model.graph.output] == ["sum", "half"]
    border = (*model.graph.input, *model.graph.output)
    assert {tensor.type.tensor_type.elem_type for tensor in border} == {onnx.TensorProto.FLOAT}
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    for name, y in found.items():
        np.testing.assert_allclose(y, expected[name], atol=tolerance)
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 4}
    wanted = {"int8": onnx.TensorProto.INT8, "fp16": onnx.TensorProto.FLOAT16, "fp32": onnx.TensorProto.FLOAT}
    assert kinds == {wanted[precision]}


def test_weights_beyond_half_floats_are_refused(tmp_path):
    source = make_source(nn.Conv2d(8, 2, 3), [(1, 8, 16, 24)])
    with torch.no_grad():
        next(source.module.parameters()).view(-1)[3] = 1e5
    with pytest.raises(
        ExportError, match=r"weight: expected weights within \+-65504 for fp16, found larger ones\. Use fp32"
    ):
        convert(source, tmp_path, OnnxConfig(precision="fp16"))


def test_artifact_carries_its_card_and_nothing_of_the_machine(tmp_path):
    operation = OPERATIONS["sub"]
    source = make_source(operation.build(), operation.shapes)
    contents = []
    for _ in range(2):
        convert(source, tmp_path)
        contents.append((tmp_path / "net.int8.onnx").read_bytes())
    assert contents[0] == contents[1]
    for trace in (b"site-packages", b".py", str(Path(__file__).parents[2]).encode()):
        assert trace not in contents[0]
    properties = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.int8.onnx").metadata_props}
    assert properties == {CARD_KEY: source.card}


def test_biases_are_steps_of_the_accumulator(tmp_path):
    """As int32 of scale input x weight: runtimes that quantise no bias themselves would convolve in float."""
    source = make_source(nn.Conv2d(8, 2, 3), [(1, 8, 16, 24)])
    convert(source, tmp_path)
    graph = onnx.load(tmp_path / "net.int8.onnx").graph
    constants = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    made_by = {node.output[0]: node for node in graph.node}
    (convolution,) = (node for node in graph.node if node.op_type == "Conv")
    x, weight, bias = (made_by[name] for name in convolution.input)
    assert constants[bias.input[0]].dtype == np.int32
    accumulator = constants[x.input[1]] * constants[weight.input[1]]
    np.testing.assert_allclose(constants[bias.input[1]], accumulator, rtol=1e-6)
