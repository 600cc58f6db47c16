"""The engine contract, on every artifact of the shipped bundle, and engines given damaged files."""

import dataclasses
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_dp.errors import EngineError, InputError, MissingExtraError
from edge_dp.runtime import engines
from edge_dp.runtime.agent import ADAPTERS
from edge_dp.runtime.engines import ENGINES, EngineEntry, engine_for, engine_named, engines_for, make_engine
from edge_dp.runtime.engines.environments import TFLITE_RUNTIME, Environment
from edge_dp.runtime.validate import signature

from ..conftest import missing

ARTIFACTS = [
    "executorch-int8",
    "executorch-fp32",
    "tflite-int8",
    "tflite-fp32",
    "coreml-w8a8",
    "coreml-fp16",
    "onnx-int8",
    "onnx-fp32",
]


def engine_of(bundle, name, threads=1):
    artifact = bundle.manifest.artifact(name)
    return make_engine(engine_for(artifact.format), bundle.path(artifact.path), signature(bundle), threads)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_outputs_repeat_to_the_bit_and_are_not_overwritten(bundle, name):
    first, second = (bundle.golden_inputs(case) for case in bundle.manifest.golden[:2])
    with engine_of(bundle, name) as engine:
        before = engine.infer(first)
        kept = {key: value.copy() for key, value in before.items()}
        engine.infer(second)
        again = engine.infer(first)
    for key in kept:
        np.testing.assert_array_equal(before[key], kept[key])
        np.testing.assert_array_equal(again[key], kept[key])
        assert kept[key].dtype == np.float32


@pytest.mark.parametrize("name", ["executorch-int8", "tflite-int8", "onnx-int8"])
def test_integers_do_not_depend_on_the_number_of_threads(bundle, name):
    inputs = bundle.golden_inputs(bundle.manifest.golden[0])
    results = []
    for threads in (1, 2):
        with engine_of(bundle, name, threads) as engine:
            results.append(engine.infer(inputs))
    for key in results[0]:
        np.testing.assert_array_equal(results[0][key], results[1][key])


@pytest.mark.parametrize("name", ["executorch-fp32", "tflite-int8", "coreml-fp16", "onnx-fp32"])
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({}, "input 'views' is missing"),
        ({"views": np.zeros((1, 2, 384, 511), np.float32)}, r"expected shape \(1, 2, 384, 512\), found"),
        ({"views": np.zeros((1, 2, 384, 512), np.float32), "mask": np.zeros(1)}, r"unknown inputs \['mask'\]"),
    ],
)
def test_wrong_inputs_are_refused(bundle, name, inputs, words):
    with engine_of(bundle, name) as engine, pytest.raises(EngineError, match=words):
        engine.infer(inputs)


def test_an_engine_that_is_not_active_says_so(bundle):
    engine = engine_of(bundle, "onnx-fp32")
    with pytest.raises(EngineError, match=r"not active; call activate\(\)"):
        engine.infer(bundle.golden_inputs(bundle.manifest.golden[0]))
    engine.deactivate()
    with pytest.raises(EngineError, match="at least 1 thread"):
        engine_of(bundle, "onnx-fp32", threads=0)


@pytest.mark.parametrize("name", ["executorch-int8", "tflite-int8", "onnx-int8"])
def test_a_file_that_is_no_artifact_is_an_error_naming_it(bundle, tmp_path, name):
    artifact = bundle.manifest.artifact(name)
    path = tmp_path / artifact.path
    entry = engine_for(artifact.format)
    with pytest.raises(EngineError, match=f"{path.name}: no such artifact"):
        make_engine(entry, path, signature(bundle)).activate()
    path.write_bytes(b"\0" * 64)
    with pytest.raises(EngineError, match=f"{path.name}: {entry.name} cannot load it"):
        make_engine(entry, path, signature(bundle)).activate()


def test_a_missing_engine_names_its_extra(monkeypatch, bundle):
    reason = "onnxruntime not installed"
    entry = EngineEntry("nowhere", ("onnx",), "onnx", "", lambda: reason, "onnxruntime")
    monkeypatch.setitem(engines.ENGINES, "onnxruntime", entry)
    with pytest.raises(MissingExtraError, match=r"onnxruntime not installed: pip install 'edge-dp\[onnx\]'"):
        engine_for("onnx")
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-dp\[onnx\]'"):
        make_engine(entry, bundle.folder, signature(bundle))
    with pytest.raises(InputError, match="no engine executes this format"):
        engine_for("tensorrt")


