import json
import pickle
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from edge_dp.data.scenes import Open3DScenes, SevenScenes, TumRgbd, read_sun_depth
from edge_dp.data.scenes.files import depth_decoder
from edge_dp.data.scenes.open3d import read_trajectory
from edge_dp.data.scenes.tum import associate, rotation_of
from edge_dp.errors import InputError

POSE = "1 0 0 0.5\n0 0 -1 0\n0 1 0 2\n0 0 0 1\n"
LEVELS = [0, 500, 1000, 65535]  # of the four columns of every depth image made here


def write_frame(colour, depth, height=6):
    """A red image, and depth in four columns of LEVELS; the folders are made."""
    image = np.zeros((height, 4, 3), np.uint8)
    image[..., 2] = 255
    for path, content in ((colour, image), (depth, np.tile(np.uint16(LEVELS), (height, 1)))):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


def reprojection_error(first, second):
    """Metres between the depth of ``second`` and that of the points of ``first``, moved into its camera."""
    height, width = first.depth.shape
    y, x = np.mgrid[:height, :width]
    rays = np.stack([x, y, np.ones_like(x)]).reshape(3, -1)[:, first.mask.ravel()]
    points = np.linalg.solve(first.intrinsics, rays) * first.depth[first.mask]
    motion = np.linalg.solve(second.camera_to_world, first.camera_to_world)
    moved = motion[:3, :3] @ points + motion[:3, 3:]
    u, v, _ = np.rint(second.intrinsics @ moved / moved[2]).astype(int)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (moved[2] > 0)
    u, v, z = u[inside], v[inside], moved[2, inside]
    seen = second.mask[v, u]
    assert seen.sum() > 50_000
    return second.depth[v, u][seen] - z[seen]


@pytest.fixture
def seven_scenes(tmp_path):
    for sequence in ("seq-02", "seq-01"):
        for number in (0, 1, 2):
            stem = tmp_path / sequence / f"frame-{number:06d}"
            write_frame(stem.with_suffix(".color.png"), stem.with_suffix(".depth.png"))
            stem.with_suffix(".pose.txt").write_text(POSE)
    return tmp_path


def test_seven_scenes_layout(seven_scenes):
    frames = pickle.loads(pickle.dumps(SevenScenes(seven_scenes)))
    assert len(frames) == 6
    assert frames.names[:4] == tuple(f"seq-0{s}/frame-00000{n}" for s, n in ((1, 0), (1, 1), (1, 2), (2, 0)))
    assert [frame.name for frame in frames] == list(frames.names)
    with pytest.raises(IndexError):
        frames[6]
    with pytest.raises(InputError, match="expected the name of a sample, found 'seq-03/frame-000000'"):
        frames.read("seq-03/frame-000000")
    frame = frames.read("seq-01/frame-000000")
    assert (frame.image[0] == 1).all()
    assert not frame.image[1:].any()
    np.testing.assert_array_equal(frame.mask[0], [False, True, True, False])
    np.testing.assert_allclose(frame.depth[:, 1:3], [[0.5, 1]] * 6)
    np.testing.assert_array_equal(frame.intrinsics, [[585, 0, 320], [0, 585, 240], [0, 0, 1]])
    np.testing.assert_array_equal(frame.camera_to_world[:3, 3], [0.5, 0, 2])


def test_seven_scenes_in_one_folder_with_intrinsics(seven_scenes):
    folder = seven_scenes / "seq-01"
    (folder / "camera-intrinsics.txt").write_text("5.7e2 0 310\n0 5.71e2 230\n0 0 1\n")
    frame = SevenScenes(folder)[1]
    assert frame.name == "frame-000001"
    np.testing.assert_array_equal(frame.intrinsics, [[570, 0, 310], [0, 571, 230], [0, 0, 1]])
    (folder / "camera-intrinsics.txt").write_text("5.7e2 0 310\n0 5.71e2 230\n0 0\n")
    with pytest.raises(InputError, match=r"camera-intrinsics\.txt: expected 9 finite numbers, found 8"):
        SevenScenes(folder)[1]
    (folder / "camera-intrinsics.txt").write_text("0 0 310\n0 571 230\n0 0 1\n")
    with pytest.raises(InputError, match=r"camera-intrinsics\.txt: expected finite .* fx, fy > 0"):
        SevenScenes(folder)[1]


