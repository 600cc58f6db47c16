import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_dp.data import data_root as find_data_root
from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import InputError

BASELINES = Path(__file__).parents[2] / "benchmarks" / "baselines.py"


@pytest.fixture(scope="module")
def captures(data_root):
    return Xin2021(data_root / "dual_pixel" / "pixel4")


@pytest.fixture
def small_set(tmp_path):
    """Two scenes of 8x6 px in the layout of central crops."""
    rng = np.random.default_rng(0)
    (tmp_path / "views").mkdir()
    (tmp_path / "defocus_map").mkdir()
    for name in ("002", "001"):
        for view in ("left", "right"):
            raw = rng.integers(1024, 9000, (6, 8), dtype=np.uint16)
            cv2.imwrite(str(tmp_path / "views" / f"{name}_{view}.png"), raw)
        levels = rng.integers(1, 256, (6, 8), dtype=np.uint8)
        levels[0] = 0
        cv2.imwrite(str(tmp_path / "defocus_map" / f"{name}_gt.png"), levels)
    return tmp_path


@pytest.fixture
def published(tmp_path):
    """One scene of 12x9 px in the published layout, with ground truth for its central 8x6 px."""
    rng = np.random.default_rng(1)
    for view in ("left", "right"):
        cv2.imwrite(str(tmp_path / f"007_{view}.png"), rng.integers(1024, 9000, (9, 12), dtype=np.uint16))
    for folder, highest, dtype in (("gt_defocus_map", 256, np.uint8), ("gt_all_in_focus_im", 65536, np.uint16)):
        (tmp_path / folder).mkdir()
        cv2.imwrite(str(tmp_path / folder / "007_gt.png"), rng.integers(0, highest, (6, 8)).astype(dtype))
    (tmp_path / "calibration").mkdir()
    cv2.imwrite(str(tmp_path / "calibration/white_sheet_left.png"), np.full((9, 12), 9000, np.uint16))
    return tmp_path


def best_shift(left, right, largest=12):
    """The d of least mean |left(x) - right(x + d)|, both less their local mean."""
    left, right = (view - cv2.GaussianBlur(view, (0, 0), 8) for view in (left, right))
    inner = slice(largest, left.shape[1] - largest)
    shifts = range(-largest, largest + 1)
    errors = [np.abs(left[:, inner] - right[:, inner.start + d : inner.stop + d]).mean() for d in shifts]
    return shifts[int(np.argmin(errors))]


def test_layout(small_set):
    scenes = Xin2021(small_set)
    assert scenes.names == ("001", "002")
    assert [sample.name for sample in scenes] == ["001", "002"]
    assert scenes[-1].name == "002"
    with pytest.raises(IndexError):
        scenes[2]
    sample, levels = scenes[0], cv2.imread(str(small_set / "defocus_map/001_gt.png"), cv2.IMREAD_UNCHANGED)
    assert sample.left.shape == (1, 6, 8)
    assert sample.disparity is None
    np.testing.assert_allclose(sample.affine_disparity, levels / 255, rtol=1e-6)
    np.testing.assert_array_equal(sample.mask, levels > 0)


