"""The quantiser's rules one at a time, on a convolution and what follows it."""

import contextlib

import numpy as np
import pytest
import torch
from scipy.signal import correlate
from torch import nn

from edge_dp.quantization.qat import (
    activations,
    convert,
    freeze_ranges,
    prepare,
    quantile_ranges,
    read_ranges,
    rounding_noise,
    snap_biases,
)

SHAPE = (1, 2, 32, 32)


@pytest.fixture(autouse=True)
def same_numbers_in_every_run():
    torch.manual_seed(3)


def run(module, views):
    with torch.no_grad():
        return module(views)


class Block(nn.Module):
    """A convolution and something after it."""

    def __init__(self, after):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 3, padding=1)
        self.after = after

    def forward(self, x):
        return self.after(self.stem(x))


def test_scale_and_zero_point_follow_from_the_averaged_range_of_what_was_seen():
    """Affine int8 over [min, max], moved by a hundredth towards each further batch; the scale as a half float."""
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros((1, 2, 8, 8)),))
    views = torch.rand(1, 2, 8, 8)
    views[0, 0, 0, :2] = torch.tensor([-0.3, 1.1])
    prepared(views)
    prepared(2 * views)
    freeze_ranges(prepared)
    entry = read_ranges(prepared)[0]
    low, high = -0.3 * 1.01, 1.1 * 1.01
    assert entry.scale == float(np.float16((high - low) / 255))
    assert entry.zero_point == round(-128 - low / entry.scale)


@pytest.mark.parametrize(("sign", "zero_point"), [(1, -128), (-1, 127)])
def test_range_holds_zero_which_padding_needs_exactly(sign, zero_point):
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros((1, 2, 8, 8)),))
    prepared(sign * (3 + torch.rand(1, 2, 8, 8)))
    freeze_ranges(prepared)
    assert read_ranges(prepared)[0].zero_point == zero_point
    assert read_ranges(prepared)[0].scale == pytest.approx(4 / 255, rel=0.02)


def test_range_of_a_constant_input_keeps_the_smallest_scale():
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros(SHAPE),))
    prepared(torch.zeros(SHAPE))
    freeze_ranges(prepared)
    assert read_ranges(prepared)[0].scale == 2.0**-12


def test_observing_goes_on_until_ranges_are_frozen():
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros(SHAPE),))
    scales = []
    for gain in (1, 2):
        prepared(gain * torch.rand(SHAPE))
        scales.append(read_ranges(prepared)[0].scale)
    assert scales[1] > scales[0]
    freeze_ranges(prepared)
    frozen = read_ranges(prepared)
    prepared(9 * torch.rand(SHAPE))
    assert read_ranges(prepared) == frozen
    freeze_ranges(prepared)
    assert read_ranges(prepared) == frozen


def test_ranges_may_end_at_quantiles_of_each_batch_instead_of_its_extremes():
    """Of heavy-tailed values, against numpy's quantiles; a batch later a hundredth of the way to that one's."""
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros((1, 2, 192, 192)),))
    views = torch.distributions.StudentT(2.0).sample((1, 2, 192, 192))
    low, high = np.quantile(views.numpy(), [0.01, 0.99])
    with quantile_ranges(prepared, 0.99):
        prepared(views)
        prepared(3 * views)
    freeze_ranges(prepared)
    entry = read_ranges(prepared)[0]
    assert entry.scale == pytest.approx(1.02 * (high - low) / 255, rel=0.2)  # each is told by forty values
    assert entry.zero_point == pytest.approx(-128 - 1.02 * low / entry.scale, abs=20)
    assert views.abs().max() > 5 * high  # what an extreme would have made of it
    before = read_ranges(prepared)
    prepared(9 * views)
    assert read_ranges(prepared) == before


