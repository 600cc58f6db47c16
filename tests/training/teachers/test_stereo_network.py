import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from edge_dp.errors import InputError
from edge_dp.training.teachers.registry import build_teacher
from edge_dp.training.teachers.stereo_data import StereoData, render_capture
from edge_dp.training.teachers.stereo_net import WEIGHTS
from edge_dp.training.teachers.stereo_network import (
    StereoNetwork,
    convex_upsample,
    matching_costs,
    normalised,
    peak_mean,
    sample_along_x,
)

from .stereo_scenes import steps, texture, views


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return StereoNetwork(8).eval()


def batch(*images):
    return torch.from_numpy(np.stack(images))[:, None]


def test_both_distributions_are_distributions(network):
    left, right, _ = steps()
    with torch.no_grad():
        belief = network(batch(left, right), batch(right, left), 40)
    assert belief.coarse.shape == (2, 44, 24, 40) and belief.fine.shape == (2, 9, 48, 80)
    assert belief.disparity.shape == belief.log_sigma.shape == (2, 1, 96, 160)
    for probability in (belief.coarse, belief.fine):
        assert probability.min() >= 0
        assert probability.sum(1).numpy() == pytest.approx(np.ones(probability[:, 0].shape), abs=1e-5)


def test_untrained_network_is_a_block_matcher(network):
    """It starts from correlation, so training has only to teach it what correlation cannot tell."""
    left, right, truth = steps(96, 160, 14, 27)
    right = 0.2 + 0.5 * right  # another exposure
    with torch.no_grad():
        found = network(batch(left), batch(right), 40).coarse_disparity[0, 0].numpy()
    inner = (slice(4, -4), slice(20, -4))
    assert np.median(np.abs(found - truth[::2, ::2])[inner]) < 0.5


