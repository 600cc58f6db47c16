import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.ndimage import gaussian_filter, shift
from scipy.optimize import minimize_scalar

from edge_dp.errors import InputError, TrainingError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.models.registry import STUDENTS, build_student
from edge_dp.optics.psf import HalfAperture
from edge_dp.quantization import qat
from edge_dp.quantization.qat import convert, freeze_ranges, observe_weights, prepare, read_ranges, restore_ranges
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.render import render_views
from edge_dp.simulation.scenes import Layer, Scene, SceneConfig
from edge_dp.training import distill
from edge_dp.training.labels import Samples, read_shards
from edge_dp.training.recipe import DataRecipe, Recipe, StageRecipe

STUDENT = next(iter(STUDENTS))
HELD_OUT = 8
SCENES = SceneConfig(height=64, width=64, margin=24, disparity=(1.0, 3.0), one_sided_share=0.0)
RECIPE = Recipe(
    name="tiny",
    student=STUDENT,
    seed=3,
    data=DataRecipe(40, HELD_OUT, SimulationConfig(SCENES)),
    float_stage=StageRecipe(steps=40, batch=4, learning_rate=3e-3),
    quantised_stage=StageRecipe(steps=12, batch=4, learning_rate=5e-4, observe_steps=7, rounding_noise=0.5),
    save_every=5,
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order: bit-identical runs are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class KilledError(Exception):
    pass


def train(recipe, folder, resume=False, kill_at=None):
    def progress(stage, done, total, text):
        assert 0 <= done <= total
        if (stage, done) == kill_at:
            raise KilledError

    return distill.train(recipe, folder, resume=resume, workers=1, progress=progress)


@dataclasses.dataclass
class Finished:
    """An uninterrupted run: its folder, and what its steps and evaluations were given."""

    folder: object
    samples: Samples
    evaluated: list
    noise: list

    @property
    def checkpoint(self):
        return read_checkpoint(self.folder / "checkpoint")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder, seen, evaluated = tmp_path_factory.mktemp("runs") / "whole", [], []
    amplitudes, rounding_noise = [], qat.rounding_noise
    with pytest.MonkeyPatch.context() as patch:
        draw, evaluate = distill.draw_batch, distill.evaluate
        patch.setattr(distill, "draw_batch", lambda samples, *rest: seen.append(samples) or draw(samples, *rest))
        patch.setattr(distill, "evaluate", lambda *given: evaluated.append(given) or evaluate(*given))
        patch.setattr(qat, "rounding_noise", lambda *given: amplitudes.append(given[1]) or rounding_noise(*given))
        written = train(RECIPE, folder)
    assert written == folder / "checkpoint"
    return Finished(folder, seen[0], evaluated, amplitudes)


def everything_simulated(folder):
    return read_shards(sorted(folder.glob("captures_*/shard_*.npz")))


def test_held_out_captures_are_evaluated_and_never_trained_on(finished):
    everything = everything_simulated(finished.folder)
    assert len(finished.samples) == RECIPE.data.captures
    np.testing.assert_array_equal(finished.samples.views, everything.views[HELD_OUT : HELD_OUT + 40])
    assert len(finished.evaluated) == 2
    for _, held_out in finished.evaluated:
        np.testing.assert_array_equal(held_out.views, everything.views[:HELD_OUT])
        np.testing.assert_array_equal(held_out.truth, everything.truth[:HELD_OUT])


def test_error_goes_down_and_quantisation_keeps_it_there(finished):
    """Disparities of 1 to 3 px: a network that says 0 is off by 2, one that has learned their mean by half a px."""
    torch.manual_seed(RECIPE.seed)
    untrained = distill.evaluate(build_student(STUDENT).eval(), finished.samples)
    quantised = finished.evaluated[1][0]
    assert untrained > 1.5
    assert distill.evaluate(finished.checkpoint.build(), finished.samples) < 0.35 * untrained
    assert distill.evaluate(quantised, finished.samples) < 0.35 * untrained
    metrics = finished.checkpoint.training["metrics"]
    assert 0 < metrics["held_out_epe_px_float"] < 0.35 * untrained


def test_checkpoint_is_the_trained_network_float_and_quantised(finished):
    checkpoint = finished.checkpoint
    trained = finished.evaluated[1][0]
    views = torch.rand(2, 2, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5
    prepared = prepare(checkpoint.build(), (torch.zeros(1, 2, 64, 64),))
    restore_ranges(prepared, checkpoint.ranges)
    observe_weights(prepared)
    with torch.no_grad():
        for mine, its in ((prepared, trained), (convert(prepared), convert(trained))):
            for a, b in zip(mine(views), its(views), strict=True):
                assert torch.equal(a, b)
    for name, array in checkpoint.weights.items():
        np.testing.assert_array_equal(array, trained.get_parameter(name).detach().numpy())
    assert distill.evaluate(prepared, finished.evaluated[1][1]) == pytest.approx(
        checkpoint.training["metrics"]["held_out_epe_px_quantised"], abs=6e-5
    )


def test_ranges_are_frozen_after_the_steps_that_the_recipe_says(finished):
    """In the last save, which is older than the freeze that ends every stage."""
    state = load_file(finished.folder / "quantised.safetensors")
    observing = [bool(value.item()) for name, value in state.items() if name.endswith("observer_enabled")]
    assert observing.count(False) == len(finished.checkpoint.ranges)
    assert any(observing)  # those of the weights go on
    assert finished.noise == [RECIPE.quantised_stage.rounding_noise]  # added once, from then on


def test_checkpoint_says_where_it_comes_from(finished):
    checkpoint = finished.checkpoint
    assert checkpoint.student == STUDENT and checkpoint.input_size == STUDENTS[STUDENT].size
    training = checkpoint.training
    assert training["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPE)))
    assert training["ground_truth_used"] is False
    for key in ("data", "data_licence", "teacher", "teacher_licence"):
        assert training[key]
    everything = everything_simulated(finished.folder)
    label, truth = everything.label[:HELD_OUT].astype(float), everything.truth[:HELD_OUT].astype(float)
    expected = np.abs(label - truth)[everything.mask[:HELD_OUT]].mean()
    assert training["metrics"]["held_out_epe_px_teacher"] == pytest.approx(expected, abs=1e-3)


def test_run_that_is_killed_again_and_again_ends_in_the_same_bits(finished, tmp_path):
    folder = tmp_path / "killed"
    # Before any save; between two; while ranges are observed; and once they are frozen and noise is added.
    kills = ("simulate", 0), ("float", 13), ("quantised", 6), ("quantised", 9), ("quantised", 11)
    for attempt, kill_at in enumerate(kills):
        with pytest.raises(KilledError):
            train(RECIPE, folder, resume=attempt > 0, kill_at=kill_at)
        assert not (folder / "checkpoint").exists()
    train(RECIPE, folder, resume=True)
    resumed, whole = read_checkpoint(folder / "checkpoint"), finished.checkpoint
    assert resumed.ranges == whole.ranges
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array)
    assert resumed.training["metrics"] == whole.training["metrics"]


def test_finished_run_is_resumed_without_further_steps(finished):
    before = {path.name: path.read_bytes() for path in (finished.folder / "checkpoint").iterdir()}
    steps = []
    report = lambda stage, done, total, text: steps.append(stage)  # noqa: E731
    distill.train(RECIPE, finished.folder, resume=True, workers=1, progress=report)
    assert set(steps) == {"simulate"}
    after = {path.name: path.read_bytes() for path in (finished.folder / "checkpoint").iterdir()}
    for name in ("config.yaml", "weights.safetensors", "quantization.json"):
        assert after[name] == before[name]


def test_folder_with_a_run_is_not_overwritten(finished):
    with pytest.raises(InputError, match=r"holds a run already.*--resume"):
        train(RECIPE, finished.folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed: expected 4, found 3"),
        ({"float_stage": StageRecipe(41, 4, 3e-3)}, "float_stage.steps: expected 41, found 40"),
        ({"save_every": 6}, "save_every: expected 6, found 5"),
    ],
)
def test_run_of_another_recipe_is_not_resumed(finished, change, message):
    with pytest.raises(InputError, match=rf"recipe\.json: {message}\. Resume with the settings it was begun with"):
        train(dataclasses.replace(RECIPE, **change), finished.folder, resume=True)


def test_folder_without_a_run_is_not_resumed_nor_filled(tmp_path):
    with pytest.raises(InputError, match=r"empty: nothing to resume, no recipe\.json there"):
        train(RECIPE, tmp_path / "empty", resume=True)
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="found other files"):
        train(RECIPE, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


class Linear(torch.nn.Module):
    """The smallest network with a student's interface."""

    def __init__(self):
        super().__init__()
        self.disparity = torch.nn.Conv2d(2, 1, 2, 2)
        self.confidence = torch.nn.Conv2d(2, 1, 2, 2)

    def forward(self, views):
        return self.disparity(views), self.confidence(views)


def some_samples(count=12, size=16, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.uniform(0.05, 0.3, (count, 2, size, size)).astype(np.float16)
    label = rng.normal(0, 1, (count, size // 2, size // 2)).astype(np.float16)
    return Samples(views, label, np.ones_like(label), rng.uniform(size=label.shape) < 0.8, label)


def run_stage(folder, module, steps=20, save_every=5):
    stage = StageRecipe(steps=steps, batch=4, learning_rate=0.01)
    recipe = dataclasses.replace(RECIPE, float_stage=stage, save_every=save_every)
    run = distill._Run(recipe, folder, some_samples(), lambda *_: None)
    run.stage("float", 0, module, stage)


def states_are_finite(path):
    return all(np.isfinite(array).all() for array in load_file(path).values())


def test_loss_that_is_not_a_number_ends_the_stage_and_keeps_the_last_save(tmp_path, monkeypatch):
    draw = distill.draw_batch

    def broken_from_step_12(samples, seed, stage, step, size, blank_share):
        views, label, mask = draw(samples, seed, stage, step, size, blank_share)
        return views, label * math.nan if step >= 12 else label, mask

    monkeypatch.setattr(distill, "draw_batch", broken_from_step_12)
    with pytest.raises(TrainingError, match=r"float stage, step 12: the loss is not finite; lower learning_rate"):
        run_stage(tmp_path, Linear())
    state = load_file(tmp_path / "float.safetensors")
    assert states_are_finite(tmp_path / "float.safetensors")
    assert state["optimiser/disparity.weight/step"] == 10

    monkeypatch.setattr(distill, "draw_batch", draw)
    run_stage(tmp_path, Linear())  # and it can be gone on with
    assert load_file(tmp_path / "float.safetensors")["optimiser/disparity.weight/step"] == 20


def test_likelihood_that_is_not_a_number_is_never_saved(tmp_path, monkeypatch):
    likelihood, calls = distill.laplace_nll, []

    def broken_at_step_9(*maps):
        calls.append(1)
        return likelihood(*maps) * (math.nan if len(calls) == 10 else 1)

    monkeypatch.setattr(distill, "laplace_nll", broken_at_step_9)
    with pytest.raises(TrainingError, match="step 9"):
        run_stage(tmp_path, Linear())
    assert states_are_finite(tmp_path / "float.safetensors")


def test_saved_state_of_a_quantised_stage_keeps_the_smallest_scale(tmp_path):
    """Otherwise a resumed run writes ranges that a freshly prepared graph finds contradictory."""

    def prepared_with_a_dead_output():
        module = Linear()
        for parameter in module.disparity.parameters():
            torch.nn.init.zeros_(parameter)
        graph = prepare(module.eval(), (torch.zeros(1, 2, 16, 16),))
        return graph, dict(graph.named_parameters()), torch.optim.AdamW(graph.parameters())

    first, second = prepared_with_a_dead_output(), prepared_with_a_dead_output()
    with torch.no_grad():
        first[0](torch.rand(1, 2, 16, 16))
    distill._save_state(tmp_path / "state.safetensors", 7, *first)
    assert distill._load_state(tmp_path / "state.safetensors", *second) == 7
    freeze_ranges(first[0])
    freeze_ranges(second[0])
    assert min(entry.scale for entry in read_ranges(first[0])) == 2.0**-12
    assert read_ranges(second[0]) == read_ranges(first[0])


@pytest.mark.parametrize("keep", [0, 100, -50])
def test_damaged_state_is_named_with_what_to_do(tmp_path, keep):
    run_stage(tmp_path, Linear(), steps=5)
    path = tmp_path / "float.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TrainingError, match=r"float\.safetensors: damaged state .*delete it"):
        run_stage(tmp_path, Linear())


def test_optimiser_is_adamw_with_clipped_gradients_and_the_scheduled_rate(tmp_path):
    """One step by hand: from zero moments AdamW moves each weight by the rate against the gradient's sign, after decay."""
    torch.manual_seed(0)
    module = Linear()
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    views, label, mask = distill.draw_batch(some_samples(), RECIPE.seed, 0, 0, 4)
    disparity, confidence = module(views)
    loss = distill.laplace_nll(disparity, confidence, label, mask) + distill.l1(disparity, label, mask)
    gradients = dict(zip(before, torch.autograd.grad(loss, list(module.parameters())), strict=True))
    run_stage(tmp_path, module, steps=1)
    for name, value in module.named_parameters():
        expected = before[name] * (1 - 0.01 * 1e-4) - 0.01 * torch.sign(gradients[name])
        torch.testing.assert_close(value.detach(), expected, atol=1e-5, rtol=0)


def test_blank_views_keep_their_labels_and_the_rest_of_the_batch():
    """A share of the views has nothing to match in it: noise or one level; labels, masks and the other views stay."""
    plain = distill.draw_batch(some_samples(), 3, 1, 0, 64)
    mixed = distill.draw_batch(some_samples(), 3, 1, 0, 64, 0.5)
    changed = (plain[0] != mixed[0]).flatten(1).any(1)
    assert 16 < int(changed.sum()) < 48
    for label_or_mask in (1, 2):
        torch.testing.assert_close(plain[label_or_mask], mixed[label_or_mask], rtol=0, atol=0)
    blank = mixed[0][changed]
    assert 0.0 <= blank.min() and blank.max() <= 1.0
    assert {0.0, 1.0} <= set(blank.flatten(1).min(1).values.tolist()) | set(blank.flatten(1).max(1).values.tolist())
    everything = distill.draw_batch(some_samples(), 3, 1, 0, 64, 1.0)[0]
    assert (everything != plain[0]).flatten(1).any(1).all()
    torch.testing.assert_close(distill.draw_batch(some_samples(), 3, 1, 0, 64, 0.5)[0], mixed[0], rtol=0, atol=0)


@pytest.mark.parametrize("disparity", [-2.5, 0.0, 1.75])
def test_flipped_and_mirrored_batches_keep_the_disparity_and_its_sign(disparity):
    """Rendered planes, matched after the batch function has had its way with them."""
    texture = gaussian_filter(np.random.default_rng(0).standard_normal((64, 400)), 14, mode="wrap")
    texture = (0.2 + 0.15 * texture / abs(texture).max()).astype(np.float32)
    scene = Scene((Layer(texture[None], np.ones_like(texture), (disparity, 0.0, 0.0)),), -5, 5)
    views = render_views(scene, HalfAperture(strength=0.4), 16)[:, 0]
    label = np.full((1, 16, 184), disparity, np.float16)
    samples = Samples(views[None].astype(np.float16), label, np.ones_like(label), np.ones(label.shape, bool), label)
    batch, labels, _ = distill.draw_batch(samples, 0, 0, 0, 24)
    first_columns = set()
    for (left, right), its_label in zip(batch.numpy().astype(float), labels.numpy(), strict=True):
        first_columns.add(round(left[0, 0] / left.mean(), 2))
        assert (its_label == disparity).all()

        def difference(d, left=left, right=right):
            return np.mean((left - shift(right, (0, -d), order=3, mode="nearest"))[:, 8:-8] ** 2)

        coarse = min(np.arange(-4, 4.1, 0.5), key=difference)
        found = minimize_scalar(difference, bounds=(coarse - 0.6, coarse + 0.6), method="bounded").x
        assert found == pytest.approx(disparity, abs=0.06)
    assert len(first_columns) == 4  # as it was, upside down, mirrored, both


def test_views_label_and_mask_of_a_batch_are_turned_together():
    rng = np.random.default_rng(1)
    views = (0.02 + 0.2 * rng.uniform(size=(5, 2, 12, 16))).astype(np.float16)
    label = views.astype(np.float32).mean(axis=1).reshape(5, 6, 2, 8, 2).mean(axis=(2, 4)).astype(np.float16)
    samples = Samples(views, label, np.ones_like(label), label > 0.12, label)
    kept = views.copy()
    seen, labels, masks = distill.draw_batch(samples, 0, 0, 0, 40)
    assert seen.shape == (40, 2, 12, 16) and labels.shape == masks.shape == (40, 1, 6, 8)
    for view, one_label, mask in zip(seen.numpy(), labels.numpy()[:, 0], masks.numpy()[:, 0], strict=True):
        cells = view.mean(axis=0).reshape(6, 2, 8, 2).mean(axis=(1, 3))
        ratio = cells / one_label  # the exposure: one factor for the whole capture
        assert ratio.std() < 5e-3 * ratio.mean()
        np.testing.assert_array_equal(mask, one_label > 0.12)
    np.testing.assert_array_equal(samples.views, kept)  # the set itself is not turned


def test_batch_depends_on_seed_stage_and_step_alone():
    samples = some_samples()
    first = distill.draw_batch(samples, 1, 0, 7, 4)
    np.random.default_rng(0).uniform()
    torch.manual_seed(99)
    for a, b in zip(first, distill.draw_batch(samples, 1, 0, 7, 4), strict=True):
        assert torch.equal(a, b)
    for other in ((2, 0, 7), (1, 1, 7), (1, 0, 8)):
        assert not torch.equal(first[0], distill.draw_batch(samples, *other, 4)[0])


def test_exposure_of_batches_is_scattered_around_that_of_the_deployed_model():
    views, _, _ = distill.draw_batch(some_samples(), 0, 0, 0, 200)
    means = views.mean(dim=(1, 2, 3)).numpy() / 0.2
    assert views.min() >= 0 and views.max() <= 1
    assert np.exp(-0.71) < means.min() < 0.6 and 1.7 < means.max() < np.exp(0.71)
    assert np.median(np.log(means)) == pytest.approx(0, abs=0.12)


def test_evaluation_is_the_mean_absolute_error_against_the_truth_over_all_pixels():
    class Constant(torch.nn.Module):
        def forward(self, views):
            assert views.mean(dim=(1, 2, 3)).sub(0.2).abs().max() < 1e-3  # exposed as the deployed model sees it
            maps = torch.full((len(views), 1, *(side // 2 for side in views.shape[2:])), 0.25)
            return maps, maps

    samples = dataclasses.replace(
        some_samples(21), mask=np.zeros((21, 8, 8), bool), label=np.zeros((21, 8, 8), np.float16)
    )
    expected = np.abs(0.25 - samples.truth.astype(float)).mean()
    assert distill.evaluate(Constant(), samples) == pytest.approx(expected, rel=1e-4)


def test_learning_rate_rises_for_a_tenth_and_falls_as_half_a_cosine():
    stage = StageRecipe(steps=100, batch=1, learning_rate=0.02)
    rates = [distill.learning_rate(stage, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.002 * k for k in range(1, 11)])
    assert rates[10] == pytest.approx(0.02)
    assert rates[55] == pytest.approx(0.01)  # half way down
    assert rates[40] == pytest.approx(0.02 * math.cos(math.pi / 6) ** 2)  # a third of the way: cos^2 of half the angle
    assert 0 < rates[99] < 1e-5
    assert (np.diff(rates[10:]) < 0).all()
    assert distill.learning_rate(StageRecipe(1, 1, 0.02), 0) == 0.02
