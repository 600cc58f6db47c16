"""The predictor: preprocessing as the manifest says, disparity in px of the capture, depth, threads, and the real sensor."""

import threading
from dataclasses import replace
from itertools import count, islice

import cv2
import numpy as np
import pytest

import edge_dp
from edge_dp.bundle.golden import is_textured
from edge_dp.data import DpSample, read_pair
from edge_dp.data.disparity import write_png
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import EngineError, InputError, MissingExtraError, OpticsError
from edge_dp.metrics import ai2, one_minus_abs_spearman
from edge_dp.models.confidence import B_MAX, B_MIN
from edge_dp.optics import depth_to_disparity
from edge_dp.preprocessing import dither
from edge_dp.runtime.cell import signature
from edge_dp.runtime.engines import ENGINES, engine_for, make_engine
from edge_dp.runtime.predictor import Predictor
from edge_dp.sensors import load_sensor
from edge_dp.sensors.profile import FieldPolynomial
from edge_dp.simulation.capture import SimulationConfig, simulate_capture
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import DAYLIGHT


def sample_of(capture, name="simulated"):
    left, right = capture.views
    return DpSample(left, right, load_sensor("generic_8bit"), name, disparity=capture.disparity)


@pytest.fixture(scope="module")
def captures():
    """Textured nearly everywhere, in daylight and without fences: in noise, on plain walls and between bars a network guesses."""
    scene = SceneConfig(
        height=384, width=512, margin=40, layers=(3, 6), textureless_share=0.0, repeated_share=0.0, thin_share=0.0
    )
    config = SimulationConfig(scene, sensor=DAYLIGHT)
    simulated = (simulate_capture(77, index, config) for index in count())
    return list(islice((capture for capture in simulated if is_textured(capture.views[0, 0])), 5))


@pytest.fixture(scope="module")
def predictor(bundle):
    with edge_dp.load(bundle.folder, "executorch-int8") as predictor:
        yield predictor


def test_simulated_truth_is_found(predictor, captures):
    """Held-out scenes, int8: half of all pixels within 0.1 px, and in every scene the sign is right all but everywhere."""
    errors = []
    for capture in captures:
        prediction = predictor.predict(sample_of(capture))
        assert prediction.disparity.shape == (384, 512)
        errors.append(np.abs(prediction.disparity - capture.disparity))
        clear = np.abs(capture.disparity) > 0.5
        assert (np.sign(prediction.disparity) == np.sign(capture.disparity))[clear].mean() > 0.98
    assert np.median(errors) < 0.1


def test_swapped_views_turn_the_sign(predictor, captures):
    sample = sample_of(captures[0])
    swapped = replace(sample, left=sample.right, right=sample.left, disparity=None)
    plain, turned = predictor.predict(sample).disparity, predictor.predict(swapped).disparity
    assert np.corrcoef(plain.ravel(), turned.ravel())[0, 1] < -0.5


def test_brightness_does_not_matter(predictor, captures):
    sample = sample_of(captures[1])
    dark = replace(sample, left=sample.left * 0.25, right=sample.right * 0.25)
    np.testing.assert_allclose(predictor.network_input(dark), predictor.network_input(sample), atol=1e-6)


def test_disparity_is_in_px_of_the_capture_not_of_the_network(predictor, captures):
    """The same capture enlarged to twice the width: twice the disparity; enlarged in height: the same."""
    sample = sample_of(captures[2])
    base = predictor.predict(sample).disparity
    for size, factor in (((1024, 384), 2.0), ((512, 768), 1.0)):
        left, right = (
            cv2.resize(view[0], size, interpolation=cv2.INTER_NEAREST)[None] for view in (sample.left, sample.right)
        )
        enlarged = predictor.predict(replace(sample, left=left, right=right, disparity=None)).disparity
        assert enlarged.shape == size[::-1]
        assert np.median(np.abs(cv2.resize(enlarged, (512, 384), interpolation=cv2.INTER_AREA) - factor * base)) < 0.05


