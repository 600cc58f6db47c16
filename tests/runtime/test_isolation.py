"""Engines in worker processes: the same bits, and an error with the artifact's name whatever becomes of the process."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest

from edge_dp.errors import DeviceError, EngineError, MissingExtraError
from edge_dp.runtime import agent
from edge_dp.runtime.devices import Device
from edge_dp.runtime.devices.base import Completed, DeviceFacts
from edge_dp.runtime.devices.ssh import SshDevice
from edge_dp.runtime.engines import ENGINES, Limits, engine_named, engines_on, make_engine
from edge_dp.runtime.engines.base import Signature
from edge_dp.runtime.engines.isolated import IsolatedEngine
from edge_dp.runtime.engines.place import AGENT, Here, Place
from edge_dp.runtime.engines.worker import Worker
from edge_dp.runtime.validate import signature

from .sshd_here import SshdHere

PAIRS = [
    ("executorch-int8", "executorch"),
    ("tflite-int8", "litert"),
    ("tflite-int8", "litert-builtin"),
    ("tflite-fp32", "litert-reference"),
    ("onnx-int8", "onnxruntime"),
    ("onnx-fp32", "onnxruntime"),
    ("coreml-fp16", "coreml-reference"),
]
SMALL = Signature((("x", (2, 3)),), (("y", (2, 3)),))


def engine_of(bundle, artifact, engine, **more):
    path = bundle.path(bundle.manifest.artifact(artifact).path)
    return make_engine(engine_named(engine), path, signature(bundle), **more)


@pytest.fixture
def litert(bundle):
    """An isolated engine that starts fast, active."""
    with engine_of(bundle, "tflite-int8", "litert", isolated=True, limits=Limits(seconds=5)) as engine:
        yield engine


@pytest.fixture
def inputs(bundle):
    return bundle.golden_inputs(bundle.manifest.golden[0])


@pytest.mark.parametrize(("artifact", "engine"), PAIRS)
def test_isolated_and_in_process_give_the_same_bits(bundle, artifact, engine):
    cases = [bundle.golden_inputs(case) for case in bundle.manifest.golden[:2]]
    with engine_of(bundle, artifact, engine) as here, engine_of(bundle, artifact, engine, isolated=True) as there:
        assert isinstance(there, IsolatedEngine)
        for case in [*cases, cases[0]]:
            expected, found = here.infer(case), there.infer(case)
            assert list(found) == list(expected)
            for name, values in expected.items():
                np.testing.assert_array_equal(found[name], values)
        timing, state = there.time(cases[0], 3), there.state()
        assert state.version == here.state().version
    assert len(timing.nanoseconds) == 3
    assert min(timing.nanoseconds) > 0
    assert 0 < state.load_ns < 60e9
    assert state.peak_memory_bytes > 10 << 20


def test_an_artifact_s_name_may_be_anything(bundle, inputs, tmp_path):
    path = tmp_path / "a b\n'c' \"d\"; $(e).tflite"
    shutil.copy(bundle.path(bundle.manifest.artifact("tflite-int8").path), path)
    with make_engine(ENGINES["litert"], path, signature(bundle), isolated=True) as engine:
        assert np.isfinite(engine.infer(inputs)["disparity"]).all()
    path.write_bytes(b"nothing")
    with pytest.raises(EngineError) as caught:
        make_engine(ENGINES["litert"], path, signature(bundle), isolated=True).activate()
    assert str(caught.value).startswith(f"{path}: litert cannot load it: ")


def test_errors_are_worded_as_in_process(bundle, tmp_path):
    """What is wrong with a file, and what a file has that was not asked for."""
    other = Signature(signature(bundle).inputs, (("depth", (1, 1, 192, 256)),))
    (tmp_path / "cut.onnx").write_bytes(b"\x08\x01")
    path = bundle.path(bundle.manifest.artifact("tflite-int8").path)
    for entry, artifact, border in (
        ("litert", path, other),
        ("onnxruntime", bundle.path(bundle.manifest.artifact("onnx-int8").path), other),
        ("coreml-reference", bundle.path(bundle.manifest.artifact("coreml-fp16").path), other),
        ("onnxruntime", tmp_path / "cut.onnx", other),
    ):
        words = []
        for isolated in (False, True):
            with pytest.raises(EngineError) as caught:
                make_engine(ENGINES[entry], artifact, border, isolated=isolated).activate()
            words.append(str(caught.value))
        assert words[0] == words[1]


def test_a_killed_worker_is_an_error_and_a_new_one_may_be_started(litert, inputs):
    before = litert.infer(inputs)
    os.kill(litert.worker.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"\.tflite: the worker of litert .*(killed by signal 9|has ended)"):
        litert.infer(inputs)
    with pytest.raises(EngineError, match="has ended; activate the engine again"):
        litert.time(inputs, 1)
    litert.activate()
    again = litert.infer(inputs)
    for name, values in before.items():
        np.testing.assert_array_equal(again[name], values)


@pytest.mark.parametrize("when", ["infer", "new inputs", "time", "state"])
def test_a_worker_that_hangs_is_ended_at_the_limit(bundle, inputs, when):
    engine = engine_of(bundle, "tflite-int8", "litert", isolated=True, limits=Limits(seconds=5))
    with engine:
        engine.infer(inputs)
        worker, engine._limits = engine.worker, Limits(seconds=0.3)
        os.kill(worker.pid, signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"\.tflite: the worker of litert on this machine, .*no answer within"):
            {
                "infer": lambda: engine.infer(inputs),
                "new inputs": lambda: engine.infer({"views": inputs["views"] + 1}),  # more than a pipe holds
                "time": lambda: engine.time(inputs, 1),
                "state": engine.state,
            }[when]()
        assert not worker.alive


PLANTED = """
import os, sys, time
import numpy as np
from edge_dp.runtime import agent

