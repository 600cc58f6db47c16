import math

import cv2
import numpy as np
import pytest
from scipy.ndimage import shift
from scipy.signal import fftconvolve

from edge_dp.data.dual_pixel.xin2021 import Xin2021
from edge_dp.errors import InputError
from edge_dp.optics.field_psf import FieldPsf, MeasuredGrid
from edge_dp.sensors import PsfField, load_sensor
from edge_dp.sensors.fit_psf import fit_psf_field, grid_positions, kernels_from_dot_chart, match_kernels

FIELD = PsfField(
    field_px=(640, 480),
    blur_px=0.0,
    disparity_px=(5.0, 0.1, -0.2),
    softness=(0.14, 0.01, 0.0),
    stretch=((0.02, 0.1, 0.0), (0.0, 0.0, 0.15)),
    shared=((0.1, -0.8, 0.0), (0.0, 0.0, -0.6)),
    split=((0.9, -0.1, 0.1), (0.0, 0.0, 0.1)),
)


def pearson(a, b):
    size = max(a.shape[0], b.shape[0])
    a, b = (np.pad(kernel.astype(float), (size - kernel.shape[0]) // 2).ravel() for kernel in (a, b))
    return np.corrcoef(a, b)[0, 1]


def centroid(kernel):
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - kernel.shape[0] // 2
    return np.array([(kernel * x).sum(), (kernel * y).sum()]) / kernel.sum()


def kernels_of(model, places, disparities, size=61):
    """(N, size, size) left and right kernels, each pair moved about in its frame as by a registration."""
    views = ([], [])
    for (x, y), disparity, moved in zip(
        places, disparities, np.sin(np.arange(2 * len(places))).reshape(-1, 2), strict=True
    ):
        for view, side in zip(views, (-1, 1), strict=True):
            kernel = model.kernel(disparity, side, x, y).astype(float)
            view.append(np.maximum(shift(np.pad(kernel, (size - kernel.shape[0]) // 2), moved, order=1), 0))
    return np.array(views[0]), np.array(views[1])


@pytest.fixture(scope="module")
def measured(data_root):
    """Left and right kernels (48, 61, 61) published for the Pixel 4."""
    folder = data_root / "dual_pixel/pixel4/calibration"
    return np.load(folder / "blur_kernels_left.npy"), np.load(folder / "blur_kernels_right.npy")


@pytest.fixture(scope="module", params=["the profile's", "fitted now"])
def pixel4(request, measured):
    """The field of the Pixel 4, as it comes with edge_dp and as the fit gives it."""
    if request.param == "fitted now":
        return fit_psf_field(*measured, grid_positions(6, 8), (1344, 1008))
    return load_sensor("pixel4").psf


def test_pixel4_against_the_measured_kernels(measured, pixel4):
    """Centroid separation within 0.15 px everywhere, along x and down together; correlation even without registration."""
    model, places = FieldPsf(pixel4), grid_positions(6, 8)

    def kernel(index, side):
        return model.kernel(pixel4.plane_disparity(*places[index]), side, *places[index])

    assert [place.tolist() for place in places[[0, 7, 8]]] == [[-7 / 8, -5 / 6], [7 / 8, -5 / 6], [-7 / 8, -0.5]]
    unregistered = []
    for index in range(48):
        pair = [kernel(index, side).astype(float) for side in (-1, 1)]
        ours = centroid(pair[1]) - centroid(pair[0])
        theirs = centroid(measured[1][index].astype(float)) - centroid(measured[0][index].astype(float))
        assert np.hypot(*(ours - theirs)) < 0.15
        unregistered += [pearson(model, view[index]) for model, view in zip(pair, measured, strict=True)]
    assert np.mean(unregistered) > 0.9
    match = match_kernels(kernel, *measured)
    assert np.abs(match.separation_error[:, 0]).max() < 0.07
    assert match.correlation.mean() > 0.995
    assert match.correlation.min() > 0.98


def test_pixel4_kernels_are_worth_no_more_than_a_few_numbers(pixel4):
    rows = (pixel4.disparity_px, pixel4.softness, *pixel4.stretch, *pixel4.shared, *pixel4.split)
    assert sum(map(len, rows)) == 93


def test_pixel4_kernels_blur_a_real_sharp_image_as_the_views_are(data_root):
    """Sign, orientation and place in the field: turned over in any way, kernels explain the views of a real scene worse."""
    captures = Xin2021(data_root / "dual_pixel/pixel4")
    name = next(n for n in captures.names if (captures.root / f"all_in_focus/{n}_gt.png").is_file())
    sharp = cv2.imread(str(captures.root / f"all_in_focus/{name}_gt.png"), cv2.IMREAD_UNCHANGED).astype(np.float32)
    sample, model = captures[captures.names.index(name)], FieldPsf(load_sensor("pixel4").psf)
    ways = {
        "as they are": model.kernel,
        "in front of focus": lambda d, s, x, y: model.kernel(-d, s, x, y),
        "field mirrored along x": lambda d, s, x, y: model.kernel(d, s, -x, y),
        "field mirrored along y": lambda d, s, x, y: model.kernel(d, s, x, -y),
        "kernels upside down": lambda d, s, x, y: model.kernel(d, s, x, y)[::-1],
    }
    misfit = dict.fromkeys(ways, 0.0)
    for tile in (0, 5, 7, 16, 23, 40, 45, 47):
        x, y = grid_positions(6, 8)[tile]
        row, column = tile // 8 * 168, tile % 8 * 168
        inner = np.s_[row + 34 : row + 134, column + 34 : column + 134]
        outer = np.s_[max(row - 8, 0) : row + 176, max(column - 8, 0) : column + 176]
        for way, kernel in ways.items():
            best = 0.0
            for disparity in np.arange(0.75, 9, 0.75):
                scores = []
                for side, view in ((-1, sample.left[0]), (1, sample.right[0])):
                    blurred = fftconvolve(sharp[outer], kernel(disparity, side, x, y), mode="same").astype(np.float32)
                    scores.append(cv2.matchTemplate(blurred, view[inner], cv2.TM_CCOEFF_NORMED))
                best = max(best, float((scores[0] + scores[1]).max()) / 2)
            misfit[way] += math.log(1 - best)
    assert min(misfit, key=misfit.get) == "as they are"


@pytest.mark.parametrize("sign", [1, -1])
def test_a_field_is_found_again_from_its_kernels(sign):
    places = grid_positions(4, 5)
    disparities = [sign * FIELD.plane_disparity(*place) for place in places]
    left, right = kernels_of(FieldPsf(FIELD), places, disparities)
    fitted = fit_psf_field(left, right, places, (640, 480), field_degree=1)
    assert fitted.field_px == (640, 480)
    for place in ((0.0, 0.0), (0.9, -0.7), (-1.0, 1.0)):
        assert fitted.plane_disparity(*place) == pytest.approx(sign * FIELD.plane_disparity(*place), abs=0.02)
        for side in (-1, 1):
            assert (
                pearson(FieldPsf(fitted).kernel(6.0, side, *place), FieldPsf(FIELD).kernel(6.0, side, *place)) > 0.999
            )


def test_blur_of_focused_light_is_kept_apart():
    """Of the rim's sigma at 5 px the given part does not grow with defocus."""
    places = grid_positions(2, 2)
    disparities = [5.0] * 4
    left, right = kernels_of(FieldPsf(FIELD), places, disparities)
    sharp = fit_psf_field(left, right, places, (640, 480), blur_px=0.0)
    blurred = fit_psf_field(left, right, places, (640, 480), blur_px=1.0)
    assert blurred.blur_px == 1.0
    assert blurred.at(0, 0).softness < 0.9 * sharp.at(0, 0).softness
    assert pearson(FieldPsf(blurred).kernel(5.0, 1), FieldPsf(sharp).kernel(5.0, 1)) > 0.999


def test_one_place_gives_a_field_without_variation():
    left, right = kernels_of(FieldPsf(FIELD), [(0.0, 0.0)], [5.0])
    fitted = fit_psf_field(left, right, np.array([[0.0, 0.0]]), (640, 480))
    assert {len(row) for row in (fitted.disparity_px, fitted.softness, *fitted.shared, *fitted.split)} == {1}
    assert pearson(FieldPsf(fitted).kernel(5.0, 1, 0.7, 0.7), FieldPsf(FIELD).kernel(5.0, 1)) > 0.999


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda left, right, places: (left, right[:2], places), r"left and right kernels of one shape"),
        (lambda left, right, places: (left, right, places[:2]), r"positions: expected \(4, 2\)"),
        (lambda left, right, places: (left, left, places), r"apart along x"),
        (
            lambda left, right, places: (left, np.concatenate([right[:2], left[2:] * 0 + right[2:, :, ::-1]]), places),
            "same side",
        ),
        (lambda left, right, places: (left * math.nan, right, places), r"left kernels: expected finite values"),
        (lambda left, right, places: (left[:, :-1, :-1], right[:, :-1, :-1], places), r"left kernels: .* K odd"),
    ],
)
def test_what_cannot_be_fitted(change, message):
    places = grid_positions(2, 2)
    left, right = kernels_of(FieldPsf(FIELD), places, [5.0] * 4)
    with pytest.raises(InputError, match=message):
        fit_psf_field(*change(left, right, places), (640, 480))


def dot_chart(disparity, dark=False, noise=0.0, rows=7, columns=9, size=(480, 640)):
    """Views of an array of dots, a little out of line, under uneven light; and where the dots are in the field."""
    rng = np.random.default_rng(1)
    height, width = size
    views = np.zeros((2, height, width))
    places = grid_positions(rows, columns) + rng.uniform(-0.01, 0.01, (rows * columns, 2))
    for x, y in places:
        column, row = ((p + 1) / 2 * n - 0.5 for p, n in ((x, width), (y, height)))
        for view, side in zip(views, (-1, 1), strict=True):
            kernel = np.pad(FieldPsf(FIELD).kernel(disparity, side, x, y).astype(float), 1)
            kernel = shift(kernel, (row - round(row), column - round(column)), order=1)
            half = kernel.shape[0] // 2
            view[round(row) - half : round(row) + half + 1, round(column) - half : round(column) + half + 1] += kernel
    views *= 0.8 / views.max()
    if dark:
        views = 0.9 - views
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    light = (1 - 0.25 * (x**2 + y**2)) * (1 + 0.15 * x * np.array([-1, 1])[:, None, None])
    left, right = (views + 0.03) * light + noise * rng.standard_normal(views.shape)
    return left, right, places


@pytest.mark.parametrize(
    ("disparity", "dark", "noise"), [(4.0, False, 0.0), (-3.5, False, 0.005), (-3.5, True, 0.0), (4.0, True, 0.005)]
)
def test_dot_chart(disparity, dark, noise):
    left, right, places = dot_chart(disparity, dark, noise)
    dots = kernels_from_dot_chart(left, right)
    assert len(dots.left) == len(places)
    nearest = np.linalg.norm(dots.positions[:, None] - places, axis=2).min(axis=1)
    assert nearest.max() < 0.01  # 3 px
    fitted = fit_psf_field(dots.left, dots.right, dots.positions, (640, 480), disparity_degree=2)
    for place in places:
        assert fitted.plane_disparity(*place) == pytest.approx(disparity, abs=0.1)
        for side in (-1, 1):
            ours, true = (FieldPsf(field).kernel(disparity, side, *place) for field in (fitted, FIELD))
            assert pearson(ours, true) > 0.995


def test_dots_on_a_grid():
    left, right, _ = dot_chart(4.0)
    grid = MeasuredGrid(*kernels_from_dot_chart(left, right).on_grid(3, 4))
    for place in grid_positions(3, 4):
        for side in (-1, 1):
            assert pearson(grid.kernel(4.0, side, *place), FieldPsf(FIELD).kernel(4.0, side, *place)) > 0.99


def test_dots_that_touch_others_or_the_border_are_left_out():
    left, right, places = dot_chart(4.0)
    for view in (left, right):
        view[:, :64] = view[:, 28:92]  # the first column of dots now hangs over the border
        view[140:300, 320:345] = view.max()  # a bar across dots of the middle column
    dots = kernels_from_dot_chart(left, right)
    assert 40 < len(dots.left) < len(places) - 8
    assert dots.positions[:, 0].min() > -0.8
    assert not ((np.abs(dots.positions[:, 0]) < 0.1) & (np.abs(dots.positions[:, 1] + 0.1) < 0.2)).any()


@pytest.mark.parametrize(
    ("left", "right", "size", "message"),
    [
        (np.full((64, 64), 0.5), np.full((64, 64), 0.5), None, r"chart\.png: expected at least 4 dots .*, found 0"),
        (np.zeros((64, 64)), np.zeros((64, 65)), None, r"chart\.png: expected two views"),
        (np.full((64, 64), math.nan), np.zeros((64, 64)), None, r"chart\.png: expected two views .* finite"),
        (*dot_chart(4.0)[:2], 20, r"chart\.png: size: expected an odd number"),
        (*dot_chart(4.0)[:2], 151, r"chart\.png: expected at least 4 dots that stand alone, found 0 \(of 63 dots"),
    ],
)
def test_charts_that_give_no_kernels(left, right, size, message):
    with pytest.raises(InputError, match=message):
        kernels_from_dot_chart(left, right, size, where="chart.png")


def test_noise_alone_is_no_chart():
    left, right = np.random.default_rng(0).normal(0.5, 0.01, (2, 200, 300))
    with pytest.raises(InputError, match="stand alone"):
        kernels_from_dot_chart(left, right)
