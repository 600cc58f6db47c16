import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dp.config import from_mapping
from edge_dp.errors import InputError, SchemaError
from edge_dp.simulation import scenes as scenes_module
from edge_dp.simulation.scenes import Layer, Scene, SceneConfig, random_scene
from edge_dp.simulation.shapes import (
    SOLID,
    THIN,
    bounding_box,
    box_parts,
    line,
    plane_at,
    plane_map,
    plane_sum,
    rounded_parts,
    silhouette,
    where_positive,
)

CANVAS = (120, 160)
CENTRE = np.array([80.0, 60.0])
PLAIN = {"table_share": 0.0, "corner_share": 0.0, "box_share": 0.0, "rounded_share": 0.0, "thin_share": 0.0}
SMALL = SceneConfig(height=64, width=96, margin=16)


def draw_scenes(count, **changes):
    config = dataclasses.replace(SMALL, **changes)
    return [random_scene(np.random.default_rng([7, index]), config) for index in range(count)]


def brute_plane(plane, canvas):
    """d0 + dx x + dy y from the canvas centre, pixel by pixel."""
    height, width = canvas
    d0, dx, dy = plane
    rows = [
        [d0 + dx * (x - (width - 1) / 2) + dy * (y - (height - 1) / 2) for x in range(width)] for y in range(height)
    ]
    return np.array(rows)


# ---- layers ----


def test_layer_knows_its_disparity_and_its_box():
    opacity = np.zeros((9, 14), np.float32)
    opacity[2:5, 3:11] = 0.25
    opacity[4, 12] = 1e-4
    layer = Layer(np.ones((3, 9, 14), np.float32), opacity, (1.5, -0.25, 0.125))
    assert layer.box == (2, 5, 3, 13)
    expected = brute_plane(layer.plane, (9, 14))
    np.testing.assert_allclose(layer.disparity(), expected, atol=1e-6)
    np.testing.assert_allclose(layer.disparity(layer.box), expected[2:5, 3:13], atol=1e-6)
    assert layer.disparity().dtype == np.float32


def test_box_of_an_empty_layer_is_empty_and_of_a_full_one_the_canvas():
    empty, full = np.zeros((5, 6), np.float32), np.ones((5, 6), np.float32)
    assert Layer(full[None], empty, (0, 0, 0)).box == (0, 0, 0, 0)
    assert Layer(full[None], full, (0, 0, 0)).box == (0, 5, 0, 6)


def test_moved_layer_keeps_its_box():
    layer = draw_scenes(1)[0].layers[-1]
    assert dataclasses.replace(layer, plane=(1.0, 0.0, 0.0)).box == layer.box


# ---- scenes as a whole ----


@st.composite
def configs(draw):
    low = draw(st.floats(-6, 5))
    objects = draw(st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(lambda shares: sum(shares) > 0.1))
    surfaces = draw(st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda shares: sum(shares) > 0.1))
    fewest = draw(st.integers(1, 6))
    share = st.floats(0, 1)
    return SceneConfig(
        height=draw(st.integers(8, 80)),
        width=draw(st.integers(8, 80)),
        margin=draw(st.integers(0, 16)),
        disparity=(low, low + draw(st.floats(0.01, 8))),
        layers=(fewest, fewest + draw(st.integers(0, 4))),
        channels=draw(st.sampled_from([1, 3])),
        slant_share=draw(share),
        one_sided_share=draw(share),
        table_share=draw(share),
        corner_share=draw(share),
        box_share=objects[0] / sum(objects),
        rounded_share=objects[1] / sum(objects),
        thin_share=objects[2] / sum(objects),
        textureless_share=surfaces[0] / sum(surfaces),
        repeated_share=surfaces[1] / sum(surfaces),
        saturated_share=draw(share),
    )