def test_published_layout_is_cropped_to_the_ground_truth(published):
    scenes = Xin2021(published)
    assert scenes.names == ("007",)
    raw = cv2.imread(str(published / "007_left.png"), cv2.IMREAD_UNCHANGED)
    sample = scenes[0]
    # 252 of 1512 rows and 336 of 2016 columns are cut off before the ground truth begins: a sixth
    np.testing.assert_allclose(sample.left[0], (raw[1:7, 2:10] - 1024.0) / 16383, rtol=1e-5)
    sharp = cv2.imread(str(published / "gt_all_in_focus_im/007_gt.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(sample.all_in_focus[0], sharp / 65535, rtol=1e-5)
    assert sample.mask.shape == (6, 8)


def test_published_size_is_cropped_as_documented(published):
    for view in ("left", "right"):
        raw = np.random.default_rng(len(view)).integers(1024, 9000, (1512, 2016), dtype=np.uint16)
        cv2.imwrite(str(published / f"007_{view}.png"), raw)
    cv2.imwrite(str(published / "gt_defocus_map/007_gt.png"), np.ones((1008, 1344), np.uint8))
    cv2.imwrite(str(published / "gt_all_in_focus_im/007_gt.png"), np.ones((1008, 1344), np.uint16))
    raw = cv2.imread(str(published / "007_left.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_allclose(Xin2021(published)[0].left[0], (raw[252:1260, 336:1680] - 1024.0) / 16383, rtol=1e-5)


def test_all_in_focus_of_another_size_or_depth(published):
    path = published / "gt_all_in_focus_im/007_gt.png"
    cv2.imwrite(str(path), np.ones((6, 7), np.uint16))
    with pytest.raises(InputError, match=r"007_gt\.png: expected 8x6 as the views, found 7x6"):
        Xin2021(published)[0]
    cv2.imwrite(str(path), np.ones((6, 8), np.uint8))
    with pytest.raises(InputError, match=r"007_gt\.png: expected uint16 raw .*xin2021_all_in_focus.*, found uint8"):
        Xin2021(published)[0]
    path.unlink()
    assert Xin2021(published)[0].all_in_focus is None


def test_incomplete_or_wrong_sets(small_set, tmp_path_factory):
    with pytest.raises(InputError, match=r"expected views/NNN_left\.png, or NNN_left\.png as published, found none"):
        Xin2021(tmp_path_factory.mktemp("empty"))
    scenes = Xin2021(small_set)
    truth = small_set / "defocus_map/002_gt.png"
    cv2.imwrite(str(truth), np.zeros((6, 7), np.uint8))
    with pytest.raises(InputError, match=r"002_gt\.png: expected 8x6 as the views, found 7x6"):
        scenes[1]
    cv2.imwrite(str(truth), np.zeros((6, 8), np.uint16))
    with pytest.raises(InputError, match=r"002_gt\.png: expected uint8, one channel, found uint16"):
        scenes[1]
    truth.unlink()
    with pytest.raises(InputError, match=r"002_gt\.png: expected beside views/002_left\.png, found nothing"):
        Xin2021(small_set)


def test_data_root_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_DP_DATA", str(tmp_path))
    assert find_data_root() == tmp_path
    with pytest.raises(InputError, match=r"pixel4: expected the folder of a data set, found nothing"):
        Xin2021()
    monkeypatch.setenv("EDGE_DP_DATA", str(tmp_path / "absent"))
    with pytest.raises(InputError, match="EDGE_DP_DATA: expected a folder, found none at"):
        find_data_root()


def test_real_scenes(captures):
    assert captures.names == ("001", "003", "005", "006", "008", "011", "013", "016")
    sample = captures[1]
    assert sample.left.shape == (1, 1008, 1344)
    assert sample.left.max() == pytest.approx((8973 - 1024) / 16383)
    assert 0.5 < sample.mask.mean() < 1
    assert [captures.names[i] for i in range(8) if captures[i].all_in_focus is None] == ["006", "011"]


def test_disparity_sign_on_real_captures(captures):
    """Focus lies in front of these scenes, so that all of them are farther: d > 0, not only in our own simulator."""
    shifts = {sample.name: best_shift(sample.left[0], sample.right[0]) for sample in captures}
    assert all(1 <= shift <= 10 for shift in shifts.values()), shifts


def test_gain_matches_the_views_of_real_captures(captures):
    """Left and right are equally bright in every vertical strip once the profile's gain is applied."""
    ratios = []
    for sample in captures:
        left, right = (np.array_split(view[0].mean(0), 8) for view in (sample.left, sample.right))
        ratios.append([a.mean() / b.mean() for a, b in zip(left, right, strict=True)])
    np.testing.assert_allclose(np.median(ratios, axis=0), 1, atol=0.05)


def test_sgbm_finds_a_known_disparity():
    sgbm = runpy.run_path(str(BASELINES))["sgbm_quarter"]
    texture = cv2.GaussianBlur(np.random.default_rng(0).random((256, 600)), (0, 0), 4).astype(np.float32)
    texture = (texture - texture.min()) / np.ptp(texture)
    left, right = texture[:, 20:532], texture[:, 12:524]  # left(x) = right(x + 8): 2 px at quarter resolution
    disparity = sgbm(left, right)
    assert disparity.shape == (64, 128)
    assert np.median(disparity) == pytest.approx(2, abs=0.1)


def test_sgbm_scores_as_measured(captures):
    """AI(1), AI(2), 1-|rho|: .107, .133, .275 were measured with another implementation of the same method."""
    baselines = runpy.run_path(str(BASELINES))
    rows = baselines["score"](lambda sample: baselines["sgbm_quarter"](sample.left[0], sample.right[0]), captures)
    np.testing.assert_allclose(rows.mean(0), [0.107, 0.133, 0.275], rtol=0.1)
