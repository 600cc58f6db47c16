"""Accuracy: scores against computations by hand, on tiny data sets and, once, through the shipped student."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

import edge_dp
from edge_dp.data import DpSample, open_dataset
from edge_dp.data.disparity import write_png
from edge_dp.errors import EngineError, InputError, MissingExtraError
from edge_dp.metrics import ai1, ai2, one_minus_abs_spearman
from edge_dp.metrics import evaluate as evaluate_protocol
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.runtime.accuracy import Evaluator, Score, compare, evaluate, evaluate_bundle, float_artifact, score
from edge_dp.runtime.engines import ENGINES
from edge_dp.runtime.student import Student
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.scenes import SceneConfig

STUDENT = Student(12, 20, ExposureNormalisation())


def network(inputs):
    """Stands for a student: half its size, a disparity that anyone can compute from its views."""
    calls.append(len(inputs))
    small = [tensors["views"][:, :, ::2, ::2] for tensors in inputs]
    return [{"disparity": 3 * views[:, :1] - views[:, 1:], "confidence": views[:, :1]} for views in small]


calls: list[int] = []


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Ten captures of 40 x 24 px with true disparity."""
    folder = tmp_path_factory.mktemp("small") / "set"
    config = SimulationConfig(SceneConfig(height=24, width=40, margin=16))
    write_dataset(folder, count=10, seed=7, config=config, workers=1, shard_size=4)
    return folder


@pytest.fixture
def captures(small):
    calls.clear()
    return open_dataset("simulated", small)


def disparity_by_hand(sample):
    """Means of 2 x 2 px, their common mean brought to 0.2, the network, twice its size, twice its unit."""
    small = [view[0].reshape(12, 2, 20, 2).mean(axis=(1, 3)) for view in (sample.left, sample.right)]
    gain = min(0.2 / np.mean(small), 200)
    left, right = (np.clip(view * gain, 0, 1) for view in small)
    found = (3 * left - right)[::2, ::2].astype(np.float32)
    return 2 * cv2.resize(found, (40, 24), interpolation=cv2.INTER_LINEAR)


def test_scores_are_those_computed_by_hand(captures):
    found = evaluate(network, STUDENT, captures, "simulated")
    assert list(found) == list(captures.names)
    for sample in captures:
        error = np.abs(disparity_by_hand(sample) - sample.disparity)
        assert found[sample.name]["EPE px"] == pytest.approx(error.mean(), rel=1e-4)
        assert found[sample.name]["worse than 1 px"] == pytest.approx((error > 1).mean(), abs=0.002)


def test_captures_are_run_in_batches_and_the_first_ones_alone_where_asked(captures):
    evaluate(network, STUDENT, captures, "simulated")
    assert calls == [8, 2]
    assert list(evaluate(network, STUDENT, captures, "simulated", samples=3)) == list(captures.names[:3])
    assert calls == [8, 2, 3]


def test_what_is_finished_is_kept_and_not_run_again(captures):
    whole = evaluate(network, STUDENT, captures, "simulated")
    finished, shown = {}, []

    def breaks(inputs):
        if finished:
            raise EngineError("gone")
        return network(inputs)

    with pytest.raises(EngineError):
        evaluate(breaks, STUDENT, captures, "simulated", finished=finished)
    assert len(finished) == 8
    calls.clear()
    resumed = evaluate(
        network, STUDENT, captures, "simulated", finished=finished, progress=lambda *step: shown.append(step)
    )
    assert calls == [2]
    assert resumed == whole
    assert shown == [(9, 10), (10, 10)]


def sample(**known):
    rng = np.random.default_rng(5)
    views = rng.random((2, 1, 12, 20), np.float32)
    return DpSample(views[0], views[1], load_sensor("generic_8bit"), "x", **known)


DISPARITY = np.random.default_rng(6).normal(size=(12, 20)).astype(np.float32)
TRUTH = np.random.default_rng(7).random((12, 20), np.float32)
MASK = np.random.default_rng(8).random((12, 20)) > 0.3
WEIGHTS = np.random.default_rng(9).random((12, 20), np.float32)


def test_true_disparity_is_scored_in_px_where_it_is_known():
    found = score(DISPARITY, sample(disparity=3 * TRUTH, mask=MASK), "any")
    error = np.abs(DISPARITY - 3 * TRUTH)[MASK]
    assert found == {"EPE px": pytest.approx(error.mean()), "worse than 1 px": pytest.approx((error > 1).mean())}