class Planted(agent.Adapter):
    choices = {"does": ("work", "noise", "exit", "abort", "hang", "memory", "raise", "lie", "garbage")}

    def _load(self):
        self._noise()

    def _noise(self):
        if self.options["does"] == "noise":
            print("noise on standard output" * 99, flush=True)
            os.write(1, b"EDPA" * 9999)
            os.write(2, b"and on the other\\n" * 99999)

    def _run(self, inputs):
        does = self.options["does"]
        self._noise()
        if does == "exit":
            print("a last word", file=sys.stderr, flush=True)
            os._exit(7)
        elif does == "abort":
            os.abort()
        elif does == "hang":
            time.sleep(1e6)
        elif does == "memory":
            np.empty(1 << 30, np.uint8)
        elif does == "raise":
            raise RuntimeError("no such kernel\\nat line 7")
        elif does == "lie":
            return [np.zeros((3, 3), np.float32)]
        elif does == "garbage":
            for descriptor in range(3, 20):
                try:
                    os.write(descriptor, b"HTTP/1.1 200 OK")
                except OSError:
                    pass
        return [2 * inputs["x"]]

agent.ADAPTERS["planted"] = Planted
sys.exit(agent.main())
"""


class Planted(Place):
    """Starts an agent here that has one engine more."""

    name = "this machine"

    def start(self):
        pipe = subprocess.PIPE
        return Worker(lambda: subprocess.Popen([sys.executable, "-c", PLANTED], stdin=pipe, stdout=pipe, stderr=pipe))

    def path_of(self, artifact):
        return str(artifact)


def planted(tmp_path, does, *, seconds=30.0, memory_bytes=None, worker=None):
    artifact = tmp_path / "net.planted"
    artifact.touch()
    limits = Limits(seconds, memory_bytes)
    place, options = Planted(), {"does": does}
    return IsolatedEngine(
        artifact,
        SMALL,
        1,
        name="planted",
        adapter="planted",
        options=options,
        place=place,
        limits=limits,
        worker=worker,
    )


X = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}


def test_what_an_engine_prints_does_not_get_among_its_results(tmp_path):
    with planted(tmp_path, "noise") as engine:
        for _ in range(3):
            np.testing.assert_array_equal(engine.infer(X)["y"], 2 * X["x"])
        assert len(engine.time(X, 4).nanoseconds) == 4


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("exit", r"in infer .*: it ended with code 7; its last words: a last word"),
        ("abort", r"in infer .*: it was killed by signal 6"),
        ("hang", r"in infer .*: no answer within 1 s; it was ended"),
        ("memory", r"ran out of memory in infer"),
        ("raise", r"planted failed while running: no such kernel at line 7"),
        ("lie", r"output 'y': expected shape \(2, 3\), found \(3, 3\)|its answer is damaged: array '0' of shape"),
        ("garbage", r"its answer is damaged: expected a frame, found b'HTTP/1.1'"),
    ],
)
def test_whatever_a_worker_does_is_an_error_that_names_the_artifact(tmp_path, does, words):
    engine = planted(tmp_path, does, seconds=1.0 if does == "hang" else 30.0, memory_bytes=1 << 29)
    with engine, pytest.raises(EngineError, match=rf"net\.planted: .*({words})"):
        engine.infer(X)


def test_the_memory_limit_leaves_what_is_below_it_alone(tmp_path):
    with planted(tmp_path, "memory", memory_bytes=2 << 30) as engine:
        np.testing.assert_array_equal(engine.infer(X)["y"], 2 * X["x"])


def test_an_interrupt_leaves_no_reply_for_the_next_request(tmp_path):
    with planted(tmp_path, "hang", seconds=60.0) as engine:
        worker = engine.worker
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            with pytest.raises(KeyboardInterrupt):
                engine.infer(X)
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert not worker.alive
        with pytest.raises(EngineError, match="has ended"):
            engine.infer(X)


def test_one_worker_serves_several_engines_after_another(tmp_path):
    worker = Planted().start()
    try:
        for does in ("work", "raise", "work"):
            with planted(tmp_path, does, worker=worker) as engine:
                if does == "raise":
                    with pytest.raises(EngineError, match="no such kernel"):
                        engine.infer(X)
                else:
                    np.testing.assert_array_equal(engine.infer(X)["y"], 2 * X["x"])
                assert engine.worker.pid == worker.pid
            assert worker.alive
    finally:
        worker.close()
    assert not worker.alive


def test_the_same_inputs_are_sent_once_and_others_always(tmp_path):
    """0 and -0, and one NaN and another, are not the same inputs."""
    bits = np.array([[0, 1 << 31, 0x7FC00001], [0x7FC00002, 1, 2]], np.uint32)
    with planted(tmp_path, "work") as engine:
        sent = []
        ask = engine.worker.ask
        engine.worker.ask = lambda request, arrays, *more: (sent.append(len(arrays)), ask(request, arrays, *more))[1]
        for change in (0, 0, 1 << 31, 0):
            values = (bits ^ np.uint32(change)).view(np.float32)
            np.testing.assert_array_equal(engine.infer({"x": values})["y"], 2 * values)
        engine.time({"x": bits.view(np.float32)}, 2)
    assert sent[:5] == [1, 0, 1, 1, 0]


def test_a_worker_ends_with_the_one_who_started_it(tmp_path):
    """Even where it is busy with an inference that never ends."""
    host = textwrap.dedent("""
        import subprocess, sys, os
        from edge_dp.runtime.agent import frame
        worker = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        border = [["x", [1]]]
        load = dict(op="load", engine="planted", path="x", inputs=border, outputs=border, options={"does": "hang"})
        for piece in (*frame(load, {}), *frame({"op": "infer"}, {})):
            worker.stdin.write(piece)
        worker.stdin.flush()
        worker.stdout.read(8)  # it has loaded
        print(worker.pid, flush=True)
        os._exit(0)
    """)
    done = subprocess.run([sys.executable, "-c", host, PLANTED], capture_output=True, check=True, timeout=60)
    pid = int(done.stdout)
    for _ in range(200):
        if not Path(f"/proc/{pid}").exists() or "zombie" in Path(f"/proc/{pid}/status").read_text():
            return
        signal.sigtimedwait([], 0.05)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its host by 10 s")


class Board(Device):
    """A device made of a folder and this machine's Python, which remembers what was asked of it."""

    address = "ssh://board"

    def __init__(self, folder, python=sys.executable, machine="aarch64"):
        self.folder, self.python, self.machine, self.pushed = folder, python, machine, []

    def open(self): ...

    def close(self): ...

    def facts(self):
        return DeviceFacts(self.machine, "Linux", python=self.python)

    def run(self, arguments, *, timeout_s, stdin=b"", environment=None):
        return Completed(1, b"", b"")

    def spawn(self, arguments, environment=None):
        pipe = subprocess.PIPE
        return subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe)

    def push(self, path, *, executable=False):
        self.pushed.append(path)
        target = Path(tempfile.mkdtemp(prefix="pushed", dir=self.folder), path.name)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, target)
        return str(target)

    def pull(self, remote, path): ...

    def scratch(self):
        return str(self.folder)

    def clean(self): ...


