"""The native runner and its engine, here and on an emulated phone, against ExecuTorch's Python runtime."""

import json
import os
import re
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edge_dp
from edge_dp.errors import DeviceError, EngineError
from edge_dp.runtime.devices.emulated import EmulatedDevice
from edge_dp.runtime.devices.local import LocalDevice
from edge_dp.runtime.engines import engine_named, make_engine
from edge_dp.runtime.engines import native as native_module
from edge_dp.runtime.engines.native import NativeEngine
from edge_dp.runtime.native.build import RUNNER, build, toolchain
from edge_dp.runtime.validate import signature

from ..conftest import missing
from .native_tools import ARTIFACTS, built_here, run

__all__ = ["built_here"]
pytestmark = pytest.mark.usefixtures("built_here")
SHAPES = {"left": (1, 1, 64, 96), "right": (1, 2, 32, 48)}
CASE_BYTES = 4 * (64 * 96 + 2 * 32 * 48)
CORE = "cortex-a55"


class TwoViews(nn.Module):
    """Two inputs of different shape, two outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.left = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.right = nn.Conv2d(2, 16, 3, padding=1)
        self.body = nn.Conv2d(16, 16, 3, padding=1)
        self.head, self.tail = nn.Conv2d(16, 1, 3, padding=1), nn.Conv2d(16, 2, 1)

    def forward(self, left, right):
        both = torch.relu(self.body(torch.relu(self.left(left) + self.right(right))))
        return {"disparity": self.head(both), "confidence": self.tail(both)}


@pytest.fixture(scope="session")
def cases():
    rng = np.random.default_rng(2)
    return [{name: rng.random(shape, np.float32) for name, shape in SHAPES.items()} for _ in range(3)]


@pytest.fixture(scope="session")
def small(cases, tmp_path_factory):
    """A bundle with both ExecuTorch artifacts of the network above."""
    calibration = [tuple(case.values()) for case in cases]
    folder = tmp_path_factory.mktemp("small") / "bundle"
    return edge_dp.export(TwoViews().eval(), SHAPES, folder, formats=["executorch"], calibration=calibration)


@pytest.fixture(scope="session")
def runner(built_here):
    return build() / RUNNER.stem


@pytest.fixture(scope="session")
def model(small):
    return small.path(small.manifest.artifact("executorch-int8").path)


@pytest.fixture(scope="session")
def engine(small, built_here):
    def make(name="executorch-int8", path=None, **options):
        return NativeEngine(path or small.path(small.manifest.artifact(name).path), signature(small), **options)

    return make


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ARTIFACTS)
def test_outputs_equal_those_of_the_python_engine(small, cases, engine, name, threads):
    artifact = small.manifest.artifact(name)
    with make_engine(engine_named("executorch"), small.path(artifact.path), signature(small), threads) as python:
        expected = [python.infer(case) for case in cases]
    with engine(name, threads=threads) as native:
        found = native.infer_all(cases)
        again = native.infer(cases[1])
    for one, other in zip([*expected, expected[1]], [*found, again], strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_cases_come_in_batches(cases, engine, monkeypatch):
    with engine() as native:
        expected = native.infer_all(cases[:3])
        monkeypatch.setattr(native_module, "BATCH_BYTES", 130_000)  # room for two: 36,864 bytes in, 18,432 out
        runs = []
        monkeypatch.setattr(native, "_run", lambda *a, whole=native._run: runs.append(a) or whole(*a))
        found = native.infer_all(cases[:3])
        assert native.infer_all([]) == []
    assert len(runs) == 2
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one["disparity"], other["disparity"])


def test_timing_and_state(cases, engine, tmp_path):
    with engine() as native:
        timing = native.time(cases[0], 7)
        state = native.state()
        native.trace(cases[0], tmp_path / "trace.etdp")
        assert native.first_ns > 0
    assert len(timing.nanoseconds) == 7
    assert min(timing.nanoseconds) > 10_000
    assert len(timing.instructions) in (0, 7)  # by the machine
    assert state.load_ns > 0
    assert state.peak_memory_bytes > 1_000_000
    assert state.affinity == tuple(sorted(os.sched_getaffinity(0)))
    assert state.version.startswith("ExecuTorch ")
    from executorch.devtools import Inspector

    names = {
        event.name
        for block in Inspector(etdump_path=str(tmp_path / "trace.etdp")).event_blocks
        for event in block.events
    }
    assert any("Convolution" in name for name in names), names


def test_json_of_a_run(model, cases, runner, tmp_path):
    both = tmp_path / "both.f32"
    both.write_bytes(b"".join(array.tobytes() for case in cases[:2] for array in case.values()))
    out = tmp_path / "out put.f32"
    code, stdout, stderr = run(
        runner, "--model", model, "--input", both, "--output", out, "--repeats", 3, "--warmup", 1
    )
    assert (code, stderr) == (0, "")
    result = json.loads(stdout)
    assert (result["cases"], result["repeats"], result["warmup"], result["threads"]) == (2, 3, 1, 1)
    assert len(result["nanoseconds"]) == 6
    assert result["instructions"] is None or len(result["instructions"]) == 6
    assert result["repeats_agree"] is True
    assert result["inputs"] == [[1, 1, 64, 96], [1, 2, 32, 48]]
    assert result["outputs"] == [[1, 1, 32, 48], [1, 2, 32, 48]]
    assert out.stat().st_size == 2 * 3 * 32 * 48 * 4
    assert result["cpu_features"]
    # The values themselves are tested through the engine, which reads them from standard output.
    code, stdout, _ = run(runner, "--model", model, "--input", "-", "--output", "-", stdin=both.read_bytes())
    assert stdout.partition(b"\n")[2] == out.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--model: missing"),
        (["--model"], "--model: expected a value"),
        (["--modle", "x"], "--modle: unknown option"),
        (["--model", "absent.pte"], "absent.pte: cannot be opened"),
        (["--model", "MODEL", "--repeats", "0"], "--repeats: expected a whole number from 1"),
        (["--model", "MODEL", "--threads", "two"], "--threads: expected a whole number"),
        (["--model", "MODEL", "--input", "absent.f32"], "absent.f32: expected a file of float32 values"),
        (["--model", "MODEL", "--input", "MODEL"], f"expected {CASE_BYTES} bytes for each case"),
        (["--model", "MODEL", "--input", "/"], "/: expected a file of float32 values"),
        (["--model", "MODEL", "--output", "/absent/out"], "/absent/out: cannot be written"),
        (["--model", "MODEL", "--time-limit", "1", "--input", "VIEWS", "--repeats", "9999999"], "did not end within 1 s"),
        (["--model", "MODEL", "--memory-limit", "1"], "MODEL"),
    ],
)  # fmt: skip
def test_bad_input_is_one_json_that_names_the_file(model, cases, runner, tmp_path, arguments, words):
    (tmp_path / "views.f32").write_bytes(b"".join(array.tobytes() for array in cases[0].values()))
    places = {"MODEL": str(model), "VIEWS": str(tmp_path / "views.f32")}
    code, stdout, stderr = run(runner, *(places.get(word, word) for word in arguments))
    assert (code, stdout) == (2, b"")
    error = json.loads(stderr)
    assert places.get(words, words) in error["error"]
    named = [word for word in arguments if error["file"] in (word, places.get(word))]
    assert named or not error["file"]


def test_damaged_programs_are_errors_that_name_the_file(model, cases, engine, tmp_path):
    """Truncated anywhere, bits flipped anywhere, bits flipped in the tables at the start, noise, nothing."""
    rng = np.random.default_rng(5)
    whole = model.read_bytes()
    refused = 0
    for index in range(80):
        data = np.frombuffer(whole, np.uint8).copy()
        if index % 4 == 0:
            data = data[: rng.integers(len(data))]
        elif index % 4 == 3:
            data = rng.integers(0, 256, rng.integers(4096), dtype=np.uint8)
        else:
            reach = len(data) if index % 4 == 1 else 3000
            data[rng.integers(0, reach, 12)] ^= (1 << rng.integers(0, 8, 12)).astype(np.uint8)
        path = tmp_path / "damaged file.pte"
        path.write_bytes(data.tobytes())
        try:
            with engine(path=path, time_limit_s=20) as native:
                native.infer(cases[0])
        except EngineError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            refused += 1
    assert refused >= 60  # the rest has bits of weights flipped, which no engine can tell


def test_other_shapes_and_machines_are_refused(small, model):
    other = replace(signature(small), inputs=(("left", (1, 1, 64, 96)), ("right", (1, 2, 16, 48))))
    with pytest.raises(EngineError, match=r"inputs: expected shapes .* 16, 48.*, found .* 32, 48"):
        NativeEngine(model, other).activate()
    with pytest.raises(EngineError, match="expected x86_64 or aarch64, built on Linux; found riscv64"):
        toolchain("riscv64")


def test_a_runner_for_another_system_does_not_start(engine, tmp_path):
    """As on Android, whose linker is elsewhere."""
    (tmp_path / "runner").write_text("#!/absent/linker\n")
    (tmp_path / "runner").chmod(0o755)
    with pytest.raises(EngineError, match=r"local: the native runner does not start there.*Android"):
        engine(runner=tmp_path).activate()


def test_a_crash_within_the_engine_is_an_error_too(model, cases, runner, tmp_path):
    """As of a damaged program that passes ExecuTorch's verification."""
    (tmp_path / "inputs.f32").write_bytes(b"".join(array.tobytes() for array in cases[0].values()))
    arguments = [runner, "--model", model, "--input", tmp_path / "inputs.f32", "--repeats", "9999999", "--warmup", "1"]
    for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS):
        process = subprocess.Popen([str(a) for a in arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while not handles(process.pid, number):
            assert process.poll() is None
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
        assert (process.returncode, stdout) == (2, b"")
        error = json.loads(stderr)
        assert error["file"] == str(model)
        assert error["error"].startswith(f"{model}: ExecuTorch crashed on it")


def handles(pid, number):
    """Whether a process has a handler for a signal, so that it has begun its work."""
    caught = re.search(r"^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return bool(caught) and bool(int(caught[1], 16) >> (number - 1) & 1)


class Altered(LocalDevice):
    """A machine that says that it is another, or cuts the answers to inputs."""

    address = "altered"

    def __init__(self, machine=None, keep=None):
        super().__init__()
        self._machine, self._keep = machine, keep

    def facts(self):
        found = super().facts()
        return replace(found, machine=self._machine or found.machine)

    def run(self, arguments, **options):
        done = super().run(arguments, **options)
        return replace(done, stdout=done.stdout[: self._keep]) if options["stdin"] else done


def test_machines_of_another_kind_are_refused(engine):
    with pytest.raises(EngineError, match=r"altered: expected a machine of x86_64 or aarch64 .* found armv7l"):
        engine(device=Altered(machine="armv7l")).activate()


@pytest.mark.parametrize(
    ("keep", "words"),
    [
        (100, "altered: the native runner's answer was cut short"),
        (-3, "altered: the native runner's answer was cut short"),
        (-4, "expected 4608 output values, found 4607"),
    ],
)
def test_answers_cut_short_are_errors(cases, engine, keep, words):
    with engine(device=Altered(keep=keep)) as native, pytest.raises((DeviceError, EngineError), match=words):
        native.infer(cases[0])


def test_missing_compiler_and_broken_source(monkeypatch, tmp_path):
    source = tmp_path / "broken.cpp"
    source.write_text("int main() { return nothing; }\n")
    with pytest.raises(EngineError, match=r"broken.cpp: does not compile: .*error: .*nothing"):
        build(source)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineError, match=r"found neither g\+\+ nor clang\+\+. Run: apt-get install g\+\+"):
        toolchain()


def test_a_program_is_built_once(tmp_path):
    source = tmp_path / "empty.cpp"
    source.write_text("int main() {}\n")
    folders = []
    workers = [threading.Thread(target=lambda: folders.append(build(source))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(set(folders)) == 1
    stamp = (folders[0] / "empty").stat().st_mtime_ns
    (folders[0] / "libexecutorch.so").write_bytes(b"cut")
    assert build(source) == folders[0]  # and mended
    assert (folders[0] / "empty").stat().st_mtime_ns > stamp
    assert run(folders[0] / "empty")[0] == 0
    source.write_text("int main() { return 0; }\n")
    assert build(source) != folders[0]


@pytest.fixture(scope="session")
def on_a_phone(cases, engine):
    """Outputs of both artifacts and the timing of three inferences, on an emulated phone started twice."""

    def boot():
        found = {}
        try:
            phone = EmulatedDevice(CORE)
            phone.open()
        except DeviceError as error:
            missing(f"no emulated phone here: {error}")
        with phone:
            for name in ARTIFACTS:
                with engine(name, device=phone) as native:
                    found[name] = native.infer_all(cases), native.time(cases[0], 3), native.state()
        return found

    return boot(), boot()


def test_integers_on_arm64_equal_the_hosts_to_the_bit(cases, engine, on_a_phone):
    with engine() as native:
        expected = native.infer_all(cases)
    found, _, _ = on_a_phone[0]["executorch-int8"]
    for one, other in zip(expected, found, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_floats_on_arm64_are_the_hosts_but_for_rounding(cases, engine, on_a_phone):
    with engine("executorch-fp32") as native:
        expected = native.infer_all(cases)
    found, _, _ = on_a_phone[0]["executorch-fp32"]
    for one, other in zip(expected, found, strict=True):
        for key in one:
            np.testing.assert_allclose(one[key], other[key], rtol=0, atol=1e-6)


def test_instructions_repeat_in_every_run_and_boot(on_a_phone):
    """The smallest of several, as an interrupt may add a few; none adds more than 1e-4 of them."""
    boots = [{name: found[name][1].instructions for name in ARTIFACTS} for found in on_a_phone]
    for name in ARTIFACTS:
        counts = [boot[name] for boot in boots]
        assert [len(each) for each in counts] == [3, 3]
        assert min(counts[0]) == min(counts[1]) > 1_000_000
        assert max(map(max, counts)) <= min(counts[0]) * (1 + 1e-4)
    assert boots[0]["executorch-int8"] != boots[0]["executorch-fp32"]
    state = on_a_phone[0]["executorch-int8"][2]
    assert state.affinity == (0,)
    assert state.peak_memory_bytes > 1_000_000