def test_engines_are_found_by_format_and_by_name(monkeypatch):
    assert [entry.name for entry in engines_for("tflite")] == [
        "litert",
        "litert-builtin",
        "litert-reference",
        "tflite-runtime",
    ]
    assert engine_named("litert-builtin").options == {"kernels": "builtin"}
    assert engine_named("coreml").choices == {"compute_units": ("ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE")}
    assert engine_for("tflite").name == "litert"
    with pytest.raises(InputError, match=r"engine 'lite': expected one of executorch, .* Correct the name"):
        engine_named("lite")
    for name in ("litert", "litert-builtin", "litert-reference"):
        gone = dataclasses.replace(ENGINES[name], why_not=lambda: "ai_edge_litert not installed")
        monkeypatch.setitem(engines.ENGINES, name, gone)
    with pytest.raises(MissingExtraError, match="ai_edge_litert not installed"):
        engine_for("tflite")  # and not tflite-runtime, which would be downloaded unasked


def test_an_entry_describes_what_runs():
    """Every entry's engine exists in the agent, takes its options, and tells its version where it is installed."""
    for entry in ENGINES.values():
        if entry.adapter is None:
            continue
        adapter = ADAPTERS[entry.adapter]
        for name, value in entry.options.items():
            assert value in adapter.choices[name]
        if entry.environment is None and entry.why_not() is None:
            assert adapter.version() == importlib.metadata.version(adapter.distribution)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_kernels_of_litert_are_what_was_chosen(bundle, precision):
    """Built-in and reference kernels are other code than XNNPACK: in floats they round otherwise, in integers a step at most."""
    inputs = bundle.golden_inputs(bundle.manifest.golden[0])
    path = bundle.path(bundle.manifest.artifact(f"tflite-{precision}").path)
    found = {}
    for name in ("litert", "litert-builtin", "litert-reference"):
        with make_engine(ENGINES[name], path, signature(bundle)) as engine:
            found[name] = engine.infer(inputs)["disparity"]
    step = bundle.manifest.outputs[0].scale if precision == "int8" else 1e-4
    for name in ("litert-builtin", "litert-reference"):
        difference = np.abs(found[name] - found["litert"])
        assert difference.max() > 0
        assert difference.max() < 8 * step
        assert np.median(difference) < step


def test_every_engine_names_an_extra_that_exists():
    extras = set(importlib.metadata.metadata("edge-dp").get_all("Provides-Extra"))
    assert {entry.extra for entry in ENGINES.values()} <= extras


class TestTFLiteRuntime:
    """The engine whose environment is made when it is first asked for."""

    @pytest.fixture(scope="class")
    def environment(self, tmp_path_factory):
        """A cache of its own; tflite-runtime is fetched from the package index once for the class."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("EDGE_DP_CACHE", str(tmp_path_factory.mktemp("cache")))
            try:
                TFLITE_RUNTIME.python()
            except EngineError as error:
                missing(str(error))
            yield TFLITE_RUNTIME

    def test_int8_gives_what_litert_s_built_in_kernels_give(self, bundle, environment):
        """Release 2.14 gives XNNPACK no integers: its kernels are those that LiteRT still has beside XNNPACK."""
        cases = [bundle.golden_inputs(case) for case in bundle.manifest.golden]
        path = bundle.path(bundle.manifest.artifact("tflite-int8").path)
        with make_engine(ENGINES["tflite-runtime"], path, signature(bundle)) as old:
            assert old.state().version == "2.14.0"
            found = old.infer_all(cases)
        with make_engine(ENGINES["litert-builtin"], path, signature(bundle)) as new:
            expected = new.infer_all(cases)
        for one, other in zip(found, expected, strict=True):
            for name in other:
                np.testing.assert_array_equal(one[name], other[name])

    def test_it_is_made_once_and_mended_when_damaged(self, environment, monkeypatch):
        python = environment.python()
        numpy = [python, "-c", "import numpy; print(numpy.__version__)"]
        assert subprocess.run(numpy, capture_output=True, check=True, text=True).stdout.startswith("1.")
        monkeypatch.setattr(Environment, "_make", lambda *_: pytest.fail("made twice"))
        assert environment.python() == python
        (made,) = Path(python).parents[2].iterdir()
        next(made.glob("lib/*/site-packages/numpy/version.py")).unlink()
        remade = []
        monkeypatch.setattr(Environment, "_make", lambda self, folder: remade.append(folder))
        environment.python()
        assert len(remade) == 1


def test_an_environment_that_cannot_be_made_says_what_failed(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_DP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    environment = Environment("absent", ("edge-dp-has-no-such-package==1.0",), (3, 99))
    with pytest.raises(
        EngineError, match=r"environment absent \(edge-dp-has-no-such.*\) cannot be filled: .*No matching"
    ):
        environment.python()
    assert list((tmp_path / "cache" / "environments").iterdir()) == []
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(EngineError, match=r"environment absent .* cannot be made: .*No such file"):
        environment.python()