def test_confidence_promises_errors_in_its_range(predictor, captures):
    prediction = predictor.predict(sample_of(captures[3]))
    assert 0.0 <= prediction.confidence.min() <= prediction.confidence.max() <= 1.0
    assert B_MIN * 0.999 <= prediction.expected_error.min()
    assert prediction.expected_error.max() <= B_MAX * 1.001


def test_confident_pixels_are_more_accurate(predictor):
    """Over scenes of all kinds, plain walls and noise among them, the surer half has far less error than the other."""
    config = SimulationConfig(SceneConfig(height=384, width=512, margin=40))
    error, promised = [], []
    for capture in (simulate_capture(78, index, config) for index in range(8)):
        prediction = predictor.predict(sample_of(capture))
        error.append(np.abs(prediction.disparity - capture.disparity).ravel())
        promised.append(prediction.expected_error.ravel())
    error, promised = np.concatenate(error), np.concatenate(promised)
    sure = promised < np.median(promised)
    assert error[sure].mean() < 0.6 * error[~sure].mean()


@pytest.mark.parametrize("artifact", ["tflite-int8", "onnx-int8", "coreml-w8a8"])
def test_all_integer_artifacts_predict_the_same(bundle, predictor, captures, artifact):
    expected = predictor.predict(sample_of(captures[0])).disparity
    with edge_dp.load(bundle.folder, artifact) as other:
        found = other.predict(sample_of(captures[0])).disparity
    assert np.abs(found - expected).mean() < 0.03


def test_bad_captures_are_refused(predictor, captures):
    sample = sample_of(captures[0])
    black = np.zeros_like(sample.left)
    with pytest.raises(InputError, match="black"):
        predictor.predict(replace(sample, left=black, right=black))
    three = np.repeat(sample.left, 3, axis=0)
    with pytest.raises(InputError, match="expected one green plane per view, found 3 channels"):
        predictor.predict(replace(sample, left=three, right=three, disparity=None))


def test_pixel4_int8_beats_the_bar(bundle, data_root):
    """Eight real scenes: the promised numbers, on the artifact that a phone runs."""
    captures = Xin2021(data_root / "dual_pixel" / "pixel4")
    scores = []
    with edge_dp.load(bundle.folder, "executorch-int8") as predictor:
        for sample in captures:
            disparity = predictor.predict(sample).disparity
            scores.append(
                [metric(disparity, sample.affine_disparity, sample.mask) for metric in (ai2, one_minus_abs_spearman)]
            )
    error, disorder = np.mean(scores, axis=0)
    assert len(scores) == 8
    assert error <= 0.095
    assert disorder <= 0.20


def by_hand(bundle, artifact, left, right):
    """Outputs of the bare engine on an input made as the manifest describes it, in float64."""
    height, width = bundle.manifest.inputs[0].shape[2:]
    views = np.stack([cv2.resize(view, (width, height), interpolation=cv2.INTER_AREA) for view in (left, right)])
    exposure = bundle.manifest.preprocessing.exposure
    gain = min(exposure.target_mean / views.mean(dtype=np.float64), exposure.max_gain)
    found = bundle.manifest.artifact(artifact)
    with make_engine(engine_for(found.format), bundle.path(found.path), signature(bundle)) as engine:
        light = np.clip(views * gain, 0, 1)
        seen = np.sqrt(light) if exposure.transfer == "square_root" else light
        seen = seen + dither(height, width, bundle.manifest.preprocessing.dither)
        return engine.infer({"views": seen[None].astype(np.float32)})


