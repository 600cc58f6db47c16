"""``edge-dp export`` of a network of one's own: found from the working directory, fed by name, refused in clear words."""

import json
import subprocess
import sys

import numpy as np
import pytest

from edge_dp.bundle.manifest import Kernels, read_bundle
from edge_dp.cli import main
from edge_dp.converters import export as export_module
from edge_dp.converters.base import Converter

SOURCE = """
import torch
from torch import nn

from {name}.layers import stem


class Views(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.left, self.right, self.head = stem(1, channels), stem(2, channels), stem(channels, 1)

    def forward(self, left, right):
        return {{"disparity": self.head(torch.relu(self.left(left) + self.right(right)))}}


class Zoo:
    small = staticmethod(lambda: Views(2))


def build():
    return Views(6)


def fail():
    raise RuntimeError("no weights\\nin the attic")


ready = Views(5)
number = 7
"""
LAYERS = "from torch import nn\n\n\ndef stem(a, b):\n    return nn.Conv2d(a, b, 3, padding=1)\n"
INPUTS = ("--input", "left=1x1x8x12", "--input", "right=1x2x8x12")
FLOAT = ("--format", "onnx", "--precision", "fp32")
INT8 = ("--format", "onnx", "--precision", "int8")


class Bytes(Converter):
    """Writes some bytes: what the command line asks for needs no toolchain."""

    suffix = ".bin"

    def __init__(self, name):
        self.format = name

    def _convert(self, source, config, path):
        path.write_bytes(b"artifact")

    def _kernels(self, path, config):
        return Kernels({"Conv": 3}, {})

    def _activations(self, path, config):
        return []

    def _runs_here(self, config):
        return False


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A package in the working directory, under a name that no other test has imported."""
    name = f"models_{abs(hash(request.node.name))}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    (tmp_path / name / "layers.py").write_text(LAYERS)
    (tmp_path / name / "views.py").write_text(SOURCE.format(name=name))
    monkeypatch.chdir(tmp_path)
    yield f"{name}.views"
    for module in [module for module in sys.modules if module.startswith(name)]:
        del sys.modules[module]


@pytest.fixture
def quick(monkeypatch):
    """No toolchain."""
    monkeypatch.setattr(export_module, "make_converter", Bytes)


def export(model, *words, out="bundle"):
    return main(["export", model, "--out", str(out), *(str(word) for word in words)])


def refusal(capsys, *call, out="bundle"):
    """The one line that a wrong call prints; nothing may be written."""
    assert export(*call, out=out) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = [line for line in printed.err.splitlines() if line.startswith("edge-dp: ")]
    assert "Traceback" not in printed.err
    return line


def test_factory_from_the_working_directory_with_samples_of_a_folder(package, tmp_path, capsys):
    """The whole way, in integers, through a real toolchain."""
    (tmp_path / "samples").mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        left, right = rng.random((1, 1, 8, 12), np.float32), rng.random((1, 2, 8, 12), np.float32)
        np.savez(tmp_path / "samples" / f"{index}.npz", left=left, right=right)
    path = list(sys.path)
    assert export(f"{package}:build", *INPUTS, *INT8, "--calibration", "samples", "--output", "depth", "--json") == 0
    assert sys.path == path
    (artifact,) = json.loads(capsys.readouterr().out)
    assert (artifact["name"], artifact["path"]) == ("onnx-int8", "build.int8.onnx")
    assert artifact["kernels"]["integer"]["QLinearConv"] == 3 and not artifact["kernels"]["floating"]
    bundle = read_bundle(tmp_path / "bundle")
    assert [(spec.name, spec.shape) for spec in bundle.manifest.inputs] == [
        ("left", (1, 1, 8, 12)),
        ("right", (1, 2, 8, 12)),
    ]
    assert [spec.name for spec in bundle.manifest.outputs] == ["depth"]
    case = next(case for case in bundle.manifest.golden if case.kind == "typical")
    np.testing.assert_array_equal(bundle.golden_inputs(case)["right"], np.load(tmp_path / "samples/0.npz")["right"])


@pytest.mark.parametrize(("target", "parameters"), [("build", 229), ("Views", 153), ("ready", 191), ("Zoo.small", 77)])
def test_what_a_target_may_be(package, quick, target, parameters):
    """A function, a class, a network that is there, something within something: 38 c + 1 weights of c channels."""
    assert export(f"{package}:{target}", *INPUTS, *FLOAT) == 0
    manifest = read_bundle("bundle").manifest
    assert manifest.parameters == parameters
    assert manifest.model == target.rpartition(".")[2]
    assert [spec.name for spec in manifest.outputs] == ["disparity"]


def test_npy_files_are_samples_of_the_only_input(quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.linspace(-2, 3, 12, dtype=np.float32).reshape(1, 1, 3, 4))
    words = ("--input", "image=1x1x3x4", "--format", "tflite", "--calibration", tmp_path, "--float-io")
    assert export("torch.nn:ReLU", *words) == 0
    manifest = read_bundle("bundle").manifest
    assert [artifact.name for artifact in manifest.artifacts] == ["tflite-int8-float-io", "tflite-fp32"]
    assert manifest.inputs[0].value_range == (-2.0, 3.0)


def test_artifacts_are_listed(package, quick, capsys):
    assert export(f"{package}:build", *INPUTS, *FLOAT, "--format", "coreml") == 0
    shown = capsys.readouterr().out
    assert "onnx-fp32" in shown and "coreml-fp32" in shown and "build.fp32.bin" in shown and "229 parameters" in shown


def test_options_of_an_engine_reach_it(package, quick):
    words = ("--format", "executorch", "--backend", "vulkan", "--precision", "fp32", "--precision", "fp16")
    assert export(f"{package}:build", *INPUTS, *words) == 0
    manifest = read_bundle("bundle").manifest
    assert [artifact.name for artifact in manifest.artifacts] == ["executorch-vulkan-fp32", "executorch-vulkan-fp16"]
    assert [artifact.options["backend"] for artifact in manifest.artifacts] == ["vulkan", "vulkan"]


@pytest.mark.parametrize(
    ("target", "words", "message"),
    [
        ("build", FLOAT, "pass the shape of each input, as in --input left=1x1x384x512"),
        ("build", (*INPUTS, *FLOAT, "--size", "64x64"), "--size is not for a network of your own"),
        ("build", (*INPUTS, "--input", "left=1x1x8x12", *FLOAT), "--input: expected each name once"),
        ("build", (*INPUTS[:2], *FLOAT), "expected the shapes of left, right, in this order, found left"),
        ("build", (*INPUTS[2:], *INPUTS[:2], *FLOAT), "input right: expected the order of forward: left, right"),
        ("build", (*INPUTS, *INT8), "onnx-int8: expected calibration data for integer precisions"),
        ("build", (*INPUTS, *INT8, "--calibration", "absent"), "absent: expected a folder of .npz or .npy files"),
        (
            "build",
            (*INPUTS, *INT8, "--calibration", "."),
            "expected .npz or .npy files, one calibration sample each, found none",
        ),
        ("build", (*INPUTS, *FLOAT, "--keep-float", "haed"), "haed: expected the path of a module of the network"),
        (
            "build",
            (*INPUTS, *FLOAT, "--output", "a", "--output", "b"),
            "build: expected 1 names of outputs, found a, b",
        ),
        ("build", (*INPUTS, "--format", "onyx"), "onyx: no such format; known are executorch"),
        ("build", (*INPUTS, "--precision", "int4"), "int4: no such precision"),
        ("build", (*INPUTS, *FLOAT, "--float-io"), "--float-io: expected the format tflite in precision int8"),
        (
            "build",
            (*INPUTS, *FLOAT, "--backend", "coreml"),
            "--backend coreml: expected --format executorch and a --precision",
        ),
        (
            "build",
            (*INPUTS, "--format", "executorch", "--precision", "int8", "--backend", "cuda"),
            "no backend 'cuda'; it has xnnpack, coreml, vulkan",
        ),
        ("fail", (*INPUTS, *FLOAT), "gives a network, found RuntimeError: no weights in the attic"),
        ("number", (*INPUTS, *FLOAT), "gives a network, found TypeError: 'int' object is not callable"),
        ("dict", (*INPUTS, *FLOAT), "has no attribute 'dict'"),
        ("stem", (*INPUTS, *FLOAT), "gives a network, found TypeError: stem() missing 2 required"),
        ("Zoo", (*INPUTS, *FLOAT), "expected a torch.nn.Module, found Zoo"),
        ("", (*INPUTS, *FLOAT), "gives a network, found AttributeError"),
    ],
)
def test_wrong_uses_are_refused_in_one_line(package, capsys, tmp_path, target, words, message):
    path = list(sys.path)
    assert message in refusal(capsys, f"{package}:{target}", *words)
    assert not (tmp_path / "bundle").exists()
    assert sys.path == path


def test_module_that_is_not_there(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "found ModuleNotFoundError: No module named 'no_such'" in refusal(capsys, "no_such.models:build", *INPUTS)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (INPUTS, "--input"),
        (("--output", "disparity"), "--output"),
        (("--calibration", "."), "--calibration"),
        (("--keep-float", "head"), "--keep-float"),
    ],
)
def test_options_of_a_network_are_not_for_a_checkpoint(capsys, tmp_path, words, flag):
    line = refusal(capsys, "dp_disparity_s", *words, out=tmp_path / "bundle")
    assert line == f"edge-dp: dp_disparity_s: {flag} is not for a checkpoint"


@pytest.mark.parametrize("flag", ["--correct-field", "--linear-input"])
def test_options_of_a_student_are_not_for_a_network(capsys, package, flag):
    line = refusal(capsys, f"{package}:build", *INPUTS, *FLOAT, flag)
    assert "--sensor, --correct-field and --linear-input are not for a network of your own" in line


def test_a_field_is_that_of_a_sensor(capsys, tmp_path):
    line = refusal(capsys, "dp_disparity_xs", "--correct-field", out=tmp_path / "bundle")
    assert "--correct-field: expected the sensor whose field it is, found none. Pass --sensor too." in line


def test_a_student_is_exported_with_its_field_and_its_exposure(tmp_path):
    words = ("--sensor", "pixel4", "--correct-field", "--linear-input", "--size", "64x96", *FLOAT)
    assert export("dp_disparity_xs", *words, out=tmp_path / "bundle") == 0
    manifest = read_bundle(tmp_path / "bundle").manifest
    assert manifest.field_corrected and manifest.sensor["name"] == "pixel4"
    assert manifest.preprocessing.exposure is None and manifest.preprocessing.black_level == 1024


@pytest.mark.parametrize("shape", ["1x1x8=left", "x=", "x=1x-1x8", "x=0x8", "x=1xhx8", "=1x8", "x=1.5x8", "x"])
def test_shapes_that_are_none(capsys, shape):
    with pytest.raises(SystemExit) as caught:
        export("torch.nn:ReLU", "--input", shape)
    assert caught.value.code == 2
    assert "expected NAME=SIZES such as left=1x1x384x512" in capsys.readouterr().err


def test_corrupt_sample_is_named(package, capsys, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples/3.npz").write_bytes(b"PK cut off")
    line = refusal(capsys, f"{package}:build", *INPUTS, *INT8, "--calibration", "samples")
    assert "3.npz: not a readable .npz file" in line


def test_unsupported_operations_are_listed_line_by_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.linspace(0, 1, 12, dtype=np.float32).reshape(1, 1, 3, 4))
    assert export("torch.nn:Tanh", "--input", "input=1x1x3x4", *INT8, "--calibration", tmp_path) == 2
    head, line = capsys.readouterr().err.splitlines()[-2:]
    assert head == "edge-dp: Tanh: cannot be exported in integers:"
    assert line.startswith("  Tanh: aten.tanh.default: ") and line.endswith("Use hardtanh or a sigmoid.")


def test_help_imports_no_toolchain():
    code = "import sys, edge_dp.cli as c; c.build_parser(); print(sorted({'torch', 'onnx', 'executorch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"