@pytest.mark.parametrize(
    "known", [{"affine_disparity": TRUTH}, {"depth": np.where(MASK, 1 / (2 - TRUTH), 0)}], ids=["affine", "depth"]
)
def test_truth_of_unknown_scale_is_scored_up_to_it(known, recwarn):
    """Disparity is affine in inverse depth, larger where farther: both truths are one up to an affine map."""
    found = score(DISPARITY, sample(**known, mask=MASK, confidence=WEIGHTS), "any")
    for name, metric in (("AI(1)", ai1), ("AI(2)", ai2), ("1-|rho|", one_minus_abs_spearman)):
        assert found[name] == pytest.approx(metric(DISPARITY, TRUTH, MASK, WEIGHTS), rel=1e-3)
    assert not recwarn
    perfect = score(2 * TRUTH - 7, sample(**known, mask=MASK), "any")
    assert max(perfect.values()) < 1e-3


def test_depth_is_scored_by_what_the_sensor_shows_all_over_its_field():
    """A disparity that fades towards the sides, as the lens vignettes there, is perfect."""
    sensor = load_sensor("canon_r6")
    capture = replace(sample(depth=1 / (2 - TRUTH)), sensor=sensor)
    seen = (2 * TRUTH - 7) * sensor.alpha_field.sample(12, 20)
    assert max(score(seen, capture, "any").values()) < 1e-3
    assert score(seen, replace(capture, sensor=load_sensor("generic_8bit")), "any")["AI(1)"] > 0.1
    assert score(seen, capture, "any", is_corrected=True)["AI(1)"] > 0.1
    assert max(score(2 * TRUTH - 7, capture, "any", is_corrected=True).values()) < 1e-3


def test_a_published_protocol_decides_and_sees_the_files_as_they_lie():
    """google2019 crops 512 x 384 px of portrait files, whose dual-pixel axis is y: a sample is turned."""
    rng = np.random.default_rng(1)
    truth, confidence, found = (rng.random((600, 420), np.float32) for _ in range(3))

    def turned(array):
        return np.ascontiguousarray(np.rot90(array))

    views = rng.random((2, 1, 420, 600), np.float32)
    capture = DpSample(
        views[0],
        views[1],
        replace(load_sensor("generic_8bit"), dp_axis="y"),
        "x",
        affine_disparity=turned(truth),
        confidence=turned(confidence),
        mask=turned(confidence) > 0,
    )
    expected = evaluate_protocol("google2019", found, truth, confidence)
    scores = score(turned(found), capture, "google2019")
    assert list(scores) == ["AI(1)", "AI(2)", "1-|rho|"]
    assert list(scores.values()) == pytest.approx(list(expected.values()))


def test_pixel4_layout_is_scored_by_its_protocol(tmp_path):
    """A scene as Xin et al. publish it, of 20 x 12 px; level 0 has no ground truth."""
    rng = np.random.default_rng(3)
    for folder in ("views", "defocus_map"):
        (tmp_path / folder).mkdir()
    for view in ("left", "right"):
        write_png(tmp_path / f"views/001_{view}.png", rng.integers(2000, 9000, (12, 20), dtype=np.uint16))
    levels = rng.integers(0, 256, (12, 20), dtype=np.uint8)
    levels[:, 0] = 0
    write_png(tmp_path / "defocus_map/001_gt.png", levels)
    scenes = open_dataset("xin2021", tmp_path)
    found = evaluate(network, STUDENT, scenes, "xin2021")["001"]
    views = np.concatenate([scenes[0].left, scenes[0].right])
    outputs = network([{"views": np.clip(views * (0.2 / views.mean(dtype=float)), 0, 1)[None]}])[0]
    disparity = cv2.resize(outputs["disparity"][0, 0], (20, 12), interpolation=cv2.INTER_LINEAR)
    assert list(found.values()) == pytest.approx(
        list(evaluate_protocol("xin2021", disparity, levels).values()), rel=1e-4
    )


def test_samples_without_truth_are_counted_not_scored():
    assert score(DISPARITY, sample(), "any") == {}
    assert score(DISPARITY, sample(disparity=TRUTH, mask=np.zeros((12, 20), bool)), "any") == {}
    scores = {"a": {"EPE px": 1.0}, "b": {}, "c": {"EPE px": 3.0}}
    found = compare(scores, {**scores, "c": {"EPE px": 1.0}}, "set", "a model")
    assert (found.samples, found.unscored, found.model) == (2, 1, "a model")
    assert found.scores == (Score("EPE px", 1.0, 2.0, 1.0),)
    with pytest.raises(InputError, match="data set set: expected ground truth"):
        compare({"b": {}}, {"b": {}}, "set", "a model")