@pytest.mark.parametrize("enlarge", [1, 2])
@pytest.mark.parametrize("artifact", ["executorch-fp32", "tflite-fp32"])
def test_it_is_the_engine_called_by_hand(bundle, captures, artifact, enlarge):
    sample = sample_of(captures[4])
    left, right = (np.kron(view[0], np.ones((enlarge, enlarge), np.float32)) for view in (sample.left, sample.right))
    outputs = by_hand(bundle, artifact, left, right)
    with edge_dp.load(bundle.folder, artifact) as predictor:
        prediction = predictor.predict(left, right)
    size = left.shape[::-1]
    disparity = cv2.resize(outputs["disparity"][0, 0], size, interpolation=cv2.INTER_LINEAR) * enlarge
    confidence = cv2.resize(outputs["confidence"][0, 0].clip(0, 1), size, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(prediction.disparity, disparity, atol=1e-4)
    np.testing.assert_allclose(prediction.confidence, confidence, atol=1e-4)
    promised = 5.0 * (0.05 / 5.0) ** prediction.confidence.astype(float) * enlarge
    np.testing.assert_allclose(prediction.expected_error, promised, rtol=1e-5)


@pytest.mark.parametrize("artifact", ["executorch-int8", "tflite-int8", "onnx-int8", "coreml-w8a8"])
def test_integers_are_the_engine_called_on_the_network_input_to_the_bit(bundle, captures, artifact):
    """Also where lights are so bright that they saturate, which integer artifacts do themselves."""
    sample = sample_of(captures[1])
    left, right = sample.left.copy(), sample.right.copy()
    left[:, 100:140, 200:260] = right[:, 100:140, 200:260] = 1.0
    sample = replace(sample, left=left, right=right)
    with edge_dp.load(bundle.folder, artifact) as predictor:
        given = predictor.network_input(sample)
        light = given - dither(*given.shape[2:], bundle.manifest.preprocessing.dither)
        assert light.max() == pytest.approx(1.0, abs=1e-6)
        assert (light > 1.0 - 1e-6).mean() > 0.01
        found, expected = predictor.predict(sample).outputs, predictor.engine.infer({"views": given})
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_planes_of_light_are_a_sample(predictor, captures):
    sample = sample_of(captures[0])
    expected = predictor.predict(sample).disparity
    np.testing.assert_array_equal(predictor.predict(sample.left, sample.right).disparity, expected)
    np.testing.assert_array_equal(predictor.predict(sample.left[0], sample.right[0]).disparity, expected)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_planes_of_levels_are_the_files_of_their_sensor(predictor, captures, tmp_path, axis):
    """Black level, exchange, shading and rotation: as reading the same levels from files."""
    sensor = replace(load_sensor("pixel4"), swap_views=True, dp_axis=axis)
    left, right = (1024 + (view[0] * 15000).astype(np.uint16) for view in captures[0].views)
    if axis == "y":
        left, right = (np.rot90(plane, -1).copy() for plane in (left, right))
    for name, plane in (("l", left), ("r", right)):
        write_png(tmp_path / f"{name}.png", plane)
    sample = read_pair(tmp_path / "l.png", tmp_path / "r.png", sensor)
    prediction = predictor.predict(left, right, sensor=sensor)
    np.testing.assert_array_equal(prediction.disparity, predictor.predict(sample).disparity)


STRONG = replace(load_sensor("pixel4"), alpha=5.0, alpha_field=None)
"""Its horizon lies beyond most disparities of the captures; the same all over the field."""


def test_depth_is_the_thin_lens_of_the_disparity(predictor, captures):
    sample = replace(sample_of(captures[0]), sensor=STRONG)
    assert predictor.predict(sample).depth is None
    for samples_per_px in (1.0, 4.0):
        found = predictor.predict(sample, focus_m=1.5, samples_per_px=samples_per_px)
        finite = np.isfinite(found.depth)
        assert finite.mean() > 0.05
        disparity = depth_to_disparity(found.depth.astype(float)[finite], sample.sensor, 1.5)
        np.testing.assert_allclose(disparity, samples_per_px * found.disparity[finite], atol=1e-3)
        horizon = depth_to_disparity(np.inf, sample.sensor, 1.5)
        assert (samples_per_px * found.disparity[~finite] >= horizon - 1e-4).all()


@pytest.mark.parametrize("axis", ["x", "y"])
def test_depth_where_the_strength_varies_over_the_field(predictor, captures, axis):
    """alpha doubles from the first to the last column of the files, which are rows of the sample where the axis is y."""
    field = FieldPolynomial(((1.5, 0.5),), (4096, 4096))
    sensor = replace(STRONG, alpha_field=field, dp_axis=axis)
    found = predictor.predict(replace(sample_of(captures[0]), sensor=sensor), focus_m=1.5)
    width = 512 if axis == "x" else 384
    alpha = sensor.alpha * (1.5 + 0.5 * ((2 * np.arange(width) + 1) / width - 1))
    # a quarter turn counter-clockwise takes the last column to the first row
    alpha = np.broadcast_to(alpha, (384, 512)) if axis == "x" else np.broadcast_to(alpha[::-1, None], (384, 512))
    np.testing.assert_allclose(found.corrected_disparity, found.disparity * sensor.alpha / alpha, rtol=1e-5)
    finite = np.isfinite(found.depth)
    assert finite.mean() > 0.05
    disparity = depth_to_disparity(found.depth.astype(float)[finite], sensor, 1.5, alpha[finite])
    np.testing.assert_allclose(disparity, found.disparity[finite], atol=1e-3)


def test_without_a_field_there_is_nothing_to_correct(predictor, captures):
    sample = sample_of(captures[0])
    for sensor in (STRONG, load_sensor("generic_phone")):
        found = predictor.predict(replace(sample, sensor=sensor))
        np.testing.assert_array_equal(found.corrected_disparity, found.disparity)
        assert not np.shares_memory(found.corrected_disparity, found.disparity)


def test_focus_and_sensor_come_from_the_manifest(bundle, captures):
    sensor = replace(STRONG, focus_m=1.5, sources=STRONG.sources | {"focus_m": "set by hand"})
    made = replace(bundle, manifest=replace(bundle.manifest, sensor=sensor.to_dict()))
    left, right = (view[0] for view in captures[0].views)
    with Predictor(made, "executorch-int8") as predictor:
        fixed = predictor.predict(left, right)
        np.testing.assert_array_equal(predictor.predict(left, right, focus_m=1.5).depth, fixed.depth)
        assert np.nanmedian(predictor.predict(left, right, focus_m=3.0).depth) != np.nanmedian(fixed.depth)
        with pytest.raises(OpticsError, match="focal length"):
            _ = predictor.predict(left, right, focus_m=1e-3).depth


def test_a_focus_distance_without_optics_is_refused(predictor, captures):
    with pytest.raises(InputError, match="focus_m: expected a sensor profile with alpha, focal length"):
        predictor.predict(sample_of(captures[0]), focus_m=1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda p, s: p.predict(s.left), "found a left plane alone"),
        (lambda p, s: p.predict(s, s.right), "expected a sample alone"),
        (lambda p, s: p.predict(s.left, s.right[..., :-1]), "smaller|at least 512x384"),
        (lambda p, s: p.predict(np.pad(s.left, ((0, 0), (0, 2), (0, 0))), s.right), "two views of one size"),
        (lambda p, s: p.predict(2 * s.left / s.left.max(), s.right), r"left: expected linear light in \[0, 1\]"),
        (lambda p, s: p.predict(s.left, np.nan * s.right), r"right: expected linear light in \[0, 1\]"),
        (lambda p, s: p.predict(np.uint8(9 * s.left), np.uint16(9 * s.right)), "planes of one dtype"),
        (lambda p, s: p.predict(np.uint16(s.left), np.uint16(s.right)), "expected a sensor"),
        (
            lambda p, s: p.predict(np.uint8(9 * s.left), np.uint8(9 * s.right), sensor=load_sensor("pixel4")),
            "uint16 raw",
        ),
    ],
)
def test_bad_planes_are_refused_in_words(predictor, captures, call, words):
    with pytest.raises(InputError, match=words):
        call(predictor, sample_of(captures[0]))


