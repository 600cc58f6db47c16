import dataclasses
import threading
import time

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift
from scipy.optimize import minimize_scalar

from edge_dp.errors import TrainingError
from edge_dp.optics.psf import HalfAperture
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.simulation.render import render_views
from edge_dp.simulation.scenes import Layer, Scene
from edge_dp.training.labels import Samples
from edge_dp.training.loop.batches import Ahead
from edge_dp.training.loop.sources import InMemory
from edge_dp.training.recipe import QuantisedStageRecipe, TargetRecipe

from .samples import EXPOSURE, draw, maker, some_samples, stage

MAPS = ("views", "label", "sigma", "mask")


def assert_equal(one, other, names=MAPS):
    for name in names:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)


def test_blank_views_keep_their_labels_and_the_rest_of_the_batch():
    """A share of the views has nothing to match in it: noise or one level; labels, masks and the other views stay."""
    plain, mixed = draw(some_samples(), 64), draw(some_samples(), 64, blank_share=0.5)
    changed = (plain.views != mixed.views).flatten(1).any(1)
    assert 16 < int(changed.sum()) < 48
    assert_equal(plain, mixed, MAPS[1:])
    blank = mixed.views[changed]
    assert 0.0 <= blank.min() and blank.max() <= 1.0
    assert {0.0, 1.0} <= set(blank.flatten(1).min(1).values.tolist()) | set(blank.flatten(1).max(1).values.tolist())
    everything = draw(some_samples(), 64, blank_share=1.0).views
    assert (everything != plain.views).flatten(1).any(1).all()
    assert_equal(draw(some_samples(), 64, blank_share=0.5), mixed)


def test_no_views_are_blank_while_ranges_are_observed():
    recipe = QuantisedStageRecipe(steps=20, batch=32, learning_rate=0.01, observe_steps=5, blank_share=0.5)
    make, without = maker(some_samples()), dataclasses.replace(recipe, blank_share=0.0)
    for step, is_any_blank in ((0, False), (4, False), (5, True)):
        views, plain = (make(1, step, one, range(32)).views for one in (recipe, without))
        assert (views != plain).any().item() is is_any_blank


@pytest.mark.parametrize("disparity", [-2.5, 0.0, 1.75])
def test_flipped_and_mirrored_batches_keep_the_disparity_and_its_sign(disparity):
    """Rendered planes, matched after the batch function has had its way with them."""
    texture = gaussian_filter(np.random.default_rng(0).standard_normal((64, 400)), 14, mode="wrap")
    texture = (0.2 + 0.15 * texture / abs(texture).max()).astype(np.float32)
    scene = Scene((Layer(texture[None], np.ones_like(texture), (disparity, 0.0, 0.0)),), -5, 5)
    views = render_views(scene, HalfAperture(strength=0.4), 16)[:, 0]
    label = np.full((1, 16, 184), disparity, np.float16)
    ones = np.ones(label.shape)
    samples = Samples(
        views=views[None].astype(np.float16), label=label, sigma=ones.astype(np.float16), mask=ones > 0, truth=label
    )
    batch = draw(samples, 24)
    first_columns = set()
    for (left, right), its_label in zip(batch.views.numpy().astype(float), batch.label.numpy(), strict=True):
        first_columns.add(round(left[0, 0] / left.mean(), 2))
        assert (its_label == disparity).all()

        def difference(d, left=left, right=right):
            return np.mean((left - shift(right, (0, -d), order=3, mode="nearest"))[:, 8:-8] ** 2)

        coarse = min(np.arange(-4, 4.1, 0.5), key=difference)
        found = minimize_scalar(difference, bounds=(coarse - 0.6, coarse + 0.6), method="bounded").x
        assert found == pytest.approx(disparity, abs=0.06)
    assert len(first_columns) == 4  # as it was, upside down, mirrored, both


def samples_whose_views_tell_the_label(count=5, height=12, width=16):
    rng = np.random.default_rng(1)
    views = (0.02 + 0.2 * rng.uniform(size=(count, 2, height, width))).astype(np.float16)
    cells = views.astype(np.float32).mean(axis=1).reshape(count, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
    label = cells.astype(np.float16)
    return Samples(views=views, label=label, sigma=label * np.float16(0.5), mask=label > 0.12, truth=label)


@pytest.mark.parametrize("crop", [None, (8, 6)])
def test_views_label_sigma_and_mask_of_a_batch_are_cut_and_turned_together(crop):
    samples = samples_whose_views_tell_the_label()
    kept = samples.views.copy()
    batch = draw(samples, 40, crop=crop)
    height, width = crop or (12, 16)
    assert batch.views.shape == (40, 2, height, width) and batch.label.shape == (40, 1, height // 2, width // 2)
    assert batch.label.shape == batch.sigma.shape == batch.mask.shape
    maps = (batch.views, batch.label[:, 0], batch.sigma[:, 0], batch.mask[:, 0])
    for view, label, sigma, mask in zip(*(tensor.numpy() for tensor in maps), strict=True):
        cells = view.mean(axis=0).reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3))
        ratio = cells / label  # the exposure: one factor for the whole capture
        assert ratio.std() < 5e-3 * ratio.mean()
        np.testing.assert_array_equal(mask, label > 0.12)
        np.testing.assert_allclose(sigma, 0.5 * label, rtol=2e-3)
    np.testing.assert_array_equal(samples.views, kept)  # the set itself is not turned


