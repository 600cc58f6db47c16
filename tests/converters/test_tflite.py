"""TFLite artifacts of every operation: integer kernels, trained scales, each precision, names, and faults that must be found."""

import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import pytest

if any(importlib.util.find_spec(module) is None for module in ("litert_torch", "ai_edge_litert", "torchao")):
    pytest.skip("needs the extras tflite and train", allow_module_level=True)

import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from torch import nn
from torch.nn import functional as F  # noqa: N812

from edge_dp.converters import tflite
from edge_dp.converters.base import Source
from edge_dp.converters.configs import TFLiteConfig
from edge_dp.converters.operations import OPERATIONS
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.converters.tflite import TFLiteConverter
from edge_dp.converters.tflite_file import TFLiteFile, read_metadata
from edge_dp.errors import EngineError, ExportError, SchemaError
from edge_dp.runtime.engines import ENGINES, make_engine
from edge_dp.runtime.engines.base import Signature

INT8 = TFLiteConfig(precision="int8")
MOVES_INTEGERS = ("max pooling", "nearest x2", "pad", "slice", "reshape", "permute")

COARSE = "bilinear to any size"
"""LiteRT's 16-bit kernel places pixels on a grid of 2^-10, and adds that error up along a row."""


def quantised(module, shapes, name="net", outputs=None, **choice):
    """A source with random weights, calibrated on random data, and one batch of that data."""
    names = ["x"] if len(shapes) == 1 else ["left", "right"]
    generator = torch.Generator().manual_seed(1)
    batches = [
        {key: torch.randn(shape, generator=generator) for key, shape in zip(names, shapes, strict=True)}
        for _ in range(3)
    ]
    network = network_of_module(module, dict(zip(names, shapes, strict=True)), outputs, name.replace(" ", "_"))
    graphs = quantise_module(network, batches, **choice)
    return Source(network.name, network.module, graphs, network.signature, '{"card": "ü"}'), batches[0]


@cache
def of_operation(name):
    torch.manual_seed(0)
    return quantised(OPERATIONS[name].build(), OPERATIONS[name].shapes, name)


def converted(source, batch, config, folder):
    probes = {"batch": {key: value.numpy() for key, value in batch.items()}}
    written = TFLiteConverter().convert(source, config, folder, probes)
    return folder / written.artifact.path, written.artifact.kernels, written.outputs["batch"]


def steps_apart(source, outputs, reference, batch):
    """Difference to what a graph gives, in int8 steps of each output."""
    (returned,) = next(node for node in source.quantised.folded.graph.nodes if node.op == "output").args
    scales = [node.args[1] for node in returned]
    with torch.no_grad():
        expected = reference(*batch.values())
    return [
        np.abs(outputs[name] - value.numpy()) / scale
        for name, value, scale in zip(source.output_names, expected, scales, strict=True)
    ]


def operator_names(path):
    return [operator.name for operator in TFLiteFile(path).operators]


def activations(path):
    """Scale and zero point of each, read with the interpreter, not with our own reader."""
    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    computed = {int(index) for detail in interpreter._get_ops_details() for index in detail["outputs"]}
    computed |= {detail["index"] for detail in interpreter.get_input_details()}
    found = [detail["quantization"] for detail in interpreter.get_tensor_details() if detail["index"] in computed]
    return {(round(float(scale), 9), zero_point) for scale, zero_point in found}


