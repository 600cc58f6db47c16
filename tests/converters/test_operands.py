"""Operations whose sides must not be exchanged, after a convolution: each converter had one that it wrote the other way round."""

import numpy as np
import pytest
import torch
from torch import nn

import edge_dp

MAP, CHANNELS, ONE = torch.rand(1, 4, 8, 12) + 1, torch.rand(4, 1, 1) + 1, torch.full((1, 1, 1, 1), 3.0)
OF_CONSTANTS = {
    "1 - x": lambda x: 1.0 - x,
    "3 / x": lambda x: 3.0 / x,
    "tensor / x": lambda x: ONE.clone() / x,
    "map / x": lambda x: MAP.clone() / x,
    "channels / x": lambda x: CHANNELS.clone() / x,
    "map / mean": lambda x: MAP.clone() / x.mean((2, 3), keepdim=True),
    "reciprocal": torch.reciprocal,
    "map - relu": lambda x: MAP.clone() - torch.relu(x),
    "map - 2 x": lambda x: torch.rsub(x, MAP.clone(), alpha=2),
    "channels - x": lambda x: CHANNELS.clone() - x,
}


class AfterConvolution(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Conv2d(2, 4, 3, padding=1), function
        nn.init.uniform_(self.layer.weight, 0.01, 0.1)  # positive: nothing is divided by zero
        nn.init.constant_(self.layer.bias, 0.5)

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize("name", OF_CONSTANTS)
def test_every_format_keeps_the_sides(name, tmp_path):
    torch.manual_seed(4)
    network = AfterConvolution(OF_CONSTANTS[name]).eval()
    bundle = edge_dp.export(network, {"x": (1, 2, 8, 12)}, tmp_path / "bundle", precision="fp32", calibration=None)
    assert {artifact.format for artifact in bundle.manifest.artifacts} == {"executorch", "tflite", "onnx", "coreml"}
    for artifact in bundle.manifest.artifacts:
        for case in bundle.manifest.golden:
            found = bundle.artifact_outputs(case, artifact.name)
            assert found is not None
            wanted = bundle.golden_outputs(case, "float")
            np.testing.assert_allclose(found["output"], wanted["output"], rtol=2e-5, atol=2e-5, err_msg=artifact.name)
