import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from edge_dp.models.confidence import expected_error
from edge_dp.training.losses import (
    affine_invariant_l1,
    edge_aware_smoothness,
    expected_l1,
    gaussian_kl,
    gaussian_nll,
    gradient_matching,
    huber,
    l1,
    laplace_cross_entropy,
    laplace_nll,
)

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


@pytest.mark.parametrize(("distance", "sigma"), [(0.0, 0.3), (0.2, 0.3), (1.0, 0.3), (2.0, 0.1), (0.3, 2.0)])
def test_losses_of_labels_with_a_spread_are_integrals_over_it(distance, sigma):
    disparity, label, spread, code = (torch.full((1, 1, 1, 1), v).double() for v in (distance + 0.7, 0.7, sigma, 0.4))
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    label_is = norm(0.7, sigma)

    def expected(value):
        limits = {"a": 0.7 - 9 * sigma, "b": 0.7 + 9 * sigma, "points": [0.7 + distance]}
        return quad(lambda t: label_is.pdf(t) * value(torch.full_like(label, t)), **limits)[0]

    mean_error = expected(lambda t: l1(disparity, t, mask).item())
    assert expected_l1(disparity, label, spread, mask).item() == pytest.approx(mean_error, rel=1e-6)
    entropy = expected(lambda t: laplace_nll(disparity, code, t, mask).item())
    assert laplace_cross_entropy(disparity, code, label, spread, mask).item() == pytest.approx(entropy, rel=1e-6)


def test_losses_of_labels_without_a_spread_are_those_of_hard_labels(maps):
    disparity, confidence, label, mask = tensors(*maps)
    none = torch.zeros_like(label)
    hard = l1(disparity, label, mask)
    torch.testing.assert_close(expected_l1(disparity, label, none, mask), hard, atol=1e-6, rtol=0)
    hard = laplace_nll(disparity, confidence, label, mask)
    torch.testing.assert_close(laplace_cross_entropy(disparity, confidence, label, none, mask), hard, atol=1e-4, rtol=0)


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


def test_gaussian_nll_is_the_density_of_scipy(maps):
    disparity, log_sigma, label, mask = maps
    expected = -norm.logpdf(label, disparity, np.exp(log_sigma))[mask].mean()
    assert gaussian_nll(*tensors(*maps)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("of_label", [False, True])
@pytest.mark.parametrize(
    ("mean", "sigma", "label", "spread"), [(0.3, 0.5, -0.2, 0.7), (1.0, 0.1, 1.0, 0.4), (0, 1, 2, 1)]
)
def test_divergence_is_the_integral_that_defines_it(mean, sigma, label, spread, of_label):
    p, q = norm(mean, sigma), norm(label, spread)
    if of_label:
        p, q = q, p
    low, high = p.mean() - 12 * p.std(), p.mean() + 12 * p.std()
    expected = quad(lambda x: p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), low, high, limit=200)[0]
    values = [torch.full((1, 1, 1, 1), float(v), dtype=torch.float64) for v in (mean, math.log(sigma), label, spread)]
    found = gaussian_kl(*values, torch.ones(1, 1, 1, 1, dtype=torch.bool), of_label=of_label)
    assert found.item() == pytest.approx(expected, rel=1e-7)


def test_divergence_is_least_where_the_student_says_what_the_label_says(maps):
    _, _, label, mask = tensors(*maps)
    spread = torch.full_like(label, 0.3)
    equal = gaussian_kl(label, spread.log(), label, spread, mask)
    assert equal.item() == pytest.approx(0, abs=1e-12)
    for change in (0.1, -0.1):
        assert gaussian_kl(label + change, spread.log(), label, spread, mask) > 0
        assert gaussian_kl(label, spread.log() + change, label, spread, mask) > 0


def test_a_label_of_no_spread_counts_as_one_of_the_floor(maps):
    disparity, log_sigma, label, mask = tensors(*maps)
    exact = gaussian_kl(disparity, log_sigma, label, torch.zeros_like(label), mask, floor=0.05)
    floored = gaussian_kl(disparity, log_sigma, label, torch.full_like(label, 0.05), mask)
    assert exact.item() == floored.item() and math.isfinite(exact)


@given(gain=st.floats(0.1, 10) | st.floats(-10, -0.1), offset=st.floats(-20, 20))
def test_an_affine_change_of_the_prediction_changes_nothing(gain, offset):
    rng = np.random.default_rng(3)
    disparity, label, mask = tensors(rng.normal(size=SHAPE), rng.normal(size=SHAPE), rng.uniform(size=SHAPE) < 0.7)
    before = affine_invariant_l1(disparity, label, mask)
    assert affine_invariant_l1(gain * disparity + offset, label, mask).item() == pytest.approx(before.item(), rel=1e-6)
    assert affine_invariant_l1(gain * label + offset, label, mask).item() == pytest.approx(0, abs=1e-6)


def test_affine_fit_is_that_of_numpy_for_each_map(maps):
    disparity, _, label, mask = maps
    errors = []
    for d, t, inside in zip(disparity, label, mask, strict=True):
        gain, offset = np.polyfit(d[inside], t[inside], 1)
        errors.append(np.abs(gain * d + offset - t)[inside])
    expected = np.concatenate(errors).mean()
    assert affine_invariant_l1(*tensors(disparity, label, mask)).item() == pytest.approx(expected, rel=1e-9)


