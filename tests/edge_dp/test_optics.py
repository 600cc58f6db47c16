"""The thin lens against published values, ray geometry done independently, and itself backwards."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.strategies import floats
from pytest import approx

from edge_dp import optics
from edge_dp.errors import InputError, OpticsError
from edge_dp.sensors import load_sensor

PIXEL_4 = dataclasses.replace(load_sensor("pixel4"), alpha=4 / (3 * math.pi))  # with ideal half discs
UNKNOWN = load_sensor("generic_8bit")


@pytest.mark.parametrize(
    ("depth", "focus", "disparity"),
    [
        (math.inf, 1, 1.69),
        (0.3, 1, -3.94),
        (0.5, 1, -1.69),
        (2, 1, 0.84),
        (5, 1, 1.35),
        (math.inf, 0.5, 3.39),
        (1, 1, 0),
    ],
)
def test_published_values_of_a_pixel_4(depth, focus, disparity):
    """F 4.38 mm, f/1.73, pitch 2.8 um, half disc."""
    assert optics.depth_to_disparity(depth, PIXEL_4, focus) == approx(disparity, abs=0.005)


@given(depth=floats(0.1, 50), focus=floats(0.1, 20), focal_length=floats(1e-3, 0.09), f_number=floats(1, 22))
def test_circle_of_confusion_against_rays_through_the_rim(depth, focus, focal_length, f_number):
    """Similar triangles behind the lens: images form at v(depth), the sensor stands at v(focus)."""
    image, sensor = (1 / (1 / focal_length - 1 / distance) for distance in (depth, focus))
    diameter = focal_length / f_number * (sensor - image) / image
    found = optics.circle_of_confusion(depth, focal_length, f_number, focus)
    assert found == approx(diameter, rel=1e-6, abs=1e-12)
    assert np.sign(found) == np.sign(depth - focus) or found == approx(0, abs=1e-12)


def test_circle_of_confusion_in_px():
    metres = optics.circle_of_confusion(2.0, PIXEL_4.focal_length_m, PIXEL_4.f_number, 1.0)
    assert optics.circle_of_confusion_px(2.0, PIXEL_4, 1.0) == approx(metres / 2.8e-6)


@given(depth=floats(0.05, 100), focus=floats(0.02, 20), alpha=floats(0.01, 0.6))
def test_disparity_and_depth_are_inverse(depth, focus, alpha):
    d = optics.depth_to_disparity(depth, PIXEL_4, focus, alpha)
    assert optics.disparity_to_depth(d, PIXEL_4, focus, alpha) == approx(depth, rel=1e-6)


@given(disparity=floats(-50, 1.6))
def test_depth_and_disparity_are_inverse(disparity):
    depth = optics.disparity_to_depth(disparity, PIXEL_4, 1.0)
    assert optics.depth_to_disparity(depth, PIXEL_4, 1.0) == approx(disparity, rel=1e-6, abs=1e-9)


@given(alpha=floats(0.01, 0.6), focus=floats(0.02, 20), depth=floats(0.05, 100))
def test_lens_and_affine_map_of_inverse_depth_are_inverse(alpha, focus, depth):
    slope, offset = optics.affine_of_inverse_depth(PIXEL_4, focus, alpha)
    assert optics.depth_to_disparity(depth, PIXEL_4, focus, alpha) == approx(offset + slope / depth, rel=1e-9, abs=1e-9)
    assert optics.lens_of_affine(slope, offset, UNKNOWN_ALPHA) == approx((alpha, focus), rel=1e-9)


UNKNOWN_ALPHA = dataclasses.replace(PIXEL_4, alpha=None)


def test_beyond_the_horizon_is_the_horizon():
    horizon = optics.depth_to_disparity(math.inf, PIXEL_4, 1.0)
    assert optics.disparity_to_depth(np.array([horizon, horizon + 0.5]), PIXEL_4, 1.0).tolist() == [math.inf, math.inf]
    assert optics.depth_to_disparity(math.inf, PIXEL_4, math.inf) == 0


def test_maps_keep_shape_and_dtype_and_invalid_disparity_stays_so():
    depth = np.full((2, 3, 4), 2.0, np.float32)
    disparity = optics.depth_to_disparity(depth, PIXEL_4, 1.0, np.linspace(0.1, 0.2, 4))
    assert (disparity.shape, disparity.dtype) == ((2, 3, 4), np.float32)
    assert disparity[0, 0, 3] == approx(2 * disparity[0, 0, 0], rel=1e-6)
    assert optics.depth_to_disparity(2, PIXEL_4, 1).dtype == np.float64
    assert np.isnan(optics.disparity_to_depth([math.nan, 0.0], PIXEL_4, 1.0)).tolist() == [True, False]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_a_depth_that_is_none_is_named(bad):
    depth = np.ones((3, 4))
    depth[1, 2] = bad
    with pytest.raises(OpticsError, match=rf"depth\[1, 2\]: expected metres above 0, found {bad:g}"):
        optics.depth_to_disparity(depth, PIXEL_4, 1.0)
    with pytest.raises(OpticsError, match="depth: expected metres above 0"):
        optics.circle_of_confusion(bad, 4e-3, 2.0, 1.0)


@pytest.mark.parametrize("focus", [0.00438, 0.001, 0.0, -1.0, math.nan])
def test_focus_within_the_focal_length(focus):
    for function in (optics.depth_to_disparity, optics.disparity_to_depth, optics.circle_of_confusion_px):
        with pytest.raises(OpticsError, match="focus_m: expected above the focal length"):
            function(1.0, PIXEL_4, focus)


@pytest.mark.parametrize("field", ["alpha", "focal_length_m", "f_number", "pitch_um"])
def test_a_number_that_is_unknown_is_named(field):
    sensor = dataclasses.replace(PIXEL_4, **{field: None})
    for call in (optics.depth_to_disparity, optics.disparity_to_depth):
        with pytest.raises(OpticsError, match=f"sensor pixel4: {field}: expected a number, found null"):
            call(1.0, sensor, 1.0)
    with pytest.raises(OpticsError, match=field):
        optics.affine_of_inverse_depth(sensor, 1.0)


@pytest.mark.parametrize(("slope", "offset"), [(1.0, 1.0), (-1.0, -1.0), (0.0, 1.0), (math.nan, 1.0), (-1.0, math.nan)])
def test_an_affine_map_that_no_lens_gives(slope, offset):
    with pytest.raises(OpticsError, match="left and right exchanged"):
        optics.lens_of_affine(slope, offset, PIXEL_4)


def test_other_numbers_out_of_range():
    with pytest.raises(OpticsError, match=r"alpha\[1\]: expected a number above 0, found -0\.1"):
        optics.depth_to_disparity(1.0, PIXEL_4, 1.0, [0.2, -0.1])
    with pytest.raises(OpticsError, match=r"disparity\[1\]: expected finite px, found infinity"):
        optics.disparity_to_depth([0.0, math.inf], PIXEL_4, 1.0)
    with pytest.raises(OpticsError, match="f_number: expected a number above 0"):
        optics.circle_of_confusion(1.0, 4e-3, 0.0, 1.0)
    assert issubclass(OpticsError, InputError)


def test_disparity_sign_on_a_real_capture(data_root):
    """One plane stands in front of focus, one behind it: signs as the lens has them, on a real pair."""
    from edge_dp.data import read_pair
    from edge_dp.sensors.matching import match_views

    sensor = load_sensor("canon_r6")
    for distance, sign in ((0.6, -1), (1.5, 1)):
        folder = data_root / f"dual_pixel/canon_r6/flat/001/{round(1000 * distance):04d}/f4"
        sample = read_pair(folder / "l.png", folder / "r.png", sensor)
        disparity, error = match_views(sample.left, sample.right)
        assert np.sign(np.median(disparity[error < 0.1])) == sign
        assert np.sign(optics.depth_to_disparity(distance, sensor, sensor.focus_m)) == sign
