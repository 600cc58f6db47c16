import pickle

import cv2
import numpy as np
import pytest

from edge_dp.data import write_pfm
from edge_dp.data.light_fields import HciLightFields, LightField, LytroGrids
from edge_dp.errors import InputError
from edge_dp.srgb import srgb_to_linear

PARAMETERS = """[intrinsics]
focal_length_mm = 100.0
image_resolution_x_px = 40
image_resolution_y_px = 24
sensor_size_mm = 35.0
fstop = 100.0

[extrinsics]
num_cams_x = 9
num_cams_y = 9
baseline_mm = 50.0
focus_distance_m = 8.0

[meta]
scene = made
disp_min = -2
"""


def linear(levels):
    return srgb_to_linear(np.asarray(levels, np.float64) / 255)


def texture(height, width):
    """(height, width, 3) levels, in OpenCV's order."""
    return np.random.default_rng(0).integers(20, 235, (height, width, 3), dtype=np.uint8)


def write_views(folder, name, disparity, rows=range(-4, 5), columns=range(-4, 5), height=24, width=40):
    """Views of a plane: view(du)(x - du D, y - dv D) = texture(x, y). Returns the levels of the centre view."""
    folder.mkdir(parents=True, exist_ok=True)
    margin = 4 * abs(disparity)
    whole = texture(height + 2 * margin, width + 2 * margin)
    for dv in rows:
        for du in columns:
            top, left = margin + dv * disparity, margin + du * disparity
            cv2.imwrite(str(folder / name(dv, du)), whole[top : top + height, left : left + width])
    return whole[margin : margin + height, margin : margin + width]


def hci_name(dv, du):
    return f"input_Cam{9 * (dv + 4) + du + 4:03d}.png"


def lytro_name(dv, du):
    return f"2067_{dv + 5:02d}_{du + 5:02d}.png"


@pytest.fixture
def hci(tmp_path):
    """One scene: a plane at D = 1 px per view step, nearer than the focus."""
    folder = tmp_path / "training" / "made"
    write_views(folder, hci_name, 1)
    truth = np.ones((24, 40), np.float32)
    truth[0, 0] = np.nan
    write_pfm(folder / "gt_disp_lowres.pfm", truth)
    return folder


@pytest.fixture
def lytro(tmp_path):
    write_views(tmp_path, lytro_name, 1, range(-3, 4), range(-3, 4))
    return tmp_path


def best_shifts(left, right, shifts, size=15):
    """The d, for every pixel, of least mean |left(x) - right(x + d)|, and how far it stands out among the others."""
    height, width = left.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))

    def level(image):
        return image - cv2.blur(image, (size, size))

    cost = np.stack(
        [
            cv2.blur(np.abs(level(left) - level(cv2.remap(right, x + np.float32(d), y, cv2.INTER_CUBIC))), (size, size))
            for d in shifts
        ]
    )
    textured = cv2.blur(level(left) ** 2, (size, size)) > 1e-5
    distinct = np.median(cost, axis=0) > 3 * np.maximum(cost.min(axis=0), 1e-9)
    return np.asarray(shifts)[cost.argmin(axis=0)], distinct & textured


def test_views_of_a_light_field(hci):
    field = pickle.loads(pickle.dumps(HciLightFields(hci.parent))).light_field("made")
    assert field.shape == (9, 9)
    centre = field.centre()
    assert centre.shape == (3, 24, 40)
    levels = cv2.imread(str(hci / "input_Cam040.png"))
    np.testing.assert_allclose(centre, linear(levels)[..., ::-1].transpose(2, 0, 1), rtol=1e-5)
    # view(u, v)(x - du D, y - dv D) = centre(x, y), here for D = 1, du = 2, dv = -3.
    np.testing.assert_array_equal(field.view(1, 6)[:, 3:, :-2], centre[:, :-3, 2:])
    with pytest.raises(IndexError):
        field.view(9, 0)
    with pytest.raises(InputError, match="expected the name of a sample, found 'other'"):
        HciLightFields(hci).light_field("other")