@given(config=configs(), seed=st.integers(0, 2**32))
@settings(max_examples=120)
def test_any_scene_keeps_its_promises(config, seed):
    scene = random_scene(np.random.default_rng(seed), config)
    canvas = config.height + 2 * config.margin, config.width + 2 * config.margin
    assert config.layers[0] <= len(scene.layers) <= config.layers[1]
    assert config.disparity[0] - 1e-6 <= scene.nearest < scene.farthest <= config.disparity[1] + 1e-6
    assert scene.layers[0].opacity.min() == 1  # there is always something behind
    for layer in scene.layers:
        assert layer.radiance.shape == (config.channels, *canvas) and layer.radiance.dtype == np.float32
        assert layer.opacity.shape == canvas and layer.opacity.dtype == np.float32
        assert np.isfinite(layer.radiance).all() and layer.radiance.min() >= 0
        assert layer.opacity.min() >= 0 and layer.opacity.max() <= 1
        disparity = layer.disparity()[layer.opacity > 0]
        assert disparity.min(initial=np.inf) >= scene.nearest - 0.03
        assert disparity.max(initial=-np.inf) <= scene.farthest + 0.03  # half a px beyond a slanted edge


@given(config=configs(), seed=st.integers(0, 2**32))
@settings(max_examples=25)
def test_the_same_generator_state_gives_the_same_scene(config, seed):
    np.random.seed(1)  # the global generators must not matter
    cv2.setRNGSeed(1)
    first = random_scene(np.random.default_rng(seed), config)
    np.random.seed(2)
    cv2.setRNGSeed(2)
    random_scene(np.random.default_rng(seed + 1), config)  # nor what was drawn before
    second = random_scene(np.random.default_rng(seed), config)
    assert (first.nearest, first.farthest) == (second.nearest, second.farthest)
    for one, other in zip(first.layers, second.layers, strict=True):
        assert one.plane == other.plane
        np.testing.assert_array_equal(one.opacity, other.opacity)
        np.testing.assert_array_equal(one.radiance, other.radiance)


@pytest.mark.parametrize(
    ("changes", "own_parts"),
    [
        (PLAIN, 0),
        (PLAIN | {"table_share": 1.0, "corner_share": 1.0}, 0),
        (PLAIN | {"thin_share": 1.0, "table_share": 1.0}, 0),
        ({}, 2),
        (PLAIN | {"rounded_share": 1.0}, 2),
        (PLAIN | {"box_share": 1.0, "table_share": 1.0}, 2),
    ],
)
def test_no_layer_covers_what_is_nearer(changes, own_parts):
    """Parts of one object overlap in a strip beyond their common edge, so the last ``own_parts`` layers are left out."""
    covering = wrong = 0
    for scene in draw_scenes(40, layers=(4, 9), **changes):
        fronts = [scene.layers[0].disparity()]
        for layer in scene.layers[1:]:
            covered = layer.opacity > 0.5
            covering += covered.sum()
            wrong += (layer.disparity() > fronts[max(0, len(fronts) - 1 - own_parts)] + 0.05)[covered].sum()
            fronts.append(np.where(covered, layer.disparity(), fronts[-1]))
    assert covering
    assert wrong < (0.01 if own_parts else 0.0005) * covering, (
        f"{wrong / covering:.1%} of the covering surface lies behind what it covers"
    )


@pytest.mark.parametrize(("share", "straddling"), [(1.0, 0), (0.0, 1)])
def test_one_sided_scenes_lie_in_front_of_or_behind_focus(share, straddling):
    scenes = draw_scenes(40, height=16, width=16, margin=2, one_sided_share=share, layers=(2, 2))
    both = sum(scene.nearest < -0.31 and scene.farthest > 0.31 for scene in scenes)
    assert (both > 0) == bool(straddling)
    assert any(scene.farthest < 0.31 for scene in scenes) and any(scene.nearest > -0.31 for scene in scenes)


def test_objects_stand_out_in_depth_from_what_is_behind_them():
    """A network learns nothing from objects as far as their background: most must be nearer by a part of the range."""
    steps = []
    for scene in draw_scenes(60, layers=(4, 7)):
        wall = scene.layers[0].disparity()
        for layer in scene.layers[1:]:
            if (seen := layer.opacity > 0.5).any():
                steps.append(float((wall - layer.disparity())[seen].mean()) / (scene.farthest - scene.nearest))
    assert np.median(steps) > 0.2
    assert np.mean(np.array(steps) < 0.02) < 0.25


