import struct
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_dp.data import (
    DpSample,
    correct_field,
    read_disparity_png,
    read_pair,
    read_pfm,
    read_view,
    to_sample_orientation,
    to_sensor_orientation,
    write_disparity,
    write_pfm,
)
from edge_dp.errors import InputError
from edge_dp.optics import depth_to_disparity
from edge_dp.sensors import FieldPolynomial, load_sensor

PIXEL4 = load_sensor("pixel4")
GENERIC = load_sensor("generic_8bit")


@pytest.fixture
def raw():
    """A left and a right raw view, uint16, 24x32."""
    rng = np.random.default_rng(0)
    return [rng.integers(1024, 12000, (24, 32), dtype=np.uint16) for _ in range(2)]


def save(folder, *images, suffix=".png"):
    paths = [folder / f"{name}{suffix}" for name in ("003_left", "003_right")[: len(images)]]
    for path, image in zip(paths, images, strict=True):
        assert cv2.imwrite(str(path), image)
    return paths if len(paths) > 1 else paths[0]


# Views


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_raw_levels_become_linear_light(tmp_path, suffix):
    levels = np.array([[0, 1024, 1025], [1024 + 8192, 17406, 17407]], np.uint16)
    light = read_view(save(tmp_path, levels, suffix=suffix), PIXEL4)
    assert light.dtype == np.float32
    np.testing.assert_allclose(light, [[0, 0, 1 / 16383], [8192 / 16383, 16382 / 16383, 1]], rtol=1e-6)


def test_colour_files_give_their_green_channel_linearised(tmp_path):
    colour = np.zeros((2, 2, 3), np.uint8)
    colour[..., 1] = 128
    colour[..., 0], colour[..., 2] = 10, 250
    for image in (colour, np.dstack([colour, np.full((2, 2), 77, np.uint8)])):  # without and with alpha
        np.testing.assert_allclose(read_view(save(tmp_path, image), GENERIC), 0.2158605, rtol=1e-5)


def test_jpeg_is_read(tmp_path):
    path = save(tmp_path, np.full((16, 16), 128, np.uint8), suffix=".jpg")
    np.testing.assert_allclose(read_view(path, GENERIC), 0.2158605, rtol=0.02)


def test_pfm_is_linear_light_already(tmp_path):
    light = np.random.default_rng(0).random((3, 4)).astype(np.float32)
    write_pfm(tmp_path / "left.pfm", light)
    np.testing.assert_array_equal(read_view(tmp_path / "left.pfm", PIXEL4), light)


# Pairs


def test_pair_applies_the_gain_to_the_right_view(tmp_path, raw):
    sample = read_pair(*save(tmp_path, *raw), PIXEL4)
    assert sample.left.shape == sample.right.shape == (1, 24, 32)
    assert (sample.name, sample.sensor) == ("003_left", PIXEL4)
    np.testing.assert_allclose(sample.left[0], (raw[0] - 1024.0) / 16383, rtol=1e-6)
    gain = PIXEL4.right_gain.sample(24, 32)
    np.testing.assert_allclose(sample.right[0], (raw[1] - 1024.0) / 16383 * gain, rtol=1e-6)


def test_gain_does_not_lead_above_white(tmp_path, raw):
    raw[1][:, -3:] = 17407
    assert read_pair(*save(tmp_path, *raw), PIXEL4).right.max() == 1


def test_swapped_views_are_put_right_before_the_gain(tmp_path, raw):
    plain = read_pair(*save(tmp_path, *raw), PIXEL4)
    swapped = read_pair(*save(tmp_path, *raw[::-1]), replace(PIXEL4, swap_views=True))
    np.testing.assert_array_equal(swapped.left, plain.left)
    np.testing.assert_array_equal(swapped.right, plain.right)


def test_vertical_axis_gives_the_transposed_result(tmp_path, raw):
    """A transposed pair from a sensor with a vertical axis is the same scene, turned instead of mirrored."""
    horizontal = replace(PIXEL4, right_gain=None)
    vertical = replace(horizontal, dp_axis="y")
    plain = read_pair(*save(tmp_path, *raw), horizontal)
    turned = read_pair(*save(tmp_path, *(view.T for view in raw)), vertical)
    for view in ("left", "right"):
        back = to_sensor_orientation(getattr(turned, view), vertical)
        np.testing.assert_array_equal(back, getattr(plain, view).transpose(0, 2, 1))
    np.testing.assert_array_equal(turned.left, plain.left[:, ::-1])  # x as before, so disparity keeps its sign


