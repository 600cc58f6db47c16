"""Profiles: the operations that the artifacts hold, and times that add up."""

import time
from collections import Counter

import numpy as np
import pytest
from torch import nn

import edge_dp
from edge_dp.errors import EngineError, InputError
from edge_dp.runtime import litert_profile
from edge_dp.runtime import profile as module
from edge_dp.runtime.cell import signature
from edge_dp.runtime.engines import engine_named, make_engine
from edge_dp.runtime.profile import profile, read_etdump


@pytest.fixture(scope="module")
def inputs(bundle):
    return bundle.golden_inputs(bundle.manifest.golden[0])


@pytest.mark.parametrize(
    ("artifact", "kernels", "convolutions"),
    [
        (
            "executorch-int8",
            ("Convolution", "Fully Connected"),
            18,
        ),  # XNNPACK runs 1 x 1 convolutions as fully connected
        ("executorch-fp32", ("Convolution", "Fully Connected"), 18),
        ("tflite-int8", ("Convolution (NHWC, QC8)", "Convolution (NHWC, QS8)", "Fully Connected (NC, QS8"), 18),
        ("tflite-fp32", ("Convolution (NHWC, F32)", "Fully Connected (NC, F32)"), 18),
        ("onnx-int8", ("QLinearConv node_conv2d",), 18),  # others are parts of resizes
    ],
)
def test_every_convolution_is_listed_with_its_time(bundle, inputs, artifact, kernels, convolutions):
    operations = profile(bundle, artifact, inputs, rounds=4)
    named = [operation for operation in operations if operation.name.startswith(kernels)]
    assert len(named) == convolutions
    assert all(operation.calls == 4 for operation in operations)
    assert sum(operation.share for operation in operations) == pytest.approx(1)
    total = sum(operation.milliseconds for operation in operations)
    assert all(operation.share == pytest.approx(operation.milliseconds / total) for operation in operations)
    assert [o.milliseconds for o in operations] == sorted((o.milliseconds for o in operations), reverse=True)
    assert sum(operation.share for operation in named) > 0.3  # convolutions are most of the network's work


def test_litert_counts_every_call_once(bundle, inputs):
    """The times of all operations fit into the time that the profile took, and none is told of twice."""
    start = time.perf_counter()
    operations = profile(bundle, "tflite-int8", inputs, rounds=10)
    wall = time.perf_counter() - start
    assert sum(operation.milliseconds * operation.calls for operation in operations) < 1e3 * wall
    names = [operation.name for operation in operations]
    assert len(set(names)) == len(names)
    kinds = Counter(name.partition(" #")[0] for name in names)
    assert kinds["Resize Bilinear (NHWC)"] == 5
    assert kinds["Add (ND)"] == 3
    with make_engine(
        engine_named("litert"), bundle.path(bundle.manifest.artifact("tflite-int8").path), signature(bundle)
    ) as engine:
        fastest = min(engine.time(inputs, 30).nanoseconds) / 1e6
    assert (
        sum(operation.milliseconds for operation in operations) > 0.5 * fastest
    )  # most of an inference is in operations


def test_litert_names_what_its_delegate_leaves_to_the_interpreter(tmp_path):
    """16-bit activations run in LiteRT's own kernels, whose names are the operations of the file."""
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    samples = [np.random.default_rng(seed).random((1, 2, 8, 12), np.float32) for seed in range(3)]
    bundle = edge_dp.export(
        network,
        {"x": (1, 2, 8, 12)},
        tmp_path / "bundle",
        formats=["tflite"],
        precision=["int16x8"],
        calibration=samples,
    )
    operations = profile(bundle, "tflite-int16x8", bundle.golden_inputs(bundle.manifest.golden[0]), rounds=3)
    assert [(o.name, o.calls) for o in sorted(operations, key=lambda o: o.name) if o.name.startswith("CONV")] == [
        ("CONV_2D #1", 3),
        ("CONV_2D #2", 3),
    ]


def test_litert_of_another_version_is_not_asked_for_what_it_may_not_have(bundle, inputs, monkeypatch):
    monkeypatch.setattr(litert_profile, "VERSIONS", "9.9.")
    with pytest.raises(
        EngineError, match=r"int8\.tflite: cannot be profiled: .* known for ai-edge-litert 9\.9\.\*, found 2\.3"
    ):
        profile(bundle, "tflite-int8", inputs)


def test_a_damaged_tflite_ends_its_own_process_alone(bundle, inputs, tmp_path):
    with pytest.raises(RuntimeError, match="LiteRtCreateModelFromFile: status"):
        litert_profile.trace(tmp_path / "absent.tflite", {}, 1, 1)


def test_times_are_means_over_inferences_and_shares_of_all():
    found = module._operations({"a": [1.0, 3.0], "b": [4.0, 4.0], "c": [2.0] * 4, "never": []}, rounds=2)
    assert [(o.name, o.calls, o.milliseconds, o.share) for o in found] == [
        ("b", 2, 4.0, 0.4),
        ("c", 4, 4.0, 0.4),
        ("a", 2, 2.0, 0.2),
    ]


def test_formats_without_a_profile_say_so(bundle, inputs):
    with pytest.raises(InputError, match=r"coreml-fp16: expected .*executorch, tflite, onnx.*where operations run"):
        profile(bundle, "coreml-fp16", inputs)


def test_what_the_engine_refuses_is_named(bundle):
    with pytest.raises(EngineError, match=r"dp_disparity_s\.int8\.onnx: cannot be profiled"):
        profile(bundle, "onnx-int8", {"views": np.zeros((1, 2, 3, 4), np.float32)})


def test_a_file_that_is_no_trace(tmp_path):
    (tmp_path / "trace.etdp").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"trace\.etdp"):
        read_etdump(tmp_path / "trace.etdp")
