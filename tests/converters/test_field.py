"""A student exported with its sensor's field corrected: the artifacts against uncorrected ones and the profile's polynomial."""

from dataclasses import replace

import numpy as np
import pytest

import edge_dp
from edge_dp.bundle.manifest import write_manifest
from edge_dp.converters.bundle_model import network_of_bundle, reference_of_bundle
from edge_dp.data import DpSample
from edge_dp.errors import InputError, SchemaError
from edge_dp.models.confidence import expected_error
from edge_dp.optics import depth_to_disparity
from edge_dp.sensors import load_sensor
from edge_dp.sensors.profile import FieldPolynomial

SIZE = (64, 96)
SENSOR = replace(
    load_sensor("pixel4"), name="lopsided", alpha_field=FieldPolynomial(((1.0, 0.25), (0.15, 0.0)), (4096, 4096))
)
"""Its strength differs between all corners: 0.6, 1.1, 0.9 and 1.4."""
FORMATS = {"x": ["executorch", "tflite", "onnx"], "y": ["executorch"]}
"""By axis: what a converter writes does not depend on it."""


def strength(axis, height, width):
    """s over a sample, by the polynomial; a quarter turn counter-clockwise takes the files' right edge to the top."""
    rows, columns = (height, width) if axis == "x" else (width, height)
    x, y = ((2 * np.arange(size) + 1) / size - 1 for size in (columns, rows))
    field = 1.0 + 0.25 * x[None, :] + 0.15 * y[:, None]
    return field if axis == "x" else field.T[::-1]


@pytest.fixture(scope="module", params=["x", "y"])
def sensor(request):
    return replace(SENSOR, dp_axis=request.param)


@pytest.fixture(scope="module")
def bundles(sensor, tmp_path_factory):
    """The same student for the same sensor, as it is and corrected."""
    folder = tmp_path_factory.mktemp("field")
    export = {"sensor": sensor, "size": SIZE, "formats": FORMATS[sensor.dp_axis]}
    plain = edge_dp.export_checkpoint("dp_disparity_xs", folder / "plain", **export)
    return plain, edge_dp.export_checkpoint("dp_disparity_xs", folder / "corrected", correct_field=True, **export)


def captures(sensor, count=3):
    rng = np.random.default_rng(5)
    for index in range(count):
        coarse = rng.random((1, 16, 30)).astype(np.float32)
        texture = np.kron(coarse, np.ones((1, 4, 4), np.float32)) * 0.8 + 0.1
        views = (texture[:, :, shift : shift + SIZE[1]] for shift in (4, 4 + index))
        yield DpSample(*views, sensor, f"capture {index}")


def test_artifacts_divide_by_the_strength_of_the_field(bundles, sensor):
    plain, corrected = bundles
    field = strength(sensor.dp_axis, SIZE[0] // 2, SIZE[1] // 2)
    spec = {output.name: output for output in corrected.manifest.outputs}
    for name in (artifact.name for artifact in corrected.manifest.artifacts):
        with edge_dp.load(plain.folder, name) as one, edge_dp.load(corrected.folder, name) as other:
            for capture in captures(sensor):
                raw, found = (predictor.predict(capture).outputs for predictor in (one, other))
                wanted = raw["disparity"][0, 0] / field
                promised = expected_error(raw["confidence"][0, 0]) / field
                error = np.abs(found["disparity"][0, 0] - wanted)
                ratio = np.log(expected_error(found["confidence"][0, 0]) / promised)
                if name.endswith("fp32"):
                    assert error.max() < 1e-5
                    assert np.abs(ratio).max() < 1e-4
                else:  # half a step of the result, and the gain's own steps
                    assert error.max() <= 0.51 * spec["disparity"].scale + 0.005 * np.abs(wanted).max()
                    assert np.abs(ratio).max() < 0.1
                assert np.abs(wanted - raw["disparity"][0, 0]).max() > 0.1


def test_whatever_the_student_can_tell_fits_into_the_corrected_range(bundles, sensor):
    (plain, _), (corrected, _) = (bundle.manifest.outputs for bundle in bundles)
    steepest = 1 / strength(sensor.dp_axis, SIZE[0] // 2, SIZE[1] // 2).min()
    for level in (-128, 127):
        raw, end = (spec.scale * (level - spec.zero_point) for spec in (plain, corrected))
        assert abs(end) >= abs(raw) * steepest - corrected.scale / 2
        assert abs(end) <= abs(raw) * steepest + corrected.scale


def test_only_integers_compute_and_the_students_own_ranges_stay(bundles):
    plain, corrected = (bundle.manifest for bundle in bundles)
    own = {entry.tensor: entry for entry in corrected.quantization}
    assert all(own[entry.tensor] == entry for entry in plain.quantization)
    assert len(own) == len(plain.quantization) + 2
    for artifact in corrected.artifacts:
        assert not artifact.kernels.outside
        assert artifact.precision == "fp32" or not artifact.kernels.floating


def test_prediction_is_corrected_once(bundles, sensor):
    sensor = replace(sensor, alpha=5.0, focal_length_m=0.004, f_number=1.8, pitch_um=2.8)
    plain, corrected = bundles
    capture = replace(next(captures(sensor)), sensor=sensor)
    with (
        edge_dp.load(plain.folder, "executorch-fp32") as one,
        edge_dp.load(corrected.folder, "executorch-fp32") as other,
    ):
        raw, found = (predictor.predict(capture, focus_m=1.5) for predictor in (one, other))
    np.testing.assert_array_equal(found.corrected_disparity, found.disparity)
    assert np.abs(found.disparity - raw.corrected_disparity).max() < 0.1 < np.abs(raw.disparity - found.disparity).max()
    finite = np.isfinite(found.depth)
    assert finite.any()
    shown = depth_to_disparity(found.depth.astype(float)[finite], sensor, 1.5)
    np.testing.assert_allclose(shown, found.disparity[finite], atol=1e-3)


def test_a_capture_of_another_sensor_is_refused(bundles):
    _, corrected = bundles
    foreign = next(captures(load_sensor("canon_r6")))
    with edge_dp.load(corrected.folder, "executorch-int8") as predictor:
        with pytest.raises(InputError, match=r"capture 0: expected a capture of lopsided.*found one of canon_r6"):
            predictor.predict(foreign)
        predictor.predict(foreign.left, foreign.right)  # of no sensor: the bundle's


def test_the_model_is_made_again_with_its_field(bundles):
    for bundle in bundles:
        network_of_bundle(bundle)  # refuses one that gives other outputs
        reference, case = reference_of_bundle(bundle), bundle.manifest.golden[0]
        inputs = bundle.golden_inputs(case)
        for form in ("float", "quantised"):
            (found,) = reference(form, [inputs])
            for name, expected in bundle.golden_outputs(case, form).items():
                np.testing.assert_allclose(found[name], expected, atol=1e-5)


def test_a_field_that_nobody_knows_is_refused(tmp_path):
    with pytest.raises(InputError, match="correct_field: expected a sensor"):
        edge_dp.export_checkpoint("dp_disparity_xs", tmp_path / "out", correct_field=True)
    with pytest.raises(InputError, match=r"generic_phone: expected a profile with an alpha_field.*sensors fit"):
        edge_dp.export_checkpoint(
            "dp_disparity_xs", tmp_path / "out", sensor=load_sensor("generic_phone"), correct_field=True
        )
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_corrects_for_no_field_is_refused(bundles, tmp_path):
    _, corrected = bundles
    with pytest.raises(SchemaError, match="field_corrected: expected a sensor with an alpha_field"):
        write_manifest(replace(corrected.manifest, sensor=None), tmp_path)
