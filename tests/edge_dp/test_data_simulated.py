"""Data sets of simulated captures are read as they were simulated, and what is damaged is named."""

import json
import pickle
import zipfile

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from edge_dp.data.simulated import SimulatedDataset
from edge_dp.errors import InputError, SchemaError
from edge_dp.simulation.capture import SimulationConfig, simulate_capture, simulate_with_rig
from edge_dp.simulation.dataset import read_note
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import SensorConfig
from edge_dp.srgb import linear_to_srgb

from .simulated_sets import CONFIG, COUNT, SEED, write


@pytest.fixture
def copy(simulated_set, tmp_path):
    """The finished set, to be damaged."""
    path = tmp_path / "copy"
    path.mkdir()
    for file in simulated_set.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def test_captures_are_read_as_they_were_simulated(simulated_set):
    captures = SimulatedDataset(simulated_set)
    assert len(captures) == COUNT
    assert tuple(captures.names) == tuple(f"{number:08d}" for number in range(COUNT))
    for number in (0, 5, 9):
        sample, simulated = captures[number], simulate_capture(SEED, number, CONFIG)
        assert (sample.name, sample.left.shape, sample.left.dtype) == (captures.names[number], (3, 24, 40), np.float32)
        np.testing.assert_allclose([sample.left, sample.right], simulated.views, rtol=0, atol=0.51 / 65535)
        np.testing.assert_array_equal(sample.disparity, simulated.disparity)
        assert sample.mask is None and sample.depth is None
    assert [sample.name for sample in captures] == list(captures.names)
    assert captures[-1].name == "00000009"
    with pytest.raises(IndexError):
        captures[COUNT]


def test_pinhole_views_are_read_as_they_were_simulated(simulated_set):
    captures = SimulatedDataset(simulated_set)
    rig, (_, simulated) = captures.rig_views("00000003"), simulate_with_rig(SEED, 3, CONFIG)
    assert (rig.camera, rig.margin) == (simulated.camera, CONFIG.scene.margin)
    for name in ("reference", "side", "opposite"):
        levels, light = getattr(rig, name), getattr(simulated, name)
        assert levels.dtype == np.uint8
        np.testing.assert_allclose(levels, 255 * linear_to_srgb(light.clip(0, 1)), atol=0.51)
    sharp = captures.read("00000003").all_in_focus
    inside = simulated.reference[:, 16:-16, 16:-16].clip(0, 1)
    np.testing.assert_allclose(sharp, inside, atol=0.5 / 255 * 2.4)  # half a level where the curve is flattest


def test_sets_without_a_rig_have_no_pinhole_views(tmp_path):
    write(tmp_path / "plain", rig=False, count=1)
    captures = SimulatedDataset(tmp_path / "plain")
    assert captures[0].all_in_focus is None
    with pytest.raises(InputError, match=r"plain: expected a set with side views, found none.*--rig"):
        captures.rig_views("00000000")


@pytest.mark.parametrize("disparity", [(3.0, 4.0), (-4.0, -3.0)])
def test_sign_of_the_disparity(tmp_path, disparity):
    """Block by block, the right view moved by the disparity fits the left one; moved the other way it does not."""
    scene = SceneConfig(height=96, width=128, disparity=disparity, one_sided_share=0.0, textureless_share=0.0)
    noiseless = SensorConfig(full_well=(1e6, 1e6), read_noise=(0.0, 0.0), shading=0.0)
    config = SimulationConfig(scene, LensConfig({"half_disc": 1.0}), noiseless)
    write(tmp_path / "set", count=6, config=config, rig=False)
    better = []
    columns, rows = np.meshgrid(np.arange(128, dtype=np.float32), np.arange(96, dtype=np.float32))
    for sample in SimulatedDataset(tmp_path / "set"):
        assert (np.sign(sample.disparity) == np.sign(disparity[0])).all()
        left, right = sample.left[0], sample.right[0]
        errors = [
            np.abs(left - cv2.remap(right, columns + way * sample.disparity, rows, cv2.INTER_LINEAR))[:, 8:-8].mean()
            for way in (1, -1)
        ]
        better.append(errors[0] < 0.6 * errors[1])
    assert np.mean(better) >= 5 / 6


