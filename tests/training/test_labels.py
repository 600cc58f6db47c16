import dataclasses
import math

import cv2
import numpy as np
import pytest

from edge_dp.errors import InputError
from edge_dp.simulation.capture import SimulatedRig, SimulationConfig, simulate_with_rig
from edge_dp.simulation.render import render_pinhole
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import Layer, Scene, SceneConfig
from edge_dp.simulation.sensor import SensorConfig
from edge_dp.training.labels import (
    SHARD_SIZE,
    data_set_key,
    label_capture,
    read_shards,
    to_output_grid,
    write_shards,
)
from edge_dp.training.teachers.sgm import SgmTeacher

CONFIG = SimulationConfig(SceneConfig(height=32, width=64, margin=16))
SEED = 11


def write(folder, workers, count=2 * SHARD_SIZE, **changes):
    arguments = {"seed": SEED, "config": CONFIG, "teacher": SgmTeacher(), "progress": lambda done: None} | changes
    return write_shards(folder, count, workers=workers, **arguments)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards, written by two processes."""
    return write(tmp_path_factory.mktemp("two_workers"), 2)


def test_labels_of_captures_agree_with_the_truth():
    """A perfect pinhole pair: what the teacher is sure of is right to a few hundredths of a px, stripes excepted."""
    config = SimulationConfig(SceneConfig(height=96, width=128, margin=40))
    sure, errors = [], []
    for index in range(10):
        capture, rig = simulate_with_rig(1, index, config)
        label, mask = label_capture(rig, SgmTeacher())
        assert label.shape == mask.shape == capture.disparity.shape
        sure.append(mask.mean())
        errors.append(np.abs(label - capture.disparity)[mask])
    assert np.mean(sure) > 0.6
    assert np.median(np.concatenate(errors)) < 0.05
    assert np.median([np.mean(error > 1) for error in errors]) < 0.06


def test_labels_come_from_what_the_rig_saw():
    """From that alone: of views and truth ``label_capture`` is given nothing."""
    _, rig = simulate_with_rig(1, 0, CONFIG)
    label, mask = label_capture(rig, SgmTeacher())
    side, opposite = np.roll(rig.side, -6, axis=-1), np.roll(rig.opposite, 6, axis=-1)
    moved, sure = label_capture(dataclasses.replace(rig, side=side, opposite=opposite), SgmTeacher())
    # 6 px more stereo disparity for both cameras
    assert np.median((moved - label)[mask & sure]) == pytest.approx(-6 / rig.camera.gain, abs=0.02)


def test_what_an_object_hides_from_one_side_camera_is_labelled_by_the_other():
    """An object 2 px nearer hides a band of gain * 2 px beside it, on its left from a camera on the right."""
    rng = np.random.default_rng(3)
    wall, box = (cv2.GaussianBlur(rng.uniform(size=(120, 240)).astype(np.float32), (0, 0), 1.5)[None] for _ in range(2))
    opacity = np.zeros((120, 240), np.float32)
    opacity[:, 110:150] = 1
    scene = Scene((Layer(wall, np.ones_like(opacity), (1.0, 0, 0)), Layer(box, opacity, (-1.0, 0, 0))), -1.0, 1.0)
    camera = SideCamera(offset=8.0, gain=6.0)
    rig = SimulatedRig(
        reference=render_pinhole(scene, 0),
        side=render_side(scene, camera, 0),
        opposite=render_side(scene, dataclasses.replace(camera, angle=math.pi), 0),
        camera=camera,
        margin=0,
    )
    left, right = (slice(20, 100), slice(99, 109)), (slice(20, 100), slice(151, 161))
    disparity, mask = label_capture(rig, SgmTeacher())
    for band in (left, right):
        assert mask[band].mean() > 0.7
        assert np.median(disparity[band][mask[band]]) == pytest.approx(1.0, abs=0.05)
    blank = np.zeros_like(rig.side)
    for seen, hidden, changes in ((right, left, {"opposite": blank}), (left, right, {"side": blank})):
        _, mask = label_capture(dataclasses.replace(rig, **changes), SgmTeacher())
        assert mask[seen].mean() > 0.7 and mask[hidden].mean() < 0.3


def test_cells_of_the_output_grid_are_means_in_px_of_the_input():
    disparity = np.array([[1.0, 1.2, 3.0, 3.0], [1.4, 1.6, 3.0, 3.0]], np.float32)
    label, mask = to_output_grid(disparity, np.ones((2, 4), bool))
    np.testing.assert_allclose(label, [[1.3, 3.0]], rtol=1e-6)  # not halved
    assert mask.all() and label.shape == mask.shape == (1, 2)
    assert label.dtype == np.float32


def test_cells_that_are_partly_masked_or_straddle_an_edge_are_masked_and_zero():
    disparity = np.full((4, 6), 2.0, np.float32)
    disparity[0, 0] = 2.8  # 0.8 px apart: an edge
    disparity[0, 2] = 2.7  # 0.7 px apart: still a slope
    mask = np.ones((4, 6), bool)
    mask[3, 5] = False
    label, valid = to_output_grid(disparity, mask)
    np.testing.assert_array_equal(valid, [[False, True, True], [True, True, False]])
    assert label[0, 0] == label[1, 2] == 0


def test_shards_hold_the_captures_in_order_with_labels_and_truth(shards):
    samples = read_shards(shards)
    assert len(samples) == 2 * SHARD_SIZE
    assert samples.views.shape == (2 * SHARD_SIZE, 2, 32, 64) and samples.views.dtype == np.float16
    assert samples.label.shape == samples.mask.shape == samples.truth.shape == (2 * SHARD_SIZE, 16, 32)
    assert samples.label.dtype == samples.truth.dtype == np.float16 and samples.mask.dtype == bool
    for index in (0, 3, SHARD_SIZE, 2 * SHARD_SIZE - 1):
        capture, rig = simulate_with_rig(SEED, index, CONFIG)
        np.testing.assert_array_equal(samples.views[index], capture.views.mean(axis=1).astype(np.float16))
        cells = capture.disparity.reshape(16, 2, 32, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(samples.truth[index], cells, atol=3e-3)
        label, mask = to_output_grid(*label_capture(rig, SgmTeacher()))
        np.testing.assert_array_equal(samples.label[index], label.astype(np.float16))
        np.testing.assert_array_equal(samples.mask[index], mask)
    error = np.abs(samples.label.astype(float) - samples.truth)[samples.mask]
    assert np.median(error) < 0.05
    assert (samples.label[~samples.mask] == 0).all()


def test_bytes_do_not_depend_on_the_number_of_workers_and_lost_shards_are_made_again(shards, tmp_path):
    expected = [path.read_bytes() for path in shards]
    assert expected[0] != expected[1]
    reported = []
    alone = write(tmp_path, 1, progress=reported.append)
    assert [path.read_bytes() for path in alone] == expected
    assert reported == [0, SHARD_SIZE, 2 * SHARD_SIZE]

    kept = alone[0].stat().st_mtime_ns
    alone[1].unlink()
    (tmp_path / ".shard_0001.abcd.npz").write_bytes(b"left by a killed writer")
    reported.clear()
    resumed = write(tmp_path, 1, progress=reported.append)
    assert [path.read_bytes() for path in resumed] == expected
    assert resumed[0].stat().st_mtime_ns == kept  # not written again
    assert reported == [SHARD_SIZE, 2 * SHARD_SIZE]


def test_count_is_rounded_up_to_whole_shards(shards):
    folder = shards[0].parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert write(folder, 1, count=1) == shards[:1]
    assert write(folder, 1, count=SHARD_SIZE) == shards[:1]
    assert write(folder, 1, count=SHARD_SIZE + 1) == shards
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def damaged(shards, tmp_path, change):
    path = tmp_path / "shard_0001.npz"
    path.write_bytes(change(shards[1].read_bytes()))
    return [shards[0], path]


def without_a_field(data, tmp_path):
    path = tmp_path / "fields.npz"
    np.savez(path, views=np.zeros((1, 2, 4, 4), np.float16))
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "other", "no_field"])
def test_damaged_shard_is_named(shards, tmp_path, damage):
    change = {
        "empty": lambda data: b"",
        "other": lambda data: b"not a shard",
        "no_field": lambda data: without_a_field(data, tmp_path),
    }[damage]
    with pytest.raises(InputError, match=r"shard_0001\.npz: damaged shard .*delete it and run again"):
        read_shards(damaged(shards, tmp_path, change))


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_truncated_or_altered_shard_is_named(shards, tmp_path, damage):
    change = {
        "truncated": lambda data: data[: len(data) // 2],
        "flipped": lambda data: data[:5000] + bytes([data[5000] ^ 255]) + data[5001:],
    }[damage]
    with pytest.raises(InputError, match=r"shard_0001\.npz: damaged shard"):
        read_shards(damaged(shards, tmp_path, change))


def test_missing_shard_is_named(shards, tmp_path):
    with pytest.raises(InputError, match=r"shard_0007\.npz"):
        read_shards([shards[0], tmp_path / "shard_0007.npz"])


OTHERS = {"channels": 3, "textures": "a folder", "models": {"ramp": 1.0}}


def variants(value):
    """Each dataclass that differs from ``value`` in one field, at any depth."""
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if dataclasses.is_dataclass(current):
            changes = list(variants(current))
        elif field.name in OTHERS:
            changes = [OTHERS[field.name]]
        elif isinstance(current, tuple):  # a narrower range
            step = 1 if isinstance(current[0], int) else 0.001
            changes = [(current[0] + step, current[1]), (current[0], current[1] - step)]
        else:
            changes = [current + 1 if isinstance(current, int) else current / 2]
        for change in changes:
            yield dataclasses.replace(value, **{field.name: change})


def test_key_changes_with_every_setting_and_with_nothing_else():
    key = data_set_key(1, SimulationConfig(), SgmTeacher())
    assert key == data_set_key(1, SimulationConfig(SceneConfig(), sensor=SensorConfig()), SgmTeacher())
    assert key.isalnum() and len(key) == 12
    configs, teachers = list(variants(SimulationConfig())), list(variants(SgmTeacher()))
    assert len(configs) >= 40 and len(teachers) == 3
    keys = [data_set_key(2, SimulationConfig(), SgmTeacher())]
    keys += [data_set_key(1, config, SgmTeacher()) for config in configs]
    keys += [data_set_key(1, SimulationConfig(), teacher) for teacher in teachers]
    assert len({key, *keys}) == 1 + len(keys)
