"""Data sets of simulated captures: same bytes whoever writes them, nothing half-written, and read back as simulated."""

import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace

import cv2
import numpy as np
import pytest
from torch.utils.data import DataLoader

from edge_dp.data.simulated import SimulatedDataset
from edge_dp.errors import EdgeDpError, InputError, SchemaError
from edge_dp.sensors import load_sensor
from edge_dp.simulation import dataset as module
from edge_dp.simulation.capture import SIMULATOR, SimulationConfig, simulate_capture
from edge_dp.simulation.dataset import read_note, write_dataset
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.pictures import MetricOptics, open_pictures
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import SensorConfig
from edge_dp.simulation.shards import make_shards

CONFIG = SimulationConfig(SceneConfig(height=24, width=40, margin=16, channels=3))
SEED = 7
COUNT, SHARD = 10, 4  # two whole shards and half a one


def write(folder, **changes):
    arguments = {"count": COUNT, "seed": SEED, "config": CONFIG, "rig": True, "workers": 1, "shard_size": SHARD}
    return write_dataset(folder, **(arguments | changes))


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished set, written by two processes. Do not write into it."""
    path = tmp_path_factory.mktemp("simulated") / "set"
    write(path, workers=2)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    """The finished set, to be damaged."""
    path = tmp_path / "copy"
    path.mkdir()
    for file in folder.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    return path


def test_bytes_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    reported = []
    shards = write(tmp_path / "alone", workers=1, progress=reported.append)
    assert [path.name for path in shards] == ["shard_00000.npz", "shard_00001.npz", "shard_00002.npz"]
    assert hashes(tmp_path / "alone") == hashes(folder)
    assert len(hashes(folder)) == 4  # nothing but the shards and dataset.json
    assert reported == [0, 4, 8, 10]


def test_bytes_hold_no_time_of_writing(folder):
    with zipfile.ZipFile(folder / "shard_00000.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.testzip() is None


def test_other_seeds_give_other_captures(folder, tmp_path):
    write(tmp_path / "other", seed=SEED + 1)
    ours, others = hashes(folder), hashes(tmp_path / "other")
    assert not set(ours.values()) & set(others.values())


def test_dataset_json_describes_the_set(folder):
    text = json.loads((folder / "dataset.json").read_text())
    assert (text["schema"], text["simulator"], text["seed"], text["count"]) == (1, SIMULATOR, SEED, COUNT)
    assert text["config"]["scene"]["height"] == 24
    with np.load(folder / "shard_00002.npz") as shard:
        assert len(shard.files) == 2 * len(text["fields"])
        for field, note in text["fields"].items():
            array = shard[f"00000009.{field}"]
            assert (array.dtype, array.ndim) == (note["dtype"], note["shape"].count(",") + 1)
    assert "left(x) = right(x + d)" in text["fields"]["disparity"]["meaning"]


def test_captures_are_read_as_they_were_simulated(folder):
    captures = SimulatedDataset(folder)
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


def test_pinhole_views_are_read_as_they_were_simulated(folder):
    captures = SimulatedDataset(folder)
    rig, simulated = captures.rig_views("00000003"), simulate_capture(SEED, 3, CONFIG)
    assert (rig.camera, rig.margin) == (simulated.camera, CONFIG.scene.margin)
    for name in ("reference", "side", "opposite"):
        levels, light = getattr(rig, name), getattr(simulated, name)
        assert levels.dtype == np.uint8
        clipped = light.clip(0, 1)
        encoded = np.where(clipped <= 0.0031308, 12.92 * clipped, 1.055 * clipped ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
        np.testing.assert_allclose(levels, 255 * encoded, atol=0.51)
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


def test_works_with_the_data_loader_and_pickles(folder):
    captures = SimulatedDataset(folder)
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
def test_unknown_names(folder, name):
    with pytest.raises(InputError, match="set: expected the name of a capture, found"):
        SimulatedDataset(folder).read(name)


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


def test_interrupted_run_is_resumed_to_the_same_bytes(folder, tmp_path):
    def interrupt(done):
        if done == SHARD:
            raise KeyboardInterrupt

    target = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write(target, progress=interrupt)
    assert hashes(target).keys() == {"dataset.json", "shard_00000.npz"}
    assert hashes(target).items() < hashes(folder).items()
    (target / ".shard_00002.abcd.npz").write_bytes(b"left by a killed writer")
    (target / ".shard_99.note").write_bytes(b"not ours")
    kept = (target / "shard_00000.npz").stat().st_mtime_ns
    write(target, resume=True)
    assert hashes(target).keys() - hashes(folder).keys() == {".shard_99.note"}
    assert hashes(folder).items() < hashes(target).items()
    assert (target / "shard_00000.npz").stat().st_mtime_ns == kept  # not written again


LARGER = replace(CONFIG, scene=replace(CONFIG.scene, height=96, width=128))
LONG_RUN = {"count": 160, "seed": SEED, "config": LARGER, "shard_size": 20}
SCRIPT = """
import sys
from pathlib import Path
from tests_settings import ARGUMENTS
from edge_dp.simulation.dataset import write_dataset
write_dataset(Path(sys.argv[1]), **ARGUMENTS)
"""


def in_another_process(target, tmp_path, arguments, **options):
    """Start ``write_dataset`` in a process group of its own."""
    code = f"import pickle\nARGUMENTS = pickle.loads({pickle.dumps(arguments)!r})\n"
    (tmp_path / "tests_settings.py").write_text(code)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(target)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def gone(group):
    """Whether no process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def wait_for(condition):
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("nothing happened for a minute")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Names and hashes of the files of a long run."""
    path = tmp_path_factory.mktemp("uninterrupted") / "set"
    write_dataset(path, **LONG_RUN, workers=1)
    return hashes(path)


@pytest.mark.parametrize("victim", ["all", "parent"])
def test_killed_run_is_resumed_to_the_same_bytes(uninterrupted, tmp_path, victim):
    """Killed outright, in the middle of shards; workers whose parent was killed end too."""
    target = tmp_path / "killed"
    process = in_another_process(target, tmp_path, LONG_RUN | {"workers": 2})
    wait_for(lambda: target.is_dir() and any(target.glob("shard_*.npz")))
    (os.killpg if victim == "all" else os.kill)(process.pid, signal.SIGKILL)
    process.communicate()
    wait_for(lambda: gone(process.pid))
    whole = sorted(target.glob("shard_*.npz"))
    assert 1 <= len(whole) < 8
    with pytest.raises(InputError, match="--resume"):
        write_dataset(target, **LONG_RUN, workers=2)
    write_dataset(target, **LONG_RUN, workers=2, resume=True)
    assert hashes(target) == uninterrupted


def test_full_disk_leaves_nothing_half_written(tmp_path):
    """The limit on the size of a file stands for the disk: writing fails in the middle of a shard."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    arguments = {"count": 4, "seed": SEED, "config": LARGER, "shard_size": 2, "workers": 1}
    process = in_another_process(tmp_path / "set", tmp_path, arguments, preexec_fn=limit)
    message = process.communicate()[1]
    assert process.returncode == 1
    assert "shard_00000.npz: expected a place that can be written, found: File too large" in message
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["dataset.json"]


