import cv2
import numpy as np
import pytest

from edge_dp.errors import InputError
from edge_dp.training.teachers.sgm import SgmTeacher

HEIGHT, WIDTH = 100, 200


def texture(seed, height=HEIGHT, width=WIDTH + 80):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).standard_normal((height, width)), (0, 0), 1.2)
    return np.clip(128 + 220 * noise, 0, 255).astype(np.uint8)


def shifted_pair(disparity, seed=0):
    """left(x) = right(x - D)."""
    wide = texture(seed)
    return wide[:, :WIDTH], wide[:, disparity : disparity + WIDTH]


@pytest.mark.parametrize("shift", [1, 7, 24, 47])
def test_known_shift_is_found_exactly(shift):
    left, right = shifted_pair(shift)
    disparity, valid = SgmTeacher()(left, right)
    assert disparity.shape == valid.shape == left.shape
    assert disparity.dtype == np.float32 and valid.dtype == bool
    assert np.median(disparity[valid]) == shift
    assert np.mean(np.abs(disparity[valid] - shift) < 0.5) > 0.99
    assert valid[:, shift + 5 :].mean() > 0.95


@pytest.mark.parametrize("shift", [6.5, 12.25])
def test_shift_between_pixels_is_found_to_a_fraction(shift):
    fine = cv2.GaussianBlur(np.random.default_rng(1).standard_normal((HEIGHT, 4 * (WIDTH + 80))), (0, 0), 5)
    fine = np.clip(128 + 900 * fine, 0, 255)
    left = fine[:, : 4 * WIDTH : 4].astype(np.uint8)
    start = round(4 * shift)
    right = fine[:, start : start + 4 * WIDTH : 4].astype(np.uint8)
    disparity, valid = SgmTeacher()(left, right)
    assert np.median(disparity[valid]) == pytest.approx(shift, abs=0.2)  # its parabola leans towards whole px
    assert np.median(disparity[valid]) % 1 > 0


def test_what_lies_beyond_the_frame_of_the_other_view_is_invalid():
    left, right = shifted_pair(40)
    _, valid = SgmTeacher()(left, right)
    assert valid[:, :38].mean() < 0.05


def test_partner_of_every_valid_pixel_lies_within_the_other_view():
    """Rows without texture look alike beyond the border too, where the matcher sees repeated pixels."""
    left, right = shifted_pair(24)
    left, right = left.copy(), right.copy()
    rows = np.random.default_rng(5).integers(0, 255, (HEIGHT, 1))
    left[:, :40], right[:, :16] = rows, rows
    disparity, valid = SgmTeacher()(left, right)
    assert valid[:, 45:].mean() > 0.9
    assert (np.arange(WIDTH) - disparity)[valid].min() >= 0


def test_left_right_check_removes_the_occluded_band():
    """A square at D = 24 over a background at D = 8: the 16 px left of it are hidden from the right view."""
    back, front = texture(2), texture(3)
    left, right = back[:, :WIDTH].copy(), back[:, 8 : 8 + WIDTH].copy()
    square = front[:50, :60]
    left[25:75, 100:160] = square
    right[25:75, 76:136] = square
    disparity, valid = SgmTeacher()(left, right)

    occluded = np.zeros(left.shape, bool)
    occluded[30:70, 85:99] = True  # a px inside the band's rim
    assert valid[occluded].mean() < 0.15
    inside = np.zeros(left.shape, bool)
    inside[30:70, 106:154] = True
    behind = np.ones(left.shape, bool)
    behind[18:82, 76:168] = behind[:, :14] = behind[:, -5:] = False
    for region, expected in ((inside, 24), (behind, 8)):
        assert valid[region].mean() > 0.95
        assert np.mean(np.abs(disparity[region & valid] - expected) < 0.5) > 0.99


def test_agreement_decides_how_strict_the_check_is():
    left, right = shifted_pair(9)
    noisy = np.clip(right + np.random.default_rng(4).normal(0, 40, right.shape), 0, 255).astype(np.uint8)
    shares = [SgmTeacher(agreement=a)(left, noisy)[1].mean() for a in (0.1, 1.0, 4.0)]
    assert shares[0] < shares[1] < shares[2]


def test_search_is_rounded_up_to_a_multiple_of_sixteen():
    left, right = shifted_pair(20)
    for searched, found in ((17, True), (16, False)):
        disparity, valid = SgmTeacher(disparities=searched)(left, right)
        assert (np.mean(valid & (np.abs(disparity - 20) < 1)) > 0.8) == found
        assert not found or np.median(disparity[valid]) == 20


def test_views_without_texture_are_not_trusted():
    flat = np.full((HEIGHT, WIDTH), 90, np.uint8)
    _, valid = SgmTeacher()(flat, flat)
    assert valid.mean() < 0.05


@pytest.mark.parametrize("shapes", [((20, 40), (20, 41)), ((20, 40), (40, 20)), ((20, 40, 3), (20, 40, 3))])
def test_views_of_other_shapes_are_refused(shapes):
    left, right = (np.zeros(shape, np.uint8) for shape in shapes)
    with pytest.raises(InputError, match=r"stereo pair: expected two .* of one size, found"):
        SgmTeacher()(left, right)


def test_views_that_are_not_8_bit_are_refused():
    with pytest.raises(InputError, match="uint8"):
        SgmTeacher()(np.zeros((20, 40), np.float32), np.zeros((20, 40), np.float32))


@pytest.mark.parametrize(
    ("left", "right", "truth", "levels"),
    [
        ("cone/im2.png", "cone/im6.png", "cone/disp2.png", 4),
        ("Cloth3/view1.png", "Cloth3/view5.png", "Cloth3/disp1.png", 2),
    ],
)
def test_few_trusted_pixels_of_real_pairs_are_off_by_more_than_two_px(data_root, left, right, truth, levels):
    """Middlebury 2003 and 2006: bad-2 among the pixels that passed the check and have ground truth."""
    views = [cv2.imread(str(data_root / "stereo" / name), cv2.IMREAD_GRAYSCALE) for name in (left, right)]
    expected = cv2.imread(str(data_root / "stereo" / truth), cv2.IMREAD_GRAYSCALE).astype(np.float32) / levels
    disparity, valid = SgmTeacher(disparities=112)(*views)
    known = expected > 0
    assert (valid & known).sum() > 0.6 * known.sum()
    assert np.mean(np.abs(disparity - expected)[valid & known] > 2) < 0.08
