"""The report blames the layer that quantisation harms."""

import pytest
import torch
from torch import nn

from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, prepare, read_ranges
from edge_dp.quantization.sensitivity import sensitivity

SHAPE = (1, 4, 8, 8)


class Chain(nn.Module):
    """Three layers; the middle one ruins its output's resolution with one huge channel, which the last one ignores."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = (nn.Conv2d(4, 4, 1) for _ in range(3))
        with torch.no_grad():
            self.middle.weight[0] = 500.0
            self.last.weight[:, 0] = 0.0
        self.eval()

    def forward(self, x):
        x = nn.functional.interpolate(torch.relu(self.first(x)), scale_factor=2.0)
        return self.last(self.middle(x))


@pytest.fixture(scope="module")
def measured():
    torch.manual_seed(2)
    network, batches = Chain(), [(torch.rand(SHAPE),) for _ in range(2)]
    prepared = prepare(network, batches[0])
    calibrate(prepared, batches)

    def metric(candidate):
        return sum(float((candidate(*batch) - network(*batch)).abs().mean()) for batch in batches)

    before, told = read_ranges(prepared), []
    report = sensitivity(prepared, metric, lambda done, total: told.append((done, total)))
    assert read_ranges(prepared) == before
    return prepared, metric, report, told


def test_every_layer_has_one_row_with_its_module(measured):
    _, _, report, _ = measured
    assert {(cost.tensor, cost.module) for cost in report.layers} == {
        ("x", "x"),
        ("relu", "first"),
        ("conv2d_1", "middle"),
        ("conv2d_2", "last"),
    }


def test_worst_layer_comes_first_and_sparing_it_mends_the_network(measured):
    _, _, report, _ = measured
    worst = report.layers[0]
    assert worst.module == "middle"
    assert worst.alone > 5 * max(cost.alone for cost in report.layers[1:])
    assert worst.spared < 0.2 * report.quantised
    costs = [abs(cost.alone - report.floating) for cost in report.layers]
    assert costs == sorted(costs, reverse=True)


def test_ends_are_the_float_and_the_quantised_network(measured):
    """Against the converted graph, which no part of the report uses."""
    prepared, metric, report, _ = measured
    with torch.no_grad():
        assert report.quantised == pytest.approx(metric(convert(prepared)), rel=1e-3)
    assert report.floating < 0.05 * report.quantised  # not zero: biases lie on the grids of their accumulators


def test_progress_counts_all_measurements(measured):
    _, _, report, told = measured
    total = 2 * len(report.layers) + 2
    assert told == [(i, total) for i in range(1, total + 1)]
