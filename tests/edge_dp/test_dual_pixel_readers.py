"""What is particular to one reader of dual-pixel captures."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_dp.data import open_dataset
from edge_dp.data.check import check_dataset
from edge_dp.errors import InputError, MissingExtraError
from edge_dp.sensors import load_sensor
from edge_dp.srgb import srgb_to_linear

from .published_sets import (
    DEPTH,
    DISPARITY,
    HEIGHT,
    LEFT,
    RIGHT,
    WIDTH,
    affine_levels,
    dddnet_nyu,
    dp5k,
    dp119,
    dpdd_canon,
    dpmv,
    google2019,
    levels,
    rdpd,
    rgb,
    save,
    xin_crops,
)


def test_google_depth_is_turned_with_the_views_and_confidence_masks_it(tmp_path):
    google2019(tmp_path)
    sample = open_dataset("google2019", tmp_path, views=("center",))[0]
    truth = affine_levels()
    np.testing.assert_allclose(sample.affine_disparity, truth / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.mask, truth > 0)
    assert sample.confidence.max() == 0.5


def test_google_views_of_16_bit_are_read_as_linear(tmp_path):
    google2019(tmp_path)
    for side in ("left", "right"):
        for path in (tmp_path / f"train/{side}_pd").rglob("*.png"):
            save(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.uint16) * 257)
    sample = open_dataset("google2019", tmp_path, split="train")[0]
    np.testing.assert_allclose(sample.left[0], levels(LEFT) / 255, atol=1e-5)


def test_google_oddities(tmp_path):
    google2019(tmp_path)
    with pytest.raises(InputError, match=r"split: expected one of train, test, found 'val'"):
        open_dataset("google2019", tmp_path, split="val")
    with pytest.raises(InputError, match=r"views: expected of center, left, right, top, bottom, found middle"):
        open_dataset("google2019", tmp_path, views=("middle",))
    dataset = open_dataset("google2019", tmp_path)
    paths = dataset.paths(dataset.names[0])
    np.save(paths["confidence"], np.array([object()]), allow_pickle=True)
    with pytest.raises(InputError, match=r"result_merged_conf_center\.npy: expected an array of floats"):
        dataset[0]
    save(paths["truth"], np.zeros((100, 96), np.uint8))
    with pytest.raises(InputError, match=r"merged_depth_center\.png: expected a size that divides that of the views"):
        dataset[0]


def test_dp119_depth_in_metres(tmp_path):
    dp119(tmp_path)
    for sample in open_dataset("dp119", tmp_path, groups=("box", "casual/iphone", "casual/orbbec")):
        np.testing.assert_allclose(sample.depth, DEPTH, atol=0.02)
        assert sample.mask.all()
    flat = open_dataset("dp119", tmp_path, groups=("flat",))[0]
    assert flat.sensor.f_number == 20
    assert (flat.depth == np.float32(1.5)).all()


def test_dp119_depth_that_does_not_hold_is_masked(tmp_path):
    dp119(tmp_path)
    depth = np.full((HEIGHT, WIDTH), 255, np.uint8)  # 10 m
    depth[0], depth[1] = 7, 128  # 0.27 m, 5.02 m
    save(tmp_path / "box/001/d.png", depth)
    sample = open_dataset("dp119", tmp_path)[0]
    assert not sample.mask[0].any()
    assert sample.mask[1].all()
    assert not sample.mask[2:].any()
    save(tmp_path / "box/001/d.png", depth[:, :40])
    with pytest.raises(InputError, match=r"d\.png: expected the shape of the views, 144x96, at any size, found 40x96"):
        open_dataset("dp119", tmp_path)[0]


def test_dp119_folders_that_are_no_distance(tmp_path):
    dp119(tmp_path)
    (tmp_path / "flat/001/1500").rename(tmp_path / "flat/001/far")
    with pytest.raises(InputError, match=r"flat/001/far/f20: expected MILLIMETRES/fNUMBER, found far/f20"):
        open_dataset("dp119", tmp_path)[3]


def test_real_dp119_planes_lie_on_their_side_of_focus(data_root):
    """Focus is at 1 m: 0.6 m is nearer, 1.5 m farther, in the ground truth and by matching."""
    scenes = open_dataset("dp119", data_root / "dual_pixel" / "canon_r6", groups=("flat",))
    assert [float(sample.depth[0, 0]) for sample in scenes] == pytest.approx([0.6, 0.6, 1.5, 1.5])
    assert [sample.sensor.f_number for sample in scenes] == [20, 4, 20, 4]
    whole = open_dataset("dp119", data_root / "dual_pixel" / "canon_r6")
    assert len(whole) == 13
    box = whole[0]
    assert box.left.shape == (1, 512, 768)
    assert 0.3 <= box.depth[box.mask].min() < box.depth[box.mask].max() < 10


def test_dpdd_pairs_by_order_and_keeps_the_target(tmp_path):
    dpdd_canon(tmp_path)
    dataset = open_dataset("dpdd_canon", tmp_path, colour=True)
    sample = dataset[1]
    assert sample.left.shape == sample.all_in_focus.shape == (3, HEIGHT, WIDTH)
    np.testing.assert_allclose(sample.all_in_focus[0], srgb_to_linear(levels(RIGHT, 16) / 65535), atol=1e-5)
    assert dataset.paths("1P0A0985_L")["all_in_focus"].name == "1P0A0984.png"


def test_colour_is_red_green_blue(tmp_path):
    rdpd(tmp_path)
    for letter in ("l", "r"):
        image = rgb(levels(LEFT if letter == "l" else RIGHT))
        image[..., 0], image[..., 2] = 10, 200  # OpenCV writes blue, green, red
        save(tmp_path / f"test_{letter}/source/seq_001/0000001.png", image)
    sample = open_dataset("rdpd", tmp_path, colour=True)[0]
    np.testing.assert_allclose(sample.left[0], srgb_to_linear(200 / 255), rtol=1e-5)
    np.testing.assert_allclose(sample.left[1], srgb_to_linear(levels(LEFT) / 255), atol=1e-5)
    np.testing.assert_allclose(sample.left[2], srgb_to_linear(10 / 255), rtol=1e-5)


def test_colour_of_grey_files_is_refused(tmp_path):
    dddnet_nyu(tmp_path)
    for letter in ("l", "r"):
        save(tmp_path / f"testing/dp/6001_{letter}.png", levels(LEFT if letter == "l" else RIGHT))
    with pytest.raises(InputError, match=r"6001_l\.png: expected three channels, found one"):
        open_dataset("dddnet_nyu", tmp_path, colour=True)[0]


def test_dddnet_sign_can_be_turned(tmp_path):
    dddnet_nyu(tmp_path)
    plus, minus = (open_dataset("dddnet_nyu", tmp_path, sign=sign)[0].affine_disparity for sign in (1, -1))
    np.testing.assert_array_equal(plus, 3 * DISPARITY + 1)
    np.testing.assert_array_equal(minus, -plus)
    with pytest.raises(InputError, match=r"sign: expected 1 or -1, found 2"):
        open_dataset("dddnet_nyu", tmp_path, sign=2)


def test_dp5k_says_depth_aperture_and_focus(tmp_path, monkeypatch):
    dp5k(tmp_path)
    dataset = open_dataset("dp5k", tmp_path)
    sample = dataset[1]
    assert (sample.sensor.f_number, sample.sensor.focal_length_m) == (5.6, 0.085)
    np.testing.assert_allclose(sample.depth[1:], DEPTH[1:])
    assert not sample.mask[0].any()
    monkeypatch.setattr("edge_dp.data.dual_pixel.dp5k.needs", lambda *modules: lambda: f"{modules[0]} not installed")
    with pytest.raises(MissingExtraError, match=r"meta_data\.h5: .* h5py not installed: pip install 'edge-dp\[data\]'"):
        dataset.focus_distance(dataset.names[1])


def test_dp5k_focus_distance_in_metres(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra data is not installed")
    dp5k(tmp_path)
    with h5py.File(tmp_path / "test/20220113_141531/meta_data.h5", "w") as stored:
        stored["focus_dis_0"] = np.array([[1234.0]])
        stored["focus_dis_1"] = -1.0
    dataset = open_dataset("dp5k", tmp_path)
    assert dataset.focus_distance("20220113_141531/cam0/1.8") == pytest.approx(1.234)
    with pytest.raises(InputError, match=r"focus_dis_1: expected millimetres above 0, found -1"):
        dataset.focus_distance("20220113_141531/cam1/1.8")
    metadata = tmp_path / "test/20220113_141531/meta_data.h5"
    with h5py.File(metadata, "w") as stored:
        stored["focus_dis_0"] = np.array([1.0, 2.0])
    for name, message in (
        ("cam0/1.8", "focus_dis_0: expected a number"),
        ("cam1/1.8", "focus_dis_1: expected a number"),
    ):
        with pytest.raises(InputError, match=rf"meta_data\.h5: {message}, found"):
            dataset.focus_distance(f"20220113_141531/{name}")
    metadata.write_bytes(metadata.read_bytes()[:300])
    with pytest.raises(InputError, match=r"meta_data\.h5: focus_dis_0: expected a number, found: .*truncated"):
        dataset.focus_distance("20220113_141531/cam0/1.8")
    metadata.unlink()
    bare = open_dataset("dp5k", tmp_path)
    assert bare[0].depth is not None
    with pytest.raises(InputError, match=r"expected meta_data\.h5 in its scene, found none"):
        bare.focus_distance(bare.names[0])


def test_an_empty_split_is_a_problem_of_its_own(tmp_path):
    dpdd_canon(tmp_path)
    for path in (tmp_path / "val_l/source").iterdir():
        path.unlink()
    findings = check_dataset(tmp_path)
    assert findings.samples == 2
    assert any("as many as in val_l/source" in problem for problem in findings.problems)
    for folder in ("val_r/source", "val_c/source", "val_c/target"):
        for path in (tmp_path / folder).iterdir():
            path.unlink()
    (problem,) = check_dataset(tmp_path).problems
    assert "expected val_l/source/*.png, found none" in problem


def test_dp5k_without_its_depth(tmp_path):
    dp5k(tmp_path)
    (tmp_path / "test/20220113_141531/cam1/dep.png").unlink()
    with pytest.raises(InputError, match=r"cam1/dep\.png: expected beside .*cam1/FN_1\.8_l\.png, found nothing"):
        open_dataset("dp5k", tmp_path)
    assert len(open_dataset("dp5k", tmp_path, strict=False)) == 2


def test_dpmv_gives_the_rig_disparity_as_affine_only(tmp_path):
    dpmv(tmp_path)
    sample = open_dataset("dpmv", tmp_path)[0]
    assert sample.disparity is None
    np.testing.assert_array_equal(sample.affine_disparity, np.where(DISPARITY > 0, -10, -25))
    (tmp_path / "disp_pixel4_BA/20230320_165047_009/image_350_disp.pfm").unlink()
    assert open_dataset("dpmv", tmp_path)[0].affine_disparity is None


def test_dpmv_photographs_are_read_as_they_lie_in_the_file(tmp_path):
    dpmv(tmp_path)
    dataset, video = open_dataset("dpmv", tmp_path), "20230320_165047_009"
    (picture,) = dataset.photographs(f"{video}/image_350", "B").values()
    assert picture.shape == (3, WIDTH, HEIGHT) and picture.dtype == np.float32  # portrait
    np.testing.assert_allclose(np.rot90(picture[1]), levels(LEFT) / 255, atol=0.02)
    path = tmp_path / f"rectified/B/Video_data/{video}/image_350.jpg"
    green_left = np.zeros((64, 32, 3), np.uint8)
    green_left[..., 1], green_left[..., 2] = 200, 90  # OpenCV writes blue, green, red
    save(path, green_left)
    np.testing.assert_allclose(dataset.photographs(f"{video}/image_350", "B")["B"][:, 0, 0] * 255, [90, 200, 0], atol=3)
    with pytest.raises(
        InputError, match=r"rectified/A/Video_data/.*image_350\.jpg: expected the photograph of camera A"
    ):
        dataset.photographs(f"{video}/image_350")


def test_a_truncated_view_and_a_wrong_depth_are_named(tmp_path):
    dp119(tmp_path)
    path = tmp_path / "box/001/r.png"
    path.write_bytes(path.read_bytes()[:300])
    dataset = open_dataset("dp119", tmp_path)
    with pytest.raises(InputError, match=r"box/001/r\.png: expected an image .* truncated"):
        dataset[0]
    save(tmp_path / "casual/orbbec/005/d.png", levels(LEFT))
    with pytest.raises(InputError, match=r"orbbec/005/d\.png: expected uint16, one channel, found uint8"):
        dataset[2]
    with pytest.raises(InputError, match=r"expected the name of a sample, found 'box/999'"):
        dataset.read("box/999")


def test_another_sensor_replaces_the_profile(tmp_path):
    xin_crops(tmp_path)
    doubled = replace(load_sensor("pixel4"), white_level=1024 + 16383 / 2)
    plain, bright = (open_dataset("xin2021", tmp_path, sensor=sensor)[0] for sensor in (None, doubled))
    np.testing.assert_allclose(bright.left, 2 * plain.left, rtol=1e-5)
