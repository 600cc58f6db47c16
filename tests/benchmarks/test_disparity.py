"""The disparity benchmark from end to end, on two rendered scenes, with the shipped student in float."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from disparity import beside_one_view, described, evaluate, show
from disparity_bounds import judge
from disparity_methods import BAR, LENS, controls, exported, float_student, students
from scene_sets import canon, rendered

from edge_dp.bundle.manifest import read_bundle
from edge_dp.errors import InputError
from edge_dp.files import sha256
from edge_dp.models.checkpoint import shipped_checkpoints
from edge_dp.sensors import load_sensor

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "disparity.py"


@pytest.fixture(scope="module")
def report():
    shipped = shipped_checkpoints()["dp_disparity_s"]
    network = float_student("dp_disparity_s float", shipped)
    captures = rendered(2)
    shifted = replace(
        network,
        name="dp_disparity_s int8",
        student="dp_disparity_s",
        precision="int8",
        predict=lambda *args: network.predict(*args) + np.float32(0.25),
    )
    fp32 = replace(network, name="dp_disparity_s fp32", student="dp_disparity_s", precision="fp32")
    methods = [*(method for method in controls() if method.name in ("constant", BAR, "position only")), shifted, fp32]
    done = []
    found = evaluate(methods, captures, None, lambda *step: done.append(step))
    assert [step[0] for step in done] == [1, 2]
    return {
        "methods": {method.name: described(method) for method in methods},
        "data": {"rendered": found},
        "bounds": [],
    }


def test_rendered_scenes_order_a_disparity_that_is_all_but_right():
    """Ranks are undefined where the truth is constant: then no method could do well."""
    captures, noise = rendered(3), np.random.default_rng(0)
    for name in captures.names:
        sample = captures.read(name)
        assert sample.disparity is not None
        almost = sample.disparity + 1e-4 * noise.standard_normal(sample.disparity.shape).astype(np.float32)
        scores = captures.score(almost, sample)
        assert scores["1-|rho|"] < 0.02 and scores["AI(2)"] < 0.01


def test_the_student_is_ahead_of_matching_and_matching_of_a_constant(report):
    scores = report["data"]["rendered"]["summary"]
    student, bar, constant = (scores[name]["EPE px"] for name in ("dp_disparity_s fp32", BAR, "constant"))
    assert student < bar < constant


def test_the_distance_between_precisions_is_measured(report):
    summary = report["data"]["rendered"]["summary"]["dp_disparity_s int8"]
    assert summary["px from fp32"] == pytest.approx(0.25, abs=1e-4)


def test_tables_name_every_method_and_scene(report, capsys):
    show(report, scenes=True)
    text = capsys.readouterr().out
    for name in (*report["methods"], "000", "001"):
        assert name in text


def test_disparities_corrected_for_the_field_have_a_table_of_their_own(capsys):
    """One plane in sight of a sensor that vignettes: correcting what is even already makes it worse."""
    captures = replace(rendered(1), sensor=lambda: load_sensor("canon_r6"))
    exact = replace(controls()[0], name="exact", predict=lambda sample, _: sample.disparity)
    found = evaluate([exact], captures, None, lambda *_: None)
    scores = found["summary"]["exact"]
    assert scores["AI(2)"] < 1e-5 and scores["AI(2), corrected"] > 0.01
    show({"methods": {"exact": described(exact)}, "data": {"rendered": found}, "bounds": []}, scenes=False)
    text = capsys.readouterr().out
    assert "corrected for the sensor's field" in text and "AI(2), corrected" in text


def test_what_an_artifact_has_corrected_is_scored_as_it_is(capsys):
    """Beside one that is not: it has no row where corrections are made, and its bounds are those of any artifact."""
    captures = replace(rendered(1), name="canon", sensor=lambda: load_sensor("canon_r6"))
    exact = replace(controls()[0], name="plain int8", student="dp_disparity_s", precision="int8")
    exact = replace(exact, predict=lambda sample, _: sample.disparity)
    inside = replace(exact, name="inside int8, field inside", corrects_field=True)
    found = evaluate([exact, inside], captures, None, lambda *_: None)
    plain, corrected = found["summary"].values()
    assert corrected["AI(2)"] == plain["AI(2)"] and "AI(2), corrected" in plain.keys() - corrected.keys()
    methods = {method.name: described(method) for method in (exact, inside)}
    for scores in found["summary"].values():
        scores["slope px m"] = -1.0
    measured = {"measured": {"slope px m": -1.2, "offset px": 1.0}}
    uncorrected = evaluate([exact], rendered(1), None, lambda *_: None)  # first, so that it gives the times
    report = {"methods": methods, "data": {"rendered": uncorrected, "canon": found | measured}, "bounds": []}
    bounds = {(bound["method"], bound["what"]): bound["passed"] for bound in judge(report) if bound["data"] == "canon"}
    assert bounds["inside int8, field inside", "AI(1)"] and bounds["plain int8", "AI(1)"]
    assert not bounds["plain int8", "AI(1), corrected"]
    assert ("inside int8, field inside", "AI(1), corrected") not in bounds
    show(report, scenes=True)
    tables = capsys.readouterr().out.split("corrected for the sensor's field")
    assert "inside int8" in tables[0] and "AI(2), corrected" in tables[1]


def test_two_views_are_compared_with_one_scene_by_scene():
    rows = {"dp_disparity_s int8": (0.1, 0.2, 0.3), "mono_disparity_s int8": (0.2, 0.4, 0.6)}
    scores = {name: {str(i): {"1-|rho|": value} for i, value in enumerate(values)} for name, values in rows.items()}
    (line,) = beside_one_view({"scores": scores})
    assert line == "1-|rho| of dp_disparity_s 0.50 [0.50, 0.50] x that of mono_disparity_s"
    assert not list(beside_one_view({"scores": dict(list(scores.items())[:1])}))


def test_the_lens_itself_is_perfect_where_its_field_is_known_and_only_there(data_root):
    """Its vignetting alone costs a method that is not told of it; that is a floor, and no method's failure."""
    (lens,) = (method for method in controls() if method.name == LENS)
    found = evaluate([lens], replace(canon(), names=canon().names[:2]), None, lambda *_: None)["summary"][LENS]
    assert found["AI(1)"] > 0.02 and found["1-|rho|"] > 0.02
    assert found["AI(1), corrected"] < 1e-5 and found["1-|rho|, corrected"] < 0.01
    with pytest.raises(InputError, match="rendered: expected a method that suits it, found the lens itself"):
        evaluate([lens], rendered(1), None, lambda *_: None)


