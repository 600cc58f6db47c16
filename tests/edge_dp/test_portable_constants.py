"""What follows from constants alone is computed once, when a network is made portable."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from edge_dp.quantization.graph import aten
from edge_dp.quantization.problems import problems
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import float_graph, prepare

from .portable_network import SHAPE, Network, assert_same


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(5)


def positions(self, x):
    rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)
    columns = torch.arange(x.shape[3]) / x.shape[3]
    vertical, horizontal = torch.meshgrid(rows, columns, indexing="ij")
    return self.stem(x) + (vertical**2 + torch.sin(horizontal)).unsqueeze(0)


FORMS = {
    "a grid of positions": positions,
    "a buffer and a number": lambda self, x: self.stem(x) * (self.map * 2 + 1),
    "two constants": lambda self, x: self.stem(x) * (self.map + self.map).mean(),
    "zeros and ones": lambda self, x: self.stem(x) - torch.ones_like(self.map) + torch.zeros(8, 1, 1),
    "a part of a buffer": lambda self, x: self.stem(x) + self.map.split(4)[1].repeat(2, 1),
    "a list": lambda self, x: self.stem(x) * torch.tensor([0.5, 2.0] * 6),
}


@pytest.mark.parametrize("form", FORMS)
def test_constants_of_forward_are_computed_at_once(form):
    network, example = Network(FORMS[form], map=torch.rand(8, 12)), torch.randn(SHAPE)
    graph = float_graph(network, (example,))
    assert problems(graph) == []
    left = {node.target for node in graph.graph.nodes if node.op == "call_function"}
    assert left <= {aten.conv2d.default, aten.add.Tensor, aten.mul.Tensor}
    assert_same(network, graph, (example,))


def test_a_constant_is_kept_as_small_as_its_values_allow():
    """One that varies over channels alone becomes part of the convolution before it, and rows do not store columns."""
    example = torch.randn(SHAPE)
    scaled = Network(lambda self, x: self.stem(x) * self.gain.expand(8, 8, 12), gain=torch.rand(8, 1, 1))
    graph = float_graph(scaled, (example,))
    assert [node.target for node in graph.graph.nodes if node.op == "call_function"] == [aten.conv2d.default]
    rows = Network(lambda self, x: self.stem(x) + torch.linspace(-1, 1, 8)[:, None].expand(8, 12))
    graph = float_graph(rows, (example,))
    (met,) = (node.args[1] for node in graph.graph.nodes if node.target is aten.add.Tensor)
    assert met.meta["val"].shape == (1, 1, 8, 1)
    assert_same(rows, graph, (example,))


def test_what_follows_from_parameters_is_trained():
    network = Network(lambda self, x: self.stem(x) + torch.sin(self.angle)[:, None], angle=nn.Parameter(torch.rand(8)))
    prepared = prepare(network, (torch.randn(SHAPE),))
    calibrate(prepared, [(torch.randn(SHAPE),)])
    before = {name: value.clone() for name, value in prepared.named_parameters()}
    (trained,) = (name for name, value in before.items() if value.shape == (1, 1, 8, 1))
    prepared(torch.randn(SHAPE)).square().mean().backward()
    assert prepared.get_parameter(trained).grad.abs().max() > 0


def test_what_is_detached_is_not_trained():
    network = Network(lambda self, x: self.stem(x) + self.gain.detach()[:, None] * 2, gain=nn.Parameter(torch.rand(8)))
    graph = float_graph(network, (torch.randn(SHAPE),))
    (met,) = (node.args[1] for node in graph.graph.nodes if node.target is aten.add.Tensor)
    assert met.target in dict(graph.named_buffers())


def test_a_parametrised_weight_is_a_weight():
    network = nn.Sequential(weight_norm(nn.Conv2d(8, 4, 3, padding=1)), nn.ReLU()).eval()
    example = torch.randn(SHAPE)
    graph = float_graph(network, (example,))
    assert problems(graph) == []
    (weight,) = (node.args[1] for node in graph.graph.nodes if node.target is aten.conv2d.default)
    assert graph.get_parameter(weight.target).requires_grad
    torch.testing.assert_close(graph(example), network(example))


def test_weights_that_follow_from_the_input_are_refused():
    network = Network(lambda _, x: torch.nn.functional.conv2d(x, x.mean((2, 3)).reshape(1, 8, 1, 1)))
    found = [str(problem) for problem in problems(float_graph(network, (torch.randn(SHAPE),)))]
    assert any("its weights are computed from the input" in text for text in found)


def test_a_constant_that_is_written_into_stays_and_is_refused():
    def write(self, x):
        grid = torch.zeros(8, 12)
        grid[2:4] = 1.0
        return self.stem(x) * (grid + 1)

    graph = float_graph(Network(write), (torch.randn(SHAPE),))
    assert aten.zeros.default in {node.target for node in graph.graph.nodes}
    assert any("aten.fill_" in problem.operation for problem in problems(graph))


def test_random_numbers_are_no_constants():
    graph = float_graph(Network(lambda _, x: x + torch.rand(8, 12)), (torch.randn(SHAPE),))
    assert aten.rand.default in {node.target for node in graph.graph.nodes}
