"""What ``edge-dp data check`` finds in scenes, light fields and simulated captures, whole and damaged, made and real."""

import cv2
import numpy as np
import pytest

from edge_dp.data import open_dataset, recognise, write_pfm
from edge_dp.data.check import check_dataset
from edge_dp.data.registry import DATASETS
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.scenes import SceneConfig

HEIGHT, WIDTH = 480, 640  # which Open3D's default camera is for
D = 6  # px of stereo disparity
POSE = "0 0 1 0.5\n1 0 0 0\n0 1 0 2\n0 0 0 1\n"


def texture(seed, height=HEIGHT, width=WIDTH, sigma=1.5):
    """(height, width, 3) levels with corners."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((height, width, 3)), (0, 0), sigma)
    return (20 + 215 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def frame(colour, depth, seed, levels_per_metre):
    """A plane at 2 m whose upper quarter is unknown, with a point at 1 m and one at 3 m."""
    save(colour, texture(seed))
    metres = np.full((HEIGHT, WIDTH), 2.0)
    metres[: HEIGHT // 4], metres[-1, 0], metres[-1, 1] = 0, 1, 3
    save(depth, (metres * levels_per_metre).astype(np.uint16))


def middlebury(root):
    for seed, name in enumerate(("Art", "Books")):
        whole = texture(seed, 375, WIDTH + D)
        save(root / name / "im2.png", whole[:, :WIDTH])
        save(root / name / "im6.png", whole[:, D:])
        truth = np.full((375, WIDTH), 4 * D, np.uint8)
        truth[:75] = 0
        save(root / name / "disp2.png", truth)


def seven_scenes(root):
    for sequence in ("seq-01", "seq-02"):
        for number in range(2):
            stem = root / sequence / f"frame-{number:06d}"
            frame(stem.with_suffix(".color.png"), stem.with_suffix(".depth.png"), number, 1000)
            stem.with_suffix(".pose.txt").write_text(POSE)


def tum_rgbd(root):
    for number in range(3):
        frame(root / f"rgb/{number}.png", root / f"depth/{number}.png", number, 5000)
    for kind in ("rgb", "depth"):
        (root / f"{kind}.txt").write_text("# time file\n" + "".join(f"{n}.0 {kind}/{n}.png\n" for n in range(3)))
    (root / "groundtruth.txt").write_text("".join(f"{n}.0 0.5 0 2 0 0 0 1\n" for n in range(3)))


def open3d(root):
    for number in range(3):
        frame(root / f"color/{number:05d}.jpg", root / f"depth/{number:05d}.png", number, 1000)
    (root / "trajectory.log").write_text("".join(f"{n} {n} {n + 1}\n{POSE}" for n in range(3)))


def middlebury_mvs(root):
    lines = ["3"]
    for number in range(3):
        save(root / f"dino{number}.png", texture(number))
        lines.append(f"dino{number}.png 500 0 320 0 500 240 0 0 1 0 0 1 1 0 0 0 1 0 0 0 1")
    (root / "dino_par.txt").write_text("\n".join(lines) + "\n")


def planes(folder, name, steps):
    """Views of two planes, the upper nearer and the lower farther than the focus by 1 px per view step."""
    height, width = 120, 160
    whole = [texture(seed, height // 2 + 2 * steps, width + 2 * steps, sigma=4) for seed in (1, 2)]
    for dv in range(-steps, steps + 1):
        for du in range(-steps, steps + 1):
            halves = [
                plane[steps + D * dv :][: height // 2, steps + D * du :][:, :width]
                for plane, D in zip(whole, (1, -1), strict=True)
            ]
            save(folder / name(dv + steps, du + steps), np.vstack(halves))


def hci(root):
    for scene in ("boxes", "cotton"):
        planes(root / "training" / scene, lambda row, column: f"input_Cam{9 * row + column:03d}.png", 4)
        write_pfm(
            root / "training" / scene / "gt_disp_lowres.pfm",
            np.where(np.arange(120) < 60, 1.0, -1.0)[:, None] * np.ones(160),
        )


def lytro(root):
    planes(root, lambda row, column: f"fern_{row + 2:02d}_{column + 2:02d}.png", 3)


def simulated(root):
    config = SimulationConfig(SceneConfig(height=96, width=128, disparity=(-4.0, 4.0)))
    write_dataset(root, 3, seed=5, config=config, shard_size=2, workers=1)


BUILDERS = (middlebury, seven_scenes, tum_rgbd, open3d, middlebury_mvs, hci, lytro, simulated)
RGBD = (seven_scenes, tum_rgbd, open3d)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "a set"


def test_every_set_of_the_registry_has_a_builder():
    """Those of dual-pixel captures are built in test_data_readers."""
    others = {name for name, entry in DATASETS.items() if entry.kind != "dual_pixel"}
    assert {build.__name__ for build in BUILDERS} == others


@pytest.mark.parametrize("build", BUILDERS)
def test_a_set_that_is_as_published(root, build):
    build(root)
    assert recognise(root).name == build.__name__
    findings = check_dataset(root)
    assert findings.problems == ()
    assert (findings.dataset, findings.kind) == (build.__name__, DATASETS[build.__name__].kind)
    dataset = open_dataset(build.__name__, root)
    assert findings.samples == findings.measured.samples == len(dataset) == len(dataset.names)
    assert all(path.is_file() for name in dataset.names for path in dataset.paths(name).values())


@pytest.mark.parametrize("build", RGBD)
def test_depth_and_poses_are_measured(root, build):
    build(root)
    found = check_dataset(root).measured
    assert (found.nearest_m, found.typical_m, found.farthest_m) == pytest.approx((1, 2, 3))
    assert found.known == 0.75
    assert found.with_pose == found.with_depth == found.samples
    assert found.worst_rotation < 1e-12
    assert (found.with_stereo, found.error_as_promised) == (0, None)


def test_stereo_sign_is_measured(root):
    middlebury(root)
    found = check_dataset(root).measured
    assert (found.lowest_px, found.highest_px, found.known) == (D, D, 0.8)
    assert found.error_as_promised == 0
    assert found.error_turned > 0.03
    for scene in root.iterdir():
        (scene / "im2.png").rename(scene / "spare.png")
        (scene / "im6.png").rename(scene / "im2.png")
        (scene / "spare.png").rename(scene / "im6.png")
    (problem,) = check_dataset(root).problems
    assert "stereo sign: expected image(x) = right_image(x - D)" in problem
    assert "found the right image alike at x + D" in problem


def test_axis_and_sign_of_half_apertures_are_measured(root):
    hci(root)
    findings = check_dataset(root)
    assert (findings.promised_axis, findings.measured.dp_axis) == ("x", "x")
    assert findings.measured.correlation > 0.7
    (row,) = (row for row in findings.files if row.role == "view")
    assert (row.count, row.per_sample, row.sizes) == (162, {"81": 2}, {"160x120": 162})
    for scene in (root / "training").iterdir():  # as if columns ran from right to left
        for number in range(81):
            (scene / f"input_Cam{number:03d}.png").rename(scene / f"{number}.png")
        for number in range(81):
            (scene / f"{number}.png").rename(scene / f"input_Cam{9 * (number // 9) + 8 - number % 9:03d}.png")
    (problem,) = check_dataset(root).problems
    assert "sign: expected left(x) = right(x + d)" in problem


def test_light_fields_stored_by_columns_are_found(root):
    lytro(root)
    for path in sorted(root.iterdir()):
        name, row, column = path.stem.split("_")
        path.rename(root / f"turned{name}_{column}_{row}.png")
    (problem,) = check_dataset(root).problems
    assert "dual-pixel axis: expected x, found y" in problem


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


DAMAGES = [
    (middlebury, lambda r: (r / "Art/im6.png").unlink(), 1, ["Art: expected im6.png or im6.ppm beside"]),
    (middlebury, lambda r: truncate(r / "Art/disp2.png"), 2, ["Art/disp2.png: expected a whole PNG"]),
    (
        middlebury,
        lambda r: save(r / "Art/disp2.png", np.full((375, 600), 24, np.uint8)),
        2,
        ["Art/disp2.png: expected 640x375 as im2.png, found 600x375", "Art/disp2.png: expected (H, W)"],
    ),
    (
        middlebury,
        lambda r: save(r / "Art/disp2.png", np.zeros((375, WIDTH), np.uint8)),
        2,
        ["Art: depth: expected known pixels, found none"],
    ),
    (
        seven_scenes,
        lambda r: [(r / f"seq-01/frame-000000.{end}").unlink() for end in ("depth.png", "pose.txt")],
        3,
        ["frame-000000.depth.png: expected beside", "frame-000000.pose.txt: expected beside"],
    ),
    (
        seven_scenes,
        lambda r: edit(r / "seq-02/frame-000001.pose.txt", "0 0 1", "0 0 3"),
        4,
        ["seq-02/frame-000001.pose.txt: expected a rotation"],
    ),
    (
        seven_scenes,
        lambda r: save(r / "seq-01/frame-00000.color.png", texture(0)),
        4,
        ["seq-01/frame-00000.color.png: expected a name of the layout"],
    ),
    (
        seven_scenes,
        lambda r: save(r / "seq-01/frame-000000.depth.png", np.ones((HEIGHT, 600), np.uint16)),
        4,
        ["frame-000000.depth.png: expected 640x480 as frame", "frame-000000.depth.png: expected 640x480 as frame"],
    ),
    (
        tum_rgbd,
        lambda r: (r / "rgb/1.png").unlink(),
        2,
        ["rgb.txt: line 3: expected the file"],
    ),
    (
        tum_rgbd,
        lambda r: [edit(r / "rgb.txt", "2.0 ", "soon "), edit(r / "groundtruth.txt", "0 0 0 1", "0 0 0 0")],
        2,
        ["rgb.txt: line 4: expected 1 numbers", "groundtruth.txt: line 1: expected a unit quaternion", "rgb/2.png"],
    ),
    (open3d, lambda r: (r / "color/00001.jpg").unlink(), 2, ["frame 00001: expected in color and in depth"]),
    (open3d, lambda r: edit(r / "trajectory.log", POSE, ""), 3, ["trajectory.log: expected 5 lines per pose"]),
    (
        open3d,
        lambda r: edit(r / "trajectory.log", f"0 0 1\n{POSE}", ""),
        3,
        ["trajectory.log: expected 3 poses, one per frame, found 2"],
    ),
    (
        middlebury_mvs,
        lambda r: [(r / "dino1.png").unlink(), edit(r / "dino_par.txt", "3\n", "4\n")],
        2,
        ["line 1: expected the number of views, 3, found '4'", "line 3: expected the image"],
    ),
    (
        middlebury_mvs,
        lambda r: [edit(r / "dino_par.txt", "0 0 1 1 0 0", "0 0 2 1 0 0"), save(r / "dino7.png", texture(1))],
        2,
        ["line 2: R: expected a rotation", "dino7.png: expected a name of the layout"],
    ),
    (
        hci,
        lambda r: [(r / f"training/boxes/input_Cam{n:03d}.png").unlink() for n in (17, 80)],
        1,
        ["boxes/input_Cam017.png: expected 81 views, found 79", "boxes/input_Cam080.png: expected 81 views"],
    ),
    (
        hci,
        lambda r: truncate(r / "training/boxes/input_Cam017.png"),
        2,
        ["boxes/input_Cam017.png: expected a whole PNG"],
    ),
    (
        hci,
        lambda r: save(r / "training/boxes/input_Cam017.png", texture(0, 100, 160)),
        2,
        [
            "boxes/input_Cam017.png: expected 160x120, as most, found 160x100",
            "input_Cam017.png: expected (3, 120, 160)",
        ],
    ),
    (
        lytro,
        lambda r: (r / "fern_03_04.png").unlink(),
        0,
        ["fern_03_04.png: expected a full grid of 7x7 views, found 48"],
    ),
    (simulated, lambda r: (r / "shard_00001.npz").unlink(), 2, ["shard_00001.npz: expected beside dataset.json"]),
    (simulated, lambda r: truncate(r / "shard_00001.npz"), 3, ["shard_00001.npz: expected a whole archive of arrays"]),
]


@pytest.mark.parametrize(("build", "damage", "samples", "expected"), DAMAGES)
def test_damages_are_named_and_the_rest_is_examined(root, build, damage, samples, expected):
    build(root)
    damage(root)
    findings = check_dataset(root)
    assert findings.samples == samples
    assert len(findings.problems) == len(expected), findings.problems
    for problem, text in zip(findings.problems, expected, strict=True):
        assert text in problem
        assert problem.startswith(str(root))


@pytest.mark.parametrize("build", RGBD)
def test_depth_of_another_unit_is_found(root, build):
    build(root)
    for path in root.rglob("*.png"):
        levels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if levels.dtype == np.uint16:
            save(path, (levels * 5).astype(np.uint16))
    (problem,) = check_dataset(root).problems
    assert "depth: expected a median of 0.3 to 8 m, found 10 m. Its levels are of another unit" in problem


@pytest.mark.parametrize(
    ("folder", "name", "samples"),
    [
        ("stereo", "middlebury", 3),
        ("multiview/templeSparseRing", "middlebury_mvs", 16),
        ("rgbd/7scenes/data", "seven_scenes", 36),
        ("rgbd/open3d/RGBD", "open3d", 5),
        ("lightfield/antinous", "hci", 1),
        ("lightfield/lytro_2067", "lytro", 1),
    ],
)
def test_real_sets_keep_their_promises(data_root, folder, name, samples):
    findings = check_dataset(data_root / folder)
    assert findings.problems == ()
    assert (findings.dataset, findings.samples) == (name, samples)
    found = findings.measured
    if findings.kind == "light_field":
        assert found.dp_axis == "x"
        assert found.shift_along_px > 10 * found.shift_across_px
    if name == "hci":
        assert found.correlation > 0.9
    if name == "middlebury":
        assert found.error_turned > 5 * found.error_as_promised
        assert found.known > 0.9
    if name in ("seven_scenes", "open3d"):
        assert 0.4 < found.nearest_m < found.typical_m < found.farthest_m < 5
        assert 0.8 < found.known < 0.95
    if findings.kind == "scene" and name != "middlebury":
        assert found.with_pose == found.samples
        assert found.worst_rotation < 1e-3