@pytest.mark.parametrize(
    ("model", "artifact", "drop"), [(0.2, 0.25, 0.25), (0.2, 0.15, -0.25), (0.0, 0.0, 0.0), (0.0, 0.1, 0.1)]
)
def test_drop_is_relative_to_the_model(model, artifact, drop):
    found = compare({"a": {"m": artifact}}, {"a": {"m": model}}, "set", "")
    assert found.scores[0].drop == pytest.approx(drop)


def test_scenes_are_no_captures(bundle, tmp_path):
    with pytest.raises(InputError, match="expected dual-pixel captures, found scenes"):
        Evaluator(bundle, "middlebury", tmp_path)


def test_unfit_captures_are_named(bundle, captures):
    with pytest.raises(InputError, match=f"{captures.root}: 00000000: expected views of at least 512x384"):
        Evaluator(bundle, "simulated", captures.root).evaluate(network)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two captures at the size of the shipped student."""
    folder = tmp_path_factory.mktemp("large") / "set"
    config = SimulationConfig(SceneConfig(height=384, width=512, margin=40))
    write_dataset(folder, count=2, seed=3, config=config, workers=1)
    return folder


def test_an_artifact_beside_the_model(bundle, large):
    """Through the bundle: means over the captures, of the artifact and of the float artifact that stands for the model."""
    expected = {}
    for name in ("tflite-int8", "executorch-fp32"):
        with edge_dp.load(bundle.folder, name) as predictor:
            errors = [np.abs(predictor.predict(s).disparity - s.disparity) for s in open_dataset("simulated", large)]
            expected[name] = np.mean(errors)
    with edge_dp.load(bundle.folder, "tflite-int8") as predictor:
        found = evaluate_bundle(bundle, predictor.engine, "simulated", large)
        first = evaluate_bundle(bundle, predictor.engine, "simulated", large, samples=1)
    assert found.model == "executorch-fp32 on the host"
    assert (found.dataset, found.samples, first.samples) == ("simulated", 2, 1)
    error = found.scores[0]
    assert error.metric == "EPE px"
    assert error.artifact == pytest.approx(expected["tflite-int8"], rel=1e-5)
    assert error.model == pytest.approx(expected["executorch-fp32"], rel=1e-5)
    assert error.drop == pytest.approx(error.artifact / error.model - 1)


def test_the_model_is_run_once(bundle, large, monkeypatch):
    made = []
    monkeypatch.setattr("edge_dp.runtime.accuracy.make_engine", lambda *args: made.append(args[1].name) or real(*args))
    from edge_dp.runtime.engines import make_engine as real

    evaluator = Evaluator(bundle, "simulated", large, samples=1)
    with edge_dp.load(bundle.folder, "tflite-int8") as predictor:
        assert evaluator.accuracy(predictor.engine) == evaluator.accuracy(predictor.engine)
    assert made == ["dp_disparity_s.fp32.pte"]


@pytest.mark.parametrize(
    ("missing", "artifacts", "expected"),
    [
        ((), None, "executorch-fp32"),
        (("executorch", "executorch-native"), None, "tflite-fp32"),
        ((), ("executorch-int8", "coreml-fp16"), "coreml-fp16"),
        ((), ("coreml-fp16", "onnx-fp32"), "onnx-fp32"),
    ],
)
def test_what_stands_for_the_model(bundle, monkeypatch, missing, artifacts, expected):
    for name in missing:
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], why_not=lambda: "not installed"))
    assert float_artifact(with_artifacts(bundle, artifacts))[0].name == expected


def test_a_bundle_without_a_float_artifact(bundle, monkeypatch):
    with pytest.raises(InputError, match="expected a float artifact to stand for the model, found executorch-int8"):
        float_artifact(with_artifacts(bundle, ["executorch-int8"]))
    monkeypatch.setitem(ENGINES, "onnxruntime", replace(ENGINES["onnxruntime"], why_not=lambda: "not installed"))
    with pytest.raises(MissingExtraError, match=r"edge-dp\[onnx\]"):
        float_artifact(with_artifacts(bundle, ["onnx-fp32"]))


def with_artifacts(bundle, names):
    if names is None:
        return bundle
    kept = tuple(bundle.manifest.artifact(name) for name in names)
    return replace(bundle, manifest=replace(bundle.manifest, artifacts=kept))
