import cv2
import numpy as np
import pytest
import torch

from edge_dp.training.losses_photometric import (
    best_of_views,
    photometric_error,
    seen_by,
    self_supervised_loss,
    structural_dissimilarity,
    warp,
)

HEIGHT, WIDTH = 24, 48


def texture(seed, width=WIDTH):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((HEIGHT, width)), (0, 0), 1.5)
    return np.clip(0.5 + 0.8 * noise, 0, 1)


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array, np.float64))[None, None]


def rig(disparity, seed=0):
    """What three cameras in a row see of a plane: the middle one, the right one, the left one."""
    wide = texture(seed, WIDTH + 2 * disparity)
    return tuple(tensor(wide[:, start : start + WIDTH]) for start in (disparity, 2 * disparity, 0))


def test_warp_is_linear_interpolation():
    image, rng = texture(1), np.random.default_rng(2)
    disparity = rng.uniform(-6, 6, image.shape)
    columns = np.arange(WIDTH)
    expected = np.stack([np.interp(columns - d, columns, row) for row, d in zip(image, disparity, strict=True)])
    assert warp(tensor(image), tensor(disparity))[0, 0].numpy() == pytest.approx(expected, abs=1e-12)


def test_gradient_of_warp_is_the_image_s_slope():
    image = tensor(texture(3))
    disparity = tensor(np.random.default_rng(4).uniform(0.2, 0.8, (HEIGHT, WIDTH)) + 3).requires_grad_()
    warp(image, disparity).sum().backward()
    eps = 1e-4
    with torch.no_grad():
        slope = (warp(image, disparity + eps) - warp(image, disparity - eps)) / (2 * eps)
    inner = (..., slice(5, None))
    assert disparity.grad[inner].numpy() == pytest.approx(slope[inner].numpy(), abs=1e-6)


def test_seen_by_is_where_the_partner_lies_inside():
    seen = seen_by(torch.full((1, 1, 2, 10), 3.0))[0, 0, 0]
    assert seen.tolist() == [False] * 3 + [True] * 7
    assert seen_by(torch.full((1, 1, 2, 10), -3.0))[0, 0, 0].tolist() == [True] * 7 + [False] * 3


def test_photometric_error_is_its_formula():
    one, other = texture(5), texture(6)

    def smooth(x):
        return np.where(np.abs(x) < 1, 0.5 * x * x, np.abs(x) - 0.5)

    off = one - other
    across, down = np.zeros_like(off), np.zeros_like(off)
    across[:, :-1], down[:-1] = smooth(np.diff(off, axis=1)), smooth(np.diff(off, axis=0))
    expected = 0.5 * (smooth(off) + across + down)
    assert photometric_error(tensor(one), tensor(other))[0, 0].numpy() == pytest.approx(expected, abs=1e-12)


def test_structural_dissimilarity_is_its_formula():
    one, other = texture(7), texture(8)
    got = structural_dissimilarity(tensor(one), tensor(other))[0, 0].numpy()
    for y, x in ((5, 9), (17, 30), (1, 46)):
        a, b = (image[y - 1 : y + 2, x - 1 : x + 2] for image in (one, other))
        covariance = np.mean(a * b) - a.mean() * b.mean()
        similarity = (2 * a.mean() * b.mean() + 1e-4) * (2 * covariance + 9e-4)
        similarity /= (a.mean() ** 2 + b.mean() ** 2 + 1e-4) * (a.var() + b.var() + 9e-4)
        assert got[y, x] == pytest.approx(np.clip((1 - similarity) / 2, 0, 1), abs=1e-9)
    assert structural_dissimilarity(tensor(one), tensor(one)).abs().max() < 1e-9


def test_what_one_camera_cannot_see_the_other_can():
    """A point near the left border is outside the right camera's view, one near the right border outside the left one's."""
    first, right, left = rig(6)
    disparity = torch.full_like(first, 6.0)
    error, seen = best_of_views(photometric_error, first, (right, left), (disparity, -disparity))
    assert seen.all() and error[..., :-1].max() < 1e-12  # the last column's gradient looks past the border
    alone, seen_alone = best_of_views(photometric_error, first, (right,), (disparity,))
    assert seen_alone[0, 0, 0].tolist() == [False] * 6 + [True] * (WIDTH - 6) and alone[..., :6].abs().max() == 0


def test_best_view_is_chosen_pixel_by_pixel():
    first, right, left = rig(4)
    right, left = right.clone(), left.clone()
    right[..., :12, :], left[..., 12:, :] = 0.0, 0.0  # each has lost half of the picture
    disparity = torch.full_like(first, 4.0)
    error, _ = best_of_views(photometric_error, first, (right, left), (disparity, -disparity))
    inner = (..., slice(5, -5))
    assert error[inner][..., :11, :].max() < 1e-12 and error[inner][..., 13:, :].max() < 1e-12


def loss_at(disparity, log_variance=0.0, seed=0):
    views = rig(5, seed)
    features = tuple(torch.nn.functional.avg_pool2d(view, 2).repeat(1, 3, 1, 1) for view in views)
    maps = [torch.full_like(views[0], value, requires_grad=True) for value in (disparity, log_variance)]
    return self_supervised_loss(*maps, views, features), maps


def test_the_truth_has_the_least_loss_and_gradients_point_to_it():
    values = {d: loss_at(d)[0].item() for d in (3.0, 4.0, 5.0, 6.0, 7.0)}
    assert min(values, key=values.get) == 5.0
    for disparity, sign in ((4.6, -1), (5.4, 1)):
        loss, (argument, _) = loss_at(disparity)
        loss.backward()
        assert np.sign(argument.grad.sum().item()) == sign


def test_doubt_pays_only_where_nothing_fits():
    """d/ds of 12 exp(-s) P + 1.2 s is 0 at exp(s) = 10 P: small errors ask for certainty, large ones for doubt."""
    assert loss_at(5.0, -5.0)[0] < loss_at(5.0, -2.0)[0]
    assert loss_at(20.0, -5.0)[0] > loss_at(20.0, -2.0)[0]


def test_no_gradient_flows_into_features():
    views = rig(5)
    features = tuple(view.clone().requires_grad_() for view in views)
    disparity = torch.full_like(views[0], 4.5, requires_grad=True)
    self_supervised_loss(disparity, torch.zeros_like(disparity), views, features).backward()
    assert all(feature.grad is None for feature in features) and disparity.grad.abs().sum() > 0