def test_opening_a_set_reads_no_frame(tmp_path):
    for ending in ("color.png", "depth.png", "pose.txt"):
        (tmp_path / f"frame-000000.{ending}").touch()  # empty: reading any of them would fail
    assert SevenScenes(tmp_path).names == ("frame-000000",)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.with_suffix(".pose.txt").unlink(), r"frame-000001\.pose\.txt: expected beside .* found nothing"),
        (lambda s: s.with_suffix(".depth.png").unlink(), r"frame-000001\.depth\.png: expected beside"),
        (lambda s: s.with_suffix(".color.png").unlink(), r"frame-000001\.color\.png: expected beside"),
        (lambda s: truncate(s.with_suffix(".depth.png")), r"frame-000001\.depth\.png: expected an image .* 60 bytes"),
        (lambda s: truncate(s.with_suffix(".color.png")), r"frame-000001\.color\.png: expected an image"),
        (lambda s: s.with_suffix(".pose.txt").write_text(POSE[:-4]), r"pose\.txt: expected 16 .* found 14 numbers"),
        (lambda s: s.with_suffix(".pose.txt").write_text(POSE.replace("0.5", "x")), r"pose\.txt: .*'x'"),
        (lambda s: s.with_suffix(".pose.txt").write_text(POSE.replace("0.5", "nan")), "found NaN or infinity"),
        (lambda s: s.with_suffix(".pose.txt").write_text(POSE.replace("-1", "-3")), r"pose\.txt: expected a rotation"),
        (
            lambda s: s.with_suffix(".pose.txt").write_bytes(b"\xff\xfe1"),
            r"pose\.txt: expected text, found other bytes",
        ),
        (
            lambda s: cv2.imwrite(str(s.with_suffix(".depth.png")), np.ones((6, 4), np.uint8)),
            r"depth\.png: expected 16-bit depth, one channel, found uint8",
        ),
        (
            lambda s: cv2.imwrite(str(s.with_suffix(".depth.png")), np.ones((5, 4), np.uint16)),
            r"depth\.png: expected 4x6 as frame-000001\.color\.png, found 4x5",
        ),
    ],
)
def test_a_frame_that_is_almost_right(seven_scenes, damage, message):
    damage(seven_scenes / "seq-01" / "frame-000001")
    with pytest.raises(InputError, match=message):
        SevenScenes(seven_scenes)[1]


def test_a_damaged_frame_leaves_the_others_readable(seven_scenes):
    truncate(seven_scenes / "seq-01" / "frame-000001.depth.png")
    frames = SevenScenes(seven_scenes)
    assert frames[0].depth.shape == frames[2].depth.shape == (6, 4)


def test_folders_without_frames(tmp_path):
    with pytest.raises(InputError, match=r"expected frame-XXXXXX\.color\.png, .* found none"):
        SevenScenes(tmp_path)
    with pytest.raises(InputError, match="absent: expected a folder"):
        SevenScenes(tmp_path / "absent")


def test_real_frames_of_seven_scenes_agree_with_their_neighbours(data_root):
    frames = SevenScenes(data_root / "rgbd" / "7scenes" / "data")
    assert len(frames) == 36
    medians = [np.median(np.abs(reprojection_error(*pair))) for pair in pairwise(frames)]
    assert np.median(medians) < 0.010
    assert np.max(medians) < 0.025


@pytest.fixture
def open3d(tmp_path):
    log = ""
    for number in range(2):
        write_frame(tmp_path / "color" / f"{number:05d}.png", tmp_path / "depth" / f"{number:05d}.png")
        log += f"{number} {number} {number + 1}\n{POSE.replace('0.5', str(number))}"
    (tmp_path / "trajectory.log").write_text(log)
    camera = {"width": 4, "height": 6, "intrinsic_matrix": [100, 0, 0, 0, 101, 0, 2, 3, 1]}
    (tmp_path / "camera.json").write_text(json.dumps(camera))
    return tmp_path


def test_open3d_layout(open3d):
    frames = pickle.loads(pickle.dumps(Open3DScenes(open3d, open3d / "camera.json")))
    assert frames.names == ("00000", "00001")
    frame = frames[1]
    np.testing.assert_array_equal(frame.intrinsics, [[100, 0, 2], [0, 101, 3], [0, 0, 1]])
    np.testing.assert_array_equal(frame.camera_to_world[:3, 3], [1, 0, 2])
    np.testing.assert_array_equal(frame.mask[0], [False, True, True, True])
    assert frame.depth[0, 3] == pytest.approx(65.535)
    (open3d / "trajectory.log").unlink()
    assert Open3DScenes(open3d, open3d / "camera.json")[1].camera_to_world is None
    with pytest.raises(InputError, match=r"00001\.png: expected 640x480, .* found 4x6. Pass the camera's JSON"):
        pickle.loads(pickle.dumps(Open3DScenes(open3d)))[1]


