"""Rendered rigs and dpMV's layout give the same to the label factory: views, dual-pixel views, and how they belong together."""

import dataclasses
import shutil

import numpy as np
import pytest

from edge_dp.errors import InputError, SchemaError, TrainingError
from edge_dp.optics import affine_of_inverse_depth
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.labels import (
    DpMvVideos,
    LabelConfig,
    RenderedCaptures,
    RenderedFolder,
    RigOptics,
    label_capture,
    read_shards,
    split_videos,
    write_labels,
)
from edge_dp.training.labels.sources import Frame
from edge_dp.training.teachers.sgm import SgmTeacher

from .dpmv_set import GAIN, SIZE, save, write_frame

INDICES = (2, 4, 5, 7)  # of captures with texture and defocus enough for a fit
VIDEOS = ("20230320_165047_009", "20230511_115712_218")


@pytest.fixture(scope="module")
def dpmv(tmp_path_factory):
    """Two videos of two frames, and of each frame the true disparity and its side camera."""
    root = tmp_path_factory.mktemp("dpmv")
    truth = {
        f"{video}/image_{number:03}": write_frame(root, video, f"image_{number:03}", 21, INDICES[2 * i + number])
        for i, video in enumerate(VIDEOS)
        for number in (0, 1)
    }
    return root, truth


def copy_of(root, tmp_path):
    return shutil.copytree(root, tmp_path / "copy")


def test_labels_of_a_folder_in_dpmv_layout_agree_with_the_truth(dpmv):
    """Though nothing is known of its optics: neither focus, baseline nor the horizon's disparity."""
    root, truths = dpmv
    source = DpMvVideos(root)
    assert source.names == tuple(truths) and source.videos == VIDEOS and source.cameras == "AC"
    shown = []
    for index, (disparity, _) in enumerate(truths.values()):
        capture = source.read(index)
        assert capture.views.shape == (2, *SIZE) and capture.views.dtype == np.float32
        assert [view.image.shape for view in capture.rig] == [(3, SIZE[1], SIZE[0])] * 3  # portrait
        mean, sigma, mask = label_capture(capture, SgmTeacher())
        shown.append(
            (mask.mean(), np.median(np.abs(mean - disparity)[mask]), np.corrcoef(mean[mask], disparity[mask])[0, 1])
        )
        assert (sigma[mask] > 0).all()
    coverage, error, correlation = np.array(shown).T
    assert coverage.min() > 0.4 and error.max() < 0.25 and np.median(error) < 0.12 and np.median(correlation) > 0.95


def test_known_optics_take_the_place_of_the_fit(dpmv):
    """Of a rig whose lens renders just these: d = offset + slope / Z and D = f b / Z + horizon, f b = gain |slope|."""
    root, truths = dpmv
    sensor = dataclasses.replace(
        load_sensor("pixel4"), name="jpeg", dtype="uint8", bit_depth=8, black_level=0, white_level=255, right_gain=None
    )
    slope, offset = affine_of_inverse_depth(sensor, 0.8)
    for index, (disparity, camera) in enumerate(truths.values()):
        optics = RigOptics(
            focal_px=100.0, baseline_m=-GAIN * slope / 100, focus_m=0.8, horizon_px=camera.offset - GAIN * offset
        )
        capture = DpMvVideos(root, sensor=sensor, optics=optics).read(index)
        mean, _, mask = label_capture(capture, SgmTeacher())
        assert np.median(np.abs(mean - disparity)[mask]) < 0.08  # the matcher is off by up to 0.25 px, over the gain
        half = DpMvVideos(root, sensor=sensor, optics=optics, size=(64, 80)).read(index)
        assert half.views.shape == (2, 64, 80)
        small, _, known = label_capture(half, SgmTeacher())
        assert np.median(np.abs(small - disparity[::2, ::2] / 2)[known]) < 0.05  # px of the smaller views


