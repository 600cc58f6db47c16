"""A student exported to take linear planes: its artifacts against those that the predictor prepares the planes for."""

from dataclasses import replace

import numpy as np
import pytest

import edge_dp
from edge_dp.converters.bundle_model import network_of_bundle, reference_of_bundle
from edge_dp.converters.linear import KEPT, Exposure
from edge_dp.data import DpSample
from edge_dp.preprocessing import TRANSFERS, ExposureNormalisation, dither
from edge_dp.sensors import load_sensor

torch = pytest.importorskip("torch")
SIZE = (64, 96)
FORMATS = ["executorch", "tflite", "onnx", "coreml"]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The same student, as it is and with its exposure inside."""
    folder = tmp_path_factory.mktemp("linear")
    plain = edge_dp.export_checkpoint("dp_disparity_s", folder / "plain", size=SIZE, formats=["executorch"])
    linear = edge_dp.export_checkpoint(
        "dp_disparity_s", folder / "linear", size=SIZE, formats=FORMATS, linear_input=True
    )
    return plain, linear


def captures():
    """Views of a texture with a step of light: one that the gain darkens, one that it cannot brighten to its mean."""
    coarse = np.random.default_rng(3).random((1, 16, 30)).astype(np.float32)
    texture = np.kron(coarse, np.ones((1, 4, 4), np.float32))
    texture[:, :, 60:] *= 0.3
    for light in (1.0, 0.02, 0.0005):
        views = (light * texture[:, :, shift : shift + SIZE[1]] for shift in (4, 6))
        yield DpSample(*views, load_sensor("generic_8bit"), f"light {light}")


def test_artifacts_take_linear_planes_and_nothing_else(bundles):
    """As the predictor feeds the plain ones: in float within rounding; a value between two steps may fall on either side."""
    plain, linear = bundles
    step = plain.manifest.outputs[0].scale
    for artifact in linear.manifest.artifacts:
        if artifact.format == "coreml":
            continue  # compared with the golden vectors by its reference evaluator, below
        precision = "fp32" if artifact.precision == "fp32" else "int8"
        with (
            edge_dp.load(plain.folder, f"executorch-{precision}") as one,
            edge_dp.load(linear.folder, artifact.name) as other,
        ):
            for capture in captures():
                assert np.array_equal(other.network_input(capture)[0, 0], capture.left[0])
                wanted, found = (predictor.predict(capture).outputs["disparity"] for predictor in (one, other))
                error = np.abs(found - wanted)
                if precision == "fp32":
                    assert error.max() < 1e-3
                else:
                    assert error.max() <= 6.01 * step and error.mean() < 0.3 * step
                assert np.ptp(wanted) > 5 * step


def test_artifacts_reproduce_the_golden_vectors(bundles):
    """All but Core ML's half precision within a few steps; its input is in float32 until it is quantised."""
    _, bundle = bundles
    step = bundle.manifest.outputs[0].scale
    steps = {"float": 1e-3, "quantised": 4.01}
    for artifact in bundle.manifest.artifacts:
        most = 1.0 if artifact.precision == "fp16" else steps[artifact.reference]
        for case in bundle.manifest.golden:
            found = bundle.artifact_outputs(case, artifact.name)
            if found is None:
                continue
            wanted = bundle.golden_outputs(case, artifact.reference)["disparity"]
            assert np.abs(found["disparity"] - wanted).max() <= most * step, (artifact.name, case.name)


def test_the_manifest_says_that_nothing_is_to_be_done(bundles):
    _, linear = bundles
    manifest = linear.manifest
    assert manifest.preprocessing.exposure is None and manifest.preprocessing.dither is None
    assert not any(word in step for step in manifest.preprocessing.steps for word in ("exposure", "dither", "transfer"))
    (views,) = manifest.inputs
    assert (views.unit, views.scale, views.zero_point) == (TRANSFERS["linear"], None, None)
    assert manifest.keep_float == KEPT


def test_only_the_exposure_computes_in_float(bundles):
    plain, linear = bundles
    integer = {artifact.name: artifact.kernels.integer for artifact in plain.manifest.artifacts}
    assert linear.manifest.artifact("executorch-int8").kernels.integer == integer["executorch-int8"]
    for artifact in linear.manifest.artifacts:
        assert artifact.format == "onnx" or not artifact.kernels.outside  # there all float work is
        if artifact.reference == "quantised":
            assert 0 < sum(artifact.kernels.floating.values()) <= 14


def test_black_views_stay_finite(bundles):
    _, linear = bundles
    black = np.zeros((1, *SIZE), np.float32)
    with edge_dp.load(linear.folder, "executorch-int8") as predictor:
        assert np.isfinite(predictor.predict(black, black).disparity).all()


def test_the_model_is_made_again_with_its_exposure(bundles):
    _, bundle = bundles
    network_of_bundle(bundle)  # refuses one that gives other outputs
    reference, case = reference_of_bundle(bundle), bundle.manifest.golden[0]
    for form in ("float", "quantised"):
        (found,) = reference(form, [bundle.golden_inputs(case)])
        for name, expected in bundle.golden_outputs(case, form).items():
            np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_with_the_field_corrected_too(bundles, tmp_path):
    plain, _ = bundles
    sensor = load_sensor("pixel4")
    both = edge_dp.export_checkpoint(
        "dp_disparity_s",
        tmp_path / "both",
        size=SIZE,
        formats=["executorch"],
        sensor=sensor,
        correct_field=True,
        linear_input=True,
    )
    capture = replace(next(captures()), sensor=sensor)
    # One is corrected at the size of the capture, the other at that of the network's output.
    for precision, most in (("fp32", 0.05), ("int8", 8 * both.manifest.outputs[0].scale)):
        name = f"executorch-{precision}"
        with edge_dp.load(plain.folder, name) as one, edge_dp.load(both.folder, name) as other:
            wanted, found = one.predict(capture).corrected_disparity, other.predict(capture).disparity
        assert np.abs(found - wanted).max() < most
    network_of_bundle(both)


@pytest.mark.parametrize("transfer", TRANSFERS)
@pytest.mark.parametrize("light", [1.0, 0.05, 1e-4])
def test_the_exposure_is_that_of_the_preprocessing(transfer, light):
    normalisation = ExposureNormalisation(target_mean=0.3, max_gain=50.0, transfer=transfer)
    for height, width in ((32, 48), (24, 40), (7, 9)):
        views = (light * np.random.default_rng(1).random((2, height, width))).astype(np.float32)
        with torch.no_grad():
            found = Exposure(normalisation, height, width, 0.01)(torch.from_numpy(views)[None])[0].numpy()
        np.testing.assert_allclose(found, normalisation(views) + dither(height, width, 0.01), atol=1e-6)
