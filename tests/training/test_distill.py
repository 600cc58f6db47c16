import dataclasses
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edge_dp.errors import InputError, MissingExtraError, TrainingError
from edge_dp.models.checkpoint import read_checkpoint
from edge_dp.models.registry import STUDENTS, build_student
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.quantization import qat
from edge_dp.quantization.qat import convert, observe_weights, prepare, restore_ranges
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training import distill
from edge_dp.training.labels import Samples, read_shards
from edge_dp.training.loop.evaluate import end_point_error
from edge_dp.training.loop.sources import Simulated, join, part
from edge_dp.training.recipe import DataRecipe, FloatStageRecipe, LogRecipe, QuantisedStageRecipe, Recipe, TargetRecipe

STUDENT = "dp_disparity_s"
HELD_OUT = 8
SCENES = SceneConfig(height=32, width=64, margin=16, disparity=(1.0, 3.0), one_sided_share=0.0)
RECIPE = Recipe(
    name="tiny",
    student=STUDENT,
    seed=3,
    data=DataRecipe(40, HELD_OUT, simulation=SimulationConfig(SCENES)),
    float_stage=FloatStageRecipe(steps=40, batch=4, learning_rate=2e-2, ema=0.5),
    quantised_stage=QuantisedStageRecipe(
        steps=12, batch=4, learning_rate=5e-4, observe_steps=7, range_quantile=0.99, rounding_noise=0.5
    ),
    exposure=ExposureNormalisation(transfer="square_root"),
    log=LogRecipe(every=4, pictures_every=10),
    save_every=5,
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order: bit-identical runs are compared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class KilledError(Exception):
    pass


def train(recipe, folder, resume=False, kill_at=None, on_step=lambda *_: None):
    def progress(stage, done, total, text):
        assert 0 <= done <= total
        on_step(stage, done)
        if (stage, done) == kill_at:
            raise KilledError

    return distill.train(recipe, folder, resume=resume, workers=1, progress=progress)


@dataclasses.dataclass
class Finished:
    """An uninterrupted run: its folder, the captures it trained on, what was evaluated, and the noise of its last stage."""

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
        in_memory, evaluate = distill.InMemory, distill.end_point_error
        patch.setattr(distill, "InMemory", lambda samples, **how: seen.append(samples) or in_memory(samples, **how))
        patch.setattr(distill, "end_point_error", lambda *given: evaluated.append(given) or evaluate(*given))
        patch.setattr(qat, "rounding_noise", lambda *given: amplitudes.append(given[1]) or rounding_noise(*given))
        written = train(RECIPE, folder)
    assert written == folder / "checkpoint"
    return Finished(folder, seen[0], evaluated, amplitudes)


def begin(folder, recipe, finished):
    """A run of another recipe on the same captures, killed when they had been made."""
    folder.mkdir(parents=True)
    for captures in finished.folder.glob("captures_*"):
        shutil.copytree(captures, folder / captures.name)
    (folder / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    return folder


def everything_simulated(folder):
    return read_shards(sorted(folder.glob("captures_*/shard_*.npz")))


def assert_same_weights(folder, other):
    mine, its = read_checkpoint(folder / "checkpoint"), read_checkpoint(other / "checkpoint")
    assert mine.ranges == its.ranges
    for name, array in its.weights.items():
        np.testing.assert_array_equal(mine.weights[name], array)
    assert mine.training["metrics"] == its.training["metrics"]


def test_held_out_captures_are_evaluated_and_never_trained_on(finished):
    everything = everything_simulated(finished.folder)
    assert len(finished.samples) == RECIPE.data.captures
    np.testing.assert_array_equal(finished.samples.views, everything.views[HELD_OUT : HELD_OUT + 40])
    assert len(finished.evaluated) == 2
    for _, held_out, *_ in finished.evaluated:
        np.testing.assert_array_equal(held_out.views, everything.views[:HELD_OUT])
        np.testing.assert_array_equal(held_out.truth, everything.truth[:HELD_OUT])


def error(module, samples):
    return end_point_error(module, samples, RECIPE.exposure, CPU)


def test_error_goes_down_and_quantisation_keeps_it_there(finished):
    """Disparities of 1 to 3 px: a network that says 0 is off by 2, one that has learned their mean by half a px."""
    torch.manual_seed(RECIPE.seed)
    untrained = error(build_student(STUDENT).eval(), finished.samples)
    quantised = finished.evaluated[1][0]
    assert untrained > 1.5
    assert error(finished.checkpoint.build(), finished.samples) < 0.4 * untrained
    assert error(quantised, finished.samples) < 0.4 * untrained
    metrics = finished.checkpoint.training["metrics"]
    assert 0 < metrics["held_out_epe_px_float"] < 0.4 * untrained


def test_checkpoint_is_the_trained_network_float_and_quantised(finished):
    checkpoint = finished.checkpoint
    trained = finished.evaluated[1][0]
    views = torch.rand(2, 2, 32, 64, generator=torch.Generator().manual_seed(0)) * 0.5
    prepared = prepare(checkpoint.build(), (torch.zeros(1, 2, 32, 64),))
    restore_ranges(prepared, checkpoint.ranges)
    observe_weights(prepared)
    with torch.no_grad():
        for mine, its in ((prepared, trained), (convert(prepared), convert(trained))):
            for a, b in zip(mine(views), its(views), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
    for name, array in checkpoint.weights.items():
        np.testing.assert_array_equal(array, trained.get_parameter(name).detach().numpy())
    quantised = checkpoint.training["metrics"]["held_out_epe_px_quantised"]
    assert error(prepared, finished.evaluated[1][1]) == pytest.approx(quantised, abs=6e-5)


def test_ranges_are_frozen_after_the_steps_that_the_recipe_says(finished):
    """In the last save, which is older than the freeze that ends every stage."""
    state = load_file(finished.folder / "quantised.safetensors")
    observing = [bool(value.item()) for name, value in state.items() if name.endswith("observer_enabled")]
    assert observing.count(False) == len(finished.checkpoint.ranges)
    assert any(observing)  # those of the weights go on
    assert finished.noise == [RECIPE.quantised_stage.rounding_noise]  # added once, from then on


def test_average_of_the_weights_is_what_is_evaluated(finished):
    """The last save has both; batch-norm is folded only after that."""
    state = load_file(finished.folder / "float.safetensors")
    averages = {name: value for name, value in state.items() if name.startswith("average/")}
    student = build_student(STUDENT)
    values = {name: torch.from_numpy(state[f"module/{name}"]) for name in student.state_dict()}
    values |= {name.removeprefix("average/"): torch.from_numpy(value) for name, value in averages.items()}
    student.load_state_dict(values)
    assert averages and any(
        (value != state[name.replace("average/", "module/")]).any() for name, value in averages.items()
    )
    reported = finished.checkpoint.training["metrics"]["held_out_epe_px_float"]
    assert error(student, finished.evaluated[0][1]) == pytest.approx(reported, abs=6e-5)


def test_checkpoint_says_where_it_comes_from(finished):
    checkpoint = finished.checkpoint
    assert checkpoint.student == STUDENT and checkpoint.input_size == STUDENTS[STUDENT].size
    training = checkpoint.training
    assert training["recipe"] == json.loads(json.dumps(dataclasses.asdict(RECIPE)))
    assert training["ground_truth_used"] is False
    assert training["teacher"] == "sgm" and "Apache-2.0" in training["teacher_licence"]
    for key in ("data", "data_licence", "teacher", "teacher_licence"):
        assert training[key]
    everything = everything_simulated(finished.folder)
    label, truth = everything.label[:HELD_OUT].astype(float), everything.truth[:HELD_OUT].astype(float)
    expected = np.abs(label - truth)[everything.mask[:HELD_OUT]].mean()
    assert training["metrics"]["held_out_epe_px_teacher"] == pytest.approx(expected, abs=1e-3)
    assert training["captures_without_labels"] == int(
        (~everything.mask[HELD_OUT : HELD_OUT + 40].any(axis=(1, 2))).sum()
    )
    assert set(training["data_wait_share"]) == {"float", "quantised"}
    assert all(0 <= share < 1 for share in training["data_wait_share"].values())


def test_numbers_and_pictures_are_kept_as_often_as_the_recipe_says(finished):
    lines = [json.loads(line) for line in (finished.folder / "log.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("float", step) for step in range(4, 41, 4)),
        *(("quantised", step) for step in (4, 8, 12)),
    ]
    for line in lines:
        assert line["loss"] == pytest.approx(line["l1"] + line["laplace_nll"], rel=1e-5)
        assert line["seconds_per_step"] > 0 and line["gradient_norm"] > 0
    assert lines[0]["learning_rate"] == pytest.approx(2e-2)
    pictures = sorted(path.stem for path in (finished.folder / "pictures").iterdir())
    assert pictures == [*(f"float_{step:06d}" for step in (10, 20, 30, 40)), "quantised_000010"]


def test_run_that_is_killed_again_and_again_ends_in_the_same_bits(finished, tmp_path):
    folder = tmp_path / "killed"
    # Before any save; between two; while ranges are observed; and once they are frozen and noise is added.
    kills = ("simulate", 0), ("float", 13), ("quantised", 6), ("quantised", 9), ("quantised", 11)
    for attempt, kill_at in enumerate(kills):
        with pytest.raises(KilledError):
            train(RECIPE, folder, resume=attempt > 0, kill_at=kill_at)
        assert not (folder / "checkpoint").exists()
        np.random.default_rng().uniform()
        torch.rand(3)
    train(RECIPE, folder, resume=True)
    assert_same_weights(folder, finished.folder)
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == [*range(4, 41, 4), 4, 8, 12]  # each once


JOINED = dataclasses.replace(
    RECIPE, student="dp_disparity_m", companion=STUDENT, float_stage=dataclasses.replace(RECIPE.float_stage, steps=6)
)


def test_student_is_joined_with_its_trained_companion(finished, tmp_path):
    """Without the quantised stage: the companion's weights are the checkpoint's, its heads halved; killing changes nothing."""
    companion = finished.folder / "checkpoint"
    recipe = dataclasses.replace(JOINED, companion=str(companion), quantised_stage=None)
    folder = begin(tmp_path / "run", recipe, finished)
    with pytest.raises(KilledError):
        train(recipe, folder, resume=True, kill_at=("float", 5))
    train(recipe, folder, resume=True)
    trained = read_checkpoint(folder / "checkpoint")
    its = {
        name.removeprefix("companion."): value
        for name, value in trained.weights.items()
        if name.startswith("companion.")
    }
    for name, value in finished.checkpoint.weights.items():
        is_head = name.split(".")[0] in ("disparity", "confidence")
        np.testing.assert_array_equal(its[name], value / 2 if is_head else value)
    metrics = trained.training["metrics"]
    assert error(trained.build(), finished.evaluated[0][1]) == pytest.approx(
        metrics["held_out_epe_px_joined"], abs=6e-5
    )
    assert metrics["held_out_epe_px_joined"] < metrics["held_out_epe_px_float"]  # of 6 steps
    assert trained.training["companion"] == f"{companion}, a {STUDENT}"
    assert f"| Joined with | {companion}, a {STUDENT} |" in (folder / "checkpoint/card.md").read_text()


def test_companion_that_sees_the_views_otherwise_is_refused(finished, tmp_path):
    linear = dataclasses.replace(RECIPE.exposure, transfer="linear")
    recipe = dataclasses.replace(JOINED, companion=str(finished.folder / "checkpoint"), exposure=linear)
    with pytest.raises(InputError, match=r"checkpoint: expected exposure .*'linear'.* found .*'square_root'"):
        train(recipe, tmp_path / "run")


def test_companion_of_another_kind_is_refused_before_anything_is_done(tmp_path):
    recipe = dataclasses.replace(JOINED, companion="dp_disparity_xs")
    with pytest.raises(InputError, match="companion: dp_disparity_xs: expected a checkpoint of dp_disparity_s"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_finished_run_is_resumed_without_further_steps(finished):
    before = {path.name: path.read_bytes() for path in (finished.folder / "checkpoint").iterdir()}
    steps = []
    train(RECIPE, finished.folder, resume=True, on_step=lambda stage, _: steps.append(stage))
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
        (
            {"float_stage": dataclasses.replace(RECIPE.float_stage, steps=41)},
            "float_stage.steps: expected 41, found 40",
        ),
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


@pytest.fixture
def full_disk(tmp_path):
    """A folder on a file system of its own, and a function that fills it or gives the space back."""
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], check=False, capture_output=True
    ).returncode:
        yield from limited_files(folder)
        return
    ballast = folder / "ballast"

    def fill(full):
        if not full:
            ballast.unlink()
            return
        with ballast.open("wb") as file:
            file.write(b"0" * (shutil.disk_usage(folder).free - 200_000))

    try:
        yield folder, fill
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def limited_files(folder):
    """Without the right to mount: files of at most 200 kB."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield folder, lambda full: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000 if full else soft, hard))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_full_disk_ends_the_run_and_keeps_the_last_good_save(finished, tmp_path, full_disk):
    place, fill = full_disk
    folder = begin(place / "run", RECIPE, finished)
    with pytest.raises(
        InputError, match=r"float\.safetensors: expected a place that can be written, found: .*Free space"
    ):
        train(RECIPE, folder, resume=True, on_step=lambda *at: fill(True) if at == ("float", 12) else None)
    state = folder / "float.safetensors"
    assert load_file(state)["optimiser/disparity.weight/step"] == 10
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]
    fill(False)
    train(RECIPE, folder, resume=True)
    assert_same_weights(folder, finished.folder)


FLOAT_ONLY = dataclasses.replace(
    RECIPE,
    quantised_stage=None,
    float_stage=FloatStageRecipe(steps=4, batch=2, learning_rate=1e-3, ema=0.0),
)


@pytest.mark.parametrize(
    "settings",
    [
        {"schedule": "one_cycle", "warmup": 0.3},
        {"precision": "bf16"},
        {"crop": (32, 32), "blank_share": 0.5},
        {"loss": {"affine_invariant_l1": 1.0, "edge_aware_smoothness": 0.1}},
        {"loss": {"l1": 1.0, "gradient_matching": 0.5}, "kernel_rate": 0.02},
        {"loss": {"gaussian_kl": 1.0, "gaussian_nll": 0.5}},
    ],
    ids="-".join,
)
def test_float_stage_trains_with_every_setting_and_ships_the_student_alone(finished, tmp_path, settings):
    stage = dataclasses.replace(FLOAT_ONLY.float_stage, **settings)
    sigma = "label" if "gaussian_kl" in stage.loss else "none"
    recipe = dataclasses.replace(FLOAT_ONLY, float_stage=stage, targets=TargetRecipe(sigma=sigma))
    folder = begin(tmp_path / "run", recipe, finished)
    train(recipe, folder, resume=True)
    checkpoint = read_checkpoint(folder / "checkpoint")
    assert checkpoint.ranges == ()
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in checkpoint.weights.values())
    assert set(checkpoint.training["metrics"]) == {"held_out_epe_px_float", "held_out_epe_px_teacher"}
    assert np.isfinite(checkpoint.training["metrics"]["held_out_epe_px_float"])


def test_a_stage_that_ends_before_its_schedule_is_the_beginning_of_the_whole_one(finished, tmp_path):
    whole = dataclasses.replace(FLOAT_ONLY, float_stage=RECIPE.float_stage)
    stage = dataclasses.replace(whole.float_stage, steps=5, schedule_steps=whole.float_stage.steps)
    part_of_it = dataclasses.replace(whole, float_stage=stage)
    folders = [begin(tmp_path / name, recipe, finished) for name, recipe in (("whole", whole), ("part", part_of_it))]
    with pytest.raises(KilledError):
        train(whole, folders[0], resume=True, kill_at=("float", 6))
    train(part_of_it, folders[1], resume=True)
    of_whole, of_part = (load_file(folder / "float.safetensors") for folder in folders)
    assert of_whole.keys() == of_part.keys()
    for name, array in of_whole.items():
        np.testing.assert_array_equal(of_part[name], array)


def test_supervision_by_ground_truth_is_said_in_the_checkpoint(finished, tmp_path):
    targets = TargetRecipe(supervision="ground_truth", use_mask=False)
    recipe = dataclasses.replace(FLOAT_ONLY, targets=targets)
    folder = begin(tmp_path / "run", recipe, finished)
    train(recipe, folder, resume=True)
    assert read_checkpoint(folder / "checkpoint").training["ground_truth_used"] is True


def test_captures_that_are_simulated_in_the_loop_are_those_of_the_shards(finished, tmp_path):
    """So the very same student comes out."""
    weights = []
    for where in ("workers", "loop"):
        data = dataclasses.replace(RECIPE.data, simulated=where)
        recipe = dataclasses.replace(FLOAT_ONLY, data=data)
        folder = begin(tmp_path / where, recipe, finished)
        train(recipe, folder, resume=True)
        weights.append(load_file(folder / "float.safetensors"))
    for name, value in weights[0].items():
        np.testing.assert_array_equal(weights[1][name], value)


def test_labelled_captures_are_trained_on_besides_and_say_where_they_come_from(finished, tmp_path):
    """Here without any simulated ones but the held-out."""
    labelled = tmp_path / "labelled"
    shutil.copytree(next(finished.folder.glob("captures_*")), labelled)
    data = dataclasses.replace(RECIPE.data, captures=0, labelled=(str(labelled),))
    recipe = dataclasses.replace(FLOAT_ONLY, data=data)
    seen = []
    in_memory = distill.InMemory
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distill, "InMemory", lambda samples, **how: seen.append(samples) or in_memory(samples, **how))
        train(recipe, begin(tmp_path / "run", recipe, finished), resume=True)
    np.testing.assert_array_equal(seen[0].label, everything_simulated(finished.folder).label)
    training = read_checkpoint(tmp_path / "run" / "checkpoint").training
    assert "labelled captures: rendered" in training["data"]
    assert training["labelled"][0]["seed"] == RECIPE.seed

    data = dataclasses.replace(data, labelled=(str(tmp_path / "nowhere"),))
    recipe = dataclasses.replace(recipe, data=data)
    with pytest.raises(InputError, match=r"nowhere: expected shards that edge-dp label wrote, found none"):
        train(recipe, begin(tmp_path / "other", recipe, finished), resume=True)


def test_sets_of_different_sizes_are_not_joined(finished):
    small = Samples(*(getattr(finished.samples, f.name)[..., :16] for f in dataclasses.fields(Samples)))
    with pytest.raises(InputError, match=r"expected one size in all sets, found \(32, 16\) and \(32, 64\)"):
        join([finished.samples, small])


def test_torch_renders_the_captures_that_opencv_does():
    numbers = [8, 11]
    by_opencv, by_torch = (Simulated(RECIPE, CPU, by_torch=which).captures(numbers) for which in (False, True))
    level = 2 / 255 + 1e-3  # of the coarsest sensor drawn, either way
    views = [samples.views.astype(np.float32) for samples in (by_opencv, by_torch)]
    assert np.quantile(np.abs(views[0] - views[1]), 0.999) < level
    for name in ("label", "mask", "sigma", "truth"):
        np.testing.assert_array_equal(getattr(by_torch, name), getattr(by_opencv, name))


def test_missing_torchao_is_said_before_anything_is_done(tmp_path, monkeypatch):
    find_spec = distill.find_spec
    monkeypatch.setattr(distill, "find_spec", lambda name: None if name == "torchao" else find_spec(name))
    with pytest.raises(MissingExtraError, match=r"quantised_stage needs torchao: pip install 'edge-dp\[train\]'"):
        train(RECIPE, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_labels_with_an_empty_mask_are_refused(finished, tmp_path, monkeypatch):
    read = distill.read_shards
    monkeypatch.setattr(
        distill, "read_shards", lambda paths: dataclasses.replace(read(paths), mask=np.zeros((100, 16, 32), bool))
    )
    folder = begin(tmp_path / "run", RECIPE, finished)
    with pytest.raises(TrainingError, match="the mask is empty in each of 40 captures"):
        train(RECIPE, folder, resume=True)


def test_part_of_captures_is_that_of_every_field(finished):
    some = part(finished.samples, slice(3, 5))
    for field in dataclasses.fields(Samples):
        np.testing.assert_array_equal(getattr(some, field.name), getattr(finished.samples, field.name)[3:5])