@pytest.mark.parametrize(("radius", "shifts"), [(None, (1, 2, 3, 4)), (4, (1, 2, 3, 4)), (2, (1, 2)), (1, (1,))])
def test_half_aperture_sums(tmp_path, radius, shifts):
    """By hand: left is the mean of the texture moved by +1..+n px in linear light, right by -1..-n, alike in every row."""
    folder = tmp_path / "made"
    folder.mkdir()
    whole = texture(24, 60)
    for number in range(81):
        du = number % 9 - 4
        cv2.imwrite(str(folder / f"input_Cam{number:03d}.png"), whole[:, 10 + du : 50 + du])
    write_pfm(folder / "gt_disp_lowres.pfm", np.ones((24, 40)))
    sample = HciLightFields(folder).light_field("made").to_dual_pixel(radius)
    green = linear(whole[..., 1])
    np.testing.assert_allclose(sample.left[0], np.mean([green[:, 10 - n : 50 - n] for n in shifts], axis=0), rtol=1e-5)
    np.testing.assert_allclose(sample.right[0], np.mean([green[:, 10 + n : 50 + n] for n in shifts], axis=0), rtol=1e-5)
    np.testing.assert_allclose(sample.all_in_focus[0], green[:, 10:50], rtol=1e-5)
    np.testing.assert_allclose(sample.disparity, -2 * np.mean(shifts), rtol=1e-6)
    # The sign: left(x) = right(x + d), the two being alike but for their place.
    d = int(sample.disparity[0, 0])
    np.testing.assert_allclose(sample.left[..., -d:], sample.right[..., :d], rtol=1e-5)


def test_hci_scenes_as_samples(hci):
    scenes = HciLightFields(hci.parents[1])
    assert scenes.names == ("training/made",)
    sample = next(iter(scenes))
    assert sample.left.shape == (1, 24, 40)
    assert sample.sensor.name == "generic_8bit"
    assert sample.depth is None
    assert not sample.mask[0, 0]
    assert sample.mask.sum() == 24 * 40 - 1
    np.testing.assert_allclose(sample.disparity[sample.mask], -5)
    colour = scenes.light_field("training/made").to_dual_pixel(colour=True)
    assert colour.left.shape == colour.all_in_focus.shape == (3, 24, 40)
    np.testing.assert_array_equal(colour.left[1], sample.left[0])
    (hci / "gt_disp_lowres.pfm").unlink()
    assert HciLightFields(hci)[0].disparity is None


def test_hci_depth_from_its_parameters(hci):
    """Two pinholes 50 mm apart see a point at the place where their shifted sensors say."""
    (hci / "parameters.cfg").write_text(PARAMETERS)
    sample = HciLightFields(hci)[0]
    z = float(sample.depth[5, 5])
    focal_px = 40 * 100 / 35
    at_focus = focal_px * 0.05 / 8  # where the shift of the sensor puts a point at the focus distance back
    assert focal_px * 0.05 / z - at_focus == pytest.approx(1, rel=1e-5)
    assert z < 8


def test_black_corners_of_a_lytro_are_masked(lytro):
    for path in lytro.glob("*.png"):
        view = cv2.imread(str(path))
        view[10:14, 18:24] = 0  # black, but no corner
        view[:5, :6] = 2
        if path.name == "2067_05_07.png":
            view[-4:, -3:] = 0
        cv2.imwrite(str(path), view)
    sample = LytroGrids(lytro)[0]
    expected = np.ones((24, 40), bool)
    expected[:7, :8] = False  # and two px beside
    expected[-6:, -5:] = False
    np.testing.assert_array_equal(sample.mask, expected)


def test_lytro_grids(lytro):
    sub = lytro / "more"
    write_views(sub, lambda dv, du: f"1528_{dv + 1}_{du + 1}.png".replace("_", "_0"), 1, range(-1, 2), range(-1, 2))
    grids = pickle.loads(pickle.dumps(LytroGrids(lytro)))
    assert grids.names == ("2067", "more/1528")
    assert [grids.light_field(name).shape for name in grids.names] == [(7, 7), (3, 3)]
    sample = grids[0]
    assert sample.name == "2067"
    assert sample.disparity is None
    np.testing.assert_array_equal(sample.all_in_focus, grids.light_field("2067").centre()[1:2])
    np.testing.assert_allclose(sample.left[..., 4:], sample.right[..., :-4], rtol=1e-4)  # D = 1: d = -(3 + 1) px


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "input_Cam017.png").unlink(), r"input_Cam017\.png: expected 81 views, found 80"),
        (lambda f: (f / "input_Cam080.png").unlink(), r"input_Cam080\.png: expected 81 views, found 80"),
        (lambda f: truncate(f / "input_Cam017.png"), r"input_Cam017\.png: expected an image .* found 60 bytes"),
        (lambda f: truncate(f / "gt_disp_lowres.pfm"), r"gt_disp_lowres\.pfm: expected 3840 bytes"),
        (
            lambda f: write_pfm(f / "gt_disp_lowres.pfm", np.full((24, 40), np.nan)),
            r"lowres\.pfm: expected .* finite px",
        ),
        (
            lambda f: write_pfm(f / "gt_disp_lowres.pfm", np.ones((24, 39))),
            r"input_Cam\d+\.png: expected \(3, 24, 39\)",
        ),
        (
            lambda f: cv2.imwrite(str(f / "input_Cam017.png"), texture(24, 39)),
            r"input_Cam017\.png: expected \(3, 24, 40\) .* found \(3, 24, 39\)",
        ),
        (
            lambda f: (f / "parameters.cfg").write_text(PARAMETERS.replace("50.0", "wide")),
            r"parameters\.cfg: extrinsics\.baseline_mm: expected 1 numbers, found: .*'wide'",
        ),
        (
            lambda f: (f / "parameters.cfg").write_text(PARAMETERS.replace("8.0", "-8.0")),
            r"parameters\.cfg: extrinsics\.focus_distance_m: expected a number above 0, found -8",
        ),
        (
            lambda f: (f / "parameters.cfg").write_text(PARAMETERS.replace("sensor_size_mm", "sensor")),
            r"parameters\.cfg: intrinsics\.sensor_size_mm: expected 1 finite numbers, found 0",
        ),
        (
            lambda f: (f / "parameters.cfg").write_text(PARAMETERS.replace("cams_x = 9", "cams_x = 7")),
            "made: expected 9x7 views, found 81",
        ),
        (lambda f: (f / "parameters.cfg").write_text("focal"), r"parameters\.cfg: expected sections of key = value"),
    ],
)
def test_hci_scenes_that_are_almost_right(hci, damage, message):
    damage(hci)
    with pytest.raises(InputError, match=message):
        HciLightFields(hci)[0]


