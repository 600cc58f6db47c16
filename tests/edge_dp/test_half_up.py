"""The converted graph with ties up: equal to the integer reference where PyTorch's own rounding parts from it."""

import numpy as np
import pytest
import torch
from torch import nn

from edge_dp.quantization.half_up import half_up
from edge_dp.quantization.integer.graph import IntegerGraph
from edge_dp.quantization.ptq import calibrate
from edge_dp.quantization.qat import convert, prepare

SHAPE = (1, 3, 16, 24)


class Upsampled(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        up = nn.functional.interpolate(self.first(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return up, self.head(up)


@pytest.fixture(scope="module")
def folded():
    torch.manual_seed(3)
    prepared = prepare(Upsampled(), (torch.zeros(SHAPE),))
    calibrate(prepared, [(torch.randn(SHAPE),) for _ in range(3)])
    return convert(prepared)


def outputs(graph, views):
    with torch.no_grad():
        return [output.numpy() for output in graph(torch.from_numpy(views))]


def test_ties_of_a_resize_go_where_the_engines_take_them(folded):
    views = np.random.default_rng(4).normal(size=SHAPE).astype(np.float32)
    reference = IntegerGraph(folded).run_float([views])
    for plain, nudged, wanted in zip(outputs(folded, views), outputs(half_up(folded), views), reference, strict=True):
        assert (plain != wanted).mean() > 0.005  # a tie in thirty, half of them to even the other way
        np.testing.assert_array_equal(nudged, wanted)


def test_the_graph_that_converters_take_stays_as_it_was(folded):
    before = folded.code
    half_up(folded)
    assert folded.code == before
