import dataclasses
import json
import resource

import numpy as np
import pytest
import torch

from edge_dp.cli import main
from edge_dp.errors import InputError, SchemaError, TrainingError
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.teachers import stereo_training
from edge_dp.training.teachers.stereo_data import Augmentation, StereoData, draw_batch, render_capture
from edge_dp.training.teachers.stereo_network import StereoNetwork
from edge_dp.training.teachers.stereo_training import (
    RECIPES,
    StereoRecipe,
    batch_loss,
    coarse_target,
    learning_rate,
    read_stereo_recipe,
    train_stereo,
)

SCENES = SceneConfig(height=48, width=80, margin=0, disparity=(-1.0, 2.0))
DATA = StereoData(captures=3, held_out=1, crop=(32, 64), scene=SCENES)
RECIPE = StereoRecipe(
    name="tiny", seed=5, data=DATA, steps=6, batch=2, learning_rate=1e-3, warmup_steps=1, decay_steps=2,
    disparities=20, save_every=2,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order: bit-identical runs are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class KilledError(Exception):
    pass


def train(folder, recipe=RECIPE, resume=False, kill_at=None):
    def progress(stage, done, total, text):
        assert stage == "stereo" and 0 < done <= total == recipe.steps
        if done == kill_at:
            raise KilledError

    return train_stereo(recipe, folder, resume=resume, progress=progress)


def test_a_killed_run_that_is_resumed_ends_with_the_same_bytes(tmp_path):
    whole = train(tmp_path / "whole")
    with pytest.raises(KilledError):
        train(tmp_path / "cut", kill_at=5)
    render_capture.cache_clear()
    cut = train(tmp_path / "cut", resume=True)
    assert cut.read_bytes() == whole.read_bytes()
    assert cut.with_suffix(".json").read_bytes() == whole.with_suffix(".json").read_bytes()


def test_a_shorter_run_is_the_beginning_of_a_longer_one():
    """Up to the plateau's end, so that a run can be cut short and still be what its recipe says."""
    longer = dataclasses.replace(RECIPE, steps=100, warmup_steps=10, decay_steps=20)
    shorter = dataclasses.replace(longer, steps=60)
    rates = [[learning_rate(recipe, step) for step in range(recipe.steps)] for recipe in (longer, shorter)]
    assert rates[0][:40] == rates[1][:40]
    assert rates[0][40] == RECIPE.learning_rate and 0 < rates[1][-1] < RECIPE.learning_rate / 20
    assert rates[0][0] < rates[0][5] < rates[0][10] == RECIPE.learning_rate


def test_the_last_steps_see_the_rigs_of_the_finish(tmp_path, monkeypatch):
    finish = dataclasses.replace(DATA, gain=(5.0, 6.0), captures=2)
    seen = []

    def drawn(seed, step, size, data):
        seen.append((step, data))
        return draw_batch(seed, step, size, data)

    monkeypatch.setattr(stereo_training, "draw_batch", drawn)
    train(tmp_path / "run", dataclasses.replace(RECIPE, finish=finish))
    assert seen == [(0, DATA), (1, DATA), (2, DATA), (3, DATA), (4, finish), (5, finish)]


def test_captures_and_batches_depend_on_their_numbers_alone():
    first = draw_batch(5, 3, 2, DATA)
    render_capture.cache_clear()
    again, other = draw_batch(5, 3, 2, DATA), draw_batch(5, 4, 2, DATA)
    assert (first.views == again.views).all() and (first.disparity == again.disparity).all()
    assert not (first.views == other.views).all()


def test_batches_obey_the_sign_of_stereo():
    """left(x) = right(x - D) = opposite(x + D), in mirrored and upside-down crops too."""
    plain = Augmentation(gamma=(1, 1), gain=(1, 1), noise=(0, 0), blur_share=0)
    data = dataclasses.replace(DATA, augmentation=plain, scene=dataclasses.replace(SCENES, disparity=(0.0, 1.0)))
    columns = np.arange(data.crop[1])
    for step in range(4):
        batch = draw_batch(9, step, 2, data)
        for views, disparity in zip(batch.views, batch.disparity[:, 0], strict=True):
            errors = []
            for sign, other in ((1, views[1]), (-1, views[2]), (-1, views[1]), (1, views[2])):
                warped = [np.interp(columns - sign * d, columns, row) for row, d in zip(other, disparity, strict=True)]
                errors.append(np.median(np.abs(warped - views[0])[:, 14:-14]))
            assert errors[0] + errors[1] < 0.02
            assert errors[0] + errors[1] < 0.5 * (errors[2] + errors[3])


def test_coarse_target_is_the_mean_disparity_of_each_cell():
    truth = torch.from_numpy(np.random.default_rng(0).uniform(0, 18, (2, 1, 8, 12)).astype(np.float32))
    target = coarse_target(truth, 20)
    assert target.shape == (2, 20, 2, 3)
    assert target.sum(1).numpy() == pytest.approx(np.ones((2, 2, 3)), abs=1e-5)
    mean = (target * torch.arange(20).view(1, -1, 1, 1)).sum(1)
    assert mean.numpy() == pytest.approx(torch.nn.functional.avg_pool2d(truth, 4)[:, 0].numpy(), abs=1e-4)


@pytest.mark.parametrize("supervision", ["truth", "photometric"])
def test_a_few_steps_on_one_batch_lower_its_loss(supervision):
    recipe = dataclasses.replace(RECIPE, supervision=supervision)
    torch.manual_seed(0)
    network, batch = StereoNetwork(8).train(), draw_batch(5, 0, 2, DATA)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss, _ = batch_loss(network, batch, recipe)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_self_supervision_never_looks_at_the_truth():
    recipe = dataclasses.replace(RECIPE, supervision="photometric")
    batch = draw_batch(5, 0, 2, DATA)
    blind = dataclasses.replace(batch, disparity=np.zeros_like(batch.disparity))
    torch.manual_seed(0)
    network = StereoNetwork(8).eval()
    seen, unseen = (batch_loss(network, one, recipe)[0].item() for one in (batch, blind))
    assert seen == unseen


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    def loss(network, *_):
        return sum(p.sum() for p in network.parameters()) * float("nan"), 1.0

    monkeypatch.setattr(stereo_training, "batch_loss", loss)
    with pytest.raises(TrainingError, match="step 0: the loss is not finite; lower learning_rate"):
        train(tmp_path / "run")


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    """No file may grow beyond a few kB, as on a full disk, once the first state is written."""
    size = []

    def progress(stage, done, total, text):
        if done == 3:
            size.append((tmp_path / "state.safetensors").read_bytes())
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError, match=r"state.safetensors: expected a place that can be written"):
            train_stereo(RECIPE, tmp_path, progress=progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.safetensors").read_bytes() == size[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.json", "state.safetensors"]
    train(tmp_path, resume=True)


