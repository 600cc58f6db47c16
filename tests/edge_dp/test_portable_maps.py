"""Constants that vary over a tensor: met as maps of its dimensions, in integers of a range of their own."""

import pytest
import torch
from torch import nn

from edge_dp.quantization.problems import problems
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, float_graph, observe_weights, prepare, read_ranges

from .portable_network import SHAPE, Network, assert_same


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(5)


def with_map(function, values):
    """A convolution, and a function of it and of a map, which is a buffer or trained."""
    return Network(lambda m, x: function(m.stem(x), m.map), map=values)


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
        network = with_map(operation, constant)
        graph = float_graph(network, (torch.randn(SHAPE),))
        assert problems(graph) == []
        assert_same(network, graph, (torch.randn(SHAPE),))
        for node in graph.graph.nodes:
            if node.target in (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor):
                assert len({value.meta["val"].ndim for value in node.all_input_nodes}) == 1


def test_a_small_tensor_meets_a_larger_constant():
    network = with_map(lambda x, constant: x.mean((2, 3), keepdim=True) * constant, torch.randn(8, 12))
    graph = float_graph(network, (torch.randn(SHAPE),))
    assert problems(graph) == []
    assert_same(network, graph, (torch.randn(SHAPE),))


def test_a_trained_map_stays_trained_and_its_range_follows_it():
    prepared = prepare(with_map(torch.add, nn.Parameter(torch.randn(8, 8, 12))), (torch.randn(SHAPE),))
    calibrate(prepared, [(torch.randn(SHAPE),) for _ in range(2)])
    assert [entry.tensor for entry in read_ranges(prepared)] == ["x", "conv2d", "add_tensor"]  # a constant has no entry
    (trained,) = (parameter for parameter in prepared.parameters() if parameter.shape == (1, 8, 8, 12))
    trained.data *= 4
    observe_weights(prepared)
    with torch.no_grad():
        values = convert(prepared).state_dict().values()
    (stored,) = (value for value in values if value.dtype == torch.int8 and value.shape == trained.shape)
    assert int(stored.max()) - int(stored.min()) >= 254  # all of int8, once more
