"""The engine contract, on every artifact of the shipped bundle, and engines given damaged files."""

import numpy as np
import pytest

from edge_dp.errors import EngineError, InputError, MissingExtraError
from edge_dp.runtime import engines
from edge_dp.runtime.engines import ENGINES, EngineEntry, engine_for, make_engine
from edge_dp.runtime.validate import signature

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
    entry = EngineEntry("nowhere", ("onnx",), "x:y", "onnx", "onnxruntime", "", lambda: "onnxruntime not installed")
    monkeypatch.setitem(engines.ENGINES, "onnxruntime", entry)
    with pytest.raises(MissingExtraError, match=r"onnxruntime not installed: pip install 'edge-dp\[onnx\]'"):
        engine_for("onnx")
    with pytest.raises(MissingExtraError, match=r"pip install 'edge-dp\[onnx\]'"):
        make_engine(entry, bundle.folder, signature(bundle))
    with pytest.raises(InputError, match="no engine executes this format"):
        engine_for("tensorrt")


def test_every_engine_names_an_extra_that_exists():
    import importlib.metadata

    extras = set(importlib.metadata.metadata("edge-dp").get_all("Provides-Extra"))
    assert {entry.extra for entry in ENGINES.values()} <= extras
