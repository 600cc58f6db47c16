"""Matching and fitting against pairs made with scipy from a lens that is known, and on the real Canon captures."""

import csv
import dataclasses
import json
import math

import cv2
import numpy as np
import pytest
from pytest import approx
from scipy import ndimage

from edge_dp import optics
from edge_dp.data import DpSample, to_sample_orientation, write_pfm
from edge_dp.data.dual_pixel.dp119 import Dp119
from edge_dp.errors import InputError, OpticsError
from edge_dp.sensors import FieldPolynomial, load_sensor
from edge_dp.sensors.captures import list_captures, read_captures
from edge_dp.sensors.fit import FitConfig, fit_sensor, match_capture, predict_disparity, residual
from edge_dp.sensors.matching import MatchConfig, match_views

HEIGHT, WIDTH = 144, 192
LENS = dataclasses.replace(
    load_sensor("generic_8bit"), focal_length_m=0.05, f_number=4.0, pitch_um=46.7, name="made", transfer="linear"
)


def texture(seed, height=HEIGHT, width=WIDTH):
    """Natural-looking (1 / f) grey in [0.2, 0.8], periodic."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij")
    spectrum = np.fft.fft2(rng.standard_normal((height, width))) / np.maximum(np.hypot(x, y), 0.02)
    image = np.fft.ifft2(np.where(np.hypot(x, y) < 0.35, spectrum, 0)).real
    return 0.5 + 0.3 * image / np.abs(image).max()


def pair(image, disparity):
    """left(x) = right(x + d): the left view moved by -d / 2, the right one by d / 2, one d for each column."""
    rows, columns = np.mgrid[0 : image.shape[0], 0 : image.shape[1]]
    d = np.broadcast_to(disparity, image.shape)
    return [
        ndimage.map_coordinates(image, [rows, columns + sign * d / 2], order=5, mode="grid-wrap")[None].astype(
            np.float32
        )
        for sign in (1, -1)
    ]


def made_captures(sensor, depths, alpha, focus, alpha_field=None, gain=None):
    """Fronto-parallel textures in files of ``sensor``; alpha over x of the files, gain of the right view as in profiles."""
    samples = []
    for index, depth in enumerate(depths):
        relative = (
            1.0 if alpha_field is None else np.polynomial.polynomial.polyval(np.linspace(-1, 1, WIDTH), alpha_field)
        )
        disparity = optics.depth_to_disparity(depth, sensor, focus, alpha * np.asarray(relative))
        left, right = pair(texture(index), disparity)
        if gain is not None:
            right = right / gain.sample(HEIGHT, WIDTH)
        samples.append(
            DpSample(left, right.clip(0, 1), sensor, f"plane{index}", depth=np.full(left.shape[1:], depth, np.float32))
        )
    return samples


@pytest.mark.parametrize("disparity", [-3.3, -1.0, -0.37, 0.0, 0.1, 0.75, 2.6])
def test_a_known_shift_is_found_whatever_gain_and_noise(disparity):
    left, right = pair(texture(1), disparity)
    noise = np.random.default_rng(2).normal(0, 0.003, (2, *left.shape)).astype(np.float32)
    found, error = match_views(left + noise[0], 0.7 * right + 0.1 + noise[1])
    good = error < 0.1
    assert good.mean() > 0.4
    assert np.median(found[good]) == approx(disparity, abs=0.01)
    assert np.mean(np.abs(found - disparity)[good] < 3 * error[good] + 0.02) > 0.95


def test_the_expected_error_grows_with_noise_as_the_error_does():
    left, right = pair(texture(3), 0.4)
    medians = []
    for sigma in (0.005, 0.02):
        noise = np.random.default_rng(4).normal(0, sigma, (2, *left.shape)).astype(np.float32)
        found, error = match_views(left + noise[0], right + noise[1])
        good = np.isfinite(error)
        medians.append((np.median(error[good]), 1.4826 * np.median(np.abs(found - 0.4)[good])))
    (expected_low, real_low), (expected_high, real_high) = medians
    assert real_high > 2 * real_low
    assert expected_high > 2 * expected_low
    assert expected_high == approx(real_high, rel=0.7)


def test_what_cannot_be_told_is_not():
    flat = np.full((1, 64, 64), 0.5, np.float32)
    stripes = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[:, None] ** 2, (1, 64, 64)).copy()
    far = pair(texture(5, 64, 64), 7.0)
    for left, right in ((flat, flat), (stripes, stripes), far):
        _, error = match_views(left, right)
        assert np.mean(error < 0.1) < 0.02
    assert np.isinf(match_views(*pair(texture(5, 64, 64), 0.2))[1][:, :10]).all()  # no whole window


def test_views_that_cannot_be_matched():
    with pytest.raises(InputError, match=r"views: expected two of one shape .* found \(1, 9, 9\)"):
        match_views(np.zeros((1, 9, 9), np.float32), np.zeros((1, 9, 9), np.float32))
    with pytest.raises(InputError, match="window_px: expected an odd number"):
        MatchConfig(window_px=20)
    with pytest.raises(InputError, match="maximum disparity >= step"):
        MatchConfig(step_px=0.0)


def test_a_known_lens_is_found():
    gain = FieldPolynomial(((1.1, 0.08), (0.03, 0.0)), (WIDTH, HEIGHT))
    truth = {"alpha": 0.1, "focus": 0.95, "alpha_field": (1.2, 0.1, -0.6)}
    captures = made_captures(LENS, (0.6, 0.8, 1.1, 1.6, 3.0), **truth, gain=gain)
    fit = fit_sensor(captures, LENS)
    assert fit.sensor.alpha == approx(0.1, rel=0.03)
    assert fit.sensor.focus_m == approx(0.95, rel=0.01)
    assert fit.sensor.alpha_field.coefficients[0] == approx(truth["alpha_field"], abs=0.06)
    assert fit.sensor.right_gain.sample(HEIGHT, WIDTH) == approx(gain.sample(HEIGHT, WIDTH), rel=0.01)
    assert fit.sensor.right_gain.field_px == (WIDTH, HEIGHT)
    assert fit.median_abs_px < 0.04
    changed = {f.name for f in dataclasses.fields(LENS) if getattr(LENS, f.name) != getattr(fit.sensor, f.name)}
    assert changed == {"alpha", "focus_m", "alpha_field", "right_gain", "sources"}
    assert all("Fit by edge-dp sensors fit" in fit.sensor.sources[name] for name in changed - {"sources"})


def test_a_gain_matched_on_reading_is_found_again():
    gain = FieldPolynomial(((1.1, 0.08),), (WIDTH, HEIGHT))
    known = dataclasses.replace(LENS, right_gain=gain, sources=LENS.sources | {"right_gain": "made"})
    captures = made_captures(known, (0.6, 0.8, 1.1, 3.0), 0.1, 0.95)  # equally bright, as read with this profile
    found = fit_sensor(captures, known).sensor.right_gain
    assert found.sample(HEIGHT, WIDTH) == approx(gain.sample(HEIGHT, WIDTH), rel=0.01)


def test_files_that_lie_on_their_side_give_a_profile_of_files_that_lie_on_their_side():
    upright = dataclasses.replace(LENS, dp_axis="y")
    gain = FieldPolynomial(((1.1, 0.08), (0.03, 0.0)), (WIDTH, HEIGHT))
    captures = made_captures(upright, (0.6, 0.8, 1.1, 1.6, 3.0), 0.1, 0.95, (1.2, 0.1, -0.6), gain)
    fit = fit_sensor(captures, upright)  # samples are turned: x of the sample is y of the files
    assert fit.sensor.right_gain.field_px == (HEIGHT, WIDTH)
    in_files = fit.sensor.right_gain.sample(WIDTH, HEIGHT)
    assert to_sample_orientation(in_files, upright) == approx(gain.sample(HEIGHT, WIDTH), rel=0.01)
    along = fit.sensor.alpha_field.coefficients
    assert [len(row) for row in along] == [1, 1, 1]
    predicted = predict_disparity(captures[0], fit.sensor)
    straight = made_captures(LENS, (0.6, 0.8, 1.1, 1.6, 3.0), 0.1, 0.95, (1.2, 0.1, -0.6), gain)
    assert predicted == approx(predict_disparity(straight[0], fit_sensor(straight, LENS).sensor), abs=1e-3)


def test_wrong_depths_in_a_fifth_of_each_capture_do_not_matter():
    captures = made_captures(LENS, (0.6, 0.8, 1.1, 1.6, 3.0), 0.1, 0.95)
    for sample in captures:
        sample.depth[:30] = 0.4
    fit = fit_sensor(captures, LENS, FitConfig(field_order=0))
    assert (fit.sensor.alpha, fit.sensor.focus_m) == approx((0.1, 0.95), rel=0.03)
    assert fit.sensor.alpha_field is None


def test_holes_in_the_depth_are_left_out():
    captures = made_captures(LENS, (0.6, 3.0), 0.1, 0.95)
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[60:90, 60:90] = False
    holed = [dataclasses.replace(s, mask=mask, depth=np.where(mask, s.depth, np.nan)) for s in captures]
    matched = match_capture(holed[0])
    assert not matched.usable[52:98, 52:98].any()
    fit = fit_sensor(holed, LENS, FitConfig(field_order=0))
    assert fit.sensor.focus_m == approx(0.95, rel=0.01)
    assert fit.sensor.right_gain is None  # two captures do not tell gain from scene
    assert np.isnan(predict_disparity(holed[0], fit.sensor)[70, 70])


def test_captures_that_cannot_be_fitted():
    captures = made_captures(LENS, (0.6, 3.0), 0.1, 0.95)
    exchanged = [dataclasses.replace(s, left=s.right, right=s.left) for s in captures]
    with pytest.raises(OpticsError, match="left and right exchanged"):
        fit_sensor(exchanged, LENS, FitConfig(field_order=0))
    with pytest.raises(InputError, match=r"expected depths that differ, found 0\.6 to 0\.6 m"):
        fit_sensor(captures[:1] * 2, LENS)
    with pytest.raises(InputError, match="captures: expected some, all of one size, found none"):
        fit_sensor([], LENS)
    with pytest.raises(InputError, match="capture plane0: depth: expected metres, found none"):
        fit_sensor([dataclasses.replace(captures[0], depth=None)], LENS)
    with pytest.raises(InputError, match="capture plane0: expected texture at places of known depth"):
        fit_sensor([dataclasses.replace(s, left=np.full_like(s.left, 0.5)) for s in captures], LENS)
    with pytest.raises(OpticsError, match="pitch_um: expected a number, found null"):
        fit_sensor(captures, dataclasses.replace(LENS, pitch_um=None), FitConfig(field_order=0))
    with pytest.raises(InputError, match="focus_m: expected one distance, found None"):
        predict_disparity(captures[0], LENS)


@pytest.mark.parametrize("half", [0, 1])
def test_half_of_the_canon_scenes_predicts_the_other(data_root, half):
    """Median error of at most 0.2 px, and the planes at 0.6 m and 1.5 m, in neither half, within 0.15 px."""
    folder = data_root / "dual_pixel/canon_r6"
    scenes = Dp119(folder, groups=("box", "casual/iphone", "casual/orbbec"))
    assert len(scenes) == 9
    fitted = fit_sensor([scenes[i] for i in range(half, 9, 2)], load_sensor("canon_r6")).sensor
    errors = [residual(match_capture(scenes[i]), fitted).median_abs_px for i in range(1 - half, 9, 2)]
    assert max(errors) < 0.2
    assert np.median(errors) < 0.1
    planes = [plane for plane in Dp119(folder, groups=("flat",)) if plane.sensor.f_number == 4]
    assert [float(plane.depth[0, 0]) for plane in planes] == approx([0.6, 1.5])
    for plane in planes:
        found = residual(match_capture(plane), fitted)
        assert found.coverage > 0.5
        assert abs(found.bias_px) < 0.15
        assert found.median_abs_px < 0.15


def test_the_shipped_canon_profile_is_that_fit(data_root):
    folder = data_root / "dual_pixel/canon_r6"
    shipped = load_sensor("canon_r6")
    fitted = fit_sensor((s for s in Dp119(folder) if s.sensor.f_number == 4), shipped).sensor
    assert (fitted.alpha, fitted.focus_m) == approx((shipped.alpha, shipped.focus_m), rel=0.02)


@pytest.fixture
def folder(tmp_path):
    """Three captures as files: 8-bit grey views; depth as PFM, as 16-bit millimetres and as the distance of a plane."""
    for index, sample in enumerate(made_captures(LENS, (0.6, 1.1, 3.0), 0.1, 0.95)):
        for name in ("left", "right"):
            levels = np.rint(255 * getattr(sample, name)[0]).astype(np.uint8)
            assert cv2.imwrite(str(tmp_path / f"{index}_{name}.png"), levels)
    write_pfm(tmp_path / "0.pfm", np.full((HEIGHT, WIDTH), 0.6, np.float32))
    assert cv2.imwrite(str(tmp_path / "1.png"), np.full((2 * HEIGHT, 2 * WIDTH), 1100, np.uint16))
    return tmp_path


ROWS = [
    {"left": "0_left.png", "right": "0_right.png", "depth": "0.pfm"},
    {"left": "1_left.png", "right": "1_right.png", "depth": "1.png", "unit": "mm"},
    {"left": "2_left.png", "right": "2_right.png", "depth": "3.0"},
]


def write_list(folder, rows, name="list.csv"):
    path = folder / name
    if name.endswith(".json"):
        path.write_text(json.dumps(rows))
        return path
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["left", "right", "depth", "unit", "max_m"])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["list.csv", "list.json"])
def test_a_list_of_captures_is_read(folder, name):
    samples = list(read_captures(write_list(folder, ROWS, name), LENS))
    assert [sample.name for sample in samples] == ["0_left", "1_left", "2_left"]
    for sample, depth in zip(samples, (0.6, 1.1, 3.0), strict=True):
        assert sample.depth.shape == (HEIGHT, WIDTH)
        assert sample.mask.all()
        assert sample.depth == approx(np.full((HEIGHT, WIDTH), depth))
    assert fit_sensor(samples, LENS, FitConfig(field_order=0)).sensor.focus_m == approx(0.95, rel=0.02)


def test_holes_in_files_are_masked(folder):
    depth = np.full((HEIGHT, WIDTH), 0.6, np.float32)
    depth[3, 4] = math.nan
    write_pfm(folder / "0.pfm", depth)
    levels = np.full((HEIGHT, WIDTH), 1100, np.uint16)
    levels[3, 4], levels[5, 6] = 0, 9000
    cv2.imwrite(str(folder / "1.png"), levels)
    rows = [ROWS[0], ROWS[1] | {"max_m": "8"}]
    first, second = read_captures(write_list(folder, rows), LENS)
    assert np.argwhere(~first.mask).tolist() == [[3, 4]]
    assert np.argwhere(~second.mask).tolist() == [[3, 4], [5, 6]]


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf])
def test_a_depth_that_is_none_names_file_and_place(folder, bad):
    depth = np.full((HEIGHT, WIDTH), 0.6, np.float32)
    depth[3, 4] = bad
    write_pfm(folder / "0.pfm", depth)
    with pytest.raises(InputError, match=rf"0\.pfm: expected metres above 0 .* found {bad:g} in row 3, column 4"):
        list(read_captures(write_list(folder, ROWS), LENS))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"left": "absent.png"}, r"list\.csv: row 2: left: expected a file, found none at .*absent\.png"),
        ({"right": ""}, r"list\.csv: row 2: right: expected a file, found nothing"),
        ({"depth": "absent.pfm"}, r"list\.csv: row 2: depth: expected a file, found none"),
        ({"depth": "-2"}, r"list\.csv: row 2: depth: expected a file or metres above 0, found '-2'"),
        ({"depth": "nan"}, r"list\.csv: row 2: depth: expected a file or metres above 0, found 'nan'"),
        ({"unit": "feet"}, r"list\.csv: row 2: unit: expected m, mm or metres per level, found 'feet'"),
        ({"unit": "0"}, r"list\.csv: row 2: unit: expected"),
        ({"max_m": "far"}, r"list\.csv: row 2: max_m: expected metres above 0, found 'far'"),
    ],
)
def test_a_malformed_row_is_named(folder, row, message):
    with pytest.raises(InputError, match=message):
        list_captures(write_list(folder, [ROWS[0] | row]))


def test_lists_that_are_none(folder):
    for name, content, message in (
        ("list.txt", "", "expected a list of captures"),
        ("list.csv", "left,right,depth\n", "expected captures, found none"),
        ("list.json", "{", "expected JSON, found something else"),
        ("list.json", "{}", "expected a JSON list of objects, found dict"),
        ("list.json", "[3]", "row 1: expected an object"),
    ):
        (folder / name).write_text(content)
        with pytest.raises(InputError, match=message):
            list_captures(folder / name)
    with pytest.raises(InputError, match=r"absent\.csv: expected a readable list"):
        list_captures(folder / "absent.csv")


def test_images_of_depth_that_are_none(folder):
    path = write_list(folder, [{**ROWS[1], "unit": ""}])
    with pytest.raises(InputError, match=r"row 2: unit: expected m, mm or metres per level of 1\.png, found nothing"):
        list(read_captures(path, LENS))
    path = write_list(folder, [ROWS[1]])
    for levels, message in (
        (np.zeros((HEIGHT, WIDTH), np.uint16), r"1\.png: expected depth, found holes only"),
        (np.ones((HEIGHT, HEIGHT), np.uint16), r"1\.png: expected the shape of the views"),
        (
            np.dstack([np.full((HEIGHT, WIDTH), v, np.uint8) for v in (1, 2, 3)]),
            r"1\.png: expected depth in one channel",
        ),
    ):
        cv2.imwrite(str(folder / "1.png"), levels)
        with pytest.raises(InputError, match=message):
            list(read_captures(path, LENS))
