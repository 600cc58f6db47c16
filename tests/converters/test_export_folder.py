"""The old bundle survives whatever goes wrong: full disks, kills, read-only folders, two exports at once."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path

import pytest

import edge_dp
from edge_dp.bundle.manifest import MANIFEST, Kernels, read_bundle
from edge_dp.converters import export as export_module
from edge_dp.converters.base import Converter
from edge_dp.converters.configs import plan
from edge_dp.converters.onnx import OnnxConverter
from edge_dp.errors import ExportError, InputError

from .small_networks import SHAPE, Small, samples


class Bytes(Converter):
    """Writes some bytes for an artifact: the proofs of files and folders need no toolchain."""

    format, suffix, size = "onnx", ".onnx", 10

    def _convert(self, source, config, path):
        path.write_bytes(bytes(self.size))

    def _kernels(self, path, config):
        return Kernels({}, {"Conv": 2})

    def _activations(self, path, config):
        return []

    def _runs_here(self, config):
        return False


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def quick(monkeypatch):
    """Export ``Small`` without a toolchain."""
    monkeypatch.setattr(export_module, "make_converter", lambda _: Bytes())

    def call(out, **changed):
        arguments = {"formats": "onnx", "precision": "fp32"} | changed
        return edge_dp.export(Small(), {"x": (1, 2, 64, 64)}, out, **arguments)

    return call


@pytest.fixture
def old(quick, tmp_path):
    """A bundle that was there before, alone in its folder; afterwards it must still be there, and nothing else."""
    place = tmp_path / "place"
    bundle = quick(place / "bundle")
    files = {path: path.read_bytes() for path in bundle.folder.rglob("*") if path.is_file()}
    yield bundle.folder
    assert names(place) == ["bundle"]
    assert {path: path.read_bytes() for path in bundle.folder.rglob("*") if path.is_file()} == files
    read_bundle(bundle.folder)


def test_an_old_bundle_is_replaced_with_all_its_files(quick, tmp_path):
    quick(tmp_path / "bundle", name="first")
    quick(tmp_path / "bundle", name="second")
    assert names(tmp_path) == ["bundle"]
    assert [path.name for path in (tmp_path / "bundle").glob("*.onnx")] == ["second.fp32.onnx"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_export_that_breaks_off_leaves_the_old_bundle(quick, old, error):
    def progress(text, done, total):
        if text == "golden vectors":
            assert len(names(old.parent)) == 2
            raise error

    with pytest.raises(error):
        quick(old, progress=progress)


@contextmanager
def largest_file(size):
    """As on a disk with no more room than this: the system refuses to write further."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (5, ExportError, "onnx fp32: the toolchain failed: .*File too large"),
        (1000, InputError, "bundle: expected a place that can be written, found: File too large"),
    ],
    ids=["artifact", "golden vectors"],
)
def test_full_disk(quick, old, size, error, words):
    with pytest.raises(error, match=words), largest_file(size):
        quick(old)


@pytest.mark.parametrize("failing", ["write_manifest", "write_golden"])
def test_full_disk_at_the_end(quick, old, monkeypatch, failing):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module, failing, full)
    with pytest.raises(
        InputError, match="bundle: expected a place that can be written, found: No space left on device"
    ):
        quick(old)


@pytest.fixture
def read_only(old):
    """The folder around the old bundle, which nobody can write into, not even root."""
    place = old.parent
    if os.geteuid():
        place.chmod(0o555)
        yield place
        place.chmod(0o755)
    elif subprocess.run(["chattr", "+i", place], check=False, capture_output=True).returncode:
        pytest.skip("root can write everywhere, and this file system knows no immutable folders")
    else:
        yield place
        subprocess.run(["chattr", "-i", place], check=True)


def test_read_only_folder(quick, read_only):
    with pytest.raises(
        InputError, match=r"bundle: expected a place that can be written, found: .*(denied|not permitted)"
    ):
        quick(read_only / "bundle")