def test_a_damaged_state_is_named(tmp_path):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at=3)
    (tmp_path / "state.safetensors").write_bytes(b"rubbish")
    with pytest.raises(TrainingError, match=r"state.safetensors: damaged state .*; delete it"):
        train(tmp_path, resume=True)


def test_another_recipe_does_not_resume_a_run(tmp_path):
    with pytest.raises(KilledError):
        train(tmp_path, kill_at=1)
    with pytest.raises(InputError, match="batch"):
        train(tmp_path, dataclasses.replace(RECIPE, batch=3), resume=True)
    with pytest.raises(InputError, match="holds a run already"):
        train(tmp_path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_read_and_named_for_their_files(path):
    assert read_stereo_recipe(path.stem).name == path.stem


def test_unknown_recipes_are_refused():
    with pytest.raises(InputError, match=r"stereo: no such recipe file.*shipped are stereo_net"):
        read_stereo_recipe("stereo")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"supervision": "labels"}, "supervision: expected 'truth' or 'photometric'"),
        ({"steps": 0}, "must be positive"),
        ({"learning_rate": -1.0}, "must be positive"),
        ({"decay_steps": 6}, "warmup_steps 1 and decay_steps 6 are more than steps 6"),
        ({"seed": -1}, "must not be negative"),
        ({"finish": DATA, "decay_steps": 0}, "finish: expected decay_steps above 0"),
    ],
)
def test_contradictory_recipes_are_refused(change, message):
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(RECIPE, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"captures": 0}, "at least one capture"),
        ({"gain": (0.0, 2.0)}, "gain: expected least and largest above 0"),
        ({"crop": (30, 64)}, "crop: expected multiples of 4"),
        ({"crop": (32, 96)}, "crop: expected multiples of 4"),
    ],
)
def test_data_that_cannot_be_is_refused(change, message):
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(DATA, **change)


def test_augmentation_ranges_are_checked():
    with pytest.raises(SchemaError, match="gamma: expected least and largest"):
        Augmentation(gamma=(1.2, 0.8))
    with pytest.raises(SchemaError, match="blur_share"):
        Augmentation(blur_share=1.5)


def test_the_verb_prints_weights_and_card_as_json(tmp_path, capsys):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps(dataclasses.asdict(RECIPE)))
    assert main(["train-teacher", str(recipe), "--out", str(tmp_path / "run"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["weights"] == str(tmp_path / "run" / "weights.safetensors")
    assert told["card"] == json.loads((tmp_path / "run" / "weights.json").read_text())
