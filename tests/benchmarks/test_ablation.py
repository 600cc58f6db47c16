"""The ablation changes one thing at a time, and picks up what is there."""

import sys

import pytest
from ablation import (
    GROUND_TRUTH,
    HARD_SGM,
    ONE_VIEW,
    PROBABILISTIC,
    UNCHECKED,
    VARIANTS,
    over_seeds,
    train,
    trainings,
    verdicts,
)

from edge_dp.errors import TrainingError


def test_every_training_has_the_same_steps_and_seeds_in_a_folder_of_its_own(tmp_path):
    runs = trainings(list(VARIANTS), [1, 2], ("float_stage.steps=7",), tmp_path)
    assert len(runs) == 2 * len(VARIANTS) == len({run.folder for run in runs})
    for run in runs:
        assert "float_stage.steps=7" in run.changes and f"seed={run.seed}" in run.changes


@pytest.mark.parametrize("variant", [UNCHECKED, ONE_VIEW])
def test_a_variant_of_the_probabilistic_labels_changes_one_thing(variant):
    assert len(set(VARIANTS[variant]) ^ set(VARIANTS[PROBABILISTIC])) == 1


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