def test_cameras_in_the_wrong_places_give_no_labels(dpmv, tmp_path):
    root = copy_of(dpmv[0], tmp_path)
    (root / "rectified/A").rename(root / "rectified/was_a")
    (root / "rectified/C").rename(root / "rectified/A")
    (root / "rectified/was_a").rename(root / "rectified/C")
    with pytest.raises(TrainingError, match=r"no capture gives a label, the first: .*image_000: expected"):
        write_labels(tmp_path / "out", DpMvVideos(root), SgmTeacher(), LabelConfig(min_views=2), workers=1)
    assert not list((tmp_path / "out").glob("*.npz"))


def test_exchanged_dual_pixel_views_are_an_error_that_names_the_frame(dpmv, tmp_path):
    root = copy_of(dpmv[0], tmp_path)
    for left in root.rglob("*_left.jpg"):
        right = left.with_name(left.name.replace("left", "right"))
        data = left.read_bytes()
        left.write_bytes(right.read_bytes())
        right.write_bytes(data)
    with pytest.raises(TrainingError, match=rf"{VIDEOS[0]}/image_000: .*wrong sign. Exchange the left and right"):
        write_labels(tmp_path / "out", DpMvVideos(root), SgmTeacher(), LabelConfig(), workers=1)


def test_missing_cameras_and_photographs_are_named(dpmv, tmp_path):
    root = copy_of(dpmv[0], tmp_path)
    gone = root / f"rectified/C/Video_data/{VIDEOS[0]}/image_001.jpg"
    gone.unlink()
    source = DpMvVideos(root)
    assert len(source.read(0).rig) == 3
    with pytest.raises(
        InputError, match=r"rectified/C/.*image_001\.jpg: expected the photograph of camera C, found nothing"
    ):
        source.read(1)
    assert len(DpMvVideos(root, cameras="A").read(1).rig) == 2
    with pytest.raises(InputError, match=r"expected 2 views beside the first .* Add the missing camera"):
        label_capture(DpMvVideos(root, cameras="A").read(1), SgmTeacher(), LabelConfig(min_views=2))
    with pytest.raises(InputError, match="cameras: expected A, C or AC"):
        DpMvVideos(root, cameras="AB")
    shutil.rmtree(root / "rectified/C")
    with pytest.raises(InputError, match=r"expected photographs of camera C in rectified/C/Video_data, found none"):
        DpMvVideos(root, cameras="AC")
    assert DpMvVideos(root).cameras == "A"
    shutil.rmtree(root / "rectified/A")
    with pytest.raises(InputError, match=r"expected photographs of camera A .* at least one of A and C"):
        DpMvVideos(root)
    shutil.rmtree(root / "rectified/B")
    with pytest.raises(InputError, match=r"expected photographs of camera B"):
        DpMvVideos(root)


def test_damaged_frames_stop_or_are_skipped_and_said_so(dpmv, tmp_path):
    root = copy_of(dpmv[0], tmp_path)
    photograph = root / f"rectified/A/Video_data/{VIDEOS[0]}/image_001.jpg"
    photograph.write_bytes(photograph.read_bytes()[:500])
    with pytest.raises(InputError, match=r"image_001\.jpg: expected an image .* truncated"):
        write_labels(tmp_path / "out", DpMvVideos(root), SgmTeacher(), LabelConfig(), workers=1)
    (shard,) = write_labels(tmp_path / "out", DpMvVideos(root), SgmTeacher(), LabelConfig(failures="skip"), workers=1)
    assert len(read_shards([shard])) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image[:, :, 0], "expected 8-bit colour"),
        (lambda image: image[:-4], "expected photographs of one size"),
        (np.rot90, "expected photographs of one size"),
    ],
)
def test_photographs_of_another_kind_are_named(dpmv, tmp_path, change, message):
    root = copy_of(dpmv[0], tmp_path)
    path = root / f"rectified/A/Video_data/{VIDEOS[0]}/image_000.jpg"
    save(path, change(np.zeros((SIZE[1], SIZE[0], 3), np.uint8)))
    with pytest.raises(InputError, match=rf"rectified/A.*image_000\.jpg: {message}"):
        DpMvVideos(root).read(0)


