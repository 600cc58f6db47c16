"""Side cameras against pinhole cameras in metres."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from edge_dp.errors import InputError
from edge_dp.simulation.render import render_disparity, render_pinhole
from edge_dp.simulation.rig import SideCamera, render_side

FOCAL = 420.0  # px
BASELINE = 0.05  # m


def intrinsics(height, width):
    return np.array([[FOCAL, 0, (width - 1) / 2], [0, FOCAL, (height - 1) / 2], [0, 0, 1.0]])


def dual_pixel_plane(camera, normal, distance):
    """(d0, dx, dy) of the plane normal . X = distance in metres: 1 / z = normal . K^-1 (x, y, 1) / distance, and D = f B / z."""
    slope = FOCAL * BASELINE / distance * np.asarray(normal) / (FOCAL, FOCAL, 1.0)  # of D in x, y and 1
    dx, dy, d0 = slope / -camera.gain
    return float(camera.offset / camera.gain + d0), float(dx), float(dy)


def see(points, matrix, rotation, centre):
    """Pixels (N, 2) at which a camera K [R | -R C] sees points (N, 3) in metres."""
    seen = (matrix @ rotation @ (points - centre).T).T
    return seen[:, :2] / seen[:, 2:]


ANGLE = st.floats(-math.pi, math.pi)
TURN = st.floats(-8, 8)


@given(
    angle=ANGLE,
    turn=st.tuples(TURN, TURN, TURN),
    normal=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    distance=st.floats(0.4, 30),
    gain=st.floats(0.5, 12),
    offset=st.floats(-20, 40),
)
@settings(max_examples=150)
def test_homography_is_that_of_two_pinhole_cameras_and_a_plane(angle, turn, normal, distance, gain, offset):
    height, width = 90, 130
    matrix = intrinsics(height, width)
    camera = SideCamera(offset, gain, angle, turn, FOCAL)
    plane = dual_pixel_plane(camera, (*normal, 1.0), distance)
    pixels = np.array([[0, 0], [129, 0], [64.5, 44.5], [0, 89], [129, 89], [20, 70.25]])
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(matrix).T
    points = rays * (distance / (rays @ (*normal, 1.0)))[:, None]
    centre = BASELINE * np.array([math.cos(angle), math.sin(angle), 0])
    expected = see(points, matrix, Rotation.from_rotvec(turn, degrees=True).as_matrix(), centre)
    found = np.column_stack([pixels, np.ones(len(pixels))]) @ camera.homography(plane, height, width).T
    np.testing.assert_allclose(found[:, :2] / found[:, 2:], expected, atol=1e-6)


def analytic_texture(x, y):
    return 0.5 + 0.2 * np.sin(0.16 * x + 0.05 * y) + 0.2 * np.cos(0.13 * y - 0.04 * x)


@pytest.mark.parametrize("turn", [(0.0, 0.0, 0.0), (1.0, -1.5, 3.0)])
@pytest.mark.parametrize("angle", [0.0, math.pi / 2, -2.5])
def test_each_pixel_of_a_side_view_shows_where_its_ray_meets_the_plane(turn, angle, plane, scene_of):
    height, width, margin = 100, 140, 16
    camera = SideCamera(7.0, 5.0, angle, turn, FOCAL)
    normal, distance = np.array([0.3, -0.2, 1.0]), 2.5
    y, x = np.mgrid[0:height, 0:width].astype(float)
    texture = analytic_texture(x, y).astype(np.float32)
    layer = plane(np.stack([texture, 1 - texture]), *dual_pixel_plane(camera, normal, distance))
    seen = render_side(scene_of(layer), camera, margin)
    assert seen.shape == (2, height - 2 * margin, width - 2 * margin) and seen.dtype == np.float32

    matrix = intrinsics(height, width)
    rotation = Rotation.from_rotvec(turn, degrees=True).as_matrix()
    centre = BASELINE * np.array([math.cos(angle), math.sin(angle), 0])
    rays = (
        np.stack([x, y, np.ones_like(x)], axis=-1).reshape(-1, 3) @ (np.linalg.inv(rotation) @ np.linalg.inv(matrix)).T
    )
    points = centre + rays * ((distance - normal @ centre) / (rays @ normal))[:, None]
    first = see(points, matrix, np.eye(3), np.zeros(3))
    inside = np.all((first >= 0) & (first <= (width - 1, height - 1)), axis=1).reshape(height, width)
    expected = analytic_texture(*first.T).reshape(height, width)
    crop = (slice(margin, -margin), slice(margin, -margin))
    assert inside[crop].mean() > 0.95
    np.testing.assert_allclose(seen[0][inside[crop]], expected[crop][inside[crop]], atol=5e-3)
    np.testing.assert_allclose(seen[1][inside[crop]], 1 - expected[crop][inside[crop]], atol=5e-3)


@pytest.mark.parametrize("disparity", [-2.0, -0.33, 0.0, 1.5])
def test_side_camera_sees_stereo_disparity_offset_minus_gain_times_d(
    disparity, smooth_texture, plane, scene_of, measured_disparity
):
    camera = SideCamera(offset=11.0, gain=4.0)
    scene = scene_of(plane(smooth_texture(8, (64, 200)), disparity))
    reference, side = render_pinhole(scene, 0)[0], render_side(scene, camera, 0)[0]
    # left(x) = right(x - D) for stereo, so the matcher of left(x) = right(x + d) finds -D.
    stereo = -measured_disparity(reference, side, limit=22.0)
    assert stereo == pytest.approx(11.0 - 4.0 * disparity, abs=0.05)
    assert camera.stereo_disparity(np.float32(disparity)) == pytest.approx(11.0 - 4.0 * disparity)
    assert camera.dual_pixel_disparity(np.float32(stereo)) == pytest.approx(disparity, abs=0.02)


def test_camera_below_the_first_sees_points_move_up(smooth_texture, plane, scene_of, measured_disparity):
    scene = scene_of(plane(smooth_texture(12, (140, 90)), -0.5))
    camera = SideCamera(offset=3.0, gain=4.0, angle=math.pi / 2)
    reference, side = render_pinhole(scene, 0)[0], render_side(scene, camera, 0)[0]
    assert -measured_disparity(reference.T, side.T) == pytest.approx(5.0, abs=0.05)
    np.testing.assert_allclose(side[20:100], reference[25:105], atol=1e-5)


def test_side_camera_sees_a_slanted_plane_where_its_disparity_says(smooth_texture, plane, scene_of):
    """side(x - D(x, y)) = reference(x), compared point by point with D from the truth."""
    camera = SideCamera(offset=9.0, gain=4.0)
    scene = scene_of(plane(smooth_texture(9, (96, 240), 6.0), 0.4, 0.006, -0.008))
    reference, side = render_pinhole(scene, 0)[0], render_side(scene, camera, 0)[0]
    stereo = camera.stereo_disparity(render_disparity(scene, 0)).astype(np.float64)
    columns = np.arange(240.0)
    seen = np.stack([np.interp(columns - stereo[y], columns, side[y]) for y in range(96)])
    inside = (slice(None), slice(30, 220))
    error = np.abs(seen - reference)[inside]
    wrong = np.stack([np.interp(columns - stereo[y] - 0.3, columns, side[y]) for y in range(96)])
    assert error.mean() < 0.001
    assert error.mean() < 0.2 * np.abs(wrong - reference)[inside].mean()


def test_side_camera_uncovers_background_that_the_first_camera_cannot_see(smooth_texture, plane, scene_of):
    opacity = np.zeros((64, 200), np.float32)
    opacity[:, 90:120] = 1
    back, front = smooth_texture(10, (64, 200)), np.full((64, 200), 0.95, np.float32)
    scene = scene_of(plane(back, 1.0), plane(front, -2.0, opacity=opacity))
    side = render_side(scene, SideCamera(offset=6.0, gain=3.0), 0)[0]
    np.testing.assert_allclose(side[:, 90 - 12 + 1 : 120 - 12 - 1], 0.95, atol=1e-3)  # D = 6 + 3 * 2
    np.testing.assert_allclose(side[:, 110:180], back[:, 113:183], atol=1e-3)  # D = 3, part of it hidden at first


def test_turned_camera_sees_occlusions_of_its_own(plane, scene_of):
    """Two constant layers: whatever the turn, each pixel shows one or the other, or a mix at the rim."""
    opacity = np.zeros((90, 150), np.float32)
    opacity[20:60, 60:90] = 1
    opacity = gaussian_filter(opacity, 0.5)
    dark, bright = np.full((90, 150), 0.2, np.float32), np.full((90, 150), 0.8, np.float32)
    scene = scene_of(plane(dark, 1.0), plane(bright, -1.0, opacity=opacity))
    camera = SideCamera(4.0, 3.0, 0.0, (0.0, 0.0, 90.0), FOCAL)
    side = render_side(scene, camera, 0)[0]
    assert side.min() == pytest.approx(0.2, abs=1e-5) and side.max() == pytest.approx(0.8, abs=1e-5)
    # D = 7 moves the patch's middle from (74.5, 39.5) to 67.5; about the centre (74.5, 44.5), x to the right turns to y down.
    seen = (slice(None), slice(40, 130))  # the rest looks past the canvas
    y, x = (grid[seen] for grid in np.mgrid[0:90, 0:150])
    light = side[seen] - 0.2
    assert (light * x).sum() / light.sum() == pytest.approx(74.5 + 5, abs=0.05)
    assert (light * y).sum() / light.sum() == pytest.approx(44.5 - 7, abs=0.05)


@given(gain=st.floats(0.1, 20), offset=st.floats(-50, 50), disparity=st.floats(-8, 8))
def test_the_two_disparities_are_inverse(gain, offset, disparity):
    camera = SideCamera(offset, gain)
    found = camera.dual_pixel_disparity(camera.stereo_disparity(np.float64(disparity)))
    assert found == pytest.approx(disparity, abs=1e-9)


@pytest.mark.parametrize(
    "changes",
    [
        {"gain": 0.0},
        {"gain": -1.0},
        {"offset": math.nan},
        {"angle": math.inf},
        {"turn_deg": (0, math.nan, 0)},
        {"focal_px": 0.0},
    ],
)
def test_cameras_that_cannot_be_are_refused(changes):
    with pytest.raises(InputError, match="side camera: expected finite numbers, gain and focal_px above 0, found"):
        SideCamera(**{"offset": 2.0, "gain": 6.0} | changes)