def test_place_below_a_file(quick, old):
    with pytest.raises(InputError, match="below: expected a place that can be written, found: Not a directory"):
        quick(old / MANIFEST / "below")


def test_places_that_cannot_be_replaced_are_refused_before_the_calibration(quick, old):
    """The samples are never looked at."""
    never = (pytest.fail("read") for _ in range(1))
    for place, words in (
        (old / MANIFEST, "expected the name of a folder to write, found a file"),
        (old / "golden", r"expected no folder, an empty one or one that edge_dp wrote \(with manifest\.json\)"),
    ):
        with pytest.raises(InputError, match=words):
            quick(place, precision="int8", calibration=never)


def test_two_exports_at_once_give_one_whole_bundle(quick, tmp_path):
    """The second starts and ends while the first is at work; the first to start is the last to arrive."""
    out = tmp_path / "bundle"

    def meanwhile(text, done, total):
        if text == "golden vectors":
            assert quick(out, name="inner").manifest.model == "inner"

    quick(out, name="outer", progress=meanwhile)
    assert names(tmp_path) == ["bundle"]
    bundle = read_bundle(out)
    assert bundle.manifest.model == "outer"
    assert [path.name for path in out.glob("*.onnx")] == ["outer.fp32.onnx"]
    for artifact in bundle.manifest.artifacts:
        bundle.check_files(artifact.files)


def test_killed_in_the_middle(quick, tmp_path):
    """No time to clean up: the old bundle is whole, and what is left does not disturb the next export."""
    out = tmp_path / "bundle"
    quick(out, name="before")
    before = (out / MANIFEST).read_bytes()
    script = """
        import os, signal, sys
        import torch
        import edge_dp

        def progress(text, done, total):
            if text == "golden vectors":
                os.kill(os.getpid(), signal.SIGKILL)

        network = torch.nn.Conv2d(2, 4, 1)
        edge_dp.export(network, {"input": (1, 2, 8, 8)}, sys.argv[1], formats="onnx", precision="fp32", progress=progress)
    """
    child = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(out)], check=False, capture_output=True)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert (out / MANIFEST).read_bytes() == before
    bundle = read_bundle(out)
    for artifact in bundle.manifest.artifacts:
        bundle.check_files(artifact.files)
    (left,) = [path for path in tmp_path.iterdir() if path != out]
    assert left.name.startswith(".bundle.") and (left / "Conv2d.fp32.onnx").is_file() and not (left / MANIFEST).exists()
    quick(out, name="after")
    assert read_bundle(out).manifest.model == "after"
    assert left.exists()  # it might be another export at work


def test_toolchain_that_fails_tells_its_cause(tmp_path, monkeypatch):
    def fail(*_):
        try:
            raise KeyError("no lowering of aten.median")
        except KeyError as error:
            raise RuntimeError("Failed to convert. Next steps: write an essay") from error

    monkeypatch.setattr(OnnxConverter, "_convert", fail)
    with pytest.raises(ExportError, match=r"onnx fp32: the toolchain failed: .no lowering of aten\.median"):
        edge_dp.export(Small(), {"x": SHAPE}, tmp_path / "bundle", formats="onnx", precision="fp32")
    assert not names(tmp_path)


def test_progress_counts_calibration_and_artifacts(quick, tmp_path):
    seen = []
    quick(tmp_path / "bundle", calibration=[samples((1, 2, 64, 64))[0]], progress=lambda *step: seen.append(step))
    assert seen[0] == ("onnx fp32", 0, 2)
    assert seen[-1] == ("done", 2, 2)
    assert all(done <= total for _, done, total in seen)


def test_formats_and_plan_are_the_same(quick, tmp_path):
    bundle = quick(tmp_path / "bundle", formats=plan("onnx", ["fp32", "fp16"]), precision=None)
    assert [artifact.name for artifact in bundle.manifest.artifacts] == ["onnx-fp16", "onnx-fp32"]
    assert Path(bundle.folder).is_dir()
