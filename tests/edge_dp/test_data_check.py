"""What ``edge-dp data check`` finds in sets that are damaged, incomplete or turned, and in real captures."""

import cv2
import numpy as np
import pytest

from edge_dp.data.check import check_dataset
from edge_dp.data.check.corners import corner_shifts, rank_correlation
from edge_dp.data.headers import Header, check_archive, read_header
from edge_dp.errors import InputError

HEIGHT, WIDTH = 120, 160
SCENES = ("001", "002", "003", "004", "005")


def textured(seed, height=HEIGHT, width=WIDTH):
    texture = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width)), (0, 0), 1.5)
    return ((texture - texture.min()) / np.ptp(texture)).astype(np.float32)


def shifted(texture, dx, dy):
    """The view in which what lies at p in ``texture`` lies at p + (dx, dy)."""
    matrix = np.float32([[1, 0, dx], [0, 1, dy]])
    size = texture.shape[::-1]
    return cv2.warpAffine(texture, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT).clip(0, 1)


@pytest.fixture
def captures(tmp_path):
    """Five scenes in the layout of Xin et al.: upper half d = +2 px and far, lower half d = +0.5 px and near."""
    for folder in ("views", "defocus_map"):
        (tmp_path / folder).mkdir()
    upper = np.arange(HEIGHT)[:, None] < HEIGHT // 2
    for seed, name in enumerate(SCENES):
        left = textured(seed)
        right = np.where(upper, shifted(left, 2, 0), shifted(left, 0.5, 0))
        for view, light in (("left", left), ("right", right)):
            save(tmp_path / f"views/{name}_{view}.png", (1024 + 8000 * light).astype(np.uint16))
        save(
            tmp_path / f"defocus_map/{name}_gt.png",
            np.where(upper, 200, 100).astype(np.uint8) * np.ones((1, WIDTH), np.uint8),
        )
    return tmp_path


def save(path, image):
    assert cv2.imwrite(str(path), image)


def load(path):
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


# The matcher


@pytest.mark.parametrize(("dx", "dy"), [(0.3, 0.0), (-1.75, 0.0), (4.5, 0.0), (0.0, 0.6), (1.2, -0.8), (0.0, 0.0)])
def test_corners_move_by_what_the_view_was_moved_by(dx, dy):
    left = textured(3)
    found = corner_shifts(left, shifted(left, dx, dy))
    assert len(found.points) > 50
    np.testing.assert_allclose(np.median(found.shifts, axis=0), (dx, dy), atol=0.05)


def test_shading_and_exposure_between_the_views_do_not_count():
    left = textured(3)
    right = shifted(left, 0.7, 0) * np.linspace(0.5, 0.9, WIDTH, dtype=np.float32)
    np.testing.assert_allclose(np.median(corner_shifts(left, right).shifts, axis=0), (0.7, 0), atol=0.1)


@pytest.mark.parametrize("view", [np.full((HEIGHT, WIDTH), 0.5, np.float32), np.ones((4, 5), np.float32)])
def test_views_without_corners_have_no_shifts(view):
    assert corner_shifts(view, view).shifts.shape == (0, 2)


def test_rank_correlation_is_spearman():
    stats = pytest.importorskip("scipy.stats")
    x, y = np.random.default_rng(0).random((2, 50))
    assert rank_correlation(x, y + x) == pytest.approx(stats.spearmanr(x, y + x).statistic)
    assert rank_correlation(x, -(x**3)) == pytest.approx(-1)
    assert rank_correlation(x, np.zeros(50)) == 0


# Headers