def test_open3d_frames_matched_by_a_list(open3d):
    (open3d / "color" / "00001.png").rename(open3d / "color" / "b.png")
    with pytest.raises(InputError, match="frame 00001: expected in color and in depth, found in one of them"):
        Open3DScenes(open3d)
    (open3d / "rgbd.match").write_text("depth/00000.png color/00000.png\ndepth/00001.png color/b.png\n\n")
    assert Open3DScenes(open3d).names == ("00000", "b")
    (open3d / "rgbd.match").write_text("depth/00000.png ../color/00000.png\n")
    with pytest.raises(InputError, match=r"rgbd\.match: line 1: expected a depth and a colour file of the sequence"):
        Open3DScenes(open3d)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("trajectory.log", "1 1 2\n", "", r"trajectory\.log: expected 5 lines per pose, found 9"),
        ("trajectory.log", "0 0 1\n" + POSE.replace("0.5", "0"), "", r"trajectory\.log: expected 2 poses, .* found 1"),
        ("trajectory.log", "1 0 0 1\n", "1 0 0 x\n", r"trajectory\.log: pose 1: expected 16 numbers, found: .*'x'"),
        ("trajectory.log", "1 0 0 1\n", "7 0 0 1\n", r"trajectory\.log: pose 1: expected a rotation"),
        ("camera.json", "101", '"wide"', r"camera\.json: intrinsic_matrix: expected 9 numbers, found: .*'wide'"),
        ("camera.json", "[100, ", "[", r"camera\.json: intrinsic_matrix: expected 9 finite numbers, found 8"),
        ("camera.json", "intrinsic_matrix", "K", r"camera\.json: intrinsic_matrix: expected 9 numbers, found None"),
        ("camera.json", "[100, ", "[-100, ", r"camera\.json: intrinsic_matrix: expected finite .* fx, fy > 0"),
    ],
)
def test_open3d_sequences_that_are_almost_right(open3d, file, old, new, message):
    path = open3d / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        Open3DScenes(open3d, open3d / "camera.json")


def test_open3d_folders_that_are_missing(tmp_path):
    (tmp_path / "color").mkdir()
    with pytest.raises(InputError, match="expected folders color and depth, found color"):
        Open3DScenes(tmp_path)
    (tmp_path / "depth").mkdir()
    with pytest.raises(InputError, match="expected images in color, found none"):
        Open3DScenes(tmp_path)


def test_real_frames_of_open3d_agree_with_their_neighbours(data_root):
    frames = Open3DScenes(data_root / "rgbd" / "open3d" / "RGBD")
    assert len(frames) == len(read_trajectory(frames.root / "trajectory.log")) == 5
    assert np.median(np.abs(reprojection_error(frames[1], frames[2]))) < 0.010


@pytest.fixture
def tum(tmp_path):
    """Times as of an Xtion: colour and depth apart by some ms, poses at 100 Hz; the last colour image lacks depth."""
    root = tmp_path / "rgbd_dataset_freiburg3_desk"
    colours, depths = (["1.000000", "1.033000", "2.500000"], ["1.004000", "1.029000"])
    for colour, depth in zip(colours, [*depths, "9.000000"], strict=True):
        write_frame(root / "rgb" / f"{colour}.png", root / "depth" / f"{depth}.png")
    for kind, times in (("rgb", colours), ("depth", depths)):
        lines = "".join(f"{time} {kind}/{time}.png\n" for time in times)
        (root / f"{kind}.txt").write_text(f"# {kind} images\n# timestamp filename\n{lines}")
    quaternion = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_quat()
    poses = "".join(f"{time} {x} 0 0 {' '.join(map(str, quaternion))}\n" for time, x in ((0.99, 1), (1.002, 2), (5, 3)))
    (root / "groundtruth.txt").write_text(f"# ground truth trajectory\n{poses}")
    return root


