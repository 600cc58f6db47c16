"""The ablation changes one thing at a time, and picks up what is there."""

import sys
from dataclasses import asdict

import pytest
from ablation import (
    GROUND_TRUTH,
    HARD_NET,
    HARD_SGM,
    ONE_VIEW,
    ONE_VIEW_SGM,
    PROBABILISTIC,
    PROBABILISTIC_SGM,
    SHORT,
    UNCHECKED,
    UNCHECKED_SGM,
    VARIANTS,
    over_seeds,
    train,
    trainings,
    verdicts,
)

from edge_dp.errors import TrainingError
from edge_dp.training.recipe import read_recipe

COMMON = ("float_stage.steps=7", *SHORT)


def test_every_training_has_the_same_steps_and_seeds_in_a_folder_of_its_own(tmp_path):
    runs = trainings(list(VARIANTS), [1, 2], ("float_stage.steps=7",), tmp_path)
    assert len(runs) == 2 * len(VARIANTS) == len({run.folder for run in runs})
    for run in runs:
        assert "float_stage.steps=7" in run.changes and f"seed={run.seed}" in run.changes


def recipe_of(variant, folder):
    """As ``edge-dp train`` reads it."""
    (run,) = trainings([variant], [5], COMMON, folder)
    return read_recipe("dp_disparity_s", run.changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_valid_recipe_of_the_common_length(variant, tmp_path):
    recipe = recipe_of(variant, tmp_path)
    assert (recipe.float_stage.steps, recipe.seed, recipe.quantised_stage) == (7, 5, None)
    assert recipe.float_stage.schedule_steps is None and recipe.exposure.transfer == "linear"
    assert recipe.targets.supervision == ("ground_truth" if variant == GROUND_TRUTH else "labels")
    assert recipe.teacher.name == ("sgm" if variant == GROUND_TRUTH or "sgm" in variant else "stereo_net")
    assert recipe.targets.sigma == ("none" if variant in (GROUND_TRUTH, HARD_SGM, HARD_NET) else "label")
    assert recipe.labels.check == ("none" if variant in (UNCHECKED, UNCHECKED_SGM) else "third_view")


@pytest.mark.parametrize(
    ("one", "other", "fields"),
    [
        (UNCHECKED, PROBABILISTIC, {"labels"}),
        (UNCHECKED_SGM, PROBABILISTIC_SGM, {"labels"}),
        (PROBABILISTIC_SGM, PROBABILISTIC, {"teacher"}),
        (HARD_SGM, HARD_NET, {"teacher"}),
        (HARD_NET, PROBABILISTIC, {"targets", "float_stage"}),
        (ONE_VIEW, PROBABILISTIC, {"student"}),
        (ONE_VIEW_SGM, PROBABILISTIC_SGM, {"student"}),
    ],
)
def test_variants_differ_in_what_they_are_named_for(one, other, fields, tmp_path):
    first, second = (asdict(recipe_of(variant, tmp_path)) for variant in (one, other))
    assert {name for name in first if first[name] != second[name]} == fields


def test_what_was_begun_goes_on_and_what_is_finished_is_left_alone(tmp_path):
    (run,) = trainings([HARD_SGM], [3], (), tmp_path)
    assert run.command("r")[:5] == [sys.executable, "-m", "edge_dp.cli", "train", "r"]
    assert "--resume" not in run.command("r")
    run.folder.mkdir()
    assert run.command("r")[-1] == "--resume"
    run.checkpoint.mkdir()
    (run.checkpoint / "config.yaml").touch()
    train(run, "no such recipe")  # is not called


def test_a_training_that_fails_is_named(tmp_path):
    (run,) = trainings([HARD_SGM], [3], (), tmp_path)
    with pytest.raises(TrainingError, match=r"sgm, hard, seed 3: edge-dp train ended with 2"):
        train(run, "no such recipe")


def test_seeds_are_averaged_and_promises_judged(tmp_path):
    class Named:
        def __init__(self, name):
            self.name = name

    runs = trainings([GROUND_TRUTH, PROBABILISTIC, ONE_VIEW], [1, 2], (), tmp_path)
    values = {GROUND_TRUTH: 1.0, PROBABILISTIC: 1.2, ONE_VIEW: 3.0}
    scores = {
        f"{run.variant}-{run.seed}": {"000": {"AI(2)": values[run.variant] + run.seed, "1-|rho|": values[run.variant]}}
        for run in runs
    }
    found = over_seeds(scores, runs, [Named(f"{run.variant}-{run.seed}") for run in runs])
    assert found[PROBABILISTIC]["000"]["AI(2)"] == pytest.approx(2.7)
    assert [text.rpartition(": ")[2] for text in verdicts(found)] == ["MISSED", "pass"]
