"""A hard swish in integers: how fine the steps of its input and its result are, and what that does to its accuracy."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  # torch's own abbreviation

from edge_dp.quantization.problems import float_arithmetic
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, freeze_ranges, observe_weights, prepare, read_ranges

SHAPE = (1, 8, 16, 24)
LEVELS = 255


class Swish(nn.Module):
    """A convolution that spreads its input by ``gain``, and a function of it."""

    def __init__(self, gain, function=lambda self, y: self.act(y)):
        super().__init__()
        self.first, self.act, self.function = nn.Conv2d(8, 8, 1), nn.Hardswish(), function
        with torch.no_grad():
            self.first.weight.copy_(gain * torch.eye(8).reshape(8, 8, 1, 1))
            self.first.bias.zero_()
        self.eval()

    def forward(self, x):
        return self.function(self, self.first(x))


def batches(count=3):
    generator = torch.Generator().manual_seed(3)
    return [(torch.randn(SHAPE, generator=generator),) for _ in range(count)]


def observed(network, keep_float=()):
    """Its prepared graph, calibrated."""
    prepared = prepare(network, batches()[0], keep_float=keep_float)
    calibrate(prepared, batches())
    return prepared


def trained(network):
    """Its prepared graph, with the ranges that training would show."""
    prepared = prepare(network, batches()[0])
    for batch in batches():
        prepared(*batch)
    freeze_ranges(prepared)
    observe_weights(prepared)
    return prepared


def operations(converted):
    """What a converted graph computes, quantisation apart."""
    names = (str(node.target) for node in converted.graph.nodes if node.op == "call_function")
    return [name.split(".")[1] for name in names if name.startswith("aten.")]


def steps(prepared):
    """Of the input and the result of a hard swish that ends a network."""
    ranges = read_ranges(prepared)
    return ranges[1].scale, ranges[-1].scale


@pytest.mark.parametrize("ranges_of", [observed, trained])
def test_steps_of_a_wide_input_do_not_reach_below_minus_three(ranges_of):
    """x relu6(x + 3) / 6 is 0 there. No clamp is left to execute: the range saturates."""
    highest = max(4 * float(x.max()) for (x,) in batches())
    prepared = ranges_of(Swish(4.0))
    step, of_result = steps(prepared)
    if ranges_of is observed:  # in training, a range is an average
        assert step == pytest.approx((highest + 3) / LEVELS, rel=2e-3)
        assert of_result == pytest.approx((highest + 0.375) / LEVELS, rel=2e-3)
    assert step < (highest + 3.2) / LEVELS
    assert operations(convert(prepared)) == ["conv2d", "conv2d", "mul"]


def test_programs_in_float_and_in_16_bits_get_no_clamp_for_the_sake_of_its_range():
    """They keep the clamps that int8 saturates instead of: here the gate's alone, from 0 to 1 or from 0."""
    assert operations(convert(observed(Swish(4.0)), keep_clamps=True)) == ["conv2d", "conv2d", "clamp", "mul"]
    prepared = prepare(Swish(4.0), batches()[0], int16=["first", "act"])
    calibrate(prepared, batches())
    assert operations(convert(prepared)) == ["conv2d", "conv2d", "relu", "mul"]


def test_what_lies_below_minus_three_is_zero_exactly():
    converted = convert(observed(Swish(4.0)))
    (x,) = batches()[0]
    with torch.no_grad():
        found = converted(x)
    below = 4 * x < -3.2  # a step and the rounding of the convolution's input away
    assert below.float().mean() > 0.1
    assert found[below].abs().max() == 0


def test_a_wide_input_is_as_accurate_as_its_finer_steps_promise():
    """Of a step, rounding leaves a variance of 1/12; slopes are measured on the data, by differences of the float one."""
    network = Swish(4.0)
    prepared = observed(network)
    converted = convert(prepared)
    x = torch.cat([x for (x,) in batches()])
    with torch.no_grad():
        wanted = F.hardswish(4 * x)
        slope = (F.hardswish(4 * x + 1e-2) - F.hardswish(4 * x - 1e-2)) / 2e-2
        noise = torch.stack([converted(one[None])[0] for one in x]) - wanted
    step, of_result = (4 * x.max() + 3) / LEVELS, (4 * x.max() + 0.375) / LEVELS
    of_input = 4 * read_ranges(prepared)[0].scale  # the network's own input is rounded, too
    expected = (slope**2).mean() * (step**2 + of_input**2) / 12 + of_result**2 / 12
    assert noise.var() < 1.5 * expected


def test_an_input_that_something_else_reads_keeps_its_range():
    prepared = observed(Swish(4.0, lambda self, y: self.act(y) + y))
    lowest, highest = (4 * limit for limit in torch.cat([x for (x,) in batches()]).aminmax())
    assert read_ranges(prepared)[1].scale == pytest.approx(float(highest - lowest) / LEVELS, rel=2e-2)


@pytest.mark.parametrize("ranges_of", [observed, trained])
@pytest.mark.parametrize("gain", [0.2, 0.5, 1.0, 2.0, 4.0])
def test_a_step_of_the_input_is_at_most_two_of_the_result(gain, ranges_of):
    step, of_result = steps(ranges_of(Swish(gain)))
    steepest = 1.5
    assert steepest * step <= 2.001 * of_result


@pytest.mark.parametrize("clamp", [torch.relu, F.relu6])
def test_a_clamp_behind_it_stays_fused(clamp):
    converted = convert(observed(Swish(0.5, lambda self, y: clamp(self.act(y)))))
    assert operations(converted) == ["conv2d", "conv2d", "mul"]
    assert float_arithmetic(converted) == []


@pytest.mark.parametrize(("kept", "in_float"), [("first", ["conv2d"]), ("act", ["conv2d", "clamp", "mul"])])
def test_beside_a_module_in_float_no_clamp_is_left_over(kept, in_float):
    """Whichever of the two stays in float; the convolution at the end is the product."""
    network = Swish(4.0, lambda self, y: 2 * self.act(y))
    converted = convert(observed(network, keep_float=(kept,)))
    found = [str(node.target).split(".")[1] for node in float_arithmetic(converted)]
    assert found == in_float
    assert sorted(operations(converted)) == sorted(
        [*in_float, "conv2d", *(["conv2d", "mul"] if kept == "first" else ["conv2d"])]
    )
    (x,) = batches()[0]
    with torch.no_grad():
        assert (converted(x) - network(x)).abs().max() < 0.5