def test_orientation_round_trip():
    array = np.arange(24).reshape(2, 3, 4)
    vertical = replace(PIXEL4, dp_axis="y")
    assert to_sample_orientation(array, vertical).shape == (2, 4, 3)
    np.testing.assert_array_equal(to_sensor_orientation(to_sample_orientation(array, vertical), vertical), array)
    np.testing.assert_array_equal(to_sensor_orientation(array, PIXEL4), array)


# Bad input


def test_8_bit_where_raw_was_promised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("003_right.png", np.full((4, 4), 9, np.uint8))
    with pytest.raises(InputError) as error:
        read_view("003_right.png", PIXEL4)
    assert str(error.value) == (
        "003_right.png: expected uint16 raw with black level 1024 (sensor pixel4), found uint8. "
        "Pass --sensor generic_8bit for tone-mapped files."
    )


def test_raw_where_8_bit_was_promised(tmp_path, raw):
    with pytest.raises(InputError, match=r"expected uint8 tone-mapped .* \(sensor generic_8bit\), found uint16\. Pass"):
        read_view(save(tmp_path, raw[0]), GENERIC)


def test_float_tiff(tmp_path):
    path = save(tmp_path, np.full((4, 4), np.nan, np.float32), suffix=".tif")
    with pytest.raises(InputError, match=r"expected uint16 raw .* found float32\. Convert it to uint16"):
        read_view(path, PIXEL4)


def test_levels_of_another_sensor(tmp_path):
    with pytest.raises(
        InputError, match=r"left\.png: expected uint16 raw .* found no value above 255\. The file is bl"
    ):
        read_view(save(tmp_path, np.full((4, 4), 255, np.uint16)), PIXEL4)
    with pytest.raises(InputError, match=r"left\.png: expected .* white level 17407, found 65535\. Pass the --sensor"):
        read_view(save(tmp_path, np.full((4, 4), 65535, np.uint16)), PIXEL4)


def test_missing_file(tmp_path):
    for name in ("absent.png", "absent.pfm"):
        with pytest.raises(InputError, match=rf"{name}: expected .* file, found: No such file or directory\. Check"):
            read_view(tmp_path / name, PIXEL4)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jpg"])
@pytest.mark.parametrize("part", [0, 0.3, 0.95])
def test_truncated_image(tmp_path, suffix, part):
    image = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    path = save(tmp_path, image, suffix=suffix)
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(InputError, match=r"left\.\w+: expected an image .* found \d+ bytes that do not decode\. The"):
        read_view(path, GENERIC)