class Pair(nn.Module):
    """Two inputs, two outputs whose names are not in alphabetical order, a sigmoid among concatenated parts."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.joined, self.zeta, self.alpha = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, left, right):
        parts = [F.relu6(self.left(left)), torch.sigmoid(self.right(right))]
        x = F.interpolate(F.relu(self.joined(torch.cat(parts, 1))), scale_factor=2.0, mode="nearest")
        return {"zeta": torch.sigmoid(self.zeta(x)), "alpha": self.alpha(x)}


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    return quantised(Pair(), ((1, 3, 16, 24), (1, 3, 16, 24)), "pair")


@pytest.fixture(scope="module")
def pair_files(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    configs = [INT8, TFLiteConfig(precision="int8", float_io=True)]
    configs += [TFLiteConfig(precision=precision) for precision in ("int16x8", "fp16", "fp32")]
    return {config.label: converted(*pair, config, folder) for config in configs}


@pytest.mark.parametrize("name", [name for name, o in OPERATIONS.items() if "tflite-int8" not in o.refused])
def test_operation_in_int8(name, tmp_path):
    source, batch = of_operation(name)
    path, kernels, outputs = converted(source, batch, INT8, tmp_path)
    assert kernels.integer
    assert not kernels.floating
    assert not kernels.outside
    assert set(operator_names(path)) & {"QUANTIZE", "DEQUANTIZE"} == set()
    for apart in steps_apart(source, outputs, source.quantised.folded, batch):
        assert (np.rint(apart) <= 1).mean() >= 0.999
        assert name not in MOVES_INTEGERS or np.rint(apart).max() == 0
    assert activations(path) == {(round(entry.scale, 9), entry.zero_point) for entry in source.quantised.ranges}


@pytest.mark.parametrize("name", [name for name, o in OPERATIONS.items() if "tflite-int16x8" not in o.refused])
def test_operation_in_16x8(name, tmp_path):
    source, batch = of_operation(name)
    path, kernels, outputs = converted(source, batch, TFLiteConfig(precision="int16x8"), tmp_path)
    assert kernels.integer
    assert not kernels.floating
    file = TFLiteFile(path)
    assert {file.dtype(index) for index in file.computed} == {np.int16}
    assert all(file.quantisation(index)[1] == 0 for index in file.computed)
    for apart in steps_apart(source, outputs, source.quantised.weights, batch):
        assert apart.max() <= (3.0 if name == COARSE else 0.1)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra"),
    [(2, 2, 0, 0), (3, 2, 1, 1), (3, 1, 1, 0), (5, 2, 1, 0), (3, 2, 0, 1), (4, 2, 1, 0)],
)
def test_transposed_convolutions(kernel, stride, padding, extra, tmp_path):
    """TFLite has two paddings, PyTorch any; and its converter leaves all of these in float."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 5, kernel, stride, padding, extra), nn.ReLU6())
    source, batch = quantised(layers, ((1, 3, 9, 12),))
    _, kernels, outputs = converted(source, batch, INT8, tmp_path)
    assert not kernels.floating
    assert not kernels.outside
    (apart,) = steps_apart(source, outputs, source.quantised.folded, batch)
    assert np.rint(apart).max() <= 1
    _, _, outputs = converted(source, batch, TFLiteConfig(precision="fp32"), tmp_path)
    np.testing.assert_allclose(outputs["output"], layers(batch["x"]).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("operation", "gone"),
    [
        (lambda x: F.interpolate(x, scale_factor=3.0, mode="nearest"), "RESIZE_NEAREST_NEIGHBOR"),
        (lambda x: F.interpolate(x, size=(45, 12), mode="nearest"), "RESIZE_NEAREST_NEIGHBOR"),
        (lambda x: x[..., ::2], "STRIDED_SLICE"),
        (lambda x: x[:, :, 1::4], "STRIDED_SLICE"),
        (lambda x: x[:, 1::2], "STRIDED_SLICE"),
    ],
)
def test_data_movement_in_what_xnnpack_has(operation, gone, tmp_path):
    class Moves(nn.Module):
        def forward(self, x):
            return operation(x * x)

    source, batch = quantised(Moves(), ((1, 4, 9, 12),))
    path, kernels, outputs = converted(source, batch, TFLiteConfig(precision="fp32"), tmp_path)
    np.testing.assert_array_equal(outputs["output"], operation(batch["x"] ** 2).numpy())
    assert gone not in operator_names(path)
    assert not kernels.outside


def test_float_borders_change_no_value(pair_files):
    _, _, expected = pair_files["int8"]
    path, kernels, outputs = pair_files["int8-float-io"]
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)
    assert not kernels.floating
    assert not kernels.outside
    interpreter = Interpreter(str(path))
    assert {d["dtype"] for d in interpreter.get_input_details() + interpreter.get_output_details()} == {np.float32}
    assert operator_names(path).count("QUANTIZE") == operator_names(path).count("DEQUANTIZE") == 2


def test_float_precisions(pair, pair_files):
    source, batch = pair
    with torch.no_grad():
        expected = source.module(*batch.values())
    for label, tolerance in (("fp32", 1e-5), ("fp16", 2e-3)):
        _, kernels, outputs = pair_files[label]
        assert not kernels.integer
        assert not kernels.outside
        for name, value in zip(source.output_names, expected, strict=True):
            np.testing.assert_allclose(outputs[name], value.numpy(), atol=tolerance)
    sizes = {label: path.stat().st_size for label, (path, _, _) in pair_files.items()}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"] + 4096  # so small a network is mostly names
    file = TFLiteFile(pair_files["fp16"][0])
    halves = [o for o in file.operators if o.name == "DEQUANTIZE" and file.dtype(o.inputs[0]) is np.float16]
    assert len(halves) == 10  # weights and biases of five convolutions


