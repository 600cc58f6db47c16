"""Which estimates the rig's other views confirm: on planes, where every camera's view is known in closed form."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dp.errors import InputError, SchemaError, TrainingError
from edge_dp.training.labels import LabelConfig
from edge_dp.training.labels.consistency import project, rig_depth
from edge_dp.training.teachers.base import Camera, Estimate, Licence, View

SHAPE = (24, 48)
LICENCE = Licence("none", "none", commercial=True)


def rig(*places, focal=1.0, shape=SHAPE):
    image = np.full((1, *shape), 0.5, np.float32)
    return [View(image, Camera.rectified(shape, place, focal)) for place in places]


def inverse_depth_of_plane(view, normal):
    """Of the plane normal . X = 1, along the axis of a camera: normal . ray / (1 - normal . position)."""
    height, width = view.image.shape[1:]
    pixels = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], axis=-1)
    rays = pixels @ np.linalg.inv(view.camera.intrinsics).T @ view.camera.rotation
    return rays @ np.asarray(normal) / (1 - np.dot(normal, view.camera.position))


@dataclass
class PlaneTeacher:
    """Knows the plane; what it says of the view at ``liar`` is ``lie`` px off."""

    normal: tuple = (0.0, 0.0, 10.0)
    sigma: float = 0.1
    liar: tuple = ()
    lie: float = 0.0
    views: int | None = 2
    weights_file: None = None
    name: str = "plane"
    licence: Licence = LICENCE
    asked: list = field(default_factory=list)

    def estimate(self, views):
        self.asked.append(len(views))
        first, second = (view.camera for view in views[:2])
        reach = first.intrinsics[0, 0] * np.linalg.norm(second.position - first.position)
        disparity = reach * inverse_depth_of_plane(views[0], self.normal)
        if self.liar and any(np.allclose(view.camera.position[:2], self.liar) for view in views[:2]):
            disparity = disparity + self.lie
        shape = disparity.shape
        return Estimate(disparity.astype(np.float32), np.full(shape, self.sigma, np.float32), np.ones(shape, bool))


@dataclass
class Says:
    """Says a constant of each ordered pair of places along the baseline, with valid and sigma as given."""

    of: dict
    sigma: float = 0.1
    views: int = 2
    weights_file: None = None
    name: str = "says"
    licence: Licence = LICENCE

    def estimate(self, views):
        pair = tuple(int(view.camera.position[0]) for view in views)
        disparity = np.full(views[0].image.shape[1:], self.of[pair], np.float32)
        return Estimate(disparity, np.full_like(disparity, self.sigma), np.ones(disparity.shape, bool))


def look(views, teacher, metric=False, **config):
    return rig_depth(views, teacher, LabelConfig(**config), metric, "capture 7")


def seen_somewhere(views, normal, need=1):
    """Where at least ``need`` other views have the point well inside their frame."""
    height, width = views[0].image.shape[1:]
    columns, rows = np.meshgrid(np.arange(width, dtype=float), np.arange(height, dtype=float))
    inverse = inverse_depth_of_plane(views[0], normal)
    count = np.zeros((height, width), int)
    for view in views[1:]:
        x, y, _ = project(views[0].camera, view.camera, columns, rows, inverse)
        count += (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return count >= need


def test_projection_agrees_with_opencv():
    rng = np.random.default_rng(1)
    turn = cv2.Rodrigues(np.array([0.05, -0.1, 0.02]))[0]
    first = Camera(np.array([[90.0, 0, 20], [0, 80, 10], [0, 0, 1]]), np.array([0.1, -0.2, 0.3]), turn)
    second = Camera(
        np.array([[70.0, 0, 25], [0, 75, 12], [0, 0, 1]]),
        np.array([0.4, 0, 0.1]),
        cv2.Rodrigues(np.array([0, 0.2, 0]))[0],
    )
    points = rng.uniform((-1, -1, 4), (1, 1, 9), (50, 3))

    def seen(camera):
        shift = -camera.rotation @ camera.position
        pixels = cv2.projectPoints(points, cv2.Rodrigues(camera.rotation)[0], shift, camera.intrinsics, None)[0][:, 0]
        return pixels, 1 / (points @ camera.rotation.T + shift)[:, 2]

    (pixels, inverse), (expected, expected_inverse) = seen(first), seen(second)
    x, y, w = project(first, second, pixels[:, :1], pixels[:, 1:], inverse[:, None])
    np.testing.assert_allclose(np.hstack([x, y]), expected, atol=1e-8)
    np.testing.assert_allclose(w[:, 0], expected_inverse, rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(
    depth=st.floats(4.0, 14.0),
    tilt=st.tuples(st.floats(-0.08, 0.08), st.floats(-0.08, 0.08)),
    direction=st.sampled_from([(1.0, 0.0), (0.0, 1.0), (0.6, 0.8)]),
    others=st.integers(1, 2),
    multi_view=st.booleans(),
    check=st.sampled_from(["left_right", "third_view"]),
)
def test_what_is_consistent_is_kept_and_is_the_truth(depth, tilt, direction, others, multi_view, check):
    places = [(0.0, 0.0), direction, (-direction[0], -direction[1])][: others + 1]
    views = rig(*places)
    normal = (*tilt, depth)
    found = look(views, PlaneTeacher(normal, views=None if multi_view else 2), check=check)
    truth = inverse_depth_of_plane(views[0], normal)
    sampling = 2e-3 + 0.5 * max(map(abs, tilt))  # half a px of slope where a view ends
    np.testing.assert_allclose(found.inverse_depth[found.valid], truth[found.valid], atol=sampling)
    np.testing.assert_allclose(found.sigma[found.valid], 0.1, atol=sampling / 2)
    assert found.valid[seen_somewhere(views, normal)].all()


@settings(max_examples=25, deadline=None)
@given(
    depth=st.floats(4.0, 12.0),
    lie=st.sampled_from([-3.0, -1.2, 1.2, 3.0]),
    which=st.sampled_from([(1.0, 0.0), (-1.0, 0.0)]),
)
def test_a_shifted_view_confirms_nothing(depth, lie, which):
    """Pictures of one camera are shifted, so that all that involves it is ``lie`` px off. Alone it is consistent with itself."""
    views = rig((0, 0), (1, 0), (-1, 0))
    normal = (0.0, 0.0, depth)
    teacher = PlaneTeacher(normal, liar=which, lie=lie)
    assert not look(views, teacher, check="third_view", min_views=2).valid.any()
    honest = look(views, PlaneTeacher(normal), check="third_view", min_views=2)
    assert honest.valid[seen_somewhere(views, normal, need=2)].all()


def test_mean_and_sigma_are_the_moments_of_all_that_agrees():
    """By hand: candidates 10.0 and 10.2; the other views say 10.1 and 9.8."""
    views = rig((0, 0), (1, 0), (-1, 0))
    teacher = Says({(0, 1): 10.0, (0, -1): 10.2, (1, 0): 10.1, (-1, 0): 9.8}, sigma=0.3)
    found = look(views, teacher, relative_depth=0.5, least_difference_px=0.5, min_views=2)
    numbers = np.array([10.0, 10.2, 10.1, 9.8])
    expected = np.sqrt(((numbers - numbers.mean()) ** 2).sum() / 4 + 0.3**2)
    middle = found.inverse_depth[:, 11:-11], found.sigma[:, 11:-11]
    np.testing.assert_allclose(middle[0], numbers.mean(), rtol=1e-6)
    np.testing.assert_allclose(middle[1], expected, rtol=1e-6)


def test_a_disparity_of_zero_has_a_sigma():
    """Points at infinity, which some teachers see and which every camera confirms."""
    teacher = Says({(0, 1): 0.0, (0, 2): 0.0, (1, 0): 0.0, (2, 0): 0.0}, sigma=0.25)
    for check in ("left_right", "third_view"):
        depth = look(rig((0, 0), (1, 0), (2, 0)), teacher, check=check)
        assert depth.valid[:, 4:-4].all() and (depth.inverse_depth[depth.valid] == 0).all()
        assert np.isfinite(depth.sigma[depth.valid]).all() and (depth.sigma[depth.valid] > 0).all()


def test_checks_ask_the_views_that_they_name():
    views = rig((0, 0), (1, 0), (-1, 0))
    lonely = Says({(0, 1): 10.0, (0, -1): 14.0, (1, 0): 10.0, (-1, 0): 20.0})
    middle = np.s_[:, 21:-21]
    for check, kept, value in (("none", True, 10), ("left_right", True, 10), ("third_view", True, 10)):
        found = look(views, lonely, check=check)
        assert found.valid[middle].all() == kept
        np.testing.assert_allclose(found.inverse_depth[middle], value, rtol=1e-6)
    assert not look(views, lonely, min_views=2).valid.any()


def test_a_view_that_sees_through_a_point_refutes_it_and_one_that_it_is_hidden_from_does_not():
    views = rig((0, 0), (1, 0), (-1, 0))
    middle = np.s_[:, 21:-21]
    agreed = {(0, 1): 10.0, (1, 0): 10.0, (0, -1): 3.0}
    nearer, farther = Says(agreed | {(-1, 0): 20.0}), Says(agreed | {(-1, 0): 5.0})
    assert look(views, nearer).valid[middle].all()
    assert not look(views, farther).valid[middle].any()
    assert look(views, farther, free_space=False).valid[middle].all()


def test_two_candidates_that_are_as_well_confirmed_and_contradict_each_other_leave_nothing():
    views = rig((0, 0), (1, 0), (-1, 0))
    torn = Says({(0, 1): 10.0, (1, 0): 10.0, (0, -1): 6.0, (-1, 0): 6.0})
    assert not look(views, torn, check="left_right").valid[:, 12:-12].any()


@pytest.mark.parametrize(("off", "kept"), [(0.004, True), (0.006, False)])
def test_relative_depth_of_a_metric_rig(off, kept):
    """Focal length 100 px, baseline 0.2 m, depth 1 m: D = 20 px, of which 0.5 % is 0.1 px."""
    views = rig((0, 0), (0.2, 0), focal=100.0)
    teacher = PlaneTeacher((0, 0, 1.0))

    class Off(PlaneTeacher):
        def estimate(self, given):
            estimate = super().estimate(given)
            scale = 1 + off if given[0] is views[1] else 1
            return Estimate((estimate.disparity * np.float32(scale)).astype(np.float32), estimate.sigma, estimate.valid)

    found = look(views, Off((0, 0, 1.0)), metric=True, least_difference_px=0)
    assert found.valid[:, 21:].all() == found.valid.any() == kept
    exact = look(views, teacher, metric=True, least_difference_px=0)
    np.testing.assert_allclose(exact.inverse_depth[exact.valid], 1.0, rtol=1e-6)  # 1 / m
    np.testing.assert_allclose(exact.sigma[exact.valid], 0.1 / 20, rtol=1e-5)


def test_uncalibrated_differences_are_relative_to_the_range_of_the_capture():
    """A slope from 4 to 16 px, checked at 2 % of its range: 0.24 px."""
    views = rig((0, 0), (1, 0))
    slope = (12 / (SHAPE[1] - 1), 0.0, 10.0)
    for lie, kept in ((0.1, True), (0.5, False)):

        class Off(PlaneTeacher):
            def estimate(self, given, lie=lie):
                estimate = super().estimate(given)
                off = np.float32(lie if given[0] is views[1] else 0)
                return Estimate(estimate.disparity + off, estimate.sigma, estimate.valid)

        found = look(views, Off(slope), relative_depth=0.02, least_difference_px=0)
        assert found.valid.any() == kept


class Bad(PlaneTeacher):
    def __init__(self, change):
        super().__init__()
        self.change = change

    def estimate(self, views):
        return self.change(super().estimate(views))


BAD = {
    "nan": (
        lambda e: Estimate(np.full_like(e.disparity, np.nan), e.sigma, e.valid),
        "expected finite numbers .* found NaN",
    ),
    "sign": (lambda e: Estimate(-e.disparity, e.sigma, e.valid), r"mostly negative \(-10\.00 px .* wrong sign"),
    "sigma": (lambda e: Estimate(e.disparity, 0 * e.sigma, e.valid), "expected sigma above 0"),
    "shape": (lambda e: Estimate(e.disparity[:, :-1], e.sigma, e.valid), r"expected three maps of \(24, 48\)"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("check", ["none", "third_view"])
def test_what_is_no_estimate_is_refused_with_teacher_and_capture(kind, check):
    change, message = BAD[kind]
    with pytest.raises(TrainingError, match=rf"capture 7: teacher plane: .*{message}"):
        look(rig((0, 0), (1, 0)), Bad(change), check=check)


def test_nan_outside_the_valid_part_is_of_no_account():
    def holes(estimate):
        valid = np.ones(SHAPE, bool)
        valid[:10] = False
        return Estimate(np.where(valid, estimate.disparity, np.float32(np.nan)), estimate.sigma, valid)

    found = look(rig((0, 0), (1, 0)), Bad(holes))
    assert not found.valid[:10].any() and found.valid[10:, 10:].all()


def test_rigs_that_lack_cameras():
    with pytest.raises(InputError, match=r"capture 7: expected a rig of at least two cameras, found 1"):
        look(rig((0, 0)), PlaneTeacher())
    with pytest.raises(InputError, match=r"capture 7: expected 2 views beside the first .* found 1.*lower min_views"):
        look(rig((0, 0), (1, 0)), PlaneTeacher(), min_views=2)


@pytest.mark.parametrize(
    "change",
    [
        {"check": "both"},
        {"reprojection_px": 0},
        {"relative_depth": float("nan")},
        {"least_difference_px": -1},
        {"min_views": 0},
        {"cell_labels": 5},
        {"cell_spread_px": 0},
        {"sigma_floor_px": 0},
        {"failures": "ignore"},
    ],
)
def test_configuration_out_of_range_is_refused_by_name(change):
    with pytest.raises(SchemaError, match=next(iter(change))):
        LabelConfig(**change)