def test_not_an_image(tmp_path):
    (tmp_path / "notes.png").write_text("left view goes here")
    with pytest.raises(InputError, match=r"notes\.png: expected an image .* found 19 bytes that do not decode"):
        read_view(tmp_path / "notes.png", PIXEL4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_pfm_view_out_of_range(tmp_path, value):
    write_pfm(tmp_path / "left.pfm", [[0.5, value]])
    with pytest.raises(InputError, match=r"left\.pfm: expected linear light in \[0, 1\], found"):
        read_view(tmp_path / "left.pfm", PIXEL4)


def test_views_of_different_size(tmp_path, raw):
    left, right = save(tmp_path, raw[0], raw[1][:, :30])
    with pytest.raises(InputError, match=r"003_right\.png: expected 32x24 as in .*003_left\.png, found 30x24\. Pass"):
        read_pair(left, right, PIXEL4)


def test_one_view_twice(tmp_path, raw):
    left, right = save(tmp_path, raw[0], raw[0])
    for second in (left, right):
        with pytest.raises(InputError, match=r"expected the other view, found one view twice \(same as .*left\.png\)"):
            read_pair(left, second, PIXEL4)


def test_more_than_the_field_of_the_gain(tmp_path, raw):
    small = replace(PIXEL4, right_gain=replace(PIXEL4.right_gain, field_px=(30, 24)))
    with pytest.raises(
        InputError, match=r"right\.png: expected at most 30x24, where right_gain of sensor pixel4 is kn"
    ):
        read_pair(*save(tmp_path, *raw), small)


# Samples


def sample(**changes):
    view = np.full((1, 4, 6), 0.5, np.float32)
    return DpSample(**{"left": view, "right": view, "sensor": PIXEL4, "name": "003", **changes})


def test_sample_looks_at_ground_truth_only_where_the_mask_holds():
    depth = np.full((4, 6), np.inf, np.float32)
    depth[0] = 0
    mask = depth > 0
    assert sample(depth=depth, mask=mask).mask is mask
    with pytest.raises(
        InputError, match=r"sample 003: depth: expected metres above 0 .* found 0\.0 in 6 places\. Mask"
    ):
        sample(depth=depth)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"left": np.zeros((4, 6), np.float32)}, r"left: expected float32, \(C, H, W\), found float32, \(4, 6\)"),
        ({"left": np.zeros((1, 4, 6))}, r"left: expected float32, \(C, H, W\), found float64"),
        ({"right": np.zeros((1, 4, 5), np.float32)}, r"right: expected float32, the shape of left, \(1, 4, 6\), found"),
        ({"right": np.full((1, 4, 6), np.nan, np.float32)}, r"right: expected linear light in \[0, 1\], finite"),
        (
            {"right": np.full((1, 4, 6), 1.01, np.float32)},
            r"right: expected linear light in \[0, 1\], finite, found 1\.",
        ),
        ({"disparity": np.zeros((4, 5), np.float32)}, r"disparity: expected float32, \(H, W\) = \(4, 6\), found"),
        ({"disparity": np.full((4, 6), np.nan, np.float32)}, r"disparity: expected finite values where the mask holds"),
        ({"affine_disparity": np.full((4, 6), np.inf, np.float32)}, r"affine_disparity: expected finite values"),
        ({"confidence": np.full((4, 6), -1, np.float32)}, r"confidence: expected finite values, 0 or above"),
        ({"mask": np.ones((4, 6), np.uint8)}, r"mask: expected bool, \(H, W\) = \(4, 6\), found uint8"),
    ],
)
def test_malformed_sample_names_the_array(changes, message):
    with pytest.raises(InputError, match=f"sample 003: {message}"):
        sample(**changes)


# Disparity maps


def test_pfm_bytes_by_hand(tmp_path):
    write_pfm(tmp_path / "a.pfm", [[1, 2, 3], [-1.5, np.nan, 0]])
    by_hand = b"Pf\n3 2\n-1.0\n" + struct.pack("<6f", -1.5, np.nan, 0, 1, 2, 3)  # bottom row first
    assert (tmp_path / "a.pfm").read_bytes() == by_hand
    np.testing.assert_array_equal(read_pfm(tmp_path / "a.pfm"), np.array([[1, 2, 3], [-1.5, np.nan, 0]], np.float32))


def test_pfm_big_endian_and_colour(tmp_path):
    (tmp_path / "a.pfm").write_bytes(b"PF 1 2 1.0\n" + struct.pack(">6f", 4, 5, 6, 1, 2, 3))
    np.testing.assert_array_equal(read_pfm(tmp_path / "a.pfm"), [[[1, 2, 3]], [[4, 5, 6]]])


def test_pfm_agrees_with_opencv(tmp_path):
    array = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    write_pfm(tmp_path / "ours.pfm", array)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "ours.pfm"), cv2.IMREAD_UNCHANGED), array)
    cv2.imwrite(str(tmp_path / "theirs.pfm"), array)
    np.testing.assert_array_equal(read_pfm(tmp_path / "theirs.pfm"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"P5\n3 2\n255\n" + bytes(6), "expected a PFM header"),
        (b"Pf\n3 2\n-1.0\n" + bytes(23), "expected 24 bytes of 3x2 values, found 23"),
        (b"Pf\n999999999 999999999\n-1\n" + bytes(8), "expected 3999999992000000004 bytes of"),
        (b"Pf\n0 2\n-1.0\n", "expected 0 bytes of 0x2 values"),
        (b"", "expected a PFM header"),
    ],
)
def test_malformed_pfm(tmp_path, content, message):
    (tmp_path / "a.pfm").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.pfm: {message}"):
        read_pfm(tmp_path / "a.pfm")


