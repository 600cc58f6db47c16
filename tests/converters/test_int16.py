"""Modules with 16-bit activations among int8 ones: TFLite's 16x8 kernels, finer outputs, and who refuses."""

import numpy as np
import pytest
import torch
from torch import nn

import edge_dp
from edge_dp.converters.configs import CoreMLConfig, ExecuTorchConfig, OnnxConfig, TFLiteConfig
from edge_dp.converters.int16 import int16_problems
from edge_dp.converters.preflight import check_network
from edge_dp.converters.source import network_of_module
from edge_dp.converters.tflite_file import TFLiteFile
from edge_dp.errors import ExportError, InputError
from edge_dp.quantization.qat import float_graph

SHAPE = (1, 2, 32, 48)


class Student(nn.Module):
    """A body, a sub-pixel head that scales up, and a sigmoid beside it that stays in int8."""

    def __init__(self, head=None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = head or nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Hardswish(),
            nn.ConvTranspose2d(8, 4, 4, 2, 1),
            nn.ReLU6(),
            nn.Conv2d(4, 1, 3, padding=1),
        )
        self.mask = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        features = self.body(x)
        return {"disparity": self.head(features), "mask": torch.sigmoid(self.mask(features))}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The same network with and without 16 bits."""
    torch.manual_seed(3)
    network, rng = Student().eval(), np.random.default_rng(3)
    samples = [rng.random(SHAPE, dtype=np.float32) for _ in range(3)]
    folder = tmp_path_factory.mktemp("int16")
    return network, {
        paths: edge_dp.export(
            network,
            {"x": SHAPE},
            folder / "-".join(("bundle", *paths)),
            formats=["tflite"],
            precision="int8",
            calibration=samples,
            int16=paths,
        )
        for paths in ((), ("head",))
    }


def spec(bundle, name):
    return next(spec for spec in bundle.manifest.outputs if spec.name == name)


def test_output_has_much_finer_steps_and_the_others_keep_theirs(bundles):
    _, (coarse, fine) = bundles[0], bundles[1].values()
    assert spec(fine, "disparity").zero_point == 0
    # 2 max(|low|, |high|) in 65535 steps, where high - low was in 255
    assert 1 / 260 < spec(fine, "disparity").scale / spec(coarse, "disparity").scale < 2 / 250
    assert (spec(fine, "mask").scale, spec(fine, "mask").zero_point) == (1 / 256, -128)


def test_artifact_is_within_int16_steps_of_the_quantised_model(bundles):
    bundle = bundles[1]["head",]
    step = spec(bundle, "disparity").scale
    for case in bundle.manifest.golden:
        expected, found = bundle.golden_outputs(case, "quantised"), bundle.artifact_outputs(case, "tflite-int8")
        apart = np.rint(np.abs(found["disparity"] - expected["disparity"]) / step)
        assert (apart <= 2).mean() >= 0.999 and apart.max() <= 8
        assert np.abs(found["mask"] - expected["mask"]).max() <= 1.001 / 256


def test_finer_steps_bring_the_output_nearer_to_float(bundles):
    errors = {}
    for paths, bundle in bundles[1].items():
        case = bundle.manifest.golden[0]
        wanted, found = bundle.golden_outputs(case, "float"), bundle.artifact_outputs(case, "tflite-int8")
        errors[paths] = np.abs(found["disparity"] - wanted["disparity"]).mean()
    assert errors["head",] < 0.8 * errors[()]


def test_both_widths_have_integer_kernels_in_one_file(bundles):
    bundle = bundles[1]["head",]
    (artifact,) = bundle.manifest.artifacts
    assert not artifact.kernels.floating
    file = TFLiteFile(bundle.path(artifact.path))
    widths = {(operator.name, file.dtype(operator.outputs[0])) for operator in file.operators}
    assert {("CONV_2D", np.int8), ("CONV_2D", np.int16), ("TRANSPOSE_CONV", np.int16), ("QUANTIZE", np.int16)} <= widths


REFUSED = [
    (ExecuTorchConfig(precision="int8"), "executorch-int8: 16-bit activations run in TFLite alone. Use keep_float"),
    (OnnxConfig(precision="int8"), "onnx-int8: 16-bit activations run in TFLite alone. Use keep_float"),
    (CoreMLConfig(precision="w8a8"), "coreml-w8a8: 16-bit activations run in TFLite alone. Use keep_float"),
    (TFLiteConfig(precision="int16x8"), "tflite-int16x8: all its activations have 16 bits"),
]


@pytest.mark.parametrize(("config", "words"), REFUSED, ids=lambda value: getattr(value, "name", ""))
def test_other_integer_artifacts_are_refused(config, words, tmp_path):
    network = network_of_module(Student(), {"x": SHAPE}, None, "student")
    with pytest.raises(ExportError) as caught:
        check_network(network, [config, TFLiteConfig(precision="int8")], int16=["head"])
    assert f"head: {words}" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    check_network(network, [config])


def test_float_artifacts_and_float_borders_are_none_the_wiser():
    network = network_of_module(Student(), {"x": SHAPE}, None, "student")
    configs = [
        OnnxConfig(precision="fp32"),
        TFLiteConfig(precision="int8", float_io=True),
        CoreMLConfig(precision="w8a16"),
    ]
    check_network(network, configs, int16=["head"])


class Joins(nn.Module):
    def forward(self, x):
        x = x + x.mean((2, 3), keepdim=True)
        return torch.cat([x, x], 1)


def test_what_litert_cannot_write_in_16_bits_is_refused_with_its_module():
    network = network_of_module(Student(Joins()), {"x": SHAPE}, None, "student")
    with pytest.raises(ExportError) as caught:
        check_network(network, [TFLiteConfig(precision="int8")], int16=["head"])
    assert "  head: aten.add.Tensor: litert_torch cannot write a sum of different shapes" in str(caught.value)
    assert "  head: aten.cat.default: litert_torch cannot write a concatenation" in str(caught.value)
    check_network(network, [TFLiteConfig(precision="int8")], int16=["mask"])
    graph = float_graph(Student(Joins()), (torch.zeros(SHAPE),))
    assert int16_problems(graph, [], ["head"], keep_float=["head"]) == []


def test_unknown_path_is_refused():
    network = network_of_module(Student(), {"x": SHAPE}, None, "student")
    with pytest.raises(InputError, match=r"haed: expected the path of a module.*head"):
        check_network(network, [TFLiteConfig(precision="int8")], int16=["haed"])
