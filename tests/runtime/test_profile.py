"""Profiles: the operations that the artifacts hold, and times that add up."""

import numpy as np
import pytest

from edge_dp.errors import EngineError, InputError
from edge_dp.runtime import profile as module
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
            20,
        ),  # XNNPACK runs 1 x 1 convolutions as fully connected
        ("executorch-fp32", ("Convolution", "Fully Connected"), 20),
        ("onnx-int8", ("QLinearConv node_conv2d",), 20),  # others are parts of resizes
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


def test_times_are_means_over_inferences_and_shares_of_all():
    found = module._operations({"a": [1.0, 3.0], "b": [4.0, 4.0], "c": [2.0] * 4, "never": []}, rounds=2)
    assert [(o.name, o.calls, o.milliseconds, o.share) for o in found] == [
        ("b", 2, 4.0, 0.4),
        ("c", 4, 4.0, 0.4),
        ("a", 2, 2.0, 0.2),
    ]


@pytest.mark.parametrize(
    ("artifact", "words"), [("tflite-int8", "has no profiler"), ("coreml-fp16", "where operations run")]
)
def test_formats_without_a_profile_say_so(bundle, inputs, artifact, words):
    with pytest.raises(InputError, match=f"{artifact}: expected .*executorch, onnx.*{words}"):
        profile(bundle, artifact, inputs)


def test_what_the_engine_refuses_is_named(bundle):
    with pytest.raises(EngineError, match=r"dp_disparity_s\.int8\.onnx: cannot be profiled"):
        profile(bundle, "onnx-int8", {"views": np.zeros((1, 2, 3, 4), np.float32)})


def test_a_file_that_is_no_trace(tmp_path):
    (tmp_path / "trace.etdp").write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"trace\.etdp"):
        read_etdump(tmp_path / "trace.etdp")