def test_on_a_device_the_agent_and_the_artifact_are_pushed(bundle, inputs, tmp_path):
    board = Board(tmp_path)
    path = bundle.path(bundle.manifest.artifact("tflite-int8").path)
    with engine_of(bundle, "tflite-int8", "litert", device=board) as engine:
        found = engine.infer(inputs)
    assert sorted(board.pushed) == sorted([path, AGENT])
    with engine_of(bundle, "tflite-int8", "litert") as engine:
        for name, values in engine.infer(inputs).items():
            np.testing.assert_array_equal(found[name], values)


def test_over_ssh_and_when_that_machine_vanishes(bundle, inputs, tmp_path, monkeypatch):
    """The real OpenSSH; the machine is this one, with the Python that runs the tests, and a home whose name is hard to quote."""
    folder = tmp_path / "sshd"
    folder.mkdir()
    machine = SshdHere(folder)
    facts = SshDevice.facts
    monkeypatch.setattr(SshDevice, "facts", lambda self: dataclasses.replace(facts(self), python=sys.executable))
    try:
        with SshDevice(machine.destination, machine.options) as device:
            assert engines_on(device)["litert"] is None
            there = engine_of(bundle, "tflite-int8", "litert", device=device, limits=Limits(seconds=20))
            with engine_of(bundle, "tflite-int8", "litert") as here, there:
                found, expected = there.infer(inputs), here.infer(inputs)
                for name, values in expected.items():
                    np.testing.assert_array_equal(found[name], values)
                assert len(there.time(inputs, 3).nanoseconds) == 3
                machine.vanish()
                with pytest.raises(EngineError, match=r"int8\.tflite: the worker of litert"):
                    there.infer(inputs)
    finally:
        machine.close()