def test_too_small_a_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    used = []

    def usage(path):
        used.append(path)
        return type("Usage", (), {"free": 10_000_000})

    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    with pytest.raises(InputError, match=r"set: expected .* GB of free space for the data set, found 0\.0 GB"):
        write(tmp_path / "deep" / "set", count=100_000)
    assert used == [tmp_path]
    assert not list(tmp_path.iterdir())
    write(tmp_path / "small", count=1)


def test_bad_configuration_is_found_before_the_folder_is_claimed(tmp_path):
    scene = replace(CONFIG.scene, textures=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="nowhere"):
        write(tmp_path / "set", config=replace(CONFIG, scene=scene))
    for changes in ({"count": 0}, {"seed": -1}, {"shard_size": 0}):
        with pytest.raises(SchemaError, match=next(iter(changes))):
            write(tmp_path / "set", **changes)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"seed": SEED + 1}, r"seed: expected 8, found 7"),
        ({"count": COUNT + 1}, r"count: expected 11, found 10"),
        ({"shard_size": 5}, r"shard_size: expected 5, found 4"),
        ({"rig": False}, r"fields\.reference: "),
        ({"config": LARGER}, r"config\.scene\.height: expected 96, found 24"),
    ],
)
def test_set_of_other_settings_is_not_resumed(folder, changes, field):
    before = hashes(folder)
    with pytest.raises(InputError, match=rf"dataset\.json: {field}.*name another folder"):
        write(folder, resume=True, **changes)
    assert hashes(folder) == before


