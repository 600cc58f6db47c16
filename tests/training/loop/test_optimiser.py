import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import nn

from edge_dp.errors import SchemaError
from edge_dp.training.loop.optimiser import Muon, optimiser, orthogonalised

from .samples import Linear, stage


def a_network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 24, 3, bias=False), nn.BatchNorm2d(24), nn.Conv2d(24, 8, 3, bias=False), nn.Conv2d(8, 1, 1)
    )


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1), st.floats(1e-4, 1e4))
def test_orthogonalised_keeps_the_singular_vectors_and_makes_the_values_about_one(rows, columns, seed, scale):
    """Oracle: NumPy's singular value decomposition; values under 1 % of the norm are still on their way."""
    rng = np.random.default_rng(seed)
    matrix = scale * rng.standard_normal((rows, columns))
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalised(torch.from_numpy(matrix)).numpy() @ right.T
    large = values > 0.01 * np.linalg.norm(values)
    assert ((np.diag(found)[large] > 0.65) & (np.diag(found)[large] < 1.25)).all()
    np.testing.assert_allclose(found, np.diag(np.diag(found)), atol=1e-6)


def test_no_gradient_at_all_moves_nothing():
    assert torch.equal(orthogonalised(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_kernels_move_as_by_pytorchs_muon_and_the_rest_as_by_its_adamw():
    """PyTorch's takes matrices only and orthogonalises in bfloat16: hence a hundredth."""
    network, twin = a_network(), a_network()
    mine = optimiser(list(network.parameters()), dataclasses.replace(stage(2), kernel_rate=0.02))
    kernels = [nn.Parameter(twin[i].weight.detach().flatten(1)) for i in (0, 2)]
    others = [parameter for name, parameter in twin.named_parameters() if name not in ("0.weight", "2.weight")]
    theirs = torch.optim.Muon(kernels, lr=0.02, weight_decay=0.0)
    rest = torch.optim.AdamW(others, lr=0.01, weight_decay=1e-4)
    for group in mine.param_groups:
        group["lr"] = 0.01 * group["per_rate"]
    before = [kernel.detach().clone() for kernel in kernels]
    for step in range(5):
        torch.manual_seed(step)
        for name, parameter in network.named_parameters():
            parameter.grad = torch.randn_like(parameter)
            twin.get_parameter(name).grad = parameter.grad.clone()
        for kernel, index in zip(kernels, (0, 2), strict=True):
            kernel.grad = twin[index].weight.grad.flatten(1)
        for each in (mine, theirs, rest):
            each.step()
    for kernel, start, index in zip(kernels, before, (0, 2), strict=True):
        moved, its = (network[index].weight.flatten(1) - start).detach(), (kernel - start).detach()
        assert float((moved - its).norm() / its.norm()) < 0.02
    for name, parameter in network.named_parameters():
        if name not in ("0.weight", "2.weight"):
            torch.testing.assert_close(parameter, twin.get_parameter(name), atol=1e-6, rtol=0)


def test_layout_of_the_weights_makes_no_difference():
    plain, channels_last = a_network(), a_network().to(memory_format=torch.channels_last)
    for network in (plain, channels_last):
        made = Muon(list(network.parameters()), 0.0, 1.0)
        for group in made.param_groups:
            group["lr"] = 0.1
        torch.manual_seed(1)
        for parameter in network.parameters():
            parameter.grad = torch.randn(parameter.shape)
        made.step()
    for one, other in zip(plain.parameters(), channels_last.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_rate_of_kernels_that_is_not_positive_is_refused():
    with pytest.raises(SchemaError, match="kernel_rate must be positive"):
        dataclasses.replace(stage(2), kernel_rate=0.0)


def test_state_of_a_stage_by_muon_holds_the_moments_of_both(tmp_path):
    from .test_stage import run_stage

    class Wide(Linear):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(2, 2, 1)

        def forward(self, views):
            return super().forward(self.first(views))

    torch.manual_seed(0)
    whole = Wide()
    run_stage(tmp_path, whole, kernel_rate=0.02)
    moments = {name for name in load_file(tmp_path / "float.safetensors") if name.startswith("optimiser/")}
    assert {name for name in moments if name.startswith("optimiser/first.weight/")} == {
        "optimiser/first.weight/momentum"
    }
    assert {"optimiser/first.bias/exp_avg", "optimiser/disparity.weight/exp_avg_sq"} <= moments
