"""How the disparity benchmark scores: on maps whose score is known beforehand."""

import numpy as np
import pytest
from baselines import sgbm
from disparity_bounds import judge
from scene_sets import (
    RENDERED_SEED,
    PositionPrior,
    SceneSet,
    affine_scores,
    calibrated_canon,
    canon,
    line_of,
    lytro,
    padded,
    planes,
    rendered,
    resized,
    sign,
)

from edge_dp.data import DpSample
from edge_dp.errors import InputError
from edge_dp.files import yaml_load
from edge_dp.sensors import load_sensor
from edge_dp.training.recipe import RECIPES

GRID = np.meshgrid(np.linspace(-1, 1, 60), np.linspace(-1, 1, 40))


def sample(name, height=40, width=60):
    view = np.full((1, height, width), 0.2, np.float32)
    return DpSample(view, view, load_sensor("generic_phone"), name)


def test_a_line_among_outliers():
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 2.0, 2000)
    y = -1.1 * x + 1.2 + rng.normal(0, 0.01, 2000)
    y[::4] += rng.uniform(0, 5, 500)
    assert line_of(np.stack([x, y], axis=1)) == pytest.approx((-1.1, 1.2), abs=0.02)


def test_affine_scores_do_not_see_scale_but_the_sign():
    truth = np.random.default_rng(1).uniform(size=(40, 60)).astype(np.float32)
    mask = np.ones(truth.shape, bool)
    for scale in (3.0, -3.0):
        scores = affine_scores(scale * truth + 7, (truth, mask))
        assert scores["sign"] == np.sign(scale)
        assert max(scores["AI(1)"], scores["AI(2)"], scores["1-|rho|"]) < 1e-6
    assert sign(np.zeros_like(truth), (truth, mask)) == 0


def test_the_position_prior_is_what_other_scenes_show_in_the_same_place():
    x, y = GRID
    layout = (1 + 2 * x - 3 * y + 0.5 * x * y + y * y).astype(np.float32)
    truths = {"a": layout, "b": layout, "c": -layout}
    mask = np.ones(layout.shape, bool)
    captures = SceneSet(
        "made",
        "made",
        tuple(truths),
        sample,
        lambda *_: {},
        lambda one: (truths[one.name], mask),
        search_px=(0, 0),
    )
    prior = PositionPrior(captures)
    np.testing.assert_allclose(prior("c", 40, 60), layout, atol=1e-4)  # its own truth is not looked at
    np.testing.assert_allclose(prior("a", 40, 60), 0, atol=1e-4)


def test_a_prior_needs_another_scene():
    x, _ = GRID
    captures = SceneSet(
        "made",
        "made",
        ("a",),
        sample,
        lambda *_: {},
        lambda _: (x.astype(np.float32), np.ones(x.shape, bool)),
        search_px=(0, 0),
    )
    with pytest.raises(InputError, match="other scenes with ground truth"):
        PositionPrior(captures)("a", 40, 60)


def test_padding_adds_nothing_that_counts():
    small = sample("a")
    large = padded(small, 48, 64)
    assert large.left.shape == (1, 48, 64) and large.mask.sum() == 40 * 60
    assert padded(small, 40, 60) is small


def test_px_grow_with_the_map():
    np.testing.assert_allclose(resized(np.full((10, 20), 1.5, np.float32), 20, 40), 3.0)


@pytest.mark.parametrize("shift", [-3, 2])
def test_semi_global_matching_has_the_sign_of_the_project(shift):
    light = np.random.default_rng(4).uniform(0.1, 0.9, (80, 120)).astype(np.float32)
    found = sgbm(light, np.roll(light, shift, axis=1))  # left(x) = right(x + shift)
    assert np.median(found[20:-20, 30:-30]) == pytest.approx(shift, abs=0.1)


def test_rendered_scenes_are_of_a_seed_that_no_recipe_has():
    captures = rendered(1)
    one, two = captures.read("000"), rendered(1).read("000")
    assert one.left.shape == (1, 384, 512)
    np.testing.assert_array_equal(one.left, two.left)
    assert captures.score(one.disparity, one)["EPE px"] == 0
    assert RENDERED_SEED not in {yaml_load(path)["seed"] for path in RECIPES.rglob("*.yaml")}