def test_costs_are_correlations_in_windows(network):
    left, right = (normalised(batch(texture(seed, 64, 96)))[0, 0].double() for seed in (1, 2))
    costs = matching_costs(left[None, None], right[None, None], 3)[0].numpy()
    assert costs.shape == (16, 3, 16, 24)
    left, right = left.numpy(), right.numpy()
    for disparity, cell_y, cell_x in ((0, 5, 9), (3, 8, 12), (7, 4, 20), (11, 10, 6)):
        y, x = 4 * cell_y, 4 * cell_x
        for index, reach in enumerate((0, 2, 6)):  # windows of 4, 8 and 16 px around a cell of 4
            rows, columns = slice(y - reach, y + 4 + reach), slice(x - reach, x + 4 + reach)
            a, b = left[rows, columns], right[rows, x - reach - disparity : x + 4 + reach - disparity]
            expected = np.corrcoef(a.ravel(), b.ravel())[0, 1]
            got = costs[4 * index + disparity % 4, disparity // 4, cell_y, cell_x]
            assert got == pytest.approx(expected, abs=0.01)
        difference = np.abs(left[y : y + 4, x : x + 4] - right[y : y + 4, x - disparity : x + 4 - disparity]).mean()
        assert costs[12 + disparity % 4, disparity // 4, cell_y, cell_x] == pytest.approx(-difference, abs=1e-9)
    assert (costs[:, 2, :, :2] == 0).all()  # seen by nobody else


def test_a_mean_around_the_peak_is_not_drawn_to_another_peak():
    probability = torch.zeros(1, 40, 1, 1)
    probability[0, [9, 10, 11], 0, 0] = torch.tensor([0.1, 0.3, 0.15])
    probability[0, 30, 0, 0] = 0.45 - 1e-3
    assert peak_mean(probability).item() == pytest.approx(30)
    probability[0, 30, 0, 0] = 0.2
    assert peak_mean(probability).item() == pytest.approx((0.9 + 3.0 + 1.65) / 0.55, abs=1e-5)


def test_sampling_along_x_is_linear_interpolation():
    image = np.random.default_rng(0).uniform(size=(3, 5, 12))
    disparity = np.random.default_rng(1).uniform(-3, 9, (4, 5, 12))
    got = sample_along_x(torch.from_numpy(image)[None], torch.from_numpy(disparity)[None])[0].numpy()
    columns = np.arange(12)
    for channel, hypothesis, row in ((0, 1, 2), (2, 3, 4), (1, 0, 0)):
        expected = np.interp(columns - disparity[hypothesis, row], columns, image[channel, row])
        assert got[channel, hypothesis, row] == pytest.approx(expected, abs=1e-9)


def test_convex_upsampling_stays_between_its_neighbours():
    torch.manual_seed(0)
    value, logits = torch.rand(2, 1, 5, 6), torch.randn(2, 36, 5, 6)
    fine = convex_upsample(value, logits, 2)
    assert fine.shape == (2, 1, 10, 12)
    assert convex_upsample(torch.full_like(value, 3.0), logits, 2).numpy() == pytest.approx(np.full((2, 1, 10, 12), 3))
    around = value[0, 0, 1:4, 2:5]
    assert around.min() <= fine[0, 0, 4:6, 6:8].min() and fine[0, 0, 4:6, 6:8].max() <= around.max()
    sharp = torch.full_like(logits, -50.0)
    sharp[:, 4 * 4 : 5 * 4] = 50.0  # the middle neighbour of each
    assert convex_upsample(value, sharp, 2)[0, 0].numpy() == pytest.approx(
        np.kron(value[0, 0], np.ones((2, 2))), abs=1e-6
    )


def test_shipped_weights_are_few_and_have_a_card():
    assert WEIGHTS.stat().st_size < 5e6
    card = json.loads(WEIGHTS.with_suffix(".json").read_text())
    assert {"data", "licences", "metrics", "limits", "ground_truth_used", "recipe", "machine"} <= set(card)
    assert card["parameters"] < 1.2e6
    counted = sum(
        value.size for name, value in load_file(WEIGHTS).items() if "running" not in name and "num_" not in name
    )
    assert counted == card["parameters"]


def test_shipped_weights_beat_semi_global_matching_on_scenes_they_never_saw():
    """Among as many pixels as SGM is sure of, those that the network is surest of; typically; and where SGM is silent."""
    data = StereoData(captures=1, gain=(6.0, 6.0))
    sgm_errors, errors, sigmas, outside, sgm_outside = [], [], [], [], []
    for index in range(5):
        capture = render_capture(20_000, index, data)
        left, right = capture.views[:2].astype(np.float32) / 255
        truth = capture.disparity.astype(np.float32)
        sgm, net = (build_teacher(name).estimate(views(left, right)) for name in ("sgm", "stereo_net"))
        error = np.abs(net.disparity - truth)
        sgm_errors.append(np.abs(sgm.disparity - truth)[sgm.valid])
        errors.append(error.ravel())
        sigmas.append(net.sigma.ravel())
        outside.append(error[~sgm.valid])
        sgm_outside.append(np.abs(sgm.disparity - truth)[~sgm.valid])
    of_sgm, error = np.concatenate(sgm_errors), np.concatenate(errors)
    surest = error[np.argsort(np.concatenate(sigmas))[: len(of_sgm)]]
    assert surest.mean() < 0.95 * of_sgm.mean()
    assert np.median(error) < 0.5 * np.median(of_sgm)
    assert np.concatenate(outside).mean() < 0.85 * np.concatenate(sgm_outside).mean()


def test_sigma_grows_where_there_is_nothing_to_match():
    left, right, _ = steps(96, 160, 8, 8)
    left[30:70, 50:120] = right[30:70, 42:112] = 0.5
    estimate = build_teacher("stereo_net").estimate(views(left, right))
    inside, outside = np.zeros(left.shape, bool), np.ones(left.shape, bool)
    inside[40:60, 70:100] = True
    outside[20:80, 30:140] = outside[:, :20] = outside[:, -8:] = False
    assert np.median(estimate.sigma[inside]) > 1.5 * np.median(estimate.sigma[outside])


@pytest.mark.parametrize("shape", [(61, 99), (64, 98)])
def test_any_size_is_taken(shape):
    left, right, truth = steps(*shape)
    estimate = build_teacher("stereo_net", {"disparities": 24}).estimate(views(left, right))
    assert estimate.disparity.shape == shape
    assert np.median(np.abs(estimate.disparity - truth)[estimate.valid]) < 0.5


@pytest.mark.parametrize("content", ["absent", "rubbish", "other tensors", "no width"])
def test_weights_that_are_none_are_refused(content, tmp_path):
    path = tmp_path / "weights.safetensors"
    if content == "rubbish":
        path.write_bytes(b"x" * 100)
    elif content != "absent":
        metadata = {"width": "8"} if content == "other tensors" else None
        save_file({"a": np.zeros(3, np.float32)}, path, metadata=metadata)
    left, right, _ = steps()
    with pytest.raises(InputError, match=r"weights.safetensors: expected weights written by train-teacher, found"):
        build_teacher("stereo_net", {"weights": str(path)}).estimate(views(left, right))


def test_shipped_weights_lie_in_the_package():
    assert Path(WEIGHTS).is_file()