def test_disparity_files(tmp_path):
    disparity = np.linspace(-127.99, 127.99, 60).reshape(6, 10).astype(np.float32)
    disparity[2, 3] = np.nan
    paths = write_disparity(tmp_path / "out" / "003", disparity)
    assert [path.name for path in paths] == ["003.pfm", "003.png", "003_preview.png"]
    np.testing.assert_array_equal(read_pfm(paths[0]), disparity)
    np.testing.assert_allclose(read_disparity_png(paths[1]), disparity, atol=0.5 / 256)
    levels = cv2.imread(str(paths[1]), cv2.IMREAD_UNCHANGED)
    assert levels.dtype == np.uint16
    assert levels[2, 3] == 0
    assert levels[0, 0] == 32768 - round(127.99 * 256)
    preview = cv2.imread(str(paths[2]))
    assert preview.shape == (6, 10, 3)
    assert (preview[2, 3] == 0).all()
    assert preview[0, 0, 2] > preview[0, 0, 0]  # near is red
    assert preview[-1, -1, 2] < preview[-1, -1, 0] + 60  # far is blue
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [path.name for path in paths]


def test_disparity_into_a_folder(tmp_path):
    paths = write_disparity(tmp_path, np.zeros((2, 3)))
    assert [path.name for path in paths] == ["disparity.pfm", "disparity.png", "disparity_preview.png"]


@pytest.mark.parametrize(
    ("disparity", "message"),
    [
        (np.zeros((1, 2, 3)), r"expected an \(H, W\) disparity map, found shape \(1, 2, 3\)"),
        (np.full((2, 3), np.nan), r"expected an \(H, W\) disparity map, found shape \(2, 3\), 0 valid"),
        (np.full((2, 3), 128.0), r"expected disparity within \+-127\.99 px, found 128\.0 to 128\.0\. Mask"),
        (np.full((2, 3), np.inf), r"expected disparity within \+-127\.99 px, found inf"),
    ],
)
def test_disparity_that_cannot_be_written(tmp_path, disparity, message):
    with pytest.raises(InputError, match=message):
        write_disparity(tmp_path / "a", disparity)
    assert list(tmp_path.iterdir()) == []


def test_disparity_png_of_another_kind(tmp_path):
    with pytest.raises(InputError, match=r"expected 16-bit disparity, one channel, found uint8 \(2, 2\)"):
        read_disparity_png(save(tmp_path, np.zeros((2, 2), np.uint8)))


# Field


@pytest.mark.parametrize("axis", ["x", "y"])
def test_corrected_disparity_is_that_of_a_lens_without_vignetting(axis):
    """A wall seen through a lens that loses a third of its strength towards one side of the files."""
    field = FieldPolynomial(((1.0, -0.3, 0.0), (0.05, 0.0, 0.0)), (96, 64))
    sensor = replace(load_sensor("canon_r6"), alpha_field=field, dp_axis=axis)
    alpha = to_sample_orientation(sensor.alpha_over_field(64, 96), sensor)
    depth = np.random.default_rng(1).uniform(0.5, 4.0, alpha.shape)
    seen = depth_to_disparity(depth, sensor, 1.0, alpha).astype(np.float32)
    corrected = correct_field(seen, sensor)
    np.testing.assert_allclose(corrected, depth_to_disparity(depth, sensor, 1.0), atol=1e-5)
    assert np.corrcoef(corrected.ravel(), 1 / depth.ravel())[0, 1] < -0.999999
    assert np.corrcoef(seen.ravel(), 1 / depth.ravel())[0, 1] > -0.995


def test_a_profile_that_knows_no_field_corrects_nothing():
    disparity = np.ones((4, 6), np.float32)
    corrected = correct_field(disparity, GENERIC)
    np.testing.assert_array_equal(corrected, disparity)
    assert not np.shares_memory(corrected, disparity)
