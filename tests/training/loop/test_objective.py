import inspect
import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import huber

from edge_dp.models.confidence import expected_error
from edge_dp.training import losses
from edge_dp.training.loop.batches import Batch
from edge_dp.training.loop.objective import LOSSES, log_expected_error, log_sigma, objective


def maps(seed=0, shape=(3, 1, 4, 6)):
    rng = np.random.default_rng(seed)
    draw = lambda low, high: torch.tensor(rng.uniform(low, high, shape), dtype=torch.float64)  # noqa: E731
    views = torch.tensor(rng.uniform(0.05, 1, (3, 2, 8, 12)))
    mask = torch.tensor(rng.uniform(size=shape) < 0.7)
    return draw(-2, 2), draw(0, 1), Batch(views, draw(-2, 2), draw(0.05, 0.5), mask)


def test_code_of_the_confidence_is_the_deviation_of_the_laplace_distribution():
    """Variance of the Laplace distribution with the mean absolute error that the code promises."""
    for code in (-0.1, 0.0, 0.4, 1.0):
        b = float(expected_error(code))
        assert float(log_expected_error(torch.tensor(code))) == pytest.approx(math.log(b))
        assert math.exp(float(log_sigma(torch.tensor(code)))) == pytest.approx(stats.laplace(scale=b).std())


def test_every_loss_of_the_registry_takes_what_the_registry_says():
    for entry in LOSSES.values():
        parameters = list(inspect.signature(getattr(losses, entry.name)).parameters)
        assert parameters[: len(entry.inputs) + 2] == [*entry.inputs, "mask", "mean"]


@pytest.mark.parametrize("name", LOSSES)
def test_single_loss_is_that_of_its_maps(name):
    disparity, confidence, batch = maps()
    total, parts = objective({name: 2.5}, disparity, confidence, batch, losses.masked_mean)
    b = np.asarray(expected_error(confidence.numpy()))
    error, chosen = (disparity - batch.label).abs().numpy(), batch.mask.numpy()
    pixels = {
        "l1": error,
        "huber": huber(2.0, error),
        "laplace_nll": -stats.laplace(scale=b).logpdf(error),
        "gaussian_nll": -stats.norm(scale=b * math.sqrt(2)).logpdf(error),
    }
    assert parts[name].item() * 2.5 == pytest.approx(total.item())
    if name in pixels:
        assert parts[name].item() == pytest.approx(pixels[name][chosen].mean())
    if name == "gaussian_kl":
        student = torch.distributions.Normal(disparity, torch.tensor(b * math.sqrt(2)))
        divergence = torch.distributions.kl_divergence(student, torch.distributions.Normal(batch.label, batch.sigma))
        assert parts[name].item() == pytest.approx(divergence[batch.mask].mean().item())


def test_losses_are_added_with_their_weights_and_each_is_reported():
    disparity, confidence, batch = maps()
    disparity.requires_grad_()
    weights = {"l1": 0.5, "laplace_nll": 2.0, "edge_aware_smoothness": 0.1}
    total, parts = objective(weights, disparity, confidence, batch, losses.masked_mean)
    assert total.item() == pytest.approx(sum(weights[name] * parts[name].item() for name in weights))
    assert not any(part.requires_grad for part in parts.values())
    total.backward()
    assert disparity.grad.abs().sum() > 0


def test_image_of_a_batch_is_the_views_at_the_size_of_the_maps_in_units_of_their_mean():
    _, _, batch = maps()
    image = batch.image()
    expected = batch.views.numpy().reshape(3, 2, 4, 2, 6, 2).mean(axis=(1, 3, 5))
    expected /= expected.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(image.numpy()[:, 0], expected)