def test_rims_of_foreground_objects_are_anti_aliased():
    layers = [layer for scene in draw_scenes(10, layers=(7, 7)) for layer in scene.layers[1:]]
    assert np.mean([np.any((layer.opacity > 0) & (layer.opacity < 1)) for layer in layers]) > 0.8


# ---- every kind appears ----


def test_table_meets_the_wall_in_a_line_and_comes_towards_the_camera_below_it():
    for scene in draw_scenes(30, **PLAIN | {"table_share": 1.0, "layers": (2, 2)}):
        wall, table = scene.layers
        step = wall.disparity().astype(float) - table.disparity()
        seen = table.opacity > 0.5
        assert seen[-1].any() and not seen[0].any()
        rim = (table.opacity > 0.1) & (table.opacity < 0.9)
        slope = np.hypot(table.plane[1] - wall.plane[1], table.plane[2] - wall.plane[2])
        assert abs(step[rim]).max(initial=0) < slope + 1e-5
        assert step[seen].min() > -slope
        assert step[-1].mean() > step[seen].mean() > 0


def test_second_wall_meets_the_first_in_a_nearly_upright_line():
    for scene in draw_scenes(20, **PLAIN | {"corner_share": 1.0, "layers": (2, 2)}):
        wall, second = scene.layers
        step = wall.disparity().astype(float) - second.disparity()
        left_or_right = second.opacity[:, 0].min() > 0.5 or second.opacity[:, -1].min() > 0.5
        assert left_or_right and abs(second.plane[1] - wall.plane[1]) > 5 * abs(second.plane[2] - wall.plane[2])
        assert step[second.opacity > 0.5].min() > -0.1


def test_objects_on_a_table_stand_on_it():
    """Most have the table's disparity at their foot; of objects put anywhere in front of it a third would."""
    gaps, standing = [], dataclasses.replace(SMALL, **PLAIN, layers=(3, 3), slant_share=0.0)
    standing = dataclasses.replace(standing, table_share=1.0)
    for index in range(120):
        scene = random_scene(np.random.default_rng(index), standing)
        table, thing = scene.layers[1:]
        _, bottom, left, right = thing.box
        middle = (left + right) // 2
        if bottom < 90 and table.opacity[bottom - 1, middle] == 1:
            foot = table.disparity()[bottom - 1, middle]
            gaps.append(abs(foot - thing.plane[0]) / (scene.farthest - scene.nearest))
    assert len(gaps) > 20
    assert np.mean(np.array(gaps) < 0.05) > 0.6


@pytest.mark.parametrize("kind", [*SOLID, *THIN])
def test_silhouette_is_centred_anti_aliased_and_of_its_size(kind):
    draw = (SOLID | THIN)[kind][1]
    for seed in range(20):
        mask = draw(np.random.default_rng(seed), (200, 220), np.array([110.0, 100.0]), 40.0)
        assert mask.shape == (200, 220) and mask.dtype == np.uint8
        assert mask.max() == 255 or kind in THIN
        assert ((mask > 0) & (mask < 255)).any()
        area = (mask / 255).sum()
        if kind in SOLID:
            assert mask[100, 110] == 255
            assert 0.25 * 40**2 < area < 8 * 40**2
        else:  # thin: eroding it by a few px leaves little of it
            core = cv2.erode(mask, np.ones((17, 17), np.uint8)) / 255
            assert 0 < area and core.sum() < 0.25 * area


def test_silhouettes_of_every_kind_are_drawn(monkeypatch):
    drawn = []
    for kinds in (SOLID, THIN):
        for name, (share, draw) in list(kinds.items()):
            monkeypatch.setitem(kinds, name, (share, lambda *a, n=name, d=draw: drawn.append(n) or d(*a)))
    draw_scenes(60, layers=(7, 7))
    assert set(drawn) == set(SOLID) | set(THIN)


@pytest.mark.parametrize("kinds", [SOLID, THIN])
def test_silhouettes_survive_any_place_and_size(kinds):
    rng = np.random.default_rng(0)
    for _ in range(100):
        canvas = tuple(int(v) for v in rng.integers(4, 90, 2))
        centre = rng.uniform(0, 1, 2) * canvas[::-1]
        mask = silhouette(rng, kinds, canvas, centre, float(rng.uniform(0.3, 2.0) * max(canvas)))
        assert mask.shape == canvas


