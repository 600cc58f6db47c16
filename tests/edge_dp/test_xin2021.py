import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge_dp.data import data_root as find_data_root
from edge_dp.data.xin2021 import Xin2021
from edge_dp.errors import InputError

BASELINES = Path(__file__).parents[2] / "benchmarks" / "baselines.py"


@pytest.fixture(scope="module")
def captures(data_root):
    return Xin2021(data_root / "dual_pixel" / "pixel4")


@pytest.fixture
def small_set(tmp_path):
    """Two scenes of 8x6 px in the published layout."""
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


def test_incomplete_or_wrong_sets(small_set, tmp_path_factory):
    with pytest.raises(InputError, match=r"expected views/NNN_left\.png, found none"):
        Xin2021(tmp_path_factory.mktemp("empty"))
    scenes = Xin2021(small_set)
    truth = small_set / "defocus_map/002_gt.png"
    cv2.imwrite(str(truth), np.zeros((6, 7), np.uint8))
    with pytest.raises(InputError, match=r"002_gt\.png: expected uint8 \(6, 8\) as the views, found uint8 \(6, 7\)"):
        scenes[1]
    truth.unlink()
    with pytest.raises(InputError, match=r"002_gt\.png: expected beside the left view, found nothing"):
        Xin2021(small_set)


def test_data_root_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_DP_DATA", str(tmp_path))
    assert find_data_root() == tmp_path
    with pytest.raises(InputError, match=r"pixel4: expected views/NNN_left\.png, found none"):
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
