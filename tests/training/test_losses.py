import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from edge_dp.models.confidence import expected_error
from edge_dp.training.losses import l1, laplace_nll

SHAPE = (2, 1, 5, 7)


@pytest.fixture
def maps():
    """Disparity, confidence, label and mask, as numpy float64 and bool."""
    rng = np.random.default_rng(0)
    return (
        rng.normal(0, 2, SHAPE),
        rng.uniform(-0.2, 1.2, SHAPE),
        rng.normal(0, 2, SHAPE),
        rng.uniform(size=SHAPE) < 0.6,
    )


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def test_laplace_nll_is_its_closed_form(maps):
    disparity, confidence, label, mask = maps
    b = 5.0 * (0.05 / 5.0) ** confidence
    expected = (np.abs(disparity - label) / b + np.log(2 * b))[mask].mean()
    assert laplace_nll(*tensors(*maps)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("confidence", [0.2, 0.6, 1.0])
def test_laplace_nll_is_a_likelihood(confidence):
    """exp(-L) over all labels integrates to one, and the mean distance of the label is the promised error."""
    disparity, code = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64), torch.full((1, 1, 1, 1), confidence).double()

    def density(label):
        return math.exp(-laplace_nll(disparity, code, torch.full_like(code, label), code > 0))

    limits = {"a": 0.7 - 40, "b": 0.7 + 40, "points": [0.7], "limit": 200}
    assert quad(density, **limits)[0] == pytest.approx(1, abs=1e-4)
    assert quad(lambda t: abs(t - 0.7) * density(t), **limits)[0] == pytest.approx(expected_error(confidence), rel=1e-3)


def test_l1_is_the_mean_over_the_mask(maps):
    disparity, _, label, mask = maps
    assert l1(*tensors(disparity, label, mask)).item() == pytest.approx(
        np.abs(disparity - label)[mask].mean(), rel=1e-12
    )


@pytest.mark.parametrize("error", [0.05, 0.3, 1.7, 5.0])
def test_best_confidence_promises_the_error_there_is(error):
    def loss(confidence):
        values = torch.full((1, 1, 1, 1), error, dtype=torch.float64)
        return laplace_nll(values, torch.full_like(values, confidence), 0 * values, values > 0).item()

    best = minimize_scalar(loss, bounds=(-0.5, 1.5), method="bounded", options={"xatol": 1e-8})
    assert expected_error(best.x) == pytest.approx(error, rel=1e-3)
    assert best.fun == pytest.approx(1 + math.log(2 * error), abs=1e-6)


def test_best_confidence_for_many_pixels_promises_their_mean_error():
    errors = torch.tensor([0.1, 0.2, 1.5], dtype=torch.float64).view(1, 1, 1, 3)

    def loss(confidence):
        return laplace_nll(errors, torch.full_like(errors, confidence), 0 * errors, errors > 0).item()

    best = minimize_scalar(loss, bounds=(-0.5, 1.5), method="bounded", options={"xatol": 1e-8})
    assert expected_error(best.x) == pytest.approx(0.6, rel=1e-3)


@pytest.mark.parametrize("sign", [1, -1])
def test_gradients_lead_to_the_label_and_to_the_right_confidence(sign):
    label = torch.zeros(1, 1, 1, 2)
    disparity = torch.full_like(label, 0.8 * sign).requires_grad_()
    confidence = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).requires_grad_()  # too sure, and not sure enough
    laplace_nll(disparity, confidence, label, label == 0).backward()
    assert (disparity.grad * sign > 0).all()
    assert disparity.grad[..., 0].abs() == pytest.approx(1 / 0.05 / 2, rel=1e-5)  # 1 / b, mean of two pixels
    assert confidence.grad[..., 0] > 0 > confidence.grad[..., 1]

    disparity.grad = None
    l1(disparity, label, label == 0).backward()
    torch.testing.assert_close(disparity.grad, torch.full_like(label, sign / 2))


def test_masked_pixels_give_no_gradient_and_do_not_count(maps):
    disparity, confidence, label, mask = tensors(*maps)
    disparity.requires_grad_()
    confidence.requires_grad_()
    loss = laplace_nll(disparity, confidence, label, mask) + l1(disparity, label, mask)
    loss.backward()
    assert (disparity.grad[~mask] == 0).all() and (confidence.grad[~mask] == 0).all()
    assert (disparity.grad[mask] != 0).all()
    other = torch.where(mask, label, label + 100)
    again = laplace_nll(disparity, confidence, other, mask) + l1(disparity, other, mask)
    assert again.item() == pytest.approx(loss.item(), rel=1e-12)


def test_empty_mask_gives_zero_loss_and_zero_gradient(maps):
    disparity, confidence, label, _ = tensors(*maps)
    disparity.requires_grad_()
    nothing = torch.zeros(SHAPE, dtype=torch.bool)
    loss = laplace_nll(disparity, confidence, label, nothing) + l1(disparity, label, nothing)
    assert loss.item() == 0
    loss.backward()
    assert (disparity.grad == 0).all()