def test_bounding_box_is_that_of_what_is_not_zero():
    rng = np.random.default_rng(4)
    for _ in range(50):
        mask = (rng.uniform(size=(12, 17)) < 0.03).astype(np.uint8)
        rows, columns = np.nonzero(mask)
        expected = (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) if len(rows) else (0, 0, 0, 0)
        assert bounding_box(mask) == expected


def test_planes_add_and_are_evaluated_alike_everywhere():
    one, other = (0.5, 0.02, -0.01), (-1.0, 0.005, 0.03)
    total = plane_sum(one, other, -2.0)
    np.testing.assert_allclose(
        plane_map(total, CANVAS), brute_plane(one, CANVAS) - 2 * brute_plane(other, CANVAS), atol=1e-5
    )
    assert plane_at(total, np.array([3.0, 100.0]), CANVAS) == pytest.approx(plane_map(total, CANVAS)[100, 3], abs=1e-5)


@given(angle=st.floats(-3.1, 3.1), x=st.floats(10, 150), y=st.floats(10, 110))
def test_half_plane_is_what_lies_on_one_side_of_the_line(angle, x, y):
    edge = line(CANVAS, np.array([x, y]), angle)
    mask = where_positive(edge, CANVAS).astype(float) / 255
    yy, xx = np.mgrid[0 : CANVAS[0], 0 : CANVAS[1]]
    distance = -(xx - x) * np.sin(angle) + (yy - y) * np.cos(angle)
    np.testing.assert_allclose(plane_map(edge, CANVAS), distance, atol=1e-3)
    assert (mask[distance > 1] == 1).all() and (mask[distance < -1] == 0).all()
    assert mask.sum() == pytest.approx(np.clip(distance + 0.5, 0, 1).sum(), rel=1e-2, abs=2)


@pytest.mark.parametrize("faces", [2, 3])
def test_faces_of_a_box_meet_in_disparity_along_their_edges_and_rise_from_the_front_edge(faces):
    for seed in range(40):
        parts = box_parts(np.random.default_rng(seed), CANVAS, CENTRE, 35.0, 0.02, 12.0, faces)
        assert len(parts) == faces
        touching = 0
        for index, part in enumerate(parts):
            for other in parts[index + 1 :]:
                # Close to both faces is close to the edge that they share, or to the corner.
                near_both = np.minimum(*(cv2.dilate(p.mask, np.ones((3, 3), np.uint8)) for p in (part, other))) > 127
                gap = abs(plane_map(part.plane, CANVAS) - plane_map(other.plane, CANVAS))[near_both]
                slope = np.hypot(part.plane[1] - other.plane[1], part.plane[2] - other.plane[2])
                assert gap.max() < 3 * slope + 1e-4
                touching += len(gap) > 10
        assert touching >= faces - 1
        nearest = [plane_map(part.plane, CANVAS)[part.mask > 127].min() for part in parts]
        assert max(abs(np.array(nearest))) < 0.05  # the corner, at 0, is the nearest point of each face
        assert max(plane_map(part.plane, CANVAS)[part.mask > 127].max() for part in parts) > 0.15


def blurred_coverage(parts, sigma):
    """What parts let through of a black background if all are white and blurred alike, composited back to front."""
    result = np.zeros(CANVAS)
    for part in parts:
        alpha = cv2.GaussianBlur(part.drawn.astype(np.float32) / 255, (0, 0), sigma)
        result = result * (1 - alpha) + alpha
    return result


@pytest.mark.parametrize("sigma", [0.3, 2.0, 4.0])
@pytest.mark.parametrize("kind", ["box2", "box3", "rounded"])
def test_nothing_shines_through_where_the_parts_of_an_object_meet(kind, sigma):
    for seed in range(10):
        rng = np.random.default_rng(seed)
        if kind == "rounded":
            parts = rounded_parts(rng, silhouette(rng, SOLID, CANVAS, CENTRE, 40.0), CENTRE, 40.0, 1.0, 14.0)
        else:
            parts = box_parts(rng, CANVAS, CENTRE, 38.0, 0.02, 14.0, int(kind[-1]))
        union = np.maximum.reduce([cv2.add(part.mask, 0) for part in parts]) > 127
        inside = cv2.erode(
            cv2.morphologyEx(union.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)),
            np.ones((3, 3), np.uint8),
            iterations=int(3.5 * sigma) + 2,
            borderValue=0,
        )
        if inside.any():
            assert blurred_coverage(parts, sigma)[inside > 0].min() > 0.97


