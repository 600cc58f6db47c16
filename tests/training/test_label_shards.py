"""Labels on disk: the same bytes however they are made, and none without saying where they come from."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edge_dp._version import VERSION
from edge_dp.errors import InputError, SchemaError, TrainingError
from edge_dp.simulation.capture import SIMULATOR, SimulationConfig
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.labels import (
    LabelConfig,
    RenderedCaptures,
    TeacherChoice,
    data_set_key,
    label_set,
    label_settings,
    read_provenance,
    read_shards,
    write_labels,
)
from edge_dp.training.labels.teachers import resolve
from edge_dp.training.teachers.base import Estimate, Licence
from edge_dp.training.teachers.stereo_net import WEIGHTS

SOURCE = RenderedCaptures(4, 10, SimulationConfig(SceneConfig(height=32, width=64, margin=16)))
SGM = TeacherChoice("sgm", {"disparities": 48})
SHARD = 2

RUN = """
from edge_dp.simulation.capture import SimulationConfig
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.training.labels import LabelConfig, RenderedCaptures, TeacherChoice, label_set
import pathlib, sys
if __name__ == "__main__":
    source = RenderedCaptures(4, 10, SimulationConfig(SceneConfig(height=32, width=64, margin=16)))
    teacher = TeacherChoice("sgm", {"disparities": 48})
    label_set(pathlib.Path(sys.argv[1]), source, teacher, LabelConfig(), resume=False, workers=1, shard_size=2)
"""


@pytest.fixture(autouse=True)
def importable_in_workers(monkeypatch):
    """Spawned processes import the teachers below by this module's name."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[2])])


def make(folder, *, resume=False, workers=1, teacher=SGM, config=None, source=SOURCE):
    return label_set(folder, source, teacher, config or LabelConfig(), resume=resume, workers=workers, shard_size=SHARD)