def test_landscape_photographs_are_refused(dpmv, tmp_path):
    root = copy_of(dpmv[0], tmp_path)
    for path in root.glob("rectified/*/Video_data/*/image_000.jpg"):
        save(path, np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(InputError, match=r"expected a portrait photograph, found 160x128. Turn it a quarter clockwise"):
        DpMvVideos(root).read(0)


def test_every_nth_frame_of_each_video_and_videos_by_name(dpmv):
    source = DpMvVideos(dpmv[0], every=2)
    assert source.names == tuple(f"{video}/image_000" for video in VIDEOS)
    only = source.only(VIDEOS[1:])
    assert only.names == (f"{VIDEOS[1]}/image_000",) and len(source) == 2
    assert only.note()["videos"] == [VIDEOS[1]] and source.note()["videos"] == list(VIDEOS)


def test_videos_are_split_whole_and_by_name_alone():
    names = [f"video_{i:03}" for i in range(50)]
    train, held_out = split_videos(names, 0.2)
    assert len(held_out) == 10 and not set(train) & set(held_out) and set(train) | set(held_out) == set(names)
    assert split_videos(names[::-1], 0.2) == (train, held_out)
    assert split_videos(names, 0) == (tuple(names), ())
    assert len(split_videos(names[:3], 0.01)[1]) == 1
    for share, few in ((1.0, names), (-0.1, names), (0.5, names[:1])):
        with pytest.raises(InputError, match="share"):
            split_videos(few, share)


def test_a_folder_of_rendered_captures_gives_the_labels_of_the_rendering(tmp_path):
    config = SimulationConfig(SceneConfig(height=64, width=96, margin=24, channels=3))
    write_dataset(tmp_path, 3, 8, config, rig=True, workers=1)
    folder, live = RenderedFolder(tmp_path), RenderedCaptures(8, 3, config)
    assert len(folder) == 3 and folder.note()["seed"] == 8
    for index in range(3):
        first, second = folder.read(index), live.read(index)
        np.testing.assert_allclose(first.views, second.views, atol=1e-4)
        np.testing.assert_array_equal(first.truth, second.truth)
        for one, other in zip(first.rig, second.rig, strict=True):
            np.testing.assert_array_equal(one.image, other.image)
            np.testing.assert_array_equal(one.camera.position, other.camera.position)
        for one, other in zip(label_capture(first, SgmTeacher()), label_capture(second, SgmTeacher()), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_folder_without_rigs_is_refused(tmp_path):
    write_dataset(tmp_path, 1, 8, SimulationConfig(SceneConfig(height=24, width=40, margin=16)), workers=1)
    with pytest.raises(
        InputError, match=r"expected captures with the rig's views, found none. Simulate them with --rig"
    ):
        RenderedFolder(tmp_path)


def test_frames_are_turned_cut_and_scaled():
    plane = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(Frame(1, 0, (5, 4))(plane)[0], [4, 9, 14, 19])  # the right column is the top row
    np.testing.assert_array_equal(Frame(0, 1, (2, 3))(plane), plane[1:3, 1:4])
    assert np.isnan(Frame(0, 0, (2, 2))(np.full((4, 4), np.nan, np.float32))).all()


@pytest.mark.parametrize("change", [{"focal_px": 0}, {"baseline_m": -1}, {"focus_m": float("inf")}])
def test_impossible_optics_are_refused(change):
    with pytest.raises(SchemaError, match=f"{next(iter(change))}: expected a number above 0"):
        RigOptics(**{"focal_px": 500.0, "baseline_m": 0.05, "focus_m": 1.0} | change)
