"""The predictor: preprocessing as the manifest says, disparity in px of the capture, and the real sensor."""

from dataclasses import replace
from itertools import count, islice

import cv2
import numpy as np
import pytest

import edge_dp
from edge_dp.bundle.golden import is_textured
from edge_dp.data import DpSample
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import InputError
from edge_dp.metrics import ai2, one_minus_abs_spearman
from edge_dp.models.confidence import B_MAX, B_MIN
from edge_dp.sensors import load_sensor
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
    return list(islice((capture for capture in simulated if is_textured(capture.views[0, 0])), 8))


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