class Mean(nn.Module):
    """Two heads added up and doubled, as an ensemble's."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 3, 1)
        self.heads = nn.ModuleList(nn.Conv2d(3, 1, 1) for _ in range(2))

    def forward(self, x):
        features = torch.relu(self.stem(x))
        one, two = (head(features) for head in self.heads)
        return nn.functional.interpolate(one + two, scale_factor=2.0, mode="bilinear", align_corners=False)


def test_quantiles_cut_no_output_and_nothing_that_is_added_up_to_one():
    """A disparity beyond most others is told, however rare and long ago; what is rare among features costs steps."""
    prepared = prepare(Mean().eval(), (torch.zeros((1, 2, 64, 64)),))
    seen = {}

    def remember(name, values):
        low, high = seen.get(name, (0.0, 0.0))
        seen[name] = (min(low, float(values.min())), max(high, float(values.max())))

    for name, fake_quantize in activations(prepared):
        fake_quantize.register_forward_pre_hook(lambda _, inputs, name=name: remember(name, inputs[0]))
    with quantile_ranges(prepared, 0.9):
        for gain in (1.0, 0.5):
            prepared(gain * torch.randn(1, 2, 64, 64))
    freeze_ranges(prepared)
    of_what_was_seen = {
        entry.tensor: 255 * entry.scale / (seen[entry.tensor][1] - seen[entry.tensor][0])
        for entry in read_ranges(prepared)
    }
    for told in ("conv2d_1", "conv2d_2", "add", "upsample_bilinear2d"):
        assert of_what_was_seen.pop(told) == pytest.approx(1, abs=0.01)
    assert of_what_was_seen.keys() == {"x", "relu"} and max(of_what_was_seen.values()) < 0.9


def test_quantile_of_one_is_the_extremes():
    found = []
    for quantile in (None, 1.0):
        prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros(SHAPE),))
        torch.manual_seed(5)
        with quantile_ranges(prepared, quantile) if quantile else contextlib.nullcontext():
            for _ in range(3):
                prepared(torch.randn(SHAPE))
        freeze_ranges(prepared)
        found.append(read_ranges(prepared)[0])
    assert found[0] == found[1]


def test_observation_goes_back_to_extremes_after_the_block():
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros(SHAPE),))
    with quantile_ranges(prepared, 0.9):
        prepared(torch.rand(SHAPE))
    narrow = read_ranges(prepared)[0].scale
    for _ in range(100):
        prepared(9 * torch.rand(SHAPE))
    assert read_ranges(prepared)[0].scale > 3 * narrow


def test_rounding_noise_moves_activations_by_a_step_at_most_and_ends_with_its_block():
    prepared = prepare(Block(nn.ReLU()).eval(), (torch.zeros(SHAPE),))
    prepared(torch.rand(SHAPE))
    freeze_ranges(prepared)
    table, views = read_ranges(prepared), torch.rand(SHAPE) * 0.9
    node = next(node for node in prepared.graph.nodes if node.op == "call_module" and node.args[0].name == "x")
    fake_quantise, step = prepared.get_submodule(node.target), table[0].scale
    clean, output = run(fake_quantise, views), run(prepared, views)
    with rounding_noise(prepared, 0.5):
        moved = torch.stack([run(fake_quantise, views) - clean for _ in range(20)]) / step
        assert not torch.equal(run(prepared, views), run(prepared, views))
    assert moved.abs().max() < 1.01
    assert 0.15 < (moved.abs() > 0.5).float().mean() < 0.35  # noise of half a step carries a quarter over the middle
    assert moved.mean().abs() < 0.02
    with rounding_noise(prepared, 0.0):
        assert torch.equal(run(prepared, views), output)
    assert torch.equal(run(prepared, views), output)
    assert read_ranges(prepared) == table


def test_converted_convolution_is_integer_arithmetic():
    """q_out = clip(round(max(0, sum (q_x - z_x) q_w + q_b) * s_x s_w / s_out) + z_out), in int64 with scipy."""
    network = Block(nn.ReLU()).eval()
    nn.init.constant_(network.stem.bias, 0.2)  # most outputs are positive, some are not
    prepared = prepare(network, (torch.zeros((1, 2, 12, 14)),))
    for _ in range(3):
        prepared(torch.rand(1, 2, 12, 14))
    freeze_ranges(prepared)
    snap_biases(prepared)
    first, last = read_ranges(prepared)
    views = torch.rand(1, 2, 12, 14)
    seen = run(convert(prepared), views).numpy()[0]

    weights = network.stem.weight.detach().numpy()
    weight_scale = (np.abs(weights).reshape(3, -1).max(axis=1) / 127).astype(np.float16).astype(np.float64)
    q_weights = np.round(weights / weight_scale[:, None, None, None]).astype(np.int64)
    q_bias = np.round(np.float16(0.2) / (first.scale * weight_scale)).astype(np.int64)
    q_views = np.clip(np.round(views.numpy()[0] / first.scale) + first.zero_point, -128, 127).astype(np.int64)
    padded = np.pad(q_views - first.zero_point, ((0, 0), (1, 1), (1, 1)))
    sums = np.stack([correlate(padded, kernel, mode="valid", method="direct")[0] for kernel in q_weights])
    real = (sums + q_bias[:, None, None]) * (first.scale * weight_scale)[:, None, None]
    q_out = np.clip(np.round(np.maximum(real, 0) / last.scale) + last.zero_point, -128, 127)
    error = np.abs(seen - last.scale * (q_out - last.zero_point))
    assert (error < 1e-5).mean() > 0.99  # ties of float32 sums may round the other way
    assert error.max() < 1.001 * last.scale
    assert len(np.unique(q_out)) > 50 and q_out.min() == -128