@pytest.mark.parametrize(
    ("suffix", "image", "bits", "channels"),
    [
        (".png", np.zeros((6, 8), np.uint16), 16, 1),
        (".png", np.zeros((6, 8, 3), np.uint8), 8, 3),
        (".jpg", np.zeros((6, 8, 3), np.uint8), 8, 3),
        (".jpg", np.zeros((6, 8), np.uint8), 8, 1),
        (".tif", np.zeros((6, 8), np.uint8), 8, 1),
        (".pfm", np.zeros((6, 8), np.float32), 32, 1),
        (".npy", np.zeros((6, 8), np.float32), 32, 1),
        (".pgm", np.zeros((6, 8), np.uint8), 8, 1),
        (".pgm", np.zeros((6, 8), np.uint16), 16, 1),
        (".ppm", np.zeros((6, 8, 3), np.uint8), 8, 3),
    ],
)
def test_headers_and_truncated_files(tmp_path, suffix, image, bits, channels):
    path = tmp_path / f"image{suffix}"
    if suffix == ".npy":
        np.save(path, image)
    else:
        save(path, image)
    assert read_header(path) == Header(8, 6, bits, channels)
    whole = path.read_bytes()
    for share in (0.0, 0.3, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(InputError, match=rf"image\{suffix}: expected"):
            read_header(path)
    path.unlink()
    with pytest.raises(InputError, match=rf"image\{suffix}: expected"):
        read_header(path)


def test_headers_of_other_files(tmp_path):
    (tmp_path / "depth.exr").touch()
    with pytest.raises(InputError, match=r"depth\.exr: expected one of \.jpeg.*, found \.exr"):
        read_header(tmp_path / "depth.exr")
    (tmp_path / "text.png").write_text("not a picture, although it goes on and on for more than 26 bytes")
    with pytest.raises(InputError, match=r"text\.png: expected a whole PNG"):
        read_header(tmp_path / "text.png")


def test_comments_in_the_header_of_a_pgm(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5\n# made by hand\n# twice\n3 2\n255\n" + bytes(6))
    assert read_header(tmp_path / "a.pgm") == Header(3, 2, 8, 1)
    (tmp_path / "a.pgm").write_bytes(b"P5\n# made by hand\n3 2\n255\n" + bytes(5))
    with pytest.raises(InputError, match=r"a\.pgm: expected a whole PGM"):
        read_header(tmp_path / "a.pgm")


def test_archives_that_are_cut(tmp_path):
    path = tmp_path / "disparity.npz"
    np.savez(path, np.zeros((6, 8)))
    check_archive(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"disparity\.npz: expected a whole archive of arrays, found \d+ bytes"):
        check_archive(path)
    path.unlink()
    with pytest.raises(InputError, match=r"disparity\.npz: expected a whole archive of arrays, found no file"):
        check_archive(path)


# The check


def test_a_set_that_is_as_it_should_be(captures):
    findings = check_dataset(captures)
    assert findings.problems == ()
    assert (findings.dataset, findings.samples, findings.measured.samples) == ("xin2021", 5, 5)
    assert findings.measured.dp_axis == "x"
    assert findings.measured.correlation > 0.5
    rows = {row.role: (row.count, row.sizes, row.bits) for row in findings.files}
    assert rows["left"] == rows["right"] == (5, {"160x120": 5}, {"16": 5})
    assert rows["truth"] == (5, {"160x120": 5}, {"8": 5})


def test_a_truncated_png_in_the_middle_is_named_once(captures):
    path = captures / "views/003_right.png"
    path.write_bytes(path.read_bytes()[:-100])
    (problem,) = check_dataset(captures, samples=5).problems
    assert f"{path}: expected a whole PNG" in problem


def test_a_png_damaged_inside_is_found_where_it_is_read(captures):
    path = captures / "views/003_right.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    problems = check_dataset(captures, samples=5).problems
    assert any(str(path) in problem for problem in problems)


def test_missing_files_are_all_named(captures):
    gone = [captures / "views/002_left.png", captures / "defocus_map/004_gt.png"]
    for path in gone:
        path.unlink()
    findings = check_dataset(captures)
    assert findings.samples == 3
    assert [problem.split(":")[0] for problem in sorted(findings.problems)] == sorted(map(str, gone))


def test_files_of_another_name_are_odd(captures):
    save(captures / "views/006_lefft.png", np.zeros((4, 4), np.uint16))
    (captures / "views/readme.txt").touch()
    (problem,) = check_dataset(captures).problems
    assert "views/006_lefft.png: expected a name of the layout" in problem


def test_sizes_that_differ(captures):
    for view in ("left", "right"):
        path = captures / f"views/002_{view}.png"
        save(path, load(path)[:100])
    path = captures / "defocus_map/005_gt.png"
    save(path, load(path)[:, :150])
    problems = check_dataset(captures, samples=1).problems
    assert len(problems) == 3
    assert any(f"{path}: expected 160x120, as most, found 150x120" in problem for problem in problems)
    assert any("002_left.png: expected 160x120, as most, found 160x100" in problem for problem in problems)


def test_views_of_two_sizes(captures):
    path = captures / "views/001_right.png"
    for name in SCENES[1:]:
        (captures / f"views/{name}_left.png").unlink()
        (captures / f"views/{name}_right.png").unlink()
        (captures / f"defocus_map/{name}_gt.png").unlink()
    save(path, load(path)[:, 10:])
    problems = check_dataset(captures).problems
    assert f"{path}: expected 160x120 as 001_left.png, found 150x120" in problems[0]


def test_another_bit_depth_is_one_problem_however_many_files(captures):
    for path in (captures / "views").iterdir():
        save(path, (load(path) >> 8).astype(np.uint8))
    problems = check_dataset(captures, samples=1).problems
    assert "001_left.png: expected 16 bits per channel, found 8 there and in 9 others" in problems[0]
    assert sum("bits per channel" in problem for problem in problems) == 1


def test_turned_views_are_found(captures):
    """As if someone had stored the set in portrait."""
    for path in [*(captures / "views").iterdir(), *(captures / "defocus_map").iterdir()]:
        save(path, np.ascontiguousarray(np.rot90(load(path))))
    findings = check_dataset(captures)
    assert findings.measured.dp_axis == "y"
    assert "dual-pixel axis: expected x, found y" in findings.problems[-1]


def test_views_that_do_not_differ_tell_no_axis(captures):
    for name in SCENES:
        left = load(captures / f"views/{name}_left.png")
        save(captures / f"views/{name}_right.png", left + 1)
    findings = check_dataset(captures)
    assert findings.measured.dp_axis is None
    assert findings.problems == ()


def test_a_set_named_by_hand(captures, tmp_path_factory):
    assert check_dataset(captures, dataset="xin2021").samples == 5
    with pytest.raises(InputError, match=r"expected NNN_L\.jpg and NNN_D\.TIF, found none"):
        check_dataset(captures, dataset="iccp2020")
    with pytest.raises(InputError, match=r"samples: expected at least 1, found 0"):
        check_dataset(captures, samples=0)


def test_progress_ends_where_it_should(captures):
    calls = []
    check_dataset(captures, samples=2, progress=lambda *call: calls.append(call))
    assert calls == [("samples", done, 7) for done in range(1, 8)] + [("samples", 7, 7)]


@pytest.mark.parametrize(("folder", "name"), [("pixel4", "xin2021"), ("canon_r6", "dp119")])
def test_real_captures_keep_the_promises(data_root, folder, name):
    findings = check_dataset(data_root / "dual_pixel" / folder)
    assert findings.problems == ()
    assert findings.dataset == name
    assert findings.measured.dp_axis == findings.promised_axis == "x"
    assert findings.measured.shift_along_px > 10 * findings.measured.shift_across_px
    assert findings.measured.correlation > 0.25
