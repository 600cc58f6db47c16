"""The map from rig disparity to dual-pixel disparity: through the optics, or fitted to the two dual-pixel views."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dp.errors import InputError, OpticsError, SchemaError, TrainingError
from edge_dp.optics import depth_to_disparity
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.rig import SideCamera
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.labels import FitConfig, RenderedCaptures, label_capture
from edge_dp.training.labels.dual_pixel import DualPixelMap, fit_affine, fit_to_views
from edge_dp.training.teachers.sgm import SgmTeacher


def points(slope, offset, outliers=0.0, count=400, seed=0, error=0.1):
    rng = np.random.default_rng(seed)
    w = rng.uniform(5, 50, count)
    errors = rng.uniform(0.5, 1.5, count) * error
    d = offset + slope * w + rng.normal(size=count) * errors
    wrong = rng.uniform(size=count) < outliers
    d[wrong] += rng.uniform(0, 3, wrong.sum())  # to one side, as where the sharper of two things wins
    return w, d, errors


@settings(max_examples=20, deadline=None)
@given(
    slope=st.floats(-0.4, -0.05),
    offset=st.floats(-3, 8),
    outliers=st.sampled_from([0.0, 0.1, 0.2]),
    seed=st.integers(0, 99),
)
def test_fit_finds_a_known_line_among_outliers(slope, offset, outliers, seed):
    found = fit_affine(*points(slope, offset, outliers, seed=seed), FitConfig(), "capture 7")
    w = np.array([10.0, 45.0])
    np.testing.assert_allclose(found.offset + found.slope * w, offset + slope * w, atol=0.08)


def test_standard_errors_are_those_of_repeated_fits():
    """And not those of the matcher alone: half its errors are hidden from the fit."""
    config = FitConfig(least_match_error_px=1e-3)
    fits = [
        fit_affine(w, d, error / 2, config, "") for w, d, error in (points(-0.2, 5, seed=seed) for seed in range(120))
    ]
    ends = np.array([[f.offset + f.slope * w for w in (5, 27, 50)] for f in fits])
    claimed = [f(np.array([5.0, 27.0, 50.0], np.float32), np.zeros(3, np.float32))[1] for f in fits]
    np.testing.assert_allclose(ends.std(axis=0), np.mean(claimed, axis=0), rtol=0.2)


def test_sigma_goes_through_the_map():
    """Against samples of slope, offset and w."""
    rng = np.random.default_rng(5)
    slope, offset = rng.multivariate_normal((-0.2, 5), [[1e-4, -2e-3], [-2e-3, 0.09]], 200_000).T
    maps = DualPixelMap(-0.2, 5.0, (1e-4, 0.09, -2e-3))
    for w, sigma in ((10.0, 0.5), (40.0, 0.1)):
        drawn = offset + slope * w  # the error of w itself is independent of the fit's
        disparity, found = maps(np.array([w], np.float32), np.array([sigma], np.float32))
        assert disparity[0] == pytest.approx(5 - 0.2 * w, rel=1e-6)
        assert found[0] == pytest.approx(np.hypot(drawn.std(), 0.2 * sigma), rel=0.01)


def test_rising_line_is_the_wrong_sign_and_says_what_to_do():
    w, d, error = points(0.2, -5)
    with pytest.raises(TrainingError, match=r"capture 7: .*wrong sign. Exchange the left and right dual-pixel views"):
        fit_affine(w, d, error, FitConfig(), "capture 7")


def test_what_cannot_be_told_is_said_so():
    w, d, error = points(-0.2, 5)
    with pytest.raises(TrainingError, match=r"capture 7: expected 30 windows .* found 12"):
        fit_affine(w[:12], d[:12], error[:12], FitConfig(), "capture 7")
    for flat in (w * 0 + 7, 7 + 0.01 * w):  # one depth; next to one
        noise = np.random.default_rng(2).normal(size=w.shape) * error
        with pytest.raises(TrainingError, match=r"capture 7: expected depths .*found too little to tell"):
            fit_affine(flat, noise, error, FitConfig(), "capture 7")


def test_known_optics():
    camera = SideCamera(offset=20.0, gain=6.0)
    w = np.array([2.0, 8.0, 20.0, 41.0], np.float32)
    disparity, sigma = DualPixelMap.of_side_camera(camera)(w, np.full(4, 0.3, np.float32))
    np.testing.assert_allclose(disparity, camera.dual_pixel_disparity(w), atol=1e-6)
    np.testing.assert_allclose(sigma, 0.05, rtol=1e-6)
    pixel4 = load_sensor("pixel4")
    depth = np.array([0.4, 1.0, 3.0])
    expected = depth_to_disparity(depth, pixel4, 0.8) / 2
    found, _ = DualPixelMap.of_optics(pixel4, 0.8, 0.5)((1 / depth).astype(np.float32), np.ones(3, np.float32))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    with pytest.raises(OpticsError, match="focal_length_m"):
        DualPixelMap.of_optics(load_sensor("generic_8bit"), 0.8)
    with pytest.raises(InputError, match="expected a slope below 0"):
        DualPixelMap(0.1, 0.0)


@pytest.fixture(scope="module")
def captures():
    """Rendered captures of which nothing is told but what the cameras saw."""
    scene = SceneConfig(height=128, width=160, margin=32, disparity=(-3.0, 4.0))
    lens = LensConfig(models={"half_aperture": 1.0})
    source = RenderedCaptures(5, 10, SimulationConfig(scene, lens))
    return {index: source.read(index) for index in (0, 1, 3, 4, 6)}


def test_fit_to_rendered_views_finds_the_optics_that_rendered_them(captures):
    """A blurred pair is matched to some hundredths of a px; where objects meet, not at all."""
    close = []
    for index in (0, 1, 4, 6):
        mean, sigma, mask = label_capture(dataclasses.replace(captures[index], optics=None), SgmTeacher())
        true, _, _ = label_capture(captures[index], SgmTeacher())
        close.append(np.median(np.abs(mean - true)[mask]))
        assert (sigma[mask] >= 0.02).all()
    assert max(close) < 0.1


def test_capture_of_one_wall_cannot_be_fitted(captures):
    assert np.ptp(captures[3].truth) < 0.3
    with pytest.raises(TrainingError, match=r"seed 5, capture 3: .*found too little to tell"):
        label_capture(dataclasses.replace(captures[3], optics=None), SgmTeacher())


def test_exchanged_views_are_found_out(captures):
    capture = dataclasses.replace(captures[0], optics=None, views=captures[0].views[::-1].copy())
    with pytest.raises(TrainingError, match=r"seed 5, capture 0: .*wrong sign"):
        label_capture(capture, SgmTeacher())


def test_views_without_texture_cannot_be_fitted(captures):
    grey = np.full((1, 128, 160), 0.4, np.float32)
    with pytest.raises(TrainingError, match=r"a wall: expected 30 windows with texture .* found 0"):
        fit_to_views(np.full((128, 160), 9.0, np.float32), grey, grey, FitConfig(), "a wall")


@pytest.mark.parametrize(
    "change",
    [{"huber": 0}, {"window_px": 20}, {"max_disparity_px": 0.1}, {"least_points": 2}, {"largest_relative_error": -1}],
)
def test_fit_configuration_out_of_range_is_refused(change):
    with pytest.raises(SchemaError, match="expected"):
        FitConfig(**change)