def test_parts_are_drawn_beyond_what_is_seen_only_below_later_parts():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for parts in (
            box_parts(rng, CANVAS, CENTRE, 35.0, 0.02, 9.0, 3),
            rounded_parts(rng, silhouette(rng, SOLID, CANVAS, CENTRE, 40.0), CENTRE, 40.0, 1.0, 14.0),
        ):
            assert (parts[-1].drawn == parts[-1].mask).all()
            for index, part in enumerate(parts):
                beyond = part.drawn > part.mask
                later = [other.mask > 0 for other in parts[index + 1 :]]
                assert not beyond.any() or np.logical_or.reduce(later)[beyond].all()


def test_rounded_object_is_nearest_in_its_middle_and_bulges_as_told():
    mask = silhouette(np.random.default_rng(3), {"ellipse": SOLID["ellipse"]}, CANVAS, CENTRE, 45.0)
    for seed in range(20):
        parts = rounded_parts(np.random.default_rng(seed), mask, CENTRE, 45.0, 0.8, 10.0)
        assert parts[-1].mask[60, 80] == 255 and parts[-1].plane == (0, 0, 0)
        seen = np.maximum.reduce([part.mask for part in parts])
        assert (seen <= mask).all() and (seen > 127).sum() > 0.97 * (mask > 127).sum()
        for part in parts[:-1]:
            disparity = plane_map(part.plane, CANVAS)[part.mask > 127]
            if len(disparity):
                assert -0.05 < disparity.min() < 0.1 and disparity.max() < 0.8 * (45.0 - 15) / 30 + 0.05
        steep = max(np.hypot(*part.plane[1:]) for part in parts[:-1])
        assert steep == pytest.approx(0.8 / 30, rel=1e-6)


@pytest.mark.parametrize(("name", "parts"), [("box_share", {2, 3}), ("rounded_share", {3})])
def test_objects_of_several_parts_appear_move_together_and_fit_the_number_of_layers(name, parts):
    """One object over a wall: 1 + its parts, whose planes still meet after it was moved."""
    for most in parts:
        sloped, meets = 0, []
        for scene in draw_scenes(40, **PLAIN | {name: 1.0, "layers": (most + 1,) * 2, "slant_share": 0.0}):
            pieces = scene.layers[1:]
            assert len(pieces) == most
            for index, one in enumerate(pieces):
                for other in pieces[index + 1 :]:
                    both = (one.opacity > 0.05) & (other.opacity > 0.05)  # the strip along their common edge
                    gap = abs(one.disparity() - other.disparity())[both]
                    slope = np.hypot(one.plane[1] - other.plane[1], one.plane[2] - other.plane[2])
                    if gap.size:
                        meets.append(gap.min() <= 2 * slope + 1e-4)
            sloped += any(piece.plane[1] for piece in pieces)
        assert sloped > 20, "most of them are flat"
        # Of the others, the edge lies beyond the canvas, or one part is an object of its own beside a box with fewer faces.
        assert len(meets) > 30 and np.mean(meets) > 0.9


# ---- surfaces ----


def test_share_of_saturated_surfaces():
    for share, expected in ((0.0, 0.0), (1.0, 1.0)):
        scenes = draw_scenes(30, saturated_share=share, repeated_share=0.0)
        bright = [float(layer.radiance.max()) > 1 for scene in scenes for layer in scene.layers if layer.opacity.any()]
        assert np.mean(bright) == expected
    seen = [
        (layer.radiance > 1)[0][layer.opacity > 0.1].any()
        for scene in draw_scenes(30, saturated_share=1.0, **PLAIN)
        for layer in scene.layers
        if (layer.opacity > 0.1).any()
    ]
    assert np.mean(seen) > 0.95