def test_grids_that_make_no_pair(lytro, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(InputError, match=r"expected input_Cam000\.png, found none"):
        HciLightFields(empty)
    with pytest.raises(InputError, match=r"expected NAME_RR_CC\.png, found none"):
        LytroGrids(empty)
    field = LytroGrids(lytro).light_field("2067")
    for radius in (0, 4):
        with pytest.raises(InputError, match=f"2067: radius: expected 1 to 3, found {radius}"):
            field.to_dual_pixel(radius)
    with pytest.raises(InputError, match="expected two halves, found the same twice"):
        LightField("same", ((field.paths[0][0],) * 3,)).to_dual_pixel()
    with pytest.raises(InputError, match="expected full rows, an odd number of them"):
        LightField("even", tuple(row[:6] for row in field.paths))
    with pytest.raises(InputError, match="expected full rows"):
        LightField("none", ())
    (lytro / "2067_04_06.png").unlink()
    with pytest.raises(InputError, match=r"2067_04_06\.png: expected a full grid of 7x7 views, found 48"):
        LytroGrids(lytro)


@pytest.fixture(scope="module")
def antinous(data_root):
    return HciLightFields(data_root / "lightfield" / "antinous").light_field("antinous")


@pytest.mark.parametrize("radius", [1, 2, 4])
def test_disparity_of_a_rendered_light_field_is_that_matched(antinous, radius):
    sample = antinous.to_dual_pixel(radius)
    matched, distinct = best_shifts(sample.left[0], sample.right[0], np.arange(-16, 16.5, 0.5))
    spread = cv2.dilate(sample.disparity, np.ones((25, 25))) - cv2.erode(sample.disparity, np.ones((25, 25)))
    flat = distinct & (spread < 1)
    assert flat.mean() > 0.03
    assert np.abs(np.median(matched[flat] - sample.disparity[flat])) < 0.05
    assert np.median(np.abs(matched[flat] - sample.disparity[flat])) < 0.25
    assert (np.sign(matched) == np.sign(sample.disparity))[flat].mean() > 0.95


def test_halves_of_a_real_light_field(data_root):
    """The halves are shifted as the two views at their centres of gravity, and less so for the far wall."""
    field = LytroGrids(data_root / "lightfield" / "lytro_2067").light_field("2067")
    assert field.shape == (7, 7)
    sample = field.to_dual_pixel()
    assert sample.left.shape == (1, 383, 552)
    assert 0.95 < sample.mask.mean() < 0.98
    assert not sample.mask[[0, 0, -1, -1], [0, -1, 0, -1]].any()
    shifts = np.arange(-6, 6.2, 0.2)
    halves, distinct = best_shifts(np.sqrt(sample.left[0]), np.sqrt(sample.right[0]), shifts)
    views, distinct_views = best_shifts(np.sqrt(field.view(3, 1)[1]), np.sqrt(field.view(3, 5)[1]), shifts)
    both = distinct & distinct_views & sample.mask
    assert both.mean() > 0.5
    assert np.median(np.abs(halves - views)[both]) < 0.1
    slope, offset = np.polyfit(views[both], halves[both], 1)
    assert slope == pytest.approx(1, abs=0.05)
    assert offset == pytest.approx(0, abs=0.1)
    wall, animal = (np.s_[20:120, 60:220], np.s_[180:280, 330:400])
    far, near = (np.median(halves[part][distinct[part]]) for part in (wall, animal))
    assert far > near + 1
