"""Rewrites compute what they replace, and what is left has an integer rule or a reason."""

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.converters.operations import OPERATIONS
from edge_dp.errors import ExportError, InputError
from edge_dp.quantization.problems import float_arithmetic, problems
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, float_graph, observe_weights, prepare, read_ranges, restore_ranges

from .portable_network import SHAPE, Network, assert_same


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(5)


def lively(norm):
    """A batch-norm with statistics and weights of its own."""
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    return norm


def twice(network, x):
    y = network.stem(x)
    return network.norm(y) + y


REWRITTEN = {
    "batch-norm alone": lambda: Network(lambda m, x: m.norm(x), norm=lively(nn.BatchNorm2d(8))),
    "batch-norm of a result used twice": lambda: Network(twice, norm=lively(nn.BatchNorm2d(8))),
    "batch-norm after transposed": lambda: Network(
        lambda m, x: m.norm(m.up(x)), up=nn.ConvTranspose2d(8, 6, 4, 2, 1, bias=False), norm=lively(nn.BatchNorm2d(6))
    ),
    "batch-norm after linear": lambda: Network(
        lambda m, x: m.norm(m.line(x.flatten(1))), line=nn.Linear(768, 10), norm=lively(nn.BatchNorm1d(10))
    ),
    "batch-norm of features": lambda: Network(
        lambda m, x: m.norm(m.line(x.flatten(1)).relu()), line=nn.Linear(768, 10), norm=lively(nn.BatchNorm1d(10))
    ),
    "numbers": lambda: Network(lambda m, x: 1 - (2 * m.stem(x) + 1) / 3),
    "numbers on the input": lambda: Network(lambda m, x: m.stem((x - 0.5) / 0.25)),
    "a value per channel": lambda: Network(
        lambda m, x: x * m.gains["c"], gains=nn.ParameterDict({"c": torch.rand(8, 1, 1)})
    ),
    "scaled number": lambda: Network(lambda m, x: torch.rsub(torch.add(m.stem(x), 0.5, alpha=3), 1.0, alpha=2)),
    "constant first": lambda: Network(
        lambda m, x: m.gains["c"] - x, gains=nn.ParameterDict({"c": torch.rand(8, 1, 1)})
    ),
    "negative": lambda: Network(lambda m, x: -m.stem(x)),
    "in place": lambda: Network(lambda m, x: F.relu(m.stem(x).add_(x).mul_(0.5), inplace=True)),
    "padding same": lambda: Network(lambda m, x: m.even(x), even=nn.Conv2d(8, 8, (4, 3), padding="same")),
    "padding valid": lambda: Network(lambda m, x: m.even(x), even=nn.Conv2d(8, 8, 3, padding="valid")),
    "shared convolution": lambda: Network(lambda m, x: F.hardsigmoid(m.stem(x)) + m.stem(x)),
    "hard swish of features": lambda: Network(lambda m, x: F.hardswish(m.line(x.flatten(1))), line=nn.Linear(768, 10)),
    "chunks": lambda: Network(lambda m, x: torch.add(*m.stem(x).chunk(2, 1))),
    "parts": lambda: Network(lambda _, x: torch.mul(*x.split([4, 4], 1))),
    "selected": lambda: Network(lambda m, x: m.stem(x)[:, -1]),
    "negative slice": lambda: Network(lambda m, x: m.stem(x)[:, :, -5:-1]),
    "squeezed": lambda: Network(lambda m, x: m.stem(x).mean((2, 3)).unsqueeze(1).squeeze(1)),
    "mean of channels": lambda: Network(lambda m, x: m.stem(x).mean(1)),
    "expanded": lambda: Network(lambda m, x: x * m.stem(x).mean((-1, -2), keepdim=True).expand_as(x)),
    "transposed axes": lambda: Network(lambda m, x: m.stem(x).transpose(2, 3)),
    "padded average": lambda: Network(lambda m, x: F.avg_pool2d(m.stem(x), 3, 2, 1)),
    "divided average": lambda: Network(lambda m, x: F.avg_pool2d(m.stem(x), 2, divisor_override=3)),
    "adaptive maximum": lambda: Network(lambda m, x: F.adaptive_max_pool2d(m.stem(x), (4, 6))),
    "hard tangent": lambda: Network(lambda m, x: F.hardtanh(m.stem(x))),
    "one-sided clamps": lambda: Network(lambda m, x: m.stem(x).clamp(max=0.3) + x.clamp_min(-0.2)),
    "dropout": lambda: Network(lambda m, x: m.drop(m.stem(x)), drop=nn.Dropout(0.5)),
}