def test_works_with_the_data_loader_and_pickles(simulated_set):
    captures = SimulatedDataset(simulated_set)
    loader = DataLoader(captures, batch_size=4, num_workers=2, collate_fn=list)
    samples = [sample for batch in loader for sample in batch]
    assert [sample.name for sample in samples] == list(captures.names)
    np.testing.assert_array_equal(samples[6].left, captures[6].left)
    again = pickle.loads(pickle.dumps(captures))
    assert tuple(again.names) == tuple(captures.names)
    np.testing.assert_array_equal(again[6].disparity, captures[6].disparity)


def test_truncated_shard_is_named(copy):
    shard = copy / "shard_00001.npz"
    shard.write_bytes(shard.read_bytes()[:-3000])
    captures = SimulatedDataset(copy)  # no shard has been opened
    assert captures[0].name == "00000000"
    with pytest.raises(InputError, match=r"shard_00001\.npz: damaged shard .*delete it and run again"):
        captures[4]
    shard.unlink()
    write(copy, resume=True)
    assert captures[4].name == "00000004"


def test_altered_capture_is_found_by_its_checksum_and_the_others_are_read(copy):
    shard = copy / "shard_00000.npz"
    with zipfile.ZipFile(shard) as archive:
        place = archive.getinfo("00000001.disparity.npy").header_offset + 500
    content = bytearray(shard.read_bytes())
    content[place] ^= 1
    shard.write_bytes(content)
    captures = SimulatedDataset(copy)
    with pytest.raises(InputError, match=r"shard_00000\.npz: damaged shard .*00000001\.disparity"):
        captures[1]
    assert captures[2].name == "00000002"


@pytest.mark.parametrize("change", ["array_missing", "other_dtype", "single_array"])
def test_shard_of_another_kind_is_named(copy, change):
    with (copy / "shard_00002.npz").open("wb") as file:
        if change == "single_array":
            np.save(file, np.zeros(3))
        else:
            views = {"00000008.views": np.zeros((2, 1, 24, 40))} if change == "other_dtype" else {}
            np.savez(file, **views, **{"00000008.disparity": np.zeros((24, 40), np.float32)})
    with pytest.raises(InputError, match=r"shard_00002\.npz: damaged shard"):
        SimulatedDataset(copy).read("00000008")


def test_missing_shard_is_named_and_the_rest_can_be_read(copy):
    (copy / "shard_00001.npz").unlink()
    with pytest.raises(InputError, match=r"shard_00001\.npz: expected beside dataset\.json, found nothing.*--resume"):
        SimulatedDataset(copy)
    captures = SimulatedDataset(copy, strict=False)
    assert [int(name) for name in captures.names] == [0, 1, 2, 3, 8, 9]
    (problem,) = captures.listing.problems
    assert "shard_00001.npz: expected" in problem
    assert captures[4].name == "00000008"
    with pytest.raises(InputError, match=r"shard_00001\.npz: damaged shard .*No such file"):
        captures.read("00000005")


@pytest.mark.parametrize("name", ["00000010", "7", "", "-0000001", "0000000١", "../00001"])
def test_unknown_names(simulated_set, name):
    with pytest.raises(InputError, match="set: expected the name of a capture, found"):
        SimulatedDataset(simulated_set).read(name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, r"dataset\.json: schema: expected at most 1, found 99.*Upgrade"),
        ({"count": 0}, r"dataset\.json: count: expected 1 to \d+, found 0"),
        ({"count": 10**12}, r"dataset\.json: count: expected 1 to \d+, found 10{12}"),
        ({"shard_size": "4"}, r"dataset\.json: shard_size: expected int"),
        ({"fields": [1]}, r"dataset\.json: fields: expected a mapping"),
    ],
)
def test_bad_dataset_json_is_named_with_its_field(copy, changes, message):
    path = copy / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(SchemaError, match=message):
        SimulatedDataset(copy)


def test_damaged_or_absent_dataset_json(copy):
    (copy / "dataset.json").write_bytes((copy / "dataset.json").read_bytes()[:-200])
    for opened in (lambda: SimulatedDataset(copy), lambda: write(copy, resume=True)):
        with pytest.raises(SchemaError, match=r"dataset\.json: expected JSON"):
            opened()
    (copy / "dataset.json").unlink()
    with pytest.raises(InputError, match=r"dataset\.json: expected a readable file"):
        read_note(copy)
