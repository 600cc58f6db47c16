"""Damaged artifacts and manifests: always an error that names the file or a run that completes, never the end of this process."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from edge_dp.bundle.manifest import MANIFEST, read_bundle
from edge_dp.errors import ChecksumError, EdgeDpError, EngineError
from edge_dp.runtime.engines import Limits, engine_for, make_engine
from edge_dp.runtime.engines.place import Here
from edge_dp.runtime.validate import signature

EVERY, QUICK = 2000, 200
MANIFESTS = 5
"""Of so many damaged files, one is a manifest."""
LIMITS = Limits(seconds=10, memory_bytes=2 << 30)


def flipped(data, rng):
    """Some bits, half of the times near the ends, where headers and tables are."""
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        where = rng.integers(len(data))
        if rng.random() < 0.5:
            where = min(where, len(data) - 1) % min(2048, len(data)) * rng.choice([1, -1])
        damaged[where] ^= 1 << rng.integers(8)
    return bytes(damaged)


def cut(data, rng):
    return data[: rng.integers(len(data))]


def lengthened(data, rng):
    return data + rng.bytes(rng.integers(1, 5000))


def without_a_piece(data, rng):
    start = rng.integers(len(data))
    return data[:start] + data[start + rng.integers(1, 64) :]


def with_a_piece_more(data, rng):
    start = rng.integers(len(data))
    return data[:start] + rng.bytes(rng.integers(1, 64)) + data[start:]


def overwritten(data, rng):
    start, count = rng.integers(len(data)), rng.integers(1, 256)
    piece = rng.choice([b"\0", b"\xff", None])
    return (data[:start] + (rng.bytes(count) if piece is None else piece * count) + data[start + count :])[: len(data)]


DAMAGES = (flipped, flipped, flipped, cut, lengthened, without_a_piece, with_a_piece_more, overwritten)


class Workshop:
    """Damages files of a copy of a bundle, one after another, and runs what they belong to.

    Every engine has one worker, which is started anew only after it has died.
    """

    def __init__(self, bundle, folder):
        self.folder = folder / "bundle"
        self.sound = bundle
        shutil.copytree(bundle.folder, self.folder, ignore=shutil.ignore_patterns("report*", "stages.json"))
        self.inputs = bundle.golden_inputs(bundle.manifest.golden[0])
        self.workers = {}
        self.started = Counter()

    def close(self):
        for worker in self.workers.values():
            worker.close()

    def try_one(self, seed):
        """Damage one file, run, mend. What came of it: 'ran', or what kind of error."""
        rng = np.random.default_rng(seed)
        manifest = self.sound.manifest
        if seed % MANIFESTS == 0:
            file = MANIFEST
            artifact = None
        else:
            artifact = manifest.artifacts[rng.integers(len(manifest.artifacts))]
            file = rng.choice(sorted(artifact.files))
        path = self.folder / file
        sound = path.read_bytes()
        damaged = rng.choice(np.array(DAMAGES, object))(sound, rng)
        if damaged == sound:
            return "as it was"
        path.write_bytes(damaged)
        try:
            return self.manifest(rng) if artifact is None else self.artifact(artifact, file)
        finally:
            path.write_bytes(sound)

    def artifact(self, artifact, file):
        with pytest.raises(ChecksumError) as caught:
            self.sound_here().check_files(artifact.files)
        assert str(self.folder / file) in str(caught.value)
        return self.run(artifact, self.folder / artifact.path, signature(self.sound))

    def manifest(self, rng):
        try:
            bundle = read_bundle(self.folder)
        except EdgeDpError as error:
            assert str(self.folder / MANIFEST) in str(error)
            return "refused"
        artifact = bundle.manifest.artifacts[rng.integers(len(bundle.manifest.artifacts))]
        try:
            bundle.check_files(artifact.files)
            path = bundle.path(artifact.path)
        except EdgeDpError as error:
            assert str(self.folder) in str(error)
            return "refused"
        try:
            engine_for(artifact.format)
        except EdgeDpError as error:
            assert artifact.format in str(error)
            return "refused"
        return self.run(artifact, path, signature(bundle))

    def run(self, artifact, path, border):
        entry = engine_for(artifact.format)
        worker = self.workers.get(entry.name)
        if worker is None or not worker.alive:
            worker = self.start(entry)
        engine = make_engine(entry, path, border, limits=LIMITS, worker=worker)
        try:
            with engine:
                outputs = engine.infer(self.inputs)
        except EngineError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error).replace(str(path), "")
            if "no answer within" in str(error):
                return "hung"
            return "died" if "the worker of" in str(error) else "refused"
        assert {name: output.shape for name, output in outputs.items()} == dict(border.outputs)
        return "ran"

    def start(self, entry):
        """A worker that has imported its engine, which may take longer on a busy machine than a hang is waited for."""
        self.started[entry.name] += 1
        worker = self.workers[entry.name] = Here().start()
        sound = next(artifact for artifact in self.sound.manifest.artifacts if artifact.format in entry.formats)
        with make_engine(entry, self.sound.path(sound.path), signature(self.sound), worker=worker):
            return worker

    def sound_here(self):
        return type(self.sound)(self.folder, self.sound.manifest)


def damage_all(bundle, folder, seeds):
    """How often what came of it, and how many workers each engine took."""
    workshop, found = Workshop(bundle, folder), Counter()
    try:
        for seed in seeds:
            found[workshop.try_one(seed)] += 1
        for artifact in bundle.manifest.artifacts:  # and nothing has been left behind
            assert workshop.run(artifact, workshop.folder / artifact.path, signature(bundle)) == "ran"
    finally:
        workshop.close()
    return found, workshop.started


def check(bundle, tmp_path, seeds):
    found, started = damage_all(bundle, tmp_path, seeds)
    print(json.dumps({"outcomes": found, "workers": started}))
    assert found.total() == len(seeds)
    assert found["refused"] > 0.2 * len(seeds)
    assert found["ran"] > 0.05 * len(seeds)  # what flips a weight alone is a network still


def test_some_damaged_files(bundle, tmp_path):
    check(bundle, tmp_path, range(QUICK))


@pytest.mark.slow
def test_every_damaged_file(bundle, tmp_path):
    check(bundle, tmp_path, range(EVERY))