def test_from_the_command_line_without_any_export(tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", "rendered", "--limit", "1", "--method", "constant", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert list(found["methods"]) == ["constant"] and found["data"]["rendered"]["scores"]["constant"].keys() == {"000"}
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match="expected a checkpoint's folder or one of"):
        exported(tmp_path, tmp_path / "bundles", (384, 512))


def test_two_checkpoints_of_one_name_are_refused(bundle, tmp_path):
    keep(bundle, tmp_path)
    with (
        pytest.raises(InputError, match="found dp_disparity_s twice"),
        students(["dp_disparity_s", "dp_disparity_s"], tmp_path),
    ):
        pass


def keep(bundle, folder):
    """As the benchmark keeps an export: under the checksum of the checkpoint."""
    checkpoint = shipped_checkpoints()["dp_disparity_s"]
    (folder / f"dp_disparity_s-{sha256(checkpoint / 'config.yaml')[:12]}-384x512").symlink_to(bundle.folder)


def test_an_artifact_scores_as_it_lies_in_its_bundle(bundle, tmp_path):
    keep(bundle, tmp_path)
    assert exported("dp_disparity_s", tmp_path, (384, 512)).manifest == read_bundle(bundle.folder).manifest
    with students(["dp_disparity_s"], tmp_path, lambda name: name.endswith(" int8")) as methods:
        (method,) = methods
        sample = rendered(1).read("000")
        disparity = method.predict(sample, rendered(1))
    assert method.name == "dp_disparity_s int8" and disparity.shape == (384, 512)
    assert np.abs(disparity - sample.disparity).mean() < 1
