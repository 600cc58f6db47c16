"""Calibration: ranges from data, and clear refusals of data that gives none."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from edge_dp.errors import InputError
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, prepare, read_ranges

SHAPE = (1, 2, 6, 8)


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(11)


class TwoInputs(nn.Module):
    """Of the left input alone is there an activation with a layer; the right one is added."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 2, 3, padding=1)
        self.eval()

    def forward(self, left, right):
        return torch.relu(self.layer(left)) + right


def batches_of(count, gain=1.0):
    return [(gain * torch.randn(SHAPE), gain * torch.randn(SHAPE)) for _ in range(count)]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(1)
    return TwoInputs()


@pytest.fixture(scope="module")
def prepared(network):
    return prepare(network, batches_of(1)[0])


def extent(values):
    """Smallest and largest value over all batches, with zero."""
    values = torch.stack([v.detach() for v in values])
    return min(0.0, float(values.min())), max(0.0, float(values.max()))


@settings(max_examples=10, deadline=None)
@given(gains=st.lists(st.floats(0.01, 50.0), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_ranges_are_the_smallest_and_largest_values_of_the_float_network(network, prepared, gains, seed):
    """Over all batches alike, whatever their order; the formula of the scale and zero point in numpy."""
    torch.manual_seed(seed)
    batches = [batches_of(1, gain)[0] for gain in gains]
    calibrate(prepared, batches)
    wanted = {
        "left": extent([left for left, _ in batches]),
        "right": extent([right for _, right in batches]),
        "relu": extent([torch.relu(network.layer(left)) for left, _ in batches]),
        "add": extent([network(*batch) for batch in batches]),
    }
    found = {entry.tensor: entry for entry in read_ranges(prepared)}
    assert set(found) == set(wanted)
    for name, (low, high) in wanted.items():
        scale = max((high - low) / 255, 2.0**-12)
        assert found[name].scale == pytest.approx(scale, rel=2**-11)
        assert float(np.float16(found[name].scale)) == found[name].scale
        assert abs(found[name].zero_point - (-128 - low / scale)) <= 0.51


def test_calibrated_graph_is_ready_to_convert(network, prepared):
    batches = batches_of(4)
    calibrate(prepared, batches)
    converted = convert(prepared)
    step = read_ranges(prepared)[-1].scale
    with torch.no_grad():
        for batch in batches:
            assert (converted(*batch) - network(*batch)).abs().max() < 3 * step
            assert (converted(*batch) - prepared(*batch)).abs().max() <= 1.001 * step


def test_ranges_stay_after_calibration(prepared):
    calibrate(prepared, batches_of(2))
    before = read_ranges(prepared)
    prepared(*batches_of(1, gain=9.0)[0])
    assert read_ranges(prepared) == before


def test_calibrating_again_forgets_the_former_data(prepared):
    batches = batches_of(2)
    calibrate(prepared, batches)
    before = read_ranges(prepared)
    calibrate(prepared, batches_of(3, gain=7.0))
    assert read_ranges(prepared) != before
    calibrate(prepared, batches)
    assert read_ranges(prepared) == before


def test_calibrating_again_gives_the_biases_of_a_graph_that_never_saw_the_former_data(network):
    """A wide range has a coarse grid, to which biases are rounded: the next calibration must not start from there."""
    batches = batches_of(2)
    fresh, again = (prepare(network, batches[0]) for _ in range(2))
    calibrate(fresh, batches)
    calibrate(again, batches_of(1, gain=50.0))
    assert not torch.equal(again.get_parameter("layer.bias"), fresh.get_parameter("layer.bias"))
    calibrate(again, batches)
    assert torch.equal(again.get_parameter("layer.bias"), fresh.get_parameter("layer.bias"))
    with torch.no_grad():
        again.get_parameter("layer.bias").add_(0.25)  # trained since
    calibrate(again, batches)
    assert torch.allclose(again.get_parameter("layer.bias"), network.layer.bias + 0.25, atol=1e-3)


def test_batches_may_come_from_a_generator_and_progress_is_told(prepared):
    told = []
    calibrate(prepared, (batch for batch in batches_of(3)), progress=told.append)
    assert told == [1, 2, 3]


def with_value(value):
    (batch,) = batches_of(1)
    batch[1][0, 1, 2, 3] = value
    return [batches_of(1)[0], batch]


BAD = {
    "none": ([], "expected at least one batch, found none"),
    "one tensor": ([torch.zeros(SHAPE)], "batch 1: expected a tensor for each of left, right, found one tensor"),
    "too few": ([(torch.zeros(SHAPE),)], "expected a tensor for each of left, right, found 1 values"),
    "other shape": (
        [(torch.rand(SHAPE), torch.rand(SHAPE)), (torch.rand(SHAPE), torch.rand(1, 2, 6, 9))],
        r"batch 2: right: expected shape \(1, 2, 6, 8\), found \(1, 2, 6, 9\)",
    ),
    "other batch size": ([(torch.rand(2, 2, 6, 8),) * 2], "left: expected shape"),
    "not a number": (with_value(float("nan")), "batch 2: right: expected finite values"),
    "infinity": (with_value(-float("inf")), "batch 2: right: expected finite values"),
    "constant": (
        [(torch.full(SHAPE, 0.5), torch.rand(SHAPE))] * 2,
        "left: expected varying data, found 0.5 everywhere",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_data_that_gives_no_range_is_refused_and_changes_nothing(prepared, name):
    calibrate(prepared, batches_of(2))
    before, batch = read_ranges(prepared), batches_of(1)[0]
    output = prepared(*batch)
    batches, words = BAD[name]
    with pytest.raises(InputError, match=words):
        calibrate(prepared, batches)
    assert read_ranges(prepared) == before
    assert torch.equal(prepared(*batch), output)


def test_constant_batches_that_differ_are_data(prepared):
    calibrate(prepared, [(torch.full(SHAPE, value), torch.rand(SHAPE)) for value in (0.5, 0.7)])
    assert read_ranges(prepared)[0].scale == pytest.approx(0.7 / 255, rel=2**-11)


def test_activation_that_never_varies_is_named():
    network = TwoInputs()
    nn.init.constant_(network.layer.bias, -100.0)  # nothing passes the ReLU
    prepared = prepare(network, batches_of(1)[0])
    with pytest.raises(InputError, match="relu: expected an activation that varies, found 0 everywhere"):
        calibrate(prepared, batches_of(2))
    calibrate(prepared, batches_of(2), constant_ok=True)
    assert next(entry for entry in read_ranges(prepared) if entry.tensor == "relu").scale == 2.0**-12


def test_activation_that_overflows_is_named():
    network = TwoInputs()
    with torch.no_grad():
        network.layer.weight.fill_(3e38)
    prepared = prepare(network, batches_of(1)[0])
    with pytest.raises(InputError, match="relu: expected finite activations"):
        calibrate(prepared, batches_of(2))
