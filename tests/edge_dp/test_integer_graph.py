"""The integer reference of whole graphs: what it fuses, what it refuses, what it tells."""

import numpy as np
import pytest
import torch
from torch import nn

from edge_dp.errors import ExportError, InputError
from edge_dp.quantization.integer.graph import CLAMPS, IntegerGraph
from edge_dp.quantization.integer.graph import RULES as INTEGER_RULES
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, prepare, read_ranges
from edge_dp.quantization.rules import RULES as PORTABLE_RULES

SHAPE = (1, 3, 8, 12)


class Small(nn.Module):
    """Two outputs; a ReLU and a clamp to fuse, a ReLU that is fused with nothing."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        features = torch.relu(self.first(x))
        deep = torch.clamp(self.second(features), -0.1, 0.2)
        pooled = torch.relu(nn.functional.max_pool2d(deep, 2))
        return self.head(features), pooled


def quantised(module, **choice):
    torch.manual_seed(1)
    prepared = prepare(module, (torch.zeros(SHAPE),), **choice)
    calibrate(prepared, [(torch.randn(SHAPE),) for _ in range(3)])
    return prepared


@pytest.fixture(scope="module")
def prepared():
    torch.manual_seed(0)
    return quantised(Small())


@pytest.fixture(scope="module")
def views():
    return np.random.default_rng(2).normal(size=SHAPE).astype(np.float32)


def test_every_operation_that_quantises_has_an_integer_rule():
    assert set(PORTABLE_RULES) <= set(INTEGER_RULES) | set(CLAMPS)


def test_a_network_without_resampling_agrees_with_the_converted_graph(prepared, views):
    graph = IntegerGraph(convert(prepared))
    with torch.no_grad():
        expected = convert(prepared)(torch.from_numpy(views))
    for found, wanted, output in zip(graph.run([views]), expected, graph.output_quantisation, strict=True):
        steps = np.abs((found.astype(int) - output.zero_point) * output.scale - wanted.numpy()) / output.scale
        assert found.dtype == np.int8
        assert steps.max() < 1.01
        assert (steps < 0.01).mean() > 0.99


def test_float_outputs_are_the_integers_in_the_models_units(prepared, views):
    graph = IntegerGraph(convert(prepared))
    for real, found, output in zip(
        graph.run_float([views]), graph.run([views]), graph.output_quantisation, strict=True
    ):
        assert np.array_equal(real, (found.astype(np.float32) - output.zero_point) * np.float32(output.scale))


def test_trace_has_every_activation_of_the_table_of_ranges(prepared, views):
    graph = IntegerGraph(convert(prepared))
    trace = graph.trace([views])
    ranges = {entry.tensor: entry for entry in read_ranges(prepared)}
    assert set(trace) == set(ranges)
    relu = trace["relu"].astype(int) - ranges["relu"].zero_point
    assert relu.min() == 0 and (relu == 0).mean() > 0.2
    clamped = (trace["clamp"].astype(int) - ranges["clamp"].zero_point) * ranges["clamp"].scale
    assert np.abs(clamped - clamped.clip(-0.1, 0.2)).max() <= ranges["clamp"].scale / 2
    assert np.array_equal(trace["relu_1"], np.maximum(trace["max_pool2d"], ranges["relu_1"].zero_point))


def test_an_operation_left_in_float_is_named(views):
    folded = convert(quantised(Small(), keep_float=["second"]))
    with pytest.raises(ExportError, match=r"conv2d_1.*float"):
        IntegerGraph(folded)


def test_a_float_output_is_named():
    with pytest.raises(ExportError, match=r"conv2d_2.*float"):
        IntegerGraph(convert(quantised(Small(), keep_float=["head"])))


def test_wider_activations_are_named():
    with pytest.raises(ExportError, match=r"expected int8, found torch\.int16"):
        IntegerGraph(convert(quantised(Small(), int16=["head"])))


def test_an_operation_without_a_rule_is_named(prepared):
    folded = convert(prepared)
    node = next(node for node in folded.graph.nodes if node.target is torch.ops.aten.max_pool2d.default)
    node.target = torch.ops.aten.avg_pool2d.default
    with pytest.raises(ExportError, match=r"max_pool2d: .* no rule for aten.avg_pool2d.default"):
        IntegerGraph(folded)


def test_inputs_are_checked(prepared, views):
    graph = IntegerGraph(convert(prepared))
    with pytest.raises(InputError, match="expected 1 inputs, found 2"):
        graph.run([views, views])
    with pytest.raises(InputError, match=r"input x: expected shape \(1, 3, 8, 12\), found \(1, 3, 8, 13\)"):
        graph.run([np.zeros((1, 3, 8, 13), np.float32)])


def test_toolchains_that_round_weights_themselves_are_given_rounded_ones(prepared):
    """A trained weight halfway between two steps goes up or down by whether one divides or multiplies by the reciprocal."""
    given = convert(prepared, fold=False)
    rounded = {
        name: value
        for name, value in convert(prepared).named_buffers()
        if value.dtype == torch.int8 and value.ndim == 4
    }
    weights = [value.detach() for _, value in given.named_parameters() if value.ndim == 4]
    assert len(weights) == len(rounded) == 3
    for weight, integers in zip(weights, rounded.values(), strict=True):
        largest = weight.abs().amax((1, 2, 3), keepdim=True) / integers.abs().amax((1, 2, 3), keepdim=True)
        assert torch.equal(weight, integers * largest)
