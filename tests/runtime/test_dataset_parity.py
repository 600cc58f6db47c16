"""Parity over a data set: quantiles of a stream, and the artifacts of the shipped bundle against its model made again."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.bundle.manifest import MANIFEST, read_bundle
from edge_dp.cli import main
from edge_dp.converters.bundle_model import reference_of_bundle
from edge_dp.data import open_dataset
from edge_dp.errors import InputError
from edge_dp.runtime.accuracy import Evaluator
from edge_dp.runtime.dataset_parity import Comparison, ExpectedOutputs, Quantiles
from edge_dp.runtime.engines import engine_named, make_engine
from edge_dp.runtime.parity import QUANTILES, compare
from edge_dp.runtime.report.model import REPORT, read_report
from edge_dp.runtime.student import Student
from edge_dp.runtime.validate import signature
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.scenes import SceneConfig

COUNT = 2


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """Two captures at the size of the shipped student."""
    folder = tmp_path_factory.mktemp("captures") / "set"
    config = SimulationConfig(SceneConfig(height=384, width=512, margin=40))
    write_dataset(folder, count=COUNT, seed=3, config=config, workers=1)
    return folder


@pytest.fixture(scope="module")
def inputs(bundle, captures):
    """What the network sees of each capture."""
    student, found = Student.of(bundle), []
    for capture in open_dataset("simulated", captures):
        found.append({"views": student.buffer()})
        student.fill(found[-1]["views"], capture.left, capture.right, capture.name)
    return found


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300), st.integers(1, 4))
def test_quantiles_of_a_stream_are_the_next_lower_values(values, pieces):
    quantiles = Quantiles()
    for start in range(pieces):
        quantiles.add(np.array(values[start::pieces]))
    wanted = np.quantile(np.float32(values), QUANTILES, method="lower")
    found = np.array(quantiles.at(QUANTILES))
    assert (found <= wanted).all()
    assert (found >= wanted * (1 - 2**-11) - 1e-38).all()


def test_quantiles_of_nothing_are_zero():
    assert Quantiles().at(QUANTILES) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("form", ["float", "quantised"])
def test_the_model_made_again_gives_the_golden_outputs_to_the_bit(bundle, form):
    """Golden outputs were written by the export itself."""
    reference = reference_of_bundle(bundle)
    cases = bundle.manifest.golden[:2]
    for case, found in zip(cases, reference(form, [bundle.golden_inputs(case) for case in cases]), strict=True):
        wanted = bundle.golden_outputs(case, form)
        assert {name: np.array_equal(found[name], values) for name, values in wanted.items()} == dict.fromkeys(
            wanted, True
        )


def test_a_comparison_has_the_statistics_of_all_cases_at_once(bundle, inputs):
    """Against ``compare``, which SciPy has judged; only quantiles may be a little smaller."""
    rng = np.random.default_rng(2)

    def outputs(noise):
        return [
            {spec.name: (values + noise * rng.normal(size=spec.shape)).astype(np.float32) for spec in specs}
            for values in (1.0, -2.0)
        ]

    specs = bundle.manifest.outputs
    found, wanted = outputs(0.1), outputs(0.0)
    comparison = Comparison(lambda _: found, lambda _: wanted, specs)
    assert comparison(inputs) is found
    result = comparison.result("set")
    assert (result.dataset, result.samples, result.missing) == ("set", COUNT, None)
    for spec in specs:
        whole = compare([o[spec.name] for o in found], [w[spec.name] for w in wanted], spec.scale)
        mine = result.statistics[spec.name]
        quantiles = ("p50_abs", "p99_abs", "p999_abs", "p50_steps", "p99_steps", "p999_steps")
        for name in quantiles:
            assert getattr(mine, name) == pytest.approx(getattr(whole, name), rel=2e-3)
            assert getattr(mine, name) <= getattr(whole, name)
        assert replace(mine, **{name: getattr(whole, name) for name in quantiles}) == whole


def test_artifacts_over_a_data_set_against_their_own_forms_of_the_model(bundle, captures, inputs):
    """An int8 artifact against the quantised form, a float one against the float one."""
    evaluator = Evaluator(bundle, "simulated", captures, reference=reference_of_bundle)
    outputs = {spec.name: spec for spec in bundle.manifest.outputs}
    reference = reference_of_bundle(bundle)
    for name, engine_name, form in (("tflite-int8", "litert", "quantised"), ("onnx-fp32", "onnxruntime", "float")):
        artifact = bundle.manifest.artifact(name)
        with make_engine(engine_named(engine_name), bundle.path(artifact.path), signature(bundle)) as engine:
            accuracy, parity = evaluator.judge(engine, artifact)
            found = engine.infer_all(inputs)
        assert accuracy is not None and accuracy.samples == COUNT
        assert parity is not None and (parity.samples, parity.missing) == (COUNT, None)
        assert set(parity.statistics) == set(outputs)
        wanted = reference(form, inputs)
        for output, spec in outputs.items():
            errors = np.concatenate([np.abs(f[output] - w[output]).ravel() for f, w in zip(found, wanted, strict=True)])
            statistics = parity.statistics[output]
            assert statistics.max_abs == pytest.approx(errors.max(), rel=1e-5)
            assert statistics.mean_abs == pytest.approx(errors.mean(dtype=float), rel=1e-5, abs=1e-12)
            assert statistics.step == spec.scale
            assert statistics.values == COUNT * np.prod(spec.shape)
    forms = [reference(form, inputs) for form in ("float", "quantised")]
    apart = [np.abs(one["disparity"] - two["disparity"]).max() for one, two in zip(*forms, strict=True)]
    assert max(apart) > outputs["disparity"].scale  # else it would not matter which form is the reference


def test_expected_outputs_are_computed_once(bundle, inputs):
    calls = []

    def make(made_for):
        assert made_for is bundle
        calls.append("made")

        def run(form, given):
            calls.append(form)
            return [{"disparity": tensors["views"][:, :1] * 2} for tensors in given]

        return run

    expected = ExpectedOutputs(make, bundle)
    assert expected.why_not() is None and expected.why_not() is None
    one, two = expected.of("float", inputs), expected.of("float", inputs)
    expected.of("quantised", inputs[:1])
    assert calls == ["made", "float", "float", "quantised"]
    for outputs, again, tensors in zip(one, two, inputs, strict=True):
        assert np.array_equal(outputs["disparity"], tensors["views"][:, :1] * 2)
        assert np.array_equal(again["disparity"], outputs["disparity"])


def test_captures_without_truth_are_compared_and_not_scored(bundle, captures, monkeypatch):
    monkeypatch.setattr("edge_dp.runtime.accuracy.score", lambda *_, **__: {})
    evaluator = Evaluator(
        bundle, "simulated", captures, 1, reference=lambda _: lambda form, given: zeros(bundle, given)
    )
    artifact = bundle.manifest.artifact("onnx-fp32")
    with make_engine(engine_named("onnxruntime"), bundle.path(artifact.path), signature(bundle)) as engine:
        accuracy, parity = evaluator.judge(engine, artifact)
        assert accuracy is None
        assert parity is not None and parity.samples == 1
        assert parity.statistics["disparity"].max_abs > 0
        with pytest.raises(InputError, match="expected ground truth to score against"):
            Evaluator(bundle, "simulated", captures, 1).judge(engine, artifact)


def zeros(bundle, given):
    return [{spec.name: np.zeros(spec.shape, np.float32) for spec in bundle.manifest.outputs} for _ in given]


def test_validate_tells_parity_over_a_data_set_and_is_judged_again(bundle, captures, tmp_path, capsys):
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    arguments = ["validate", str(tmp_path / "bundle"), "--artifact", "onnx-int8", "--rounds", "1", "--warm-up", "0"]
    arguments += ["--in-process", "--dataset", "simulated", str(captures)]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert f"simulated, {COUNT} captures: errors against the reference" in text
    report = read_report(tmp_path / "bundle" / REPORT)
    parity = report.rows[0].dataset_parity
    assert parity is not None and set(parity.statistics) == {"disparity", "confidence"}
    assert parity.statistics["disparity"].snr_db is None or parity.statistics["disparity"].snr_db > 35
    page = (tmp_path / "bundle" / "report.html").read_text()
    assert f"Against the quantised reference, over simulated, {COUNT} captures" in page
    (tmp_path / "strict.json").write_text(json.dumps({"int8": {"min_snr_db": 500.0}}))
    judged = main(["report", "judge", str(tmp_path / "bundle"), "--thresholds", str(tmp_path / "strict.json")])
    text = capsys.readouterr().out
    assert judged == (0 if parity.statistics["disparity"].max_abs == 0 else 1)
    assert ("simulated: disparity: SNR" in text) == (judged == 1)


def test_where_the_model_cannot_be_made_the_run_says_so_and_goes_on(bundle, captures, tmp_path, capsys):
    """A bundle of a student that nobody here has: renamed, as a team's own would be."""
    shutil.copytree(bundle.folder, tmp_path / "bundle")
    data = json.loads((tmp_path / "bundle" / MANIFEST).read_text())
    (tmp_path / "bundle" / MANIFEST).write_text(json.dumps(data | {"model": "their_student"}))
    arguments = ["validate", str(tmp_path / "bundle"), "--artifact", "onnx-fp32", "--rounds", "1", "--warm-up", "0"]
    arguments += ["--in-process", "--dataset", "simulated", str(captures), "--samples", "1"]
    assert main(arguments) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "simulated: no parity:" in text
    assert "Pass it with --model" in text
    row = read_report(tmp_path / "bundle" / REPORT).rows[0]
    assert row.accuracy is not None
    assert row.dataset_parity is not None and "their_student" in (row.dataset_parity.missing or "")
    assert read_bundle(tmp_path / "bundle").manifest.model == "their_student"
    assert "Not compared:" in (tmp_path / "bundle" / "report.html").read_text()


def test_the_model_of_another_bundle_is_refused(bundle):
    with pytest.raises(
        InputError, match=r"expected the model that it was exported from, found one with another disparity"
    ):
        reference_of_bundle(bundle, nudged(bundle))


def nudged(bundle):
    """The shipped student with other weights."""
    import torch

    from edge_dp.models.checkpoint import read_checkpoint

    module = read_checkpoint(bundle.manifest.model).build()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    return module
