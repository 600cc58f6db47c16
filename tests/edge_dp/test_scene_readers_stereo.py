import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_dp.data import write_pfm
from edge_dp.data.scenes import MiddleburyMvs, MiddleburyStereo, SceneSample
from edge_dp.errors import InputError
from edge_dp.srgb import srgb_to_linear

CALIBRATION = """cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]
cam1=[994.978 0 342.279; 0 994.978 254.877; 0 0 1]
doffs=31.086
baseline=193.001
width=40
height=30
ndisp=70
isint=0
vmin=5
vmax=64
"""
PLANE = 6  # px of disparity of the scenes made here


def write_views(folder, left, right, height=30, width=40):
    """A fronto-parallel textured plane at PLANE px; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    texture = np.random.default_rng(0).integers(1, 255, (height, width + PLANE, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / left), texture[:, :width])
    cv2.imwrite(str(folder / right), texture[:, PLANE:])


@pytest.fixture
def scene_2014(tmp_path):
    write_views(tmp_path / "Piano", "im0.png", "im1.png")
    disparity = np.full((30, 40), PLANE, np.float32)
    disparity[0] = np.inf
    write_pfm(tmp_path / "Piano" / "disp0.pfm", disparity)
    (tmp_path / "Piano" / "calib.txt").write_text(CALIBRATION)
    return tmp_path / "Piano"


@pytest.fixture
def sample():
    image = np.full((3, 4, 5), 0.5, np.float32)
    ones = np.ones((4, 5), np.float32)
    return SceneSample(image, "made", image, ones, ones, ones > 0, np.eye(3), np.eye(4))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image", np.zeros((4, 5), np.float32), r"image: expected float32, \(C, H, W\), found float32, \(4, 5\)"),
        ("image", np.full((3, 4, 5), np.nan, np.float32), "image: expected linear light in .*, found nan"),
        ("right_image", np.zeros((3, 4, 4), np.float32), r"right_image: expected float32, \(3, 4, 5\)"),
        ("stereo_disparity", np.zeros((4, 5), np.float32), "stereo_disparity: expected finite px above 0 .* found 0"),
        ("depth", np.ones((4, 5)), "depth: expected float32, .* found float64"),
        ("depth", -np.ones((4, 5), np.float32), "depth: expected metres above 0 .* found -1.0 in 20 places"),
        ("mask", np.ones((5, 4), bool), r"mask: expected bool, \(4, 5\), found bool, \(5, 4\)"),
        ("intrinsics", np.diag([-1.0, 1, 1]), "intrinsics: expected finite"),
        ("intrinsics", np.eye(4), r"intrinsics: expected float64, \(3, 3\)"),
        ("camera_to_world", 2 * np.eye(4), "camera_to_world: expected a last row of 0 0 0 1"),
        ("camera_to_world", np.diag([1.0, 1, -1, 1]), "camera_to_world: expected a rotation"),
        ("camera_to_world", np.full((4, 4), np.inf), "camera_to_world: expected a finite pose"),
    ],
)
def test_samples_that_contradict_themselves(sample, field, value, message):
    with pytest.raises(InputError, match=f"scene made: {message}"):
        replace(sample, **{field: value})


def test_masked_values_are_not_looked_at(sample):
    mask = np.ones((4, 5), bool)
    mask[0] = False
    depth = np.where(mask, 2, np.nan).astype(np.float32)
    assert replace(sample, depth=depth, stereo_disparity=depth, mask=mask).mask.sum() == 15


def test_layout_of_2014(scene_2014):
    scenes = pickle.loads(pickle.dumps(MiddleburyStereo(scene_2014.parent)))
    assert scenes.names == ("Piano",)
    scene = scenes[0]
    assert scene.image.shape == (3, 30, 40)
    np.testing.assert_array_equal(scene.image[..., PLANE:], scene.right_image[..., :-PLANE])
    assert not scene.mask[0].any()
    assert scene.mask[1:].all()
    assert (scene.stereo_disparity[1:] == PLANE).all()
    # Another way to write it: the triangle of baseline and of both principal points' distance to the point.
    expected = 0.193001 / ((PLANE + (342.279 - 311.193)) / 994.978)
    np.testing.assert_allclose(scene.depth[1:], expected, rtol=1e-6)
    np.testing.assert_array_equal(scene.intrinsics, [[994.978, 0, 311.193], [0, 994.978, 254.877], [0, 0, 1]])
    assert MiddleburyStereo(scene_2014).names == ("Piano",)
    (scene_2014 / "disp0.pfm").rename(scene_2014 / "disp0GT.pfm")
    assert MiddleburyStereo(scene_2014)[0].mask.sum() == 29 * 40


def test_colours_are_red_green_blue_in_linear_light(scene_2014):
    levels = cv2.imread(str(scene_2014 / "im0.png"))
    image = MiddleburyStereo(scene_2014)[0].image
    red = levels[3, 4, 2]  # OpenCV puts it last
    assert image[0, 3, 4] == pytest.approx(float(srgb_to_linear(red / 255)), rel=1e-5)
    cv2.imwrite(str(scene_2014 / "im0.png"), np.repeat(levels[..., :1], 3, axis=-1))
    assert np.ptp(MiddleburyStereo(scene_2014)[0].image, axis=0).max() == 0


@pytest.mark.parametrize(
    ("left", "right", "truth", "height", "levels_per_px"),
    [
        ("view1.png", "view5.png", "disp1.png", 1110, 1),
        ("view1.png", "view5.png", "disp1.png", 555, 2),
        ("view1.png", "view5.png", "disp1.png", 370, 3),
        ("im2.png", "im6.png", "disp2.png", 375, 4),
        ("im2.png", "im6.png", "disp2.png", 750, 2),
        ("im2.ppm", "im6.ppm", "disp2.pgm", 381, 8),
    ],
)
def test_classic_layouts_and_their_scales(tmp_path, left, right, truth, height, levels_per_px):
    write_views(tmp_path / "Art", left, right, height)
    levels = np.full((height, 40), PLANE * levels_per_px, np.uint8)
    levels[0] = 0
    cv2.imwrite(str(tmp_path / "Art" / truth), levels)
    scene = MiddleburyStereo(tmp_path)[0]
    assert scene.name == "Art"
    assert scene.depth is None
    assert scene.mask.sum() == (height - 1) * 40
    assert (scene.stereo_disparity[scene.mask] == PLANE).all()
    np.testing.assert_array_equal(scene.image[..., PLANE:], scene.right_image[..., :-PLANE])
    assert MiddleburyStereo(tmp_path, levels_per_px=2 * levels_per_px)[0].stereo_disparity.max() == PLANE / 2


def test_depth_of_the_sets_of_2006_at_full_size(tmp_path):
    write_views(tmp_path, "view1.png", "view5.png", 1110)
    cv2.imwrite(str(tmp_path / "disp1.png"), np.full((1110, 40), 120, np.uint8))
    (tmp_path / "dmin.txt").write_text("200\n")
    assert MiddleburyStereo(tmp_path)[0].depth == pytest.approx(1.87)  # 3740 px * 0.16 m / 320 px
    (tmp_path / "dmin.txt").write_text("many\n")
    with pytest.raises(InputError, match=r"dmin\.txt: expected 1 numbers, found: could not convert.*'many'"):
        MiddleburyStereo(tmp_path)[0]


def test_scikit_image_layout(tmp_path):
    write_views(tmp_path, "bench_left.png", "bench_right.png")
    disparity = np.full((30, 40), PLANE, np.float32)
    disparity[5] = np.inf
    np.savez(tmp_path / "bench_disp.npz", disparity)
    scene = MiddleburyStereo(tmp_path)[0]
    assert scene.name == "bench"
    assert scene.depth is None
    np.testing.assert_array_equal(scene.mask.all(axis=1), np.arange(30) != 5)
    np.savez(tmp_path / "bench_disp.npz", np.array(["a"], dtype=object))
    with pytest.raises(InputError, match=r"bench_disp\.npz: arr_0: expected a float array"):
        MiddleburyStereo(tmp_path)[0]


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "im1.png").unlink(), r"Piano: expected im1\.png beside the left image, found nothing"),
        (lambda f: (f / "calib.txt").unlink(), r"Piano: expected calib\.txt beside"),
        (lambda f: (f / "disp0.pfm").unlink(), r"Piano: expected disp0\.pfm or disp0GT\.pfm beside"),
        (lambda f: truncate(f / "im1.png"), r"im1\.png: expected an image .* found 60 bytes"),
        (lambda f: truncate(f / "disp0.pfm"), r"disp0\.pfm: expected 4800 bytes"),
        (lambda f: write_pfm(f / "disp0.pfm", np.ones((30, 39))), r"disp0\.pfm: expected \(H, W\) = \(30, 40\)"),
        (lambda f: cv2.imwrite(str(f / "im1.png"), np.ones((3, 3, 3))), r"im1\.png: expected \(3, 30, 40\)"),
        (lambda f: cv2.imwrite(str(f / "im0.png"), np.ones((30, 40), np.uint16)), "im0.png: expected an 8-bit image"),
        (lambda f: edit(f, "baseline=193.001", "baseline=wide"), r"calib\.txt: baseline: .*'wide'"),
        (lambda f: edit(f, "baseline=193.001", "baseline=0"), r"calib\.txt: baseline: expected mm above 0, found 0"),
        (lambda f: edit(f, "doffs=31.086\n", ""), r"calib\.txt: doffs: expected 1 numbers, found nothing"),
        (lambda f: edit(f, "cam0=[994.978 0", "cam0=[994.978"), r"calib\.txt: cam0: expected 9 .* found 8"),
        (lambda f: edit(f, "cam0=[994.978", "cam0=[-1"), r"calib\.txt: cam0: expected finite .* fx, fy > 0"),
        (lambda f: edit(f, "width=40", "width=80"), r"calib\.txt: width and height: expected 40x30 .* found 80x30"),
    ],
)
def test_scenes_that_are_almost_right(scene_2014, damage, message):
    damage(scene_2014)
    with pytest.raises(InputError, match=message):
        MiddleburyStereo(scene_2014)[0]


def edit(folder, old, new):
    (folder / "calib.txt").write_text(CALIBRATION.replace(old, new))


def test_heights_that_tell_no_scale_and_folders_without_scenes(tmp_path):
    with pytest.raises(InputError, match=r"expected im0\.png, view1\.png, .* found none"):
        MiddleburyStereo(tmp_path)
    with pytest.raises(InputError, match="absent: expected a folder"):
        MiddleburyStereo(tmp_path / "absent")
    write_views(tmp_path, "view1.png", "view5.png")
    cv2.imwrite(str(tmp_path / "disp1.png"), np.full((30, 40), 9, np.uint8))
    with pytest.raises(InputError, match=r"disp1\.png: expected a height of 1110, 555, 370 px, .* found 30"):
        MiddleburyStereo(tmp_path)[0]


def test_real_pairs_follow_the_convention(data_root):
    """The right image, fetched at x - D, is the left one; at x + D it is not."""
    scenes = MiddleburyStereo(data_root / "stereo")
    assert scenes.names == ("Cloth3", "cone", "motorcycle")
    for scene in scenes:
        height, width = scene.mask.shape
        x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        errors = []
        for sign in (-1, 1):
            fetched = cv2.remap(scene.right_image[1], x + sign * scene.stereo_disparity, y, cv2.INTER_LINEAR)
            seen = scene.mask & (x > scene.stereo_disparity) & (x + scene.stereo_disparity < width)
            errors.append(np.median(np.abs(scene.image[1] - fetched)[seen]))
        assert errors[0] < 0.02, scene.name
        assert errors[0] < errors[1] / 3, scene.name


def test_real_motorcycle_has_metric_depth(data_root):
    scene = MiddleburyStereo(data_root / "stereo" / "motorcycle")[0]
    stored = np.load(data_root / "stereo" / "motorcycle" / "motorcycle_disp.npz")["arr_0"]
    np.testing.assert_array_equal(scene.mask, np.isfinite(stored))
    millimetres = 193.001 * 994.978 / (stored[scene.mask] + 31.086)
    np.testing.assert_allclose(scene.depth[scene.mask] * 1000, millimetres, rtol=1e-5)
    assert 2 < scene.depth[scene.mask].min() < scene.depth.max() < 5.1


@pytest.fixture
def temple(tmp_path):
    """Two views of 64x48; P = K [R | t]."""
    rotation, _ = cv2.Rodrigues(np.array([0.1, -0.4, 0.2]))
    lines = ["2"]
    for number, turn in enumerate((np.eye(3), rotation), 1):
        name = f"templeSR{number:04d}.png"
        cv2.imwrite(str(tmp_path / name), np.full((48, 64, 3), 90 * number, np.uint8))
        values = [1520.4, 0, 302.32, 0, 1525.9, 246.87, 0, 0, 1, *turn.ravel(), -0.07, 0.02, 0.6]
        lines.append(" ".join([name, *map(str, values)]))
    (tmp_path / "templeSR_par.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_multi_view_layout(temple):
    views = pickle.loads(pickle.dumps(MiddleburyMvs(temple)))
    assert views.names == ("templeSR0001.png", "templeSR0002.png")
    point = np.array([0.01, 0.1, 0.02])
    line = (temple / "templeSR_par.txt").read_text().split("\n")[2].split()[1:]
    K, R, t = np.array(line[:9], float), np.array(line[9:18], float), np.array(line[18:], float)
    expected = K.reshape(3, 3) @ np.column_stack([R.reshape(3, 3), t]) @ [*point, 1]
    view = views[1]
    camera = np.linalg.solve(view.camera_to_world, [*point, 1])[:3]
    np.testing.assert_allclose(view.intrinsics @ camera, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\n", "3\n", r"line 1: expected the number of views, 2, found '3'"),
        ("templeSR0002.png", "../escape.png", r"line 3: expected the image .*escape\.png, found nothing"),
        ("1520.4 ", "", "line 2: expected 21 finite numbers, found 20"),
        ("246.87", "nan", "line 2: expected 21 finite numbers, found NaN"),
        ("246.87", "width", "line 2: expected 21 numbers, found: .*'width'"),
        ("1.0 0.0 0.0 0.0 1.0", "2.0 0.0 0.0 0.0 1.0", "line 2: R: expected a rotation"),
        ("1520.4", "-1520.4", "line 2: K: expected finite .* fx, fy > 0"),
    ],
)
def test_camera_lists_that_are_almost_right(temple, old, new, message):
    path = temple / "templeSR_par.txt"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"templeSR_par\.txt: {message}"):
        MiddleburyMvs(temple)
    path.unlink()
    with pytest.raises(InputError, match=r"expected one NAME_par\.txt, found none"):
        MiddleburyMvs(temple)


def test_real_temple_lies_in_every_view(data_root):
    """The middle of the published bounding box projects into each image, onto the lit temple, half a metre away."""
    views = MiddleburyMvs(data_root / "multiview" / "templeSparseRing")
    assert len(views) == 16
    middle = np.mean([(-0.073568, 0.021728, -0.012445), (0.028855, 0.181892, 0.062736)], axis=0)
    for view in views:
        camera = np.linalg.solve(view.camera_to_world, [*middle, 1])[:3]
        x, y, _ = view.intrinsics @ camera / camera[2]
        assert 0.4 < camera[2] < 0.8
        around = view.image[:, round(y) - 20 : round(y) + 20, round(x) - 20 : round(x) + 20]
        assert around.shape == (3, 40, 40)
        assert around.mean() > view.image.mean()