def examples_of(network, count=1):
    return [(torch.randn(SHAPE),) for _ in range(count)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_float_graph_of_each_operation_computes_what_the_network_computes(name):
    operation = OPERATIONS[name]
    network = operation.build().eval()
    example = tuple(torch.randn(shape) for shape in operation.shapes)
    graph = float_graph(network, example)
    assert problems(graph) == []
    assert_same(network, graph, tuple(torch.randn(shape) for shape in operation.shapes))


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_graph_computes_what_the_network_computes(name):
    network = REWRITTEN[name]()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    graph = float_graph(network, (torch.randn(SHAPE),))
    assert problems(graph) == []
    assert_same(network, graph, (torch.randn(SHAPE),))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@settings(max_examples=10, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    size=st.tuples(st.integers(6, 11), st.integers(6, 11)),
)
def test_average_pooling_is_the_same_as_a_convolution(kernel, stride, padding, size):
    network = Network(lambda m, x: F.avg_pool2d(x, kernel, stride, min(padding, kernel // 2)))
    example = (torch.randn(1, 8, *size),)
    graph = float_graph(network, example)
    assert not any("pool" in str(node.target) for node in graph.graph.nodes if node.op == "call_function")
    assert_same(network, graph, example)


def quantised(network, shapes):
    """Prepared and converted graph, calibrated on a few batches; the batches."""
    batches = [tuple(torch.randn(shape) for shape in shapes) for _ in range(3)]
    prepared = prepare(network, batches[0])
    calibrate(prepared, batches)
    return prepared, convert(prepared), batches


def error_in_steps(network, shapes):
    """Mean error of the converted graph, in quantisation steps of its output, and the operations that compute in float."""
    prepared, converted, batches = quantised(network, shapes)
    with torch.no_grad():
        errors = [(converted(*batch) - network(*batch)).abs().mean() for batch in batches]
        for batch in batches:
            torch.testing.assert_close(
                converted(*batch), prepared(*batch), atol=1.001 * read_ranges(prepared)[-1].scale, rtol=0
            )
    return float(sum(errors)) / len(errors) / read_ranges(prepared)[-1].scale, float_arithmetic(converted)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_is_integer_arithmetic_within_a_step_of_float(name):
    """A sum of few rounding errors of half a step each, some of them magnified by weights."""
    operation = OPERATIONS[name]
    steps, floating = error_in_steps(operation.build().eval(), operation.shapes)
    assert floating == []
    assert steps < 1.5


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_network_is_integer_arithmetic_within_a_step_of_float(name):
    steps, floating = error_in_steps(REWRITTEN[name](), (SHAPE,))
    assert floating == []
    assert steps < 1.5


def test_batch_norm_keeps_the_names_of_the_parameters():
    network = Network(lambda m, x: m.norm(m.stem(x)), norm=lively(nn.BatchNorm2d(8)))
    names = {name for name, _ in float_graph(network, (torch.randn(SHAPE),)).named_parameters()}
    assert {"stem.weight", "stem.bias"} <= names


def test_constants_of_rewrites_are_not_trained():
    network = Network(lambda m, x: F.avg_pool2d(m.stem(x), 2))
    prepared = prepare(network, (torch.randn(SHAPE),))
    assert {name for name, _ in prepared.named_parameters()} == {"stem.weight", "stem.bias"}


@pytest.mark.parametrize("area", [(2, 2), (4, 4), (8, 12)])
def test_quantised_average_keeps_the_gain(area):
    """The weights' scale of 2^-12 would change a mean of 96 values by up to a percent."""
    network = Network(lambda _, x: F.avg_pool2d(x, area))
    _, converted, _ = quantised(network, (SHAPE,))
    weight = next(value for name, value in converted.state_dict().items() if value.dtype == torch.int8)
    node = next(node for node in converted.graph.nodes if str(node.target) == "aten.conv2d.default")
    scale = converted.get_buffer(node.args[1].args[1].target)
    torch.testing.assert_close(
        weight.float() * scale.reshape(-1, 1, 1, 1), torch.full(weight.shape, 1 / math.prod(area)), rtol=4e-3, atol=0
    )


REFUSED = {
    "gelu": (lambda m, x: F.gelu(m.stem(x)), "aten.gelu.default", "relu or hardswish"),
    "silu": (lambda m, x: F.silu(m.stem(x)), "aten.silu.default", "hardswish"),
    "average without padding": (
        lambda m, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        "aten.avg_pool2d.default",
        "count_include_pad=True",
    ),
    "uneven windows": (lambda m, x: F.adaptive_avg_pool2d(x, (3, 5)), "aten.adaptive_avg_pool2d.default", "divides"),
    "reflection": (lambda m, x: F.pad(x, (1, 1, 1, 1), "reflect"), "aten.pad.default", "zero padding"),
    "padding with ones": (lambda m, x: F.pad(x, (1, 1), value=1.0), "aten.pad.default", "zero padding"),
    "cropping": (lambda m, x: F.pad(x, (-1, 1)), "aten.pad.default", "Slice"),
    "layer norm": (lambda m, x: F.layer_norm(x, (12,)), "aten.layer_norm.default", "BatchNorm2d"),
    "fractional nearest": (lambda m, x: F.interpolate(x, size=(12, 18)), "aten.upsample_nearest2d.vec", "whole number"),
    "strided maximum": (lambda m, x: F.max_pool2d(x, 1, 2), "aten.max_pool2d.default", "stride"),
    "dilated maximum": (lambda m, x: F.max_pool2d(x, 2, dilation=2), "aten.max_pool2d.default", "dilation=1"),
    "rounded-up maximum": (lambda m, x: F.max_pool2d(x, 5, ceil_mode=True), "aten.max_pool2d.default", "ceil_mode"),
    "mean of rows": (lambda m, x: x.mean(2), "aten.mean.dim", "height and width"),
    "scaled sum": (lambda m, x: torch.add(x, m.stem(x), alpha=2), "aten.add.Tensor", "alpha"),
    "matrix product": (lambda m, x: x @ x.transpose(2, 3), "aten.matmul.default", "nn.Linear"),
    "softmax": (lambda m, x: torch.softmax(x, 1), "aten.softmax.int", "float"),
    "maximum": (lambda m, x: torch.maximum(x, m.stem(x)), "aten.maximum.default", "keep_float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_integer_rule_is_a_problem_with_a_reason(name):
    function, operation, words = REFUSED[name]
    example = (torch.randn(SHAPE),)
    (problem,) = problems(float_graph(Network(function), example))
    assert problem.operation == operation
    assert words in f"{problem.reason}. {problem.suggestion}"
    with pytest.raises(ExportError, match="no portable integer rule"):
        prepare(Network(function), example)


def test_grouped_transposed_convolution_is_a_problem():
    network = Network(lambda m, x: m.up(x), up=nn.ConvTranspose2d(8, 8, 2, 2, groups=2))
    (problem,) = problems(float_graph(network, (torch.randn(SHAPE),)))
    assert problem.module == "up" and "groups=1" in problem.suggestion


def test_all_problems_come_in_one_error_each_with_its_module_path():
    network = Network(lambda m, x: m.second(m.first(x)), first=nn.GELU(), second=nn.Sequential(nn.ReLU(), nn.SiLU()))
    with pytest.raises(ExportError, match=r"^first: operation aten\.gelu.* second\.1: operation aten\.silu"):
        prepare(network, (torch.randn(SHAPE),))


def test_what_stays_in_float_is_no_problem():
    network = Network(lambda m, x: m.first(m.stem(x)), first=nn.Sequential(nn.GELU()))
    graph = float_graph(network, (torch.randn(SHAPE),))
    assert [problem.module for problem in problems(graph)] == ["first.0"]
    assert problems(graph, ["first"]) == []
    assert problems(graph, ["fir"]) != []


def test_input_of_another_type_is_a_problem():
    network = Network(lambda m, x: m.stem(x.float()))
    found = problems(float_graph(network, (torch.zeros(SHAPE, dtype=torch.uint8),)))
    assert (found[0].module, found[0].operation) == ("x", "input")


def test_control_flow_on_values_is_refused_in_one_line():
    network = Network(lambda m, x: m.stem(x) if x.sum() > 0 else x)
    with pytest.raises(ExportError, match="one static graph") as caught:
        float_graph(network, (torch.randn(SHAPE),))
    assert "\n" not in str(caught.value)


def test_example_must_be_a_sequence_of_tensors():
    with pytest.raises(InputError, match="sequence of tensors"):
        float_graph(Network(lambda m, x: m.stem(x)), torch.randn(SHAPE))


class TwoInTwoOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(4, 8, 1)

    def forward(self, fine, coarse):
        up = F.interpolate(self.right(coarse), scale_factor=2.0, mode="bilinear", align_corners=False)
        total = F.relu6(self.left(fine)) + up
        return torch.sigmoid(total), torch.cat([total, fine, torch.sigmoid(up)], 1)


def test_several_inputs_and_outputs():
    network, shapes = TwoInTwoOut().eval(), (SHAPE, (1, 4, 4, 6))
    _, converted, batches = quantised(network, shapes)
    assert float_arithmetic(converted) == []
    with torch.no_grad():
        for found, wanted in zip(converted(*batches[0]), network(*batches[0]), strict=True):
            assert (found - wanted).abs().mean() < 0.03
    assert [node.name for node in converted.graph.nodes if node.op == "placeholder"] == ["fine", "coarse"]


def quantisers(converted):
    """Scale and zero point of each quantise node, by the name of what it quantises."""
    return {
        node.args[0].name: tuple(node.args[1:3])
        for node in converted.graph.nodes
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
    }


def test_concatenated_tensors_share_one_quantisation_that_covers_the_widest():
    network = Network(lambda m, x: torch.cat([0.1 * m.stem(x), 10 * x], 1))
    batches = [(torch.randn(SHAPE),)]
    prepared = prepare(network, batches[0])
    for _ in range(5):  # as in training: the average of the ranges would cut the widest to a fraction
        prepared(*batches[0])
    wide = float(10 * batches[0][0].abs().max())
    entry = next(entry for entry in read_ranges(prepared) if entry.tensor == "cat")
    assert 255 * entry.scale > wide
    table = quantisers(convert(prepared))
    assert len({value for name, value in table.items() if name != "x"}) == 1


def rescaled(converted):
    """Activations that are quantised a second time, with nothing computed in between."""
    return [
        node.args[0].args[0].args[0].name
        for node in converted.graph.nodes
        if node.target is torch.ops.quantized_decomposed.quantize_per_tensor.default
        and node.args[0].target is torch.ops.quantized_decomposed.dequantize_per_tensor.default
    ]


def test_concatenated_sigmoid_is_requantised_by_a_convolution():
    """A sigmoid's own quantisation is fixed, whatever shares a tensor with it; engines requantise convolutions alike."""
    network = Network(lambda m, x: torch.cat([torch.sigmoid(m.stem(x)), 3 * x], 1))
    _, converted, _ = quantised(network, (SHAPE,))
    table = quantisers(converted)
    assert table["sigmoid"] == (1 / 256, -128)
    assert table["cat"][0] > 1 / 256
    assert float_arithmetic(converted) == [] and rescaled(converted) == []


def gates(network, x):
    y = network.stem(x)
    return torch.sigmoid(y), torch.sigmoid(-y)


JOINED = {  # and the number of convolutions by one that it takes
    "two sigmoids and a tensor": (lambda m, x: torch.cat([*gates(m, x), 2 * x], 1), 2),
    "sigmoids alone": (lambda m, x: torch.cat(gates(m, x), 1), 0),
    "joined sigmoids and a tensor": (lambda m, x: torch.cat([torch.cat(gates(m, x), 1), 2 * x], 1), 1),
    "moved sigmoid": (lambda m, x: torch.cat([F.max_pool2d(gates(m, x)[0], 2), F.avg_pool2d(x, 2)], 1), 1),
    "one sigmoid twice": (lambda m, x: torch.cat([gates(m, x)[0]] * 2 + [2 * x], 1), 1),
    "sigmoid of features": (
        lambda m, x: torch.cat([torch.sigmoid(m.line(x.flatten(1))), 2 * m.line(x.flatten(1))], 1),
        1,
    ),
    "sigmoid after": (lambda m, x: torch.sigmoid(torch.cat([m.stem(x), 2 * x], 1)), 0),
}


@pytest.mark.parametrize("name", JOINED)
def test_fixed_and_shared_ranges_meet_in_a_convolution_alone(name):
    function, count = JOINED[name]
    network, example = Network(function, line=nn.Linear(768, 10)), (torch.randn(SHAPE),)
    graph = float_graph(network, example)
    assert_same(network, graph, example)
    weights = [
        graph.state_dict()[node.args[1].target]
        for node in graph.graph.nodes
        if str(node.target) == "aten.conv2d.default"
    ]
    assert sum(bool((weight == 1).all()) for weight in weights) == count
    _, converted, batches = quantised(network, (SHAPE,))
    assert float_arithmetic(converted) == [] and rescaled(converted) == []
    with torch.no_grad():
        assert (converted(*batches[0]) - network(*batches[0])).abs().mean() < 0.05


def test_clamp_in_a_wider_range_works_on_integers():
    network = Network(lambda m, x: torch.cat([F.relu6(6 * m.stem(x)), 20 * x], 1))
    _, converted, batches = quantised(network, (SHAPE,))
    assert any(str(node.target) == "aten.clamp.default" for node in converted.graph.nodes)
    assert float_arithmetic(converted) == []
    with torch.no_grad():
        part = converted(*batches[0])[:, :8]
    assert part.min() >= 0 and part.max() <= 6 + quantisers(converted)["cat"][0] / 2


def test_clamp_that_the_range_does_anyway_is_gone_but_its_name_stays():
    network = Network(lambda m, x: F.relu6(8 * m.stem(x)))
    prepared, converted, _ = quantised(network, (SHAPE,))
    assert not any("clamp" in str(node.target) for node in converted.graph.nodes)
    assert set(quantisers(converted)) == {entry.tensor for entry in read_ranges(prepared)}


def test_transposed_weights_have_a_scale_per_output_channel():
    network = Network(lambda m, x: m.up(x), up=nn.ConvTranspose2d(8, 5, 2, 2))
    with torch.no_grad():
        network.up.weight.mul_(torch.tensor([1.0, 2, 4, 8, 16]).reshape(1, 5, 1, 1))
    _, converted, _ = quantised(network, (SHAPE,))
    node = next(node for node in converted.graph.nodes if "conv_transpose" in str(node.target))
    weight, scale, _, axis = node.args[1].args[:4]
    largest = network.up.weight.detach().abs().amax(dim=(0, 2, 3))
    assert axis == 1
    assert torch.equal(converted.get_buffer(scale.target), (largest / 127).half().float())
    assert converted.get_buffer(weight.target).abs().amax(dim=(0, 2, 3)).tolist() == [127] * 5


@pytest.mark.parametrize("kept", [["stem"], ["tail"], ["stem", "tail"]])
def test_kept_modules_compute_in_float_and_nothing_else_does(kept):
    network = Network(lambda m, x: m.tail(F.relu(m.stem(x)) + x), tail=nn.Conv2d(8, 2, 1))
    batches = [(torch.randn(SHAPE),)]
    prepared = prepare(network, batches[0], keep_float=kept)
    calibrate(prepared, batches)
    converted = convert(prepared)
    assert {str(node.target) for node in float_arithmetic(converted)} == {"aten.conv2d.default"}
    assert len(float_arithmetic(converted)) == len(kept)
    for name in kept:
        weight = network.get_submodule(name).weight
        assert any(value.shape == weight.shape and torch.equal(value, weight) for value in converted.parameters())


def test_unknown_module_path_names_near_ones():
    network = Network(lambda m, x: m.tail(x), tail=nn.Conv2d(8, 2, 1))
    for named in ({"keep_float": ["tial"]}, {"int16": ["tial"]}):
        with pytest.raises(InputError, match=r"tial: expected the path of a module.*tail"):
            prepare(network, (torch.randn(SHAPE),), **named)


def test_chosen_modules_have_16_bit_activations():
    network = Network(lambda m, x: m.tail(F.relu(m.stem(x))), tail=nn.Conv2d(8, 2, 1))
    batches = [(torch.randn(SHAPE),)]
    errors = {}
    for int16 in ((), ("tail",)):
        prepared = prepare(network, batches[0], int16=int16)
        calibrate(prepared, batches)
        converted = convert(prepared)
        again = prepare(network, batches[0], int16=int16)
        restore_ranges(again, read_ranges(prepared))
        observe_weights(again)
        assert read_ranges(again) == read_ranges(prepared)
        with torch.no_grad():
            errors[int16] = float((converted(*batches[0]) - network(*batches[0])).abs().mean())
    types = [node.args[-1] for node in converted.graph.nodes if "quantize_per_tensor" in str(node.target)]
    assert types.count(torch.int16) == 4  # the input of the layer and its output, quantised and dequantised
    assert errors[("tail",)] < 0.95 * errors[()]
    entry = read_ranges(prepared)[-1]
    assert entry.zero_point == 0 and entry.scale < 1e-3