def test_tum_layout(tum):
    frames = pickle.loads(pickle.dumps(TumRgbd(tum)))
    assert frames.names == ("1.000000", "1.033000")
    frame = frames[0]
    np.testing.assert_allclose(frame.depth[0], [0, 0.1, 0.2, 13.107])
    np.testing.assert_array_equal(frame.intrinsics, [[535.4, 0, 320.1], [0, 539.2, 247.6], [0, 0, 1]])
    assert frame.camera_to_world[0, 3] == 2  # of the pose at 1.002, which is nearer than that at 0.99
    expected = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    np.testing.assert_allclose(frame.camera_to_world[:3, :3], expected, atol=1e-12)
    assert frames[1].camera_to_world is None  # 31 ms from the nearest
    assert TumRgbd(tum, tolerance_s=0.032)[1].camera_to_world is not None
    (tum / "groundtruth.txt").unlink()
    renamed = tum.rename(tum.with_name("my_sequence"))
    assert TumRgbd(renamed)[0].camera_to_world is None
    assert TumRgbd(renamed)[0].intrinsics[0, 0] == 525


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "rgb.txt",
            "rgb/1.033000.png",
            "rgb/lost.png",
            r"rgb\.txt: line 4: expected the file .*lost\.png, found nothing",
        ),
        (
            "rgb.txt",
            "rgb/1.033000.png",
            "/etc/passwd",
            r"rgb\.txt: line 4: expected the file /etc/passwd, found nothing",
        ),
        ("rgb.txt", "1.033000 ", "soon ", r"rgb\.txt: line 4: expected 1 numbers, found: .*'soon'"),
        ("depth.txt", "1.004000 ", "", r"depth\.txt: line 3: expected a time and a file, found 1 words"),
        ("depth.txt", "1.0", "7.0", r"depth\.txt: line 3: expected the file"),
        ("groundtruth.txt", " 2 0 0 ", " 2 0 ", r"groundtruth\.txt: line 3: expected 8 finite numbers, found 7"),
    ],
)
def test_tum_sequences_that_are_almost_right(tum, file, old, new, message):
    path = tum / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message):
        TumRgbd(tum)


def test_tum_lists_of_different_sequences(tum):
    (tum / "groundtruth.txt").write_text("1.0 0 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match=r"groundtruth\.txt: line 1: expected a unit quaternion"):
        TumRgbd(tum)
    with pytest.raises(
        InputError, match=r"depth\.txt: expected times within 0\.001 s of those in rgb\.txt, found none"
    ):
        TumRgbd(tum, tolerance_s=0.001)
    (tum / "depth.txt").unlink()
    with pytest.raises(InputError, match=r"depth\.txt: expected a text file, found: No such file"):
        TumRgbd(tum)


TIMES = st.lists(st.integers(0, 60).map(lambda ticks: ticks / 64), max_size=12, unique=True)


@given(TIMES, TIMES)
def test_association_is_one_to_one_greedy_and_leaves_no_pair(first, second):
    """As the published tool: again and again, take the closest pair that is left."""
    left, right, expected = sorted(first), sorted(second), []
    while left and right:
        gap, a, b = min((abs(a - b), a, b) for a in left for b in right)
        if gap > 0.05:
            break
        expected.append((a, b))
        left.remove(a)
        right.remove(b)
    assert associate(first, second, 0.05) == sorted(expected)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_rotation_of_a_quaternion(quaternion):
    expected = Rotation.from_quat(quaternion).as_matrix()
    np.testing.assert_allclose(rotation_of(np.array(quaternion)), expected, atol=1e-12)


def test_sun_depth(tmp_path):
    """The encoder of the set, v = (mm << 3) | (mm >> 13), and back."""
    millimetres = np.random.default_rng(0).integers(0, 65536, (40, 50))
    millimetres[0, :3] = (0, 1, 65535)
    cv2.imwrite(str(tmp_path / "d.png"), ((millimetres << 3 | millimetres >> 13) & 65535).astype(np.uint16))
    depth, mask = read_sun_depth(tmp_path / "d.png")
    np.testing.assert_allclose(depth, millimetres / 1000, rtol=1e-6)
    np.testing.assert_array_equal(mask, millimetres > 0)


def test_real_depth_in_other_encodings(data_root):
    folder = data_root / "rgbd" / "open3d" / "RGBD" / "other_formats"
    for depth, mask in (read_sun_depth(folder / "SUN_depth.png"), depth_decoder(5000)(folder / "TUM_depth.png")):
        assert 0.4 < depth[mask].min() < depth.max() < 10
        # Surfaces are smooth where the decoding is right: neighbours differ by little.
        steps = np.abs(np.diff(depth, axis=1))[mask[:, 1:] & mask[:, :-1]]
        assert np.median(steps) < 0.01
        assert np.percentile(steps, 95) < 0.1