def test_a_flat_prediction_has_a_finite_affine_loss_and_gradient(maps):
    _, _, label, mask = tensors(*maps)
    flat = torch.full_like(label, 2.0, requires_grad=True)
    loss = affine_invariant_l1(flat, label, mask)
    loss.backward()
    assert math.isfinite(loss) and torch.isfinite(flat.grad).all()


def test_smoothness_is_its_formula_and_forgives_steps_at_edges(maps):
    disparity, image, _, _ = maps
    everywhere = np.ones(SHAPE, bool)
    expected = sum(
        (np.abs(np.diff(disparity, axis=axis)) * np.exp(-np.abs(np.diff(image, axis=axis)))).mean() for axis in (2, 3)
    )
    assert edge_aware_smoothness(*tensors(disparity, image, everywhere)).item() == pytest.approx(expected, rel=1e-12)
    step = np.zeros(SHAPE)
    step[..., 3:] = 1.0
    flat = edge_aware_smoothness(*tensors(step, np.zeros(SHAPE), everywhere))
    assert edge_aware_smoothness(*tensors(step, 3 * step, everywhere)).item() == pytest.approx(
        flat.item() * math.exp(-3)
    )


def test_gradient_matching_is_its_formula():
    """By hand in NumPy: maps of 16 x 24 px, of which whole blocks are unknown, have all four sizes."""
    rng = np.random.default_rng(1)
    disparity, label = rng.normal(size=(2, 2, 1, 16, 24))
    mask = np.kron(rng.uniform(size=(2, 1, 8, 12)) < 0.8, np.ones((2, 2))) > 0
    error, known, expected = np.where(mask, disparity - label, 0), mask, 0.0
    for size in range(4):
        if size:
            cells = (2, 1, error.shape[2] // 2, 2, error.shape[3] // 2, 2)
            count = known.reshape(cells).sum((3, 5))
            error = np.where(known, error, 0).reshape(cells).sum((3, 5)) / np.maximum(count, 2)
            known = count >= 2
        across = np.abs(np.diff(error, axis=3))[known[..., 1:] & known[..., :-1]]
        along = np.abs(np.diff(error, axis=2))[known[:, :, 1:] & known[:, :, :-1]]
        expected += across.mean() + along.mean()
    assert gradient_matching(*tensors(disparity, label, mask)).item() == pytest.approx(expected, rel=1e-12)


@given(offset=st.floats(-20, 20))
def test_gradient_matching_forgives_an_offset_and_nothing_else(offset):
    rng = np.random.default_rng(3)
    label, mask = tensors(rng.normal(size=(2, 1, 16, 16)), np.ones((2, 1, 16, 16), bool))
    assert gradient_matching(label + offset, label, mask).item() == pytest.approx(0, abs=1e-9)
    ramp = torch.arange(16.0, dtype=torch.float64).expand_as(label)
    assert gradient_matching(label + 0.1 * ramp, label, mask).item() == pytest.approx(0.1 * (1 + 2 + 4 + 8), rel=1e-9)


@pytest.mark.parametrize("gap", [0.5, 3.0, 30.0])
def test_huber_is_least_between_a_guess_s_two_outcomes_and_l1_at_the_likelier(gap):
    """A label that is 0 in two of three captures and ``gap`` in the third: the mean while that is near, 1 px when it is far."""
    label = torch.tensor([0.0, 0.0, gap], dtype=torch.float64).reshape(3, 1, 1, 1)
    everywhere = torch.ones_like(label, dtype=torch.bool)
    best = [
        minimize_scalar(lambda d, f=f: f(torch.full_like(label, d), label, everywhere).item(), bounds=(-1, 31)).x
        for f in (huber, l1)
    ]
    assert best == pytest.approx([min(gap / 3, 1.0), 0.0], abs=1e-2)


LOSSES = {
    "gradient_matching": lambda d, s, t, m: gradient_matching(d, t, m) + 0 * s.nan_to_num().sum(),
    "laplace_nll": laplace_nll,
    "gaussian_nll": gaussian_nll,
    "gaussian_kl": lambda d, s, t, m: gaussian_kl(d, s, t, t.abs() + 0.1, m),
    "l1": lambda d, s, t, m: l1(d, t, m) + 0 * s.nan_to_num().sum(),
    "huber": lambda d, s, t, m: huber(d, t, m) + 0 * s.nan_to_num().sum(),
    "affine_invariant_l1": lambda d, s, t, m: affine_invariant_l1(d, t, m) + 0 * s.nan_to_num().sum(),
    "edge_aware_smoothness": lambda d, s, t, m: edge_aware_smoothness(d, t.nan_to_num(), m) + 0 * s.nan_to_num().sum(),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_lies_outside_the_mask_is_not_seen(name, maps):
    """NaN there changes neither the loss nor the gradient, and an empty mask gives 0."""
    disparity, spread, label, mask = tensors(*maps)
    found, gradients = [], []
    for outside in (7.0, math.nan):
        spoiled = [torch.where(mask, values, outside).requires_grad_() for values in (disparity, spread, label)]
        loss = LOSSES[name](*spoiled, mask)
        loss.backward()
        found.append(loss.item())
        gradients.append(spoiled[0].grad)
    assert found[0] == found[1] and math.isfinite(found[0])
    assert torch.equal(*gradients) and (gradients[0][~mask] == 0).all()
    assert LOSSES[name](disparity, spread, label, torch.zeros_like(mask)).item() == 0
