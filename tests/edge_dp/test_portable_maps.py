"""Constants that vary over a tensor: met as maps of its dimensions, in integers of a range of their own."""

import pytest
import torch
from torch import nn

from edge_dp.quantization.problems import problems
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, float_graph, observe_weights, prepare, read_ranges

SHAPE = (1, 8, 8, 12)


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(5)


def assert_same(module, graph, example):
    with torch.no_grad():
        torch.testing.assert_close(graph(*example), module(*example), atol=2e-5, rtol=1e-5)


class WithMap(nn.Module):
    """A convolution, and a function of it and of a map, which is a buffer or trained."""

    def __init__(self, function, values, trained=False):
        super().__init__()
        self.stem, self.function = nn.Conv2d(8, 8, 1), function
        if trained:
            self.map = nn.Parameter(values)
        else:
            self.register_buffer("map", values)
        self.eval()

    def forward(self, x):
        return self.function(self.stem(x), self.map)


@pytest.mark.parametrize("form", [(8, 12), (8, 1, 1), (8, 8, 12), (1, 1, 8, 12), (12,), (1, 8, 8, 1)], ids=str)
def test_constants_broadcast_as_in_torch_and_have_the_tensors_dimensions(form):
    """Engines that keep channels last would line a constant of fewer dimensions up with other sizes."""
    constant = torch.rand(form) + 0.5
    for operation in (
        torch.add,
        torch.sub,
        torch.mul,
        torch.div,
        lambda x, c: c - x,
        lambda x, c: torch.add(x, c, alpha=3),
    ):
        network = WithMap(operation, constant)
        graph = float_graph(network, (torch.randn(SHAPE),))
        assert problems(graph) == []
        assert_same(network, graph, (torch.randn(SHAPE),))
        for node in graph.graph.nodes:
            if node.target in (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor):
                assert len({value.meta["val"].ndim for value in node.all_input_nodes}) == 1


def test_a_small_tensor_meets_a_larger_constant():
    network = WithMap(lambda x, constant: x.mean((2, 3), keepdim=True) * constant, torch.randn(8, 12))
    graph = float_graph(network, (torch.randn(SHAPE),))
    assert problems(graph) == []
    assert_same(network, graph, (torch.randn(SHAPE),))


def test_a_trained_map_stays_trained_and_its_range_follows_it():
    prepared = prepare(WithMap(torch.add, torch.randn(8, 8, 12), trained=True), (torch.randn(SHAPE),))
    calibrate(prepared, [(torch.randn(SHAPE),) for _ in range(2)])
    assert [entry.tensor for entry in read_ranges(prepared)] == ["x", "conv2d", "add_tensor"]  # a constant has no entry
    (trained,) = (parameter for parameter in prepared.parameters() if parameter.shape == (1, 8, 8, 12))
    trained.data *= 4
    observe_weights(prepared)
    with torch.no_grad():
        values = convert(prepared).state_dict().values()
    (stored,) = (value for value in values if value.dtype == torch.int8 and value.shape == trained.shape)
    assert int(stored.max()) - int(stored.min()) >= 254  # all of int8, once more