def test_set_of_another_simulator_is_not_resumed(folder, monkeypatch):
    monkeypatch.setattr(module, "SIMULATOR", SIMULATOR + 1)
    with pytest.raises(InputError, match=rf"simulator: expected {SIMULATOR + 1}, found {SIMULATOR}"):
        write(folder, resume=True)


def test_folders_that_hold_something_else_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match=r"set: holds a data set already. Pass --resume"):
        write(folder)
    with pytest.raises(InputError, match=r"fresh: nothing to resume, no dataset\.json there"):
        write(tmp_path / "fresh", resume=True)
    assert not (tmp_path / "fresh").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("mine")
    for target, found in ((foreign, "other files"), (foreign / "thesis.tex", "a file")):
        with pytest.raises(InputError, match=f"expected an empty or new folder for the data set, found {found}"):
            write(target)
    assert [path.name for path in foreign.iterdir()] == ["thesis.tex"]


def test_finished_set_is_resumed_without_work(folder):
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    reported = []
    write(folder, resume=True, progress=reported.append)
    assert reported == [COUNT]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


# ---- of pictures ----


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
        sample, simulated = captures[number], simulate_capture(SEED, number, CONFIG, source)
        np.testing.assert_array_equal(sample.mask, simulated.mask)
        np.testing.assert_array_equal(sample.disparity, simulated.disparity)
        np.testing.assert_allclose([sample.left, sample.right], simulated.views, rtol=0, atol=0.51 / 65535)
        shares.append(sample.mask.mean())
    assert min(shares) < 1
    assert captures.rig_views("00000009").camera == simulated.camera


def test_dataset_json_names_the_pictures_and_their_licence(of_pictures, folder, pictures):
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
    procedural = json.loads((folder / "dataset.json").read_text())
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


def test_set_of_other_pictures_is_not_resumed(of_pictures, folder, pictures, tmp_path):
    others = open_pictures(write_pictures(tmp_path / "others", ("a", "b", "d")))
    with pytest.raises(InputError, match=r"dataset\.json: source\.names_sha256: expected '"):
        write(of_pictures, pictures=others, resume=True)
    with pytest.raises(InputError, match=r"dataset\.json: fields\.mask: expected no such field, found one"):
        write(of_pictures, resume=True)
    with pytest.raises(InputError, match=r"dataset\.json: fields\.mask: expected the field, found none"):
        write(folder, pictures=others, resume=True)


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


# ---- whatever is made ----


def test_errors_of_workers_reach_the_caller_and_stop_the_rest(tmp_path, monkeypatch):
    """What is made need not be captures."""
    (tmp_path / "makers.py").write_text(
        "import os\nfrom edge_dp.errors import InputError\n\n"
        "def refuse(path, index):\n    if index == 1:\n        raise InputError('second: no')\n    path.touch()\n\n"
        "def die(path, index):\n    os._exit(9)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import makers

    out = tmp_path / "out"
    out.mkdir()
    shards = [out / f"part_{index}.txt" for index in range(50)]
    with pytest.raises(InputError, match=r"^second: no$"):
        make_shards(shards, makers.refuse, 1, lambda done: None)
    assert [path.name for path in out.iterdir()] == ["part_0.txt"]
    with pytest.raises(EdgeDpError, match=r"out: a worker process ended early: killed.*fewer workers"):
        make_shards(shards, makers.die, 1, lambda done: None)