def test_predictions_are_the_callers_own(predictor, captures):
    first = predictor.predict(sample_of(captures[0]), samples_per_px=1.0)
    seen = first.disparity.copy()
    given = predictor.network_input(sample_of(captures[0]))
    kept = given.copy()
    second = predictor.predict(sample_of(captures[1]))
    np.testing.assert_array_equal(first.disparity, seen)
    np.testing.assert_array_equal(given, kept)
    # Maps that are computed late are of their own capture, not of the last one.
    np.testing.assert_array_equal(first.confidence, predictor.predict(sample_of(captures[0])).confidence)
    assert not np.array_equal(first.confidence, second.confidence)
    assert not np.shares_memory(first.disparity, second.disparity)


def test_the_capture_is_left_as_it_was(predictor, captures):
    sample = sample_of(captures[0])
    before = sample.left.copy(), sample.right.copy()
    predictor.predict(sample)
    np.testing.assert_array_equal((sample.left, sample.right), before)


def test_threads_wait_for_each_other(predictor, captures):
    """Each of four threads predicts its own capture, over and over, through one predictor: no mixture, no crash."""
    samples = [sample_of(capture) for capture in captures[:4]]
    expected = [predictor.predict(sample).disparity for sample in samples]
    together = threading.Barrier(4)
    wrong = []

    def work(index):
        together.wait()
        wrong.extend(
            index for _ in range(5) if not np.array_equal(predictor.predict(samples[index]).disparity, expected[index])
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_outside_its_context_it_says_what_to_do(bundle, captures):
    predictor = edge_dp.load(bundle.folder)
    with pytest.raises(EngineError, match="not active"):
        predictor.predict(sample_of(captures[0]))
    with predictor:
        predictor.predict(sample_of(captures[0]))
    with pytest.raises(EngineError, match="not active"):
        predictor.predict(sample_of(captures[0]))


def chosen(bundle, monkeypatch, missing=(), artifacts=None, engine=None):
    """Name of the artifact that is loaded where some engines are not installed and the bundle has some artifacts only."""
    for name in missing:
        monkeypatch.setitem(ENGINES, name, replace(ENGINES[name], why_not=lambda: "not installed"))
    manifest = bundle.manifest
    if artifacts is not None:
        manifest = replace(manifest, artifacts=tuple(manifest.artifact(name) for name in artifacts))
    return Predictor(replace(bundle, manifest=manifest), engine=engine).artifact.name


EXECUTORCH = ("executorch", "executorch-native")
TFLITE = ("litert", "litert-builtin", "litert-reference", "tflite-runtime")


@pytest.mark.parametrize(
    ("missing", "artifacts", "engine", "expected"),
    [
        ((), None, None, "executorch-int8"),
        (EXECUTORCH, None, None, "tflite-int8"),
        (EXECUTORCH + TFLITE, None, None, "onnx-int8"),
        ((*EXECUTORCH, *TFLITE, "onnxruntime"), None, None, "coreml-w8a8"),
        ((), ("executorch-fp32", "tflite-int8"), None, "tflite-int8"),
        (TFLITE, ("executorch-fp32", "tflite-int8"), None, "executorch-fp32"),
        ((), ("onnx-fp32", "coreml-w8a8"), None, "onnx-fp32"),
        ((), None, "litert", "tflite-int8"),
        ((), None, "onnxruntime", "onnx-int8"),
    ],
)
def test_the_default_is_an_artifact_that_runs_here(bundle, monkeypatch, missing, artifacts, engine, expected):
    assert chosen(bundle, monkeypatch, missing, artifacts, engine) == expected


def test_without_any_engine_the_extra_is_named(bundle, monkeypatch):
    with pytest.raises(MissingExtraError, match=r"edge-dp\[executorch\]"):
        chosen(bundle, monkeypatch, EXECUTORCH, ["executorch-int8"])


def test_engine_and_artifact_must_go_together(bundle):
    with pytest.raises(InputError, match="litert executes tflite, not executorch"):
        edge_dp.load(bundle.folder, "executorch-int8", engine="litert")
    with pytest.raises(InputError, match="expected one of executorch"):
        edge_dp.load(bundle.folder, engine="nosuch")
    kept = tuple(a for a in bundle.manifest.artifacts if a.format == "onnx")
    with pytest.raises(InputError, match="expected an artifact for engine litert, found onnx-int8, onnx-fp32"):
        Predictor(replace(bundle, manifest=replace(bundle.manifest, artifacts=kept)), engine="litert")