def test_a_weight_beyond_half_floats_is_refused(pair, tmp_path):
    class Huge(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 1, 1)
            nn.init.constant_(self.layer.weight, 1e5)

        def forward(self, x):
            return self.layer(x)

    source, _ = quantised(Huge(), ((1, 1, 4, 4),))
    with pytest.raises(ExportError, match=r"a weight of 1e\+05 does not fit a half float, .* Use fp32"):
        TFLiteConverter().convert(source, TFLiteConfig(precision="fp16"), tmp_path, {})


@pytest.mark.parametrize("label", ["int8", "int8-float-io", "int16x8", "fp16", "fp32"])
def test_names_order_card_and_bytes(label, pair, pair_files, tmp_path):
    source, batch = pair
    path, _, _ = pair_files[label]
    assert read_metadata(path, "edge_dp") == source.card
    assert read_metadata(path, "nobody") is None
    (names,) = Interpreter(str(path)).get_signature_list().values()
    assert (names["inputs"], sorted(names["outputs"])) == (["left", "right"], ["alpha", "zeta"])
    config = TFLiteConfig(precision=label.removesuffix("-float-io"), float_io=label.endswith("-float-io"))
    again, _, _ = converted(source, batch, config, tmp_path)
    assert again.read_bytes() == path.read_bytes()
    for trace in (b"site-packages", b".py", str(Path(__file__).parents[2]).encode()):
        assert trace not in path.read_bytes()


def test_inputs_and_outputs_are_matched_by_signature(pair, pair_files):
    source, batch = pair
    path, _, expected = pair_files["fp32"]
    inputs = {key: value.numpy() for key, value in batch.items()}
    turned = Signature(source.signature.inputs[::-1], source.signature.outputs[::-1])
    with make_engine(ENGINES["litert"], path, turned) as engine:
        outputs = engine.infer(inputs)
    for name, values in expected.items():
        np.testing.assert_array_equal(outputs[name], values)
    other = Signature(source.signature.inputs, (("depth", (1, 1, 32, 48)), source.signature.outputs[1]))
    with pytest.raises(EngineError, match=r"expected outputs \['depth', 'alpha'\], found \['alpha', 'zeta'\]"):
        make_engine(ENGINES["litert"], path, other).activate()
    other = Signature(source.signature.inputs, (("zeta", (1, 1, 9, 9)), source.signature.outputs[1]))
    with pytest.raises(EngineError, match=r"output 'zeta' has shape \(1, 1, 32, 48\), expected \(1, 1, 9, 9\)"):
        make_engine(ENGINES["litert"], path, other).activate()


def test_a_module_kept_in_float(tmp_path):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    source, batch = quantised(layers, ((1, 3, 16, 24),), keep_float=("2",))
    _, kernels, outputs = converted(source, batch, INT8, tmp_path)
    assert (kernels.integer, kernels.floating) == ({"CONV_2D": 1}, {"CONV_2D": 1})
    with torch.no_grad():
        (expected,) = source.quantised.folded(batch["x"])
    np.testing.assert_allclose(outputs["output"], expected.numpy(), atol=1e-5)


def test_a_module_of_16_bits_among_8(tmp_path):
    """The converter leaves out what turns 8 into 16 bits, and the file does not run."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    source, batch = quantised(layers, ((1, 3, 16, 24),), int16=("2",))
    path, kernels, outputs = converted(source, batch, INT8, tmp_path)
    assert (kernels.integer, kernels.floating) == ({"CONV_2D": 2, "QUANTIZE": 1}, {})
    file = TFLiteFile(path)
    assert file.dtype(file.signature[1]["output"]) is np.int16
    (apart,) = steps_apart(source, outputs, source.quantised.folded, batch)
    assert np.rint(apart).max() <= 1


def test_shared_weights_and_a_lone_relu(tmp_path):
    """One transposed convolution used twice, and a ReLU that nothing fuses, since what is before it is used too."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.up = nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 4, 2, 1)

        def forward(self, x):
            x = self.first(x)
            return self.up(x) + self.up(F.relu(x))

    torch.manual_seed(0)
    source, batch = quantised(Shared(), ((1, 3, 16, 24),))
    _, kernels, outputs = converted(source, batch, INT8, tmp_path)
    assert kernels.integer["TRANSPOSE_CONV"] == 2
    assert not kernels.outside
    (apart,) = steps_apart(source, outputs, source.quantised.folded, batch)
    assert np.rint(apart).max() <= 1


