import dataclasses
import io
import math

import cv2
import numpy as np
import pytest

from edge_dp.errors import InputError
from edge_dp.simulation.capture import SimulatedRig, SimulationConfig
from edge_dp.simulation.render import render_pinhole
from edge_dp.simulation.rig import SideCamera, render_side
from edge_dp.simulation.scenes import Layer, Scene, SceneConfig
from edge_dp.simulation.sensor import SensorConfig
from edge_dp.training.labels import (
    LabelConfig,
    RenderedCaptures,
    RigCapture,
    data_set_key,
    factory,
    label_capture,
    read_shards,
    to_output_grid,
    write_labels,
    write_shards,
)
from edge_dp.training.labels.dual_pixel import DualPixelMap
from edge_dp.training.labels.sources import Frame, rig_views
from edge_dp.training.teachers.base import View
from edge_dp.training.teachers.sgm import SgmTeacher

CONFIG = SimulationConfig(SceneConfig(height=32, width=64, margin=16))
SEED = 11


SMALL = 5  # captures in a shard


def write(folder, workers, count=2 * SMALL, teacher=None, config=None, **more):
    source = RenderedCaptures(SEED, count, CONFIG)
    arguments = {"workers": workers, "shard_size": SMALL} | more
    return write_labels(folder, source, teacher or SgmTeacher(), config or LabelConfig(), **arguments)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards, written by two processes."""
    return write(tmp_path_factory.mktemp("two_workers"), 2)


def test_labels_of_captures_agree_with_the_truth():
    """A perfect pinhole pair: what the teacher is sure of is right to a few hundredths of a px, stripes excepted."""
    source = RenderedCaptures(1, 10, SimulationConfig(SceneConfig(height=96, width=128, margin=40)))
    sure, errors, within = [], [], []
    for index in range(len(source)):
        capture = source.read(index)
        mean, sigma, mask = label_capture(capture, SgmTeacher())
        assert mean.shape == sigma.shape == mask.shape == capture.truth.shape
        assert (sigma[mask] > 0).all() and not mean[~mask].any() and not sigma[~mask].any()
        sure.append(mask.mean())
        errors.append(np.abs(mean - capture.truth)[mask])
        within.append(np.mean(errors[-1] < sigma[mask]))
    assert np.mean(sure) > 0.6
    assert np.median(np.concatenate(errors)) < 0.05
    assert np.median([np.mean(error > 1) for error in errors]) < 0.06
    assert np.median(within) > 0.5  # 0.68 of a Gaussian; the teacher allows for what both its directions get wrong


def test_labels_come_from_what_the_rig_saw():
    """Where the optics are known, from that alone: views and truth change nothing."""
    capture = RenderedCaptures(1, 1, CONFIG).read(0)
    expected = label_capture(capture, SgmTeacher())
    blind = dataclasses.replace(capture, views=np.zeros_like(capture.views), truth=None)
    for array, same in zip(expected, label_capture(blind, SgmTeacher()), strict=True):
        np.testing.assert_array_equal(array, same)
    reference, side, opposite = capture.rig
    moved = [View(np.roll(v.image, shift, axis=-1), v.camera) for v, shift in ((side, -6), (opposite, 6))]
    mean, _, mask = label_capture(dataclasses.replace(capture, rig=(reference, *moved)), SgmTeacher())
    # 6 px more stereo disparity for both cameras
    assert np.median((mean - expected[0])[mask & expected[2]]) == pytest.approx(-6 / CONFIG.rig_gain, abs=0.02)


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

    def label(rig):
        views = np.zeros((2, 120, 240), np.float32)
        optics = DualPixelMap.of_side_camera(camera)
        capture = RigCapture("box", views, rig_views(rig), Frame(0, 0, (120, 240)), optics, False, None)
        mean, _, mask = label_capture(capture, SgmTeacher())
        return mean, mask

    left, right = (slice(20, 100), slice(99, 109)), (slice(20, 100), slice(151, 161))
    disparity, mask = label(rig)
    for band in (left, right):
        assert mask[band].mean() > 0.7
        assert np.median(disparity[band][mask[band]]) == pytest.approx(1.0, abs=0.05)
    blank = np.zeros_like(rig.side)
    for seen, hidden, changes in ((right, left, {"opposite": blank}), (left, right, {"side": blank})):
        _, mask = label(dataclasses.replace(rig, **changes))
        assert mask[seen].mean() > 0.7 and mask[hidden].mean() < 0.3


def test_cells_of_the_output_grid_are_the_moments_of_what_they_cover_in_px_of_the_input():
    mean = np.array([[1.0, 1.2, -1.0, 3.0], [1.4, 1.6, -1.0, 3.0]], np.float32)
    sigma = np.array([[0.1, 0.2, 0.1, 0.1], [0.3, 0.4, 0.1, 0.1]], np.float32)
    label, spread, mask = to_output_grid(mean, sigma, np.ones((2, 4), bool))
    np.testing.assert_allclose(label, [[1.3, 1.0]], rtol=1e-6)  # not halved
    # (0.3^2 + 0.1^2 + 0.1^2 + 0.3^2) / 4 + (0.01 + 0.04 + 0.09 + 0.16) / 4; a border is 2 px unsure, not absent
    np.testing.assert_allclose(spread, [[np.sqrt(0.05 + 0.075), np.sqrt(4.0 + 0.01)]], rtol=1e-6)
    assert mask.all() and label.shape == spread.shape == mask.shape == (1, 2)
    assert label.dtype == spread.dtype == np.float32


def test_cells_that_are_partly_masked_are_masked_or_made_of_what_is_left():
    mean = np.array([[2.0, 3.0], [4.0, 99.0]], np.float32)
    mask = np.array([[True, True], [True, False]])
    label, sigma, valid = to_output_grid(mean, np.full_like(mean, 0.5), mask)
    assert not valid.any() and not label.any() and not sigma.any()
    label, sigma, valid = to_output_grid(mean, np.full_like(mean, 0.5), mask, LabelConfig(cell_labels=3))
    assert valid.all() and label[0, 0] == 3
    assert sigma[0, 0] == pytest.approx(np.sqrt(0.25 + 2 / 3))


def test_cells_that_straddle_an_edge_are_masked_where_that_is_asked_for():
    mean = np.full((2, 4), 2.0, np.float32)
    mean[0, 0], mean[0, 2] = 2.8, 2.7  # 0.8 px apart: an edge; 0.7 px: still a slope
    _, _, valid = to_output_grid(mean, np.full_like(mean, 0.1), np.ones((2, 4), bool), LabelConfig(cell_spread_px=0.75))
    np.testing.assert_array_equal(valid, [[False, True]])


def test_shards_hold_the_captures_in_order_with_labels_and_truth(shards):
    samples = read_shards(shards)
    assert len(samples) == 2 * SMALL
    assert samples.views.shape == (2 * SMALL, 2, 32, 64) and samples.views.dtype == np.float16
    assert samples.label.shape == samples.mask.shape == samples.truth.shape == (2 * SMALL, 16, 32)
    assert samples.label.dtype == samples.truth.dtype == np.float16 and samples.mask.dtype == bool
    for index in (0, 3, SMALL, 2 * SMALL - 1):
        capture = RenderedCaptures(SEED, 1, CONFIG).read(index)
        np.testing.assert_array_equal(samples.views[index], capture.views.astype(np.float16))
        cells = capture.truth.reshape(16, 2, 32, 2).mean(axis=(1, 3))
        np.testing.assert_allclose(samples.truth[index], cells, atol=3e-3)
        label, sigma, mask = to_output_grid(*label_capture(capture, SgmTeacher()))
        np.testing.assert_array_equal(samples.label[index], label.astype(np.float16))
        np.testing.assert_array_equal(samples.sigma[index], sigma.astype(np.float16))
        np.testing.assert_array_equal(samples.mask[index], mask)
    error = np.abs(samples.label.astype(float) - samples.truth)[samples.mask]
    assert np.median(error) < 0.05
    assert (samples.label[~samples.mask] == 0).all() and (samples.sigma[~samples.mask] == 0).all()
    assert (samples.sigma[samples.mask] >= 0.0199).all()


def test_bytes_do_not_depend_on_the_number_of_workers_and_lost_shards_are_made_again(shards, tmp_path):
    expected = [path.read_bytes() for path in shards]
    assert expected[0] != expected[1]
    reported = []
    alone = write(tmp_path, 1, progress=reported.append)
    assert [path.read_bytes() for path in alone] == expected
    assert reported == [0, SMALL, 2 * SMALL]

    kept = alone[0].stat().st_mtime_ns
    alone[1].unlink()
    (tmp_path / ".shard_0001.abcd.npz").write_bytes(b"left by a killed writer")
    reported.clear()
    resumed = write(tmp_path, 1, progress=reported.append)
    assert [path.read_bytes() for path in resumed] == expected
    assert resumed[0].stat().st_mtime_ns == kept  # not written again
    assert reported == [SMALL, 2 * SMALL]


def test_count_of_a_recipe_is_rounded_up_to_whole_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(factory, "SHARD_SIZE", SMALL)
    arguments = {"seed": SEED, "config": CONFIG, "teacher": SgmTeacher(), "workers": 1, "progress": lambda done: None}
    (shard,) = write_shards(tmp_path, 1, **arguments)
    assert len(read_shards([shard])) == SMALL
    written = shard.stat().st_mtime_ns
    assert write_shards(tmp_path, SMALL, **arguments) == [shard]
    assert shard.stat().st_mtime_ns == written


def test_last_shard_of_a_source_holds_what_is_left(tmp_path):
    shards = write(tmp_path, 1, count=SMALL + 2)
    assert [len(read_shards([path])) for path in shards] == [SMALL, 2]


def damaged(shards, tmp_path, change):
    path = tmp_path / "shard_0001.npz"
    path.write_bytes(change(shards[1].read_bytes()))
    return [shards[0], path]


def without_a_field(data, tmp_path):
    path = tmp_path / "fields.npz"
    with np.load(io.BytesIO(data)) as arrays:
        np.savez(path, **{name: arrays[name] for name in arrays.files if name != "sigma"})
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


OTHERS = {
    "check": "none",
    "failures": "skip",
    "cell_spread_px": 0.5,
    "cell_labels": 3,
    "window_px": 23,
    "free_space": False,
    "channels": 3,
    "textures": "a folder",
    "models": {"ramp": 1.0},
}


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
    assert len(configs) >= 40 and len(teachers) == len(dataclasses.fields(SgmTeacher))
    keys = [data_set_key(2, SimulationConfig(), SgmTeacher())]
    keys += [data_set_key(1, config, SgmTeacher()) for config in configs]
    keys += [data_set_key(1, SimulationConfig(), teacher) for teacher in teachers]
    labels = list(variants(LabelConfig()))
    assert len(labels) >= 18
    keys += [data_set_key(1, SimulationConfig(), SgmTeacher(), config) for config in labels]
    assert len({key, *keys}) == 1 + len(keys)