def test_inverse_depth_scores_perfectly_on_canon_and_has_its_own_slope(data_root):
    captures = canon()
    assert len(captures.names) == 9
    capture = captures.read(captures.names[0])
    inverse = np.where(capture.mask, 1 / np.where(capture.mask, capture.depth, 1), 0).astype(np.float32)
    scores = captures.score(1.2 - 1.1 * inverse, capture)
    assert scores["sign"] == 1 and scores["AI(1)"] < 1e-5 and scores["1-|rho|"] < 1e-5
    assert line_of(captures.points(1.2 - 1.1 * inverse, capture)) == pytest.approx((-1.1, 1.2), abs=1e-3)


def test_what_a_calibrated_lens_shows_scores_perfectly_once_corrected(data_root):
    """The depth of a scene, vignetted as the planes say; their field is that of all captures in the profile, to a tenth."""
    captures = canon()
    capture = captures.read(captures.names[0])
    field = calibrated_canon().alpha_field.sample(*capture.depth.shape)
    inverse = np.where(capture.mask, 1 / np.where(capture.mask, capture.depth, 1), 0).astype(np.float32)
    scores = captures.scores((1.2 - 1.1 * inverse) * field, capture)
    assert scores["AI(1)"] > 0.02
    assert scores["AI(1), corrected"] < 1e-5 and scores["1-|rho|, corrected"] < 0.01  # equal depths come in any order
    np.testing.assert_allclose(field, load_sensor("canon_r6").alpha_field.sample(*field.shape), atol=0.12)


def test_disparities_that_are_known_in_px_are_not_corrected():
    captures = rendered(1)
    sample = captures.read("000")
    assert captures.scores(sample.disparity, sample) == captures.score(sample.disparity, sample)


def test_planes_are_judged_against_what_matches_in_them(data_root):
    captures = planes()
    assert [name.split("/")[-2] for name in captures.names] == ["0600", "1500"]
    signs = []
    for name in captures.names:
        capture = captures.read(name)
        at_zero = captures.score(np.zeros(capture.depth.shape, np.float32), capture)
        shifted = captures.score(np.full(capture.depth.shape, 0.5, np.float32), capture)
        assert shifted["bias px"] - at_zero["bias px"] == pytest.approx(0.5, abs=1e-4)
        signs.append(np.sign(-at_zero["bias px"]))
    assert signs == [-1, 1]  # nearer and farther than the focus at 1 m


def test_the_real_light_field_fits_the_network(data_root):
    captures = lytro()
    capture = captures.read(captures.names[0])
    assert capture.left.shape[1] >= 384 and capture.left.shape[2] >= 512
    assert not capture.mask[383:].any()


def report(precision="int8", **changes):
    """Of a student that keeps every bound, but for what is changed."""
    values = {"AI(1)": 0.03, "AI(2)": 0.05, "1-|rho|": 0.08, "sign": 1.0, "px from fp32": 0.01} | changes
    return {
        "methods": {
            "dp_disparity_s int8": {"student": "dp_disparity_s", "precision": precision, "corrects_field": False},
            "dp_disparity_s fp32": {"student": "dp_disparity_s", "precision": "fp32", "corrects_field": False},
        },
        "data": {"pixel4": {"summary": {"dp_disparity_s int8": values, "dp_disparity_s fp32": {"AI(2)": 0.05}}}},
    }


def test_bounds_that_are_kept():
    rows = judge(report())
    assert len(rows) == 6 and all(row["passed"] for row in rows)


@pytest.mark.parametrize(("of_one_view", "passed"), [(0.16, True), (0.15, False)])
def test_two_views_must_halve_the_rank_error_of_one(of_one_view, passed):
    found = report()
    found["data"]["pixel4"]["summary"]["mono_disparity_s int8"] = {"1-|rho|": of_one_view}
    (row,) = (row for row in judge(found) if "one view" in row["what"])
    assert row["passed"] is passed and row["value"] == pytest.approx(0.08 / of_one_view)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"AI(1)": 0.041}, {"AI(1)"}),
        ({"AI(2)": 0.052}, {"AI(2) worse than fp32"}),
        ({"sign": 0.75}, {"1 - sign"}),
        ({"px from fp32": 0.06}, {"px from fp32"}),
        ({"1-|rho|": float("nan")}, {"1-|rho|"}),
    ],
)
def test_a_bound_that_is_missed_is_named(change, what):
    assert {row["what"] for row in judge(report(**change)) if not row["passed"]} == what