def test_an_error_on_a_device_names_the_artifact_as_it_is_called_here(tmp_path):
    (tmp_path / "here").mkdir()
    artifact = tmp_path / "here" / "net.tflite"
    artifact.write_bytes(b"nothing")
    with pytest.raises(EngineError) as caught:
        make_engine(ENGINES["litert"], artifact, SMALL, device=Board(tmp_path)).activate()
    assert str(caught.value).startswith(f"{artifact}: litert cannot load it: ")
    assert "pushed" not in str(caught.value)


def test_what_a_device_can_run(tmp_path):
    with_python, without = engines_on(Board(tmp_path)), engines_on(Board(tmp_path, None))
    assert set(with_python) == set(without) == set(ENGINES)
    assert with_python["litert"] is with_python["executorch-native"] is without["executorch-native"] is None
    assert with_python["tflite-runtime"] == "tflite_runtime not installed"
    assert without["litert"] == "no Python there"
    board = Board(tmp_path)
    board.address = "local"
    assert engines_on(board) == {entry.name: entry.why_not() for entry in ENGINES.values()}
    assert engines_on(Board(tmp_path, None, machine="mips"))["executorch-native"].startswith("expected x86_64 or")
    with pytest.raises(DeviceError, match=r"found no Python there\. Use the engine executorch-native"):
        make_engine(ENGINES["litert"], AGENT, SMALL, device=Board(tmp_path, None)).activate()


def test_a_device_whose_python_is_none(tmp_path):
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no numpy here >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(DeviceError, match=r"ssh://board: the agent does not work there: .*code 3; .*no numpy here"):
        engines_on(Board(tmp_path, str(broken)))


def test_hello_of_this_machine():
    hello = Here().hello()
    assert hello["protocol"] == agent.PROTOCOL
    assert hello["engines"]["litert"]["why_not"] is None


def test_engines_with_an_environment_of_their_own_never_run_in_process(bundle, monkeypatch):
    with pytest.raises(EngineError, match=r"expected options none; found kernels 'builtin'"):
        engine_of(bundle, "tflite-int8", "litert-builtin", options={"kernels": "builtin"})
    assert isinstance(engine_of(bundle, "tflite-int8", "tflite-runtime"), IsolatedEngine)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(MissingExtraError, match=r"tflite-runtime==2.14.0 exists up to Python 3.11, found 3.13"):
        engine_of(bundle, "tflite-int8", "tflite-runtime")