def test_crops_reach_every_corner_of_the_captures():
    places = np.arange(6 * 8).reshape(1, 6, 8).astype(np.float16)
    samples = dataclasses.replace(samples_whose_views_tell_the_label(1), label=places, mask=places >= 0)
    seen = draw(samples, 200, crop=(8, 6)).label.numpy().astype(int)
    assert set(seen.ravel()) == set(range(48))


def test_batch_depends_on_seed_stage_and_step_alone():
    samples = some_samples()
    first = draw(samples, 4, step=7)
    np.random.default_rng(0).uniform()
    torch.manual_seed(99)
    assert_equal(first, draw(samples, 4, step=7))
    for other in ({"seed": 2}, {"number": 1}, {"step": 8}):
        assert not torch.equal(first.views, draw(samples, 4, **{"step": 7} | other).views)


def test_parts_of_a_batch_are_the_batch_whoever_draws_them():
    whole = draw(some_samples(), 12, blank_share=0.3)
    for first in range(0, 12, 4):
        share = draw(some_samples(), 12, blank_share=0.3, share=range(first, first + 4))
        for name in MAPS:
            assert torch.equal(getattr(share, name), getattr(whole, name)[first : first + 4])


def test_exposure_of_batches_is_scattered_around_that_of_the_deployed_model():
    views = draw(some_samples(), 200).views
    means = views.mean(dim=(1, 2, 3)).numpy() / 0.2
    assert views.min() >= 0 and views.max() <= 1
    assert np.exp(-0.71) < means.min() < 0.6 and 1.7 < means.max() < np.exp(0.71)
    assert np.median(np.log(means)) == pytest.approx(0, abs=0.12)


def test_batches_show_the_light_as_the_deployed_model_sees_it():
    linear = draw(some_samples(), 20)
    root = draw(some_samples(), 20, exposure=ExposureNormalisation(transfer="square_root"))
    assert torch.equal(root.views, linear.views.sqrt())
    assert torch.equal(root.label, linear.label)


def test_the_first_steps_show_light_itself_where_the_recipe_says_so():
    root = ExposureNormalisation(transfer="square_root")
    for step in (6, 7):
        light, seen = (draw(some_samples(), 8, step, exposure=e, linear_steps=7).views for e in (EXPOSURE, root))
        assert torch.equal(seen, light if step < 7 else light.sqrt())


def test_targets_are_those_of_the_recipe():
    samples = some_samples()
    labels, truth = draw(samples, 8), draw(samples, 8, targets=TargetRecipe(supervision="ground_truth"))
    everywhere = draw(samples, 8, targets=TargetRecipe(supervision="ground_truth", use_mask=False))
    assert torch.equal(labels.mask, truth.mask) and not labels.mask.all() and everywhere.mask.all()
    assert torch.equal(truth.label, everywhere.label)
    difference = (labels.label - truth.label).abs()
    assert 0 < difference.max() < 0.6


def test_captures_without_a_label_are_not_drawn():
    samples = some_samples(6)
    samples.mask[[0, 2, 5]] = False
    batch = draw(samples, 50)
    assert batch.mask.flatten(1).any(1).all()
    assert InMemory(samples, use_mask=True).usable.tolist() == [1, 3, 4]
    assert len(InMemory(samples, use_mask=False).usable) == 6
    samples.mask[:] = False
    with pytest.raises(TrainingError, match="the mask is empty in each of 6 captures: nothing to learn from"):
        InMemory(samples, use_mask=True)


@pytest.mark.parametrize("threads", [1, 3])
def test_batches_are_made_ahead_in_order(threads):
    make, made = maker(some_samples()), []

    def slowly(step):
        time.sleep(0.02 if step % 2 else 0.0)
        made.append((step, threading.current_thread() is threading.main_thread()))
        return make(0, step, stage(2), range(2))

    ahead = Ahead(slowly, range(5, 12), threads)
    for step, batch in enumerate(ahead, 5):
        time.sleep(0.03)
        assert_equal(batch, make(0, step, stage(2), range(2)))
        assert len(made) > step - 5 + (step < 11)  # the next one is there already
    assert sorted(step for step, _ in made) == list(range(5, 12)) and not any(in_main for _, in_main in made)


def test_time_that_batches_were_waited_for_is_measured():
    make = maker(some_samples())
    ahead = Ahead(lambda step: time.sleep(0.1) or make(0, step, stage(2), range(2)), range(3))
    for _ in ahead:
        pass
    assert 0.25 < ahead.waited() < 3
    assert ahead.waited() == 0
    for _ in (quick := Ahead(lambda step: make(0, step, stage(2), range(2)), range(3))):
        time.sleep(0.1)
    assert quick.waited() < 0.2


def test_error_in_a_thread_reaches_the_loop():
    def broken(step):
        raise TrainingError(f"step {step}")

    with pytest.raises(TrainingError, match="step 4"):
        list(Ahead(broken, range(4, 9)))
