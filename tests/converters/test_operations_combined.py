"""Operations that are easy alone and meet in one network: engines, integer reference and converted graph agree."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.converters.base import Source
from edge_dp.converters.configs import ExecuTorchConfig, OnnxConfig, TFLiteConfig
from edge_dp.converters.registry import make_converter
from edge_dp.converters.source import network_of_module, quantise_module
from edge_dp.quantization.integer.graph import IntegerGraph

SHAPE = (1, 4, 16, 24)


class Gates(nn.Module):
    """Sigmoids among concatenated parts: plain, pooled, and an input; the result read on and put out."""

    def __init__(self):
        super().__init__()
        self.gate, self.part, self.tail = (
            nn.Conv2d(4, 6, 3, padding=1),
            nn.Conv2d(4, 5, 1),
            nn.Conv2d(16, 3, 3, padding=1),
        )

    def forward(self, x):
        gate = torch.sigmoid(self.gate(x))
        fine = torch.cat([gate, 3 * self.part(x), gate[:, :5]], 1)
        coarse = torch.cat([F.max_pool2d(gate, 2), F.avg_pool2d(x, 2)], 1)
        return fine, coarse, torch.relu(self.tail(fine))


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(6)
    network = network_of_module(Gates(), {"x": SHAPE}, ("fine", "coarse", "tail"), "gates")
    batches = [{"x": 2 * torch.randn(SHAPE)} for _ in range(3)]
    return Source(network.name, network.module, quantise_module(network, batches), network.signature)


@pytest.mark.parametrize(
    "config",
    [TFLiteConfig(precision="int8"), ExecuTorchConfig(precision="int8"), OnnxConfig(precision="int8")],
    ids=lambda config: config.name,
)
def test_sigmoids_among_concatenated_parts(source, config, tmp_path):
    probe = (2 * np.random.default_rng(1).standard_normal(SHAPE)).astype(np.float32)
    found = make_converter(config.format).convert(source, config, tmp_path, {"probe": {"x": probe}}).outputs["probe"]
    reference = IntegerGraph(source.quantised.folded)
    with torch.no_grad():
        converted = source.quantised.folded(torch.from_numpy(probe))
    steps = [quantisation.scale for quantisation in reference.output_quantisation]
    for name, exact, near, step in zip(
        source.output_names, reference.run_float([probe]), converted, steps, strict=True
    ):
        assert config.format == "onnx" or np.array_equal(found[name], exact), name
        for other in (exact, near.numpy()):
            assert (np.rint(np.abs(found[name] - other) / step) <= 1).mean() >= 0.999, name