def start(script, folder, **environment):
    return subprocess.Popen(
        [sys.executable, script, str(folder)],
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Five shards and the note, made by one process."""
    folder = tmp_path_factory.mktemp("labels") / "whole"
    assert [path.name for path in make(folder)] == [f"shard_{i:04d}.npz" for i in range(5)]
    return folder


def test_two_workers_write_the_same_bytes(whole, tmp_path):
    make(tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(whole)


def test_processes_of_a_launch_share_the_shards_and_write_the_same_bytes(whole, tmp_path):
    """Two at once, as torchrun starts them; the second waits for what the first writes."""
    script = tmp_path / "run.py"
    script.write_text(RUN)
    folder = tmp_path / "shared"
    second, first = (start(script, folder, RANK=rank, WORLD_SIZE="2") for rank in ("1", "0"))
    for process in (first, second):
        assert process.wait(300) == 0, process.stderr.read().decode()
    assert content(folder) == content(whole)


def test_each_process_makes_its_share_alone(whole, tmp_path, monkeypatch):
    for rank, made in (("0", {0, 2, 4}), ("1", {0, 1, 2, 3, 4})):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        make(tmp_path / "shared")
        assert {int(path.stem[-4:]) for path in (tmp_path / "shared").glob("*.npz")} == made
    assert content(tmp_path / "shared") == content(whole)
    for rank, world in (("2", "2"), ("-1", "2"), ("0", "0"), ("first", "2")):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", world)
        with pytest.raises(InputError, match="expected whole numbers with RANK below WORLD_SIZE"):
            make(tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_killed_and_resumed_it_has_the_same_bytes(whole, tmp_path):
    script, folder = tmp_path / "run.py", tmp_path / "killed"
    script.write_text(RUN)
    process = start(script, folder)
    limit = time.monotonic() + 300
    while not list(folder.glob("shard_*.npz")) and time.monotonic() < limit:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    there = set(folder.glob("shard_*.npz"))
    assert 0 < len(there) < 5
    with pytest.raises(InputError, match=r"holds a set of labels already\. Pass --resume"):
        make(folder)
    make(folder, resume=True)
    assert content(folder) == content(whole)


def test_a_resumed_set_keeps_its_settings(whole):
    before = content(whole)
    for change, place in (
        ({"config": LabelConfig(min_views=2)}, r"config\.min_views: expected 2, found 1"),
        ({"teacher": TeacherChoice("sgm")}, r"teacher\.options\.disparities: expected 64, found 48"),
        ({"source": replace(SOURCE, seed=5)}, r"source\.seed: expected 5, found 4"),
        ({"source": replace(SOURCE, count=12)}, r"captures: expected 12, found 10"),
    ):
        with pytest.raises(InputError, match=rf"labels\.json: {place}"):
            make(whole, resume=True, **change)
    assert content(whole) == before


def test_a_shard_says_where_its_labels_come_from(whole):
    found = read_provenance(whole / "shard_0001.npz")
    assert found["teacher"]["name"] == "sgm" and found["teacher"]["options"]["disparities"] == 48
    assert found["teacher"]["licence"] == {
        "code": "Apache-2.0 (OpenCV)",
        "weights": "none: no weights",
        "commercial": True,
    }
    assert found["config"]["reprojection_px"] == 1.0 and found["config"]["fit"]["window_px"] == 21
    assert found["source"]["kind"] == "rendered" and found["source"]["simulator"] == SIMULATOR
    assert found["source"]["seed"] == 4 and found["source"]["simulation"]["scene"]["height"] == 32
    assert found["edge_dp"] == VERSION
    assert found["captures"] == ["seed 4, capture 2", "seed 4, capture 3"] and found["failed"] == {}


def test_shards_of_other_settings_are_refused_by_name(whole, tmp_path):
    (other, *_) = write_labels(
        tmp_path, replace(SOURCE, count=2), SGM, LabelConfig(relative_depth=0.01), workers=1, shard_size=SHARD
    )
    mine = whole / "shard_0000.npz"
    with pytest.raises(
        InputError, match=r"tmp.*shard_0000\.npz: .*config\.relative_depth: expected 0\.005, found 0\.01"
    ):
        read_shards([mine, other])
    expected = label_settings(SOURCE, resolve(SGM), LabelConfig())
    assert len(read_shards([mine], expected)) == SHARD
    with pytest.raises(InputError, match=r"config\.relative_depth"):
        read_shards([other], expected)
    with pytest.raises(InputError, match=r"teacher\.options\.disparities: expected 64, found 48"):
        read_provenance(mine, label_settings(SOURCE, resolve(TeacherChoice("sgm")), LabelConfig()))


def rewritten(path, target, change):
    with np.load(path) as data:
        arrays = {name: data[name] for name in data.files}
    change(arrays)
    np.savez(target, **arrays)
    return target


def provenance_with(**changes):
    def change(arrays):
        arrays["provenance"] = np.array(json.dumps(json.loads(str(arrays["provenance"])) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (provenance_with(schema=2), "expected schema 1 or older, found 2. Update edge_dp"),
        (provenance_with(schema="one"), "expected schema 1 or older, found one"),
        (lambda arrays: arrays.pop("provenance"), "expected a shard with provenance, found none"),
        (lambda arrays: arrays.update(provenance=np.array("{")), "expected provenance as JSON"),
        (lambda arrays: arrays.update(provenance=np.array("3")), "expected provenance as JSON"),
        (lambda arrays: arrays.update(provenance=np.array('{"schema": 1}')), "field 'labels' is missing"),
    ],
)
def test_provenance_that_is_newer_or_damaged_is_refused(whole, tmp_path, change, message):
    path = rewritten(whole / "shard_0000.npz", tmp_path / "shard_0000.npz", change)
    with pytest.raises(SchemaError, match=rf"shard_0000\.npz: .*{message}"):
        read_shards([path])


def test_labels_of_another_version_of_the_factory_are_not_mixed_in(whole, tmp_path):
    path = rewritten(whole / "shard_0000.npz", tmp_path / "shard_0000.npz", provenance_with(labels=1))
    with pytest.raises(InputError, match="labels: expected 2, found 1"):
        read_shards([whole / "shard_0001.npz", path])
    newer = rewritten(whole / "shard_0000.npz", tmp_path / "shard_0001.npz", provenance_with(edge_dp="99.0"))
    assert len(read_shards([whole / "shard_0001.npz", newer])) == 2 * SHARD  # the same settings, whoever wrote them


def test_empty_masks_are_nothing_to_learn_from(whole, tmp_path):
    def without_labels(arrays):
        arrays["mask"] = np.zeros_like(arrays["mask"])

    path = rewritten(whole / "shard_0000.npz", tmp_path / "shard_0000.npz", without_labels)
    with pytest.raises(InputError, match="expected labels, found every mask empty"):
        read_shards([path])
    assert len(read_shards([path, whole / "shard_0001.npz"])) == 2 * SHARD


@dataclass(frozen=True)
class Moody:
    """Right where the middle of the picture is bright; elsewhere it does as told, and "none" it is nowhere sure."""

    does: str
    name = "moody"
    licence = Licence("none", "none", commercial=True)
    views = 2
    weights_file = None

    def estimate(self, views):
        good = resolve(SGM).estimate(views)
        if views[0].image[0, 24:40, 40:56].mean() > 0.42 and self.does != "none":
            return good
        if self.does == "nan":
            return Estimate(np.full_like(good.disparity, np.nan), good.sigma, np.ones_like(good.valid))
        return Estimate(good.disparity, good.sigma, np.zeros_like(good.valid))


def test_other_weights_at_the_same_path_make_other_labels(tmp_path):
    path = tmp_path / "weights.safetensors"
    teacher = TeacherChoice("stereo_net", {"weights": str(path)})
    notes, keys = [], []
    for content in (WEIGHTS.read_bytes(), WEIGHTS.read_bytes() + b"more"):
        path.write_bytes(content)
        notes.append(label_settings(SOURCE, resolve(teacher), LabelConfig())["teacher"])
        keys.append(data_set_key(SOURCE.seed, SOURCE.config, teacher))
        assert notes[-1]["weights_sha256"] == hashlib.sha256(content).hexdigest()
    assert notes[0]["options"] == notes[1]["options"] and keys[0] != keys[1]


def test_captures_without_labels_stay_with_an_empty_mask_and_are_listed(tmp_path):
    (shard,) = write_labels(tmp_path, SOURCE, Moody("empty"), LabelConfig(), workers=1, shard_size=10)
    samples, found = read_shards([shard]), read_provenance(shard)
    empty = [name for name, mask in zip(found["captures"], samples.mask, strict=True) if not mask.any()]
    assert len(samples) == 10 and 0 < len(empty) < 10
    assert list(found["empty"]) == empty
    assert all("expected labels, found an empty mask" in why for why in found["empty"].values())
    assert found["teacher"]["options"] == {"does": "empty"}


def test_a_teacher_that_returns_nan_stops_the_run_or_is_skipped(tmp_path):
    with pytest.raises(TrainingError, match=r"seed 4, capture \d: teacher moody: expected finite numbers"):
        write_labels(tmp_path, SOURCE, Moody("nan"), LabelConfig(), workers=1, shard_size=10)
    assert not list(tmp_path.glob("*shard*"))
    (shard,) = write_labels(tmp_path, SOURCE, Moody("nan"), LabelConfig(failures="skip"), workers=1, shard_size=10)
    found = read_provenance(shard)
    assert len(read_shards([shard])) == len(found["captures"]) == 10 - len(found["failed"]) < 10
    assert all("teacher moody" in why for why in found["failed"].values())


def test_a_teacher_that_is_never_sure_is_an_error(tmp_path):
    with pytest.raises(
        TrainingError, match=r"shard_0000\.npz: no capture gives a label, the first: seed 4, capture 0: "
    ):
        write_labels(tmp_path, replace(SOURCE, count=2), Moody("none"), LabelConfig(), workers=1)


def test_views_of_odd_size_are_refused(tmp_path):
    odd = replace(SOURCE, config=SimulationConfig(SceneConfig(height=33, width=64, margin=16)))
    with pytest.raises(InputError, match=r"capture 0: expected views of even height and width, found 33x64"):
        write_labels(tmp_path, odd, SGM, LabelConfig(), workers=1)


def test_unknown_teachers_and_options_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match="sgn: no such teacher; known are"):
        make(tmp_path / "a", teacher=TeacherChoice("sgn"))
    with pytest.raises(SchemaError, match="teacher sgm: unknown field 'disparity'"):
        make(tmp_path / "a", teacher=TeacherChoice("sgm", {"disparity": 3}))
    assert not (tmp_path / "a").exists()
