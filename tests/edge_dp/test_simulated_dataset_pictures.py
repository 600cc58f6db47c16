"""Data sets of captures simulated from pictures."""

import hashlib
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from edge_dp.data.simulated import SimulatedDataset
from edge_dp.errors import InputError
from edge_dp.sensors import load_sensor
from edge_dp.simulation.capture import simulate_with_rig
from edge_dp.simulation.pictures import MetricOptics, open_pictures

from .simulated_sets import CONFIG, SEED, hashes, write


def write_pictures(root, names=("a", "b", "c")):
    """RGB-D frames in the layout of Open3D, each with a hole of its own."""
    for number, name in enumerate(names):
        depth = np.tile(np.linspace(900, 3000, 640).astype(np.uint16), (480, 1))
        depth[:, 200 * number : 200 * number + 120] = 0
        colour = np.random.default_rng(number).integers(0, 256, (48, 64, 3), np.uint8)
        for folder, image in (("color", cv2.resize(colour, (640, 480))), ("depth", depth)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f"{name}.png"), image)
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures. Do not write into it."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "room")


@pytest.fixture(scope="module")
def of_pictures(pictures, tmp_path_factory):
    """A finished set of pictures, written by two processes. Do not write into it."""
    path = tmp_path_factory.mktemp("of_pictures") / "set"
    write(path, workers=2, pictures=open_pictures(pictures))
    return path


def test_bytes_of_pictures_depend_neither_on_workers_nor_on_where_they_lie(of_pictures, tmp_path):
    elsewhere = open_pictures(write_pictures(tmp_path / "moved" / "elsewhere"))
    write(tmp_path / "alone", pictures=elsewhere)
    assert hashes(tmp_path / "alone") == hashes(of_pictures)
    (tmp_path / "alone" / "shard_00001.npz").unlink()
    write(tmp_path / "alone", pictures=elsewhere, resume=True)
    assert hashes(tmp_path / "alone") == hashes(of_pictures)


def test_captures_of_pictures_are_read_with_their_mask(of_pictures, pictures):
    captures, source = SimulatedDataset(of_pictures), open_pictures(pictures)
    shares = []
    for number in (0, 4, 9):
        sample, (simulated, rig) = captures[number], simulate_with_rig(SEED, number, CONFIG, source)
        np.testing.assert_array_equal(sample.mask, simulated.mask)
        np.testing.assert_array_equal(sample.disparity, simulated.disparity)
        np.testing.assert_allclose([sample.left, sample.right], simulated.views, rtol=0, atol=0.51 / 65535)
        shares.append(sample.mask.mean())
    assert min(shares) < 1
    assert captures.rig_views("00000009").camera == rig.camera


def test_dataset_json_names_the_pictures_and_their_licence(of_pictures, simulated_set, pictures):
    note = json.loads((of_pictures / "dataset.json").read_text())
    assert note["source"] == {
        "data_set": "open3d",
        "licence": "MIT (test data)",
        "pictures": 3,
        "names_sha256": hashlib.sha256(b"a\nb\nc\n").hexdigest(),
        "optics": None,
    }
    assert str(pictures) not in json.dumps(note)
    assert note["fields"]["mask"]["dtype"] == "bool"
    assert SimulatedDataset(of_pictures).note.source.pictures == 3
    procedural = json.loads((simulated_set / "dataset.json").read_text())
    assert "source" not in procedural and "mask" not in procedural["fields"]


def test_lens_is_noted_with_a_focus_at_the_horizon(pictures, tmp_path):
    optics = MetricOptics(load_sensor("pixel4"), (0.5, np.inf))
    write(tmp_path / "set", count=1, pictures=open_pictures(pictures, optics))
    noted = SimulatedDataset(tmp_path / "set").note.source.optics
    assert noted == {
        "sensor": "pixel4",
        "focal_length_m": 0.00438,
        "f_number": 1.73,
        "pitch_um": 2.8,
        "alpha": 0.21,
        "focus_dioptres": [0.0, 2.0],
    }
    nearer = open_pictures(pictures, replace(optics, focus_m=(0.4, np.inf)))
    with pytest.raises(
        InputError, match=r"source\.optics\.focus_dioptres: expected \[0\.0, 2\.5\], found \[0\.0, 2\.0\]"
    ):
        write(tmp_path / "set", count=1, pictures=nearer, resume=True)


def test_set_of_other_pictures_is_not_resumed(of_pictures, simulated_set, pictures, tmp_path):
    others = open_pictures(write_pictures(tmp_path / "others", ("a", "b", "d")))
    with pytest.raises(InputError, match=r"dataset\.json: source\.names_sha256: expected '"):
        write(of_pictures, pictures=others, resume=True)
    with pytest.raises(InputError, match=r"dataset\.json: fields\.mask: expected no such field, found one"):
        write(of_pictures, resume=True)
    with pytest.raises(InputError, match=r"dataset\.json: fields\.mask: expected the field, found none"):
        write(simulated_set, pictures=others, resume=True)


def test_damaged_picture_in_the_middle_is_named_and_the_run_goes_on_once_it_is_mended(of_pictures, tmp_path):
    root = write_pictures(tmp_path / "room")
    whole = (root / "depth" / "b.png").read_bytes()
    (root / "depth" / "b.png").write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"depth/b\.png: "):
        write(tmp_path / "set", pictures=open_pictures(root))
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["dataset.json"]
    (root / "depth" / "b.png").write_bytes(whole)
    write(tmp_path / "set", pictures=open_pictures(root), resume=True)
    assert hashes(tmp_path / "set") == hashes(of_pictures)


def test_first_picture_is_tried_before_the_folder_is_claimed(pictures, tmp_path):
    large = replace(CONFIG, scene=replace(CONFIG.scene, height=500))
    with pytest.raises(InputError, match="open3d: picture a: expected at least 500x40 px"):
        write(tmp_path / "set", config=large, pictures=open_pictures(pictures))
    assert not (tmp_path / "set").exists()