def test_share_of_textureless_surfaces():
    def largest_steps(share):
        config = {"textureless_share": share, "repeated_share": 0.0, "saturated_share": 0.0, "layers": (1, 1)}
        return [abs(np.diff(scene.layers[0].radiance[0], axis=1)).max() for scene in draw_scenes(30, **config)]

    assert max(largest_steps(1.0)) < 0.02
    assert np.median(largest_steps(0.0)) > 0.05


def test_share_of_repeated_surfaces():
    def repeats(scene):
        image = scene.layers[0].radiance[0].astype(float)
        width = image.shape[1]
        best = [np.corrcoef(image[:, : width - k].ravel(), image[:, k:].ravel())[0, 1] for k in range(16, 64)]
        return max(best) > 0.9

    flat = {"textureless_share": 0.0, "saturated_share": 0.0, "layers": (1, 1)}
    assert np.mean([repeats(scene) for scene in draw_scenes(30, repeated_share=1.0, **flat)]) > 0.9
    assert np.mean([repeats(scene) for scene in draw_scenes(30, repeated_share=0.0, **flat)]) < 0.4


def test_colour_scenes_are_coloured_and_grey_ones_are_their_green_plane():
    config = dataclasses.replace(SMALL, layers=(1, 1), saturated_share=0.0)
    for seed in range(10):
        grey, colour = (
            random_scene(np.random.default_rng(seed), dataclasses.replace(config, channels=channels)).layers[0].radiance
            for channels in (1, 3)
        )
        np.testing.assert_array_equal(colour[1], grey[0])
    differing = [
        float(abs(layer.radiance[0] - layer.radiance[2]).mean() / (layer.radiance.mean() + 1e-6))
        for scene in draw_scenes(10, channels=3)
        for layer in scene.layers
        if layer.opacity.any()
    ]
    assert np.median(differing) > 0.05


def test_textures_come_from_the_folder_as_often_as_told(tmp_path, monkeypatch):
    image = np.full((64, 64, 3), 200, np.uint8)
    image[::2] = 40
    cv2.imwrite(str(tmp_path / "lines.png"), image)
    taken = []
    original = scenes_module.folder_texture
    monkeypatch.setattr(scenes_module, "folder_texture", lambda *args: taken.append(args) or original(*args))
    textured = {"textures": str(tmp_path), "textureless_share": 0.0, "repeated_share": 0.0}
    draw_scenes(6, folder_share=0.0, **textured)
    assert not taken
    scenes = draw_scenes(6, folder_share=1.0, **PLAIN, **textured)
    assert len(taken) == sum(len(scene.layers) for scene in scenes)


def test_bad_folder_of_textures_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=f"textures: {path}: expected"):
            draw_scenes(20, textures=str(path))


# ---- configuration ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "channels: expected 1 or 3, found 2"),
        ({"layers": (3, 2)}, "layers: expected .*found \\(3, 2\\)"),
        ({"layers": (0, 2)}, "layers: expected"),
        ({"table_share": 1.5}, "table_share: expected a probability, 0 to 1, found 1.5"),
        ({"saturated_share": float("nan")}, "saturated_share: expected a probability"),
        ({"box_share": 0.9, "thin_share": 0.4}, "box_share, rounded_share, thin_share: expected a sum"),
        ({"textureless_share": 1.0, "repeated_share": 0.5}, "textureless_share, repeated_share: expected a sum"),
    ],
)
def test_configuration_that_cannot_be_is_refused(changes, message):
    with pytest.raises(SchemaError, match=message):
        dataclasses.replace(SceneConfig(), **changes)


def test_error_in_a_recipe_says_where():
    with pytest.raises(SchemaError, match=r"^recipe.yaml: scene: channels: expected 1 or 3, found 2"):
        from_mapping(SceneConfig, {"channels": 2}, "recipe.yaml: scene")


def test_scene_of_one_layer_is_a_wall():
    for scene in draw_scenes(20, layers=(1, 1), table_share=1.0, corner_share=1.0):
        assert isinstance(scene, Scene)
        assert len(scene.layers) == 1 and scene.layers[0].opacity.min() == 1
