"""Writing data sets of simulated captures: same bytes whoever writes them, and nothing half-written."""

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

import numpy as np
import pytest

from edge_dp.errors import InputError, SchemaError
from edge_dp.simulation import dataset as module
from edge_dp.simulation.capture import SIMULATOR
from edge_dp.simulation.dataset import write_dataset

from .simulated_sets import CONFIG, COUNT, SEED, SHARD, hashes, write


def test_bytes_do_not_depend_on_the_number_of_workers(simulated_set, tmp_path):
    reported = []
    shards = write(tmp_path / "alone", workers=1, progress=reported.append)
    assert [path.name for path in shards] == ["shard_00000.npz", "shard_00001.npz", "shard_00002.npz"]
    assert hashes(tmp_path / "alone") == hashes(simulated_set)
    assert len(hashes(simulated_set)) == 4  # nothing but the shards and dataset.json
    assert reported == [0, 4, 8, 10]


def test_bytes_hold_no_time_of_writing(simulated_set):
    with zipfile.ZipFile(simulated_set / "shard_00000.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.testzip() is None


def test_other_seeds_give_other_captures(simulated_set, tmp_path):
    write(tmp_path / "other", seed=SEED + 1)
    ours, others = hashes(simulated_set), hashes(tmp_path / "other")
    assert not set(ours.values()) & set(others.values())


def test_set_without_a_rig_holds_the_same_captures_and_renders_no_rig(simulated_set, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "simulate_with_rig", None)
    for path in write(tmp_path / "plain", rig=False):
        with np.load(path) as plain, np.load(simulated_set / path.name) as whole:
            assert {name.partition(".")[2] for name in plain.files} == {"views", "disparity"}
            for name in plain.files:
                np.testing.assert_array_equal(plain[name], whole[name])


def test_dataset_json_describes_the_set(simulated_set):
    text = json.loads((simulated_set / "dataset.json").read_text())
    assert (text["schema"], text["simulator"], text["seed"], text["count"]) == (1, SIMULATOR, SEED, COUNT)
    assert text["config"]["scene"]["height"] == 24
    with np.load(simulated_set / "shard_00002.npz") as shard:
        assert len(shard.files) == 2 * len(text["fields"])
        for field, note in text["fields"].items():
            array = shard[f"00000009.{field}"]
            assert (array.dtype, array.ndim) == (note["dtype"], note["shape"].count(",") + 1)
    assert "left(x) = right(x + d)" in text["fields"]["disparity"]["meaning"]


def test_interrupted_run_is_resumed_to_the_same_bytes(simulated_set, tmp_path):
    def interrupt(done):
        if done == SHARD:
            raise KeyboardInterrupt

    target = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt):
        write(target, progress=interrupt)
    assert hashes(target).keys() == {"dataset.json", "shard_00000.npz"}
    assert hashes(target).items() < hashes(simulated_set).items()
    (target / ".shard_00002.abcd.npz").write_bytes(b"left by a killed writer")
    (target / ".shard_99.note").write_bytes(b"not ours")
    kept = (target / "shard_00000.npz").stat().st_mtime_ns
    write(target, resume=True)
    assert hashes(target).keys() - hashes(simulated_set).keys() == {".shard_99.note"}
    assert hashes(simulated_set).items() < hashes(target).items()
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
def test_set_of_other_settings_is_not_resumed(simulated_set, changes, field):
    before = hashes(simulated_set)
    with pytest.raises(InputError, match=rf"dataset\.json: {field}.*name another folder"):
        write(simulated_set, resume=True, **changes)
    assert hashes(simulated_set) == before


def test_set_of_another_simulator_is_not_resumed(simulated_set, monkeypatch):
    monkeypatch.setattr(module, "SIMULATOR", SIMULATOR + 1)
    with pytest.raises(InputError, match=rf"simulator: expected {SIMULATOR + 1}, found {SIMULATOR}"):
        write(simulated_set, resume=True)


def test_folders_that_hold_something_else_are_refused(simulated_set, tmp_path):
    with pytest.raises(InputError, match=r"set: holds a data set already. Pass --resume"):
        write(simulated_set)
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


def test_finished_set_is_resumed_without_work(simulated_set):
    before = {path: path.stat().st_mtime_ns for path in simulated_set.iterdir()}
    reported = []
    write(simulated_set, resume=True, progress=reported.append)
    assert reported == [COUNT]
    assert {path: path.stat().st_mtime_ns for path in simulated_set.iterdir()} == before