def test_work_outside_the_delegate_is_listed_and_can_be_refused(tmp_path):
    """A clamp narrower than the range that it shares has no kernel in XNNPACK."""

    class Clamped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return torch.cat([torch.clamp(self.first(x), -0.1, 0.2), self.second(x)], 1)

    torch.manual_seed(0)
    source, batch = quantised(Clamped(), ((1, 3, 16, 24),))
    _, kernels, outputs = converted(source, batch, INT8, tmp_path)
    assert set(kernels.outside) == {"MAXIMUM", "MINIMUM"}
    values = 8 * 14 * 22
    total = (
        2 * values * 27 + 2 * values + 2 * values + 2 * values + 3 * 16 * 24
    )  # convolutions, clamp, cat, two transposes
    assert kernels.outside["MAXIMUM"] == pytest.approx(values / total, rel=1e-6)
    (apart,) = steps_apart(source, outputs, source.quantised.folded, batch)
    assert np.rint(apart).max() <= 1
    with pytest.raises(
        ExportError, match=r"expected full delegation, found outside the delegate: MAXIMUM \(2%\), MINIMUM"
    ):
        TFLiteConverter().convert(source, INT8, tmp_path, {}, require_full_delegation=True)


def test_a_changed_scale_is_found(pair, tmp_path):
    class Careless(TFLiteConverter):
        def _convert(self, source, config, path):
            super()._convert(source, config, path)
            file = TFLiteFile(path)
            index = next(operator.inputs[0] for operator in file.operators if operator.name == "LOGISTIC")
            (scale,), (zero_point,) = file.quantisation(index)
            file.set_quantisation(index, np.asarray(scale * 1.00001), zero_point)
            file.write(path)

    with pytest.raises(ExportError, match="expected the trained quantisation, found an activation with scale"):
        Careless().convert(pair[0], INT8, tmp_path, {})


def test_a_float_kernel_is_found(tmp_path, monkeypatch):
    """What the converter makes of a transposed convolution."""
    source, _ = of_operation("convolution transposed")
    monkeypatch.setattr(tflite, "transposed_convolutions", lambda *_: None)
    with pytest.raises(ExportError, match="expected integer kernels, found float ones: 1 x TRANSPOSE_CONV"):
        TFLiteConverter().convert(source, INT8, tmp_path, {})


def test_constants_lie_on_16_bytes(pair_files):
    """Engines map the file and read them in place."""
    for path, _, _ in pair_files.values():
        data = path.read_bytes()
        model = schema.Model.GetRootAs(data, 0)
        for index in range(model.BuffersLength()):
            buffer = model.Buffers(index)
            if buffer.DataLength():
                offset = buffer._tab.Vector(buffer._tab.Offset(4))
                assert offset % 16 == 0


def test_a_file_that_is_no_tflite(tmp_path):
    path = tmp_path / "photo.tflite"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" * 4)
    with pytest.raises(SchemaError, match=r"photo.tflite: expected a .tflite, found no TFL3"):
        read_metadata(path, "edge_dp")


def test_a_transposed_convolution_with_folded_batch_norm_is_delegated_in_float(tmp_path: Path) -> None:
    """Its bias comes with four axes out of litert_torch, and XNNPACK takes a row of numbers alone."""
    import edge_dp

    torch.manual_seed(0)
    first, norm = nn.Conv2d(2, 48, 3, padding=1), nn.BatchNorm2d(24)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(value, 0.5, 1.5)
    grow = nn.Sequential(first, nn.ConvTranspose2d(48, 24, 4, 2, 1, bias=False), norm, nn.ReLU(), nn.Conv2d(24, 2, 1))
    bundle = edge_dp.export(grow, {"x": (1, 2, 16, 24)}, tmp_path / "b", formats="tflite", precision="fp32")
    (artifact,) = bundle.manifest.artifacts
    assert artifact.kernels.floating["TRANSPOSE_CONV"] == 1
    assert not artifact.kernels.outside
    for case in bundle.manifest.golden:
        expected, found = bundle.golden_outputs(case, "float"), bundle.artifact_outputs(case, "tflite-fp32")
        np.testing.assert_allclose(found["output"], expected["output"], atol=1e-5)
