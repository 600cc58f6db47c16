"""The integer reference foretells what XNNPACK puts out, bit for bit, in ExecuTorch and in LiteRT."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.converters.base import Source
from edge_dp.converters.configs import ExecuTorchConfig, TFLiteConfig
from edge_dp.converters.registry import make_converter
from edge_dp.converters.source import network_of_checkpoint, network_of_module, quantise_checkpoint, quantise_module
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.quantization.integer.graph import IntegerGraph
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.validate import signature

SHAPES = {"left": (1, 2, 32, 48), "right": (1, 2, 32, 48)}


class Everything(nn.Module):
    """Two inputs, three outputs, and almost every operation of the portable set between them."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.norm = nn.Conv2d(2, 8, 3, 2, 1), nn.Conv2d(2, 8, 3, 2, 1), nn.BatchNorm2d(16)
        self.widen, self.depthwise = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, 2, 1, groups=32)
        self.narrow, self.squeeze, self.excite = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.up, self.head, self.mask = (
            nn.ConvTranspose2d(16, 8, 4, 2, 1),
            nn.Conv2d(24, 1, 3, 1, 1),
            nn.Conv2d(16, 3, 1),
        )

    def forward(self, left, right):
        shallow = torch.relu(self.norm(torch.cat([self.left(left), self.right(right)], 1)))
        deep = self.narrow(F.relu6(self.depthwise(F.hardswish(self.widen(shallow)))))
        gate = F.hardsigmoid(self.excite(torch.relu(self.squeeze(F.adaptive_avg_pool2d(deep, 1)))))
        deep = deep * gate + F.max_pool2d(shallow, 2) - F.avg_pool2d(shallow, 2)
        fine = self.up(deep)
        fine = fine * torch.sigmoid(fine)
        resized = F.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        corners = F.interpolate(deep, size=(31, 47), mode="bilinear", align_corners=True)
        return torch.clamp(self.head(torch.cat([fine, resized], 1)), -1, 1), torch.sigmoid(self.mask(deep)), corners


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(2)
    network = network_of_module(Everything(), SHAPES, None, "everything")
    batches = [{name: torch.randn(shape) for name, shape in SHAPES.items()} for _ in range(4)]
    return Source(network.name, network.module, quantise_module(network, batches), network.signature)


@pytest.mark.parametrize("config", [ExecuTorchConfig(precision="int8"), TFLiteConfig(precision="int8")])
def test_small_network_of_almost_every_operation(source, config, tmp_path):
    rng = np.random.default_rng(3)
    probes = {
        name: {tensor: (1.3 * rng.standard_normal(shape)).astype(np.float32) for tensor, shape in SHAPES.items()}
        for name in ("first", "second")
    }
    written = make_converter(config.format).convert(source, config, tmp_path, probes)
    reference = IntegerGraph(source.quantised.folded)
    for name, probe in probes.items():
        expected = reference.run_float(list(probe.values()))
        for tensor, wanted in zip(source.output_names, expected, strict=True):
            assert np.array_equal(written.outputs[name][tensor], wanted), tensor


@pytest.mark.parametrize("artifact", ["executorch-int8", "tflite-int8"])
def test_shipped_student_on_every_golden_case(bundle, artifact):
    height, width = bundle.manifest.inputs[0].shape[2:]
    checkpoint = read_checkpoint(bundle.manifest.model)
    reference = IntegerGraph(quantise_checkpoint(network_of_checkpoint(checkpoint, height, width), checkpoint).folded)
    entry = bundle.manifest.artifact(artifact)
    with make_engine(engine_for(entry.format), bundle.path(entry.path), signature(bundle)) as engine:
        for case in bundle.manifest.golden:
            inputs = bundle.golden_inputs(case)
            found = engine.infer(inputs)
            for name, wanted in zip(found, reference.run_float(list(inputs.values())), strict=True):
                assert np.array_equal(found[name], wanted), (case.name, name)
