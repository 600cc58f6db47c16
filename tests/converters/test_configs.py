"""What can be asked of each format, and what cannot."""

import dataclasses

import pytest

from edge_dp.converters.configs import (
    CONFIGS,
    CoreMLConfig,
    ExecuTorchConfig,
    FormatConfig,
    OnnxConfig,
    TFLiteConfig,
    plan,
)
from edge_dp.errors import InputError


def names(*arguments):
    return [config.name for config in plan(*arguments)]


def test_every_format_in_its_own_precisions_unless_asked():
    assert names() == [f"{config.format}-{precision}" for config in CONFIGS.values() for precision in config.default]
    assert {config.format for config in plan()} == {"executorch", "tflite", "coreml", "onnx"}


@pytest.mark.parametrize(
    ("formats", "precision", "expected"),
    [
        (["onnx"], "fp16", ["onnx-fp16"]),
        (["tflite", "onnx"], ["fp32", "int8"], ["tflite-int8", "tflite-fp32", "onnx-int8", "onnx-fp32"]),
        (None, "fp32", ["executorch-fp32", "tflite-fp32", "coreml-fp32", "onnx-fp32"]),
        (None, ["w8a8", "int16x8"], ["tflite-int16x8", "coreml-w8a8"]),
        ("onnx", None, ["onnx-int8", "onnx-fp32"]),
        (CoreMLConfig(precision="w8a16"), None, ["coreml-w8a16"]),
        ([TFLiteConfig(precision="int8", float_io=True), "onnx"], "int8", ["tflite-int8-float-io", "onnx-int8"]),
        (
            [ExecuTorchConfig(precision="int8", backend="coreml"), "executorch"],
            "int8",
            ["executorch-coreml-int8", "executorch-int8"],
        ),
    ],
)
def test_formats_and_precisions_choose(formats, precision, expected):
    assert names(formats, precision) == expected


def test_a_precision_says_what_an_artifact_is_compared_with():
    assert [config.reference for config in plan("coreml", ["w8a8", "w8a16", "fp16"])] == [
        "quantised",
        "weights",
        "float",
    ]
    assert [config.integer for config in plan("tflite", ["int8", "int16x8", "fp32"])] == [True, False, False]


@pytest.mark.parametrize(
    ("formats", "precision", "words"),
    [
        (["tensorrt"], None, "tensorrt: no such format; known are executorch, tflite, coreml, onnx"),
        (["onnx"], "int4", "int4: no such precision; onnx have fp16, fp32, int8"),
        (["onnx"], ["int8", "w8a8"], "w8a8: no such precision; onnx have"),
        ([OnnxConfig(precision="int8")], "fp32", "precision fp32: expected a format by name that it is for"),
        (["onnx", "onnx"], None, "onnx-fp32: asked for twice"),
        (["onnx", OnnxConfig(precision="fp32")], None, "onnx-fp32: asked for twice"),
        ([], None, "nothing to export: no format given"),
    ],
)
def test_wrong_requests(formats, precision, words):
    with pytest.raises(InputError, match=words):
        plan(formats, precision)


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (OnnxConfig, {"float_io": True}),
        (CoreMLConfig, {"backend": "coreml"}),
        (TFLiteConfig, {"backend": "xnnpack"}),
        (ExecuTorchConfig, {"float_io": True}),
        (OnnxConfig, {"bits": 4}),
    ],
)
def test_options_of_another_format_cannot_be_passed(config, options):
    with pytest.raises(TypeError, match=next(iter(options))):
        config(precision=config.default[0], **options)


@pytest.mark.parametrize(
    ("config", "options", "words"),
    [
        (OnnxConfig, {"precision": "w8a8"}, "onnx: no precision 'w8a8'; it has fp16, fp32, int8"),
        (CoreMLConfig, {"precision": "int8"}, "coreml: no precision 'int8'"),
        (
            TFLiteConfig,
            {"precision": "fp32", "float_io": True},
            "tflite: float_io is an option of int8, found .*'fp32'",
        ),
        (ExecuTorchConfig, {"precision": "fp16"}, "backend xnnpack has int8 and fp32, found 'fp16'"),
        (
            ExecuTorchConfig,
            {"precision": "int8", "backend": "vulkan"},
            "backend vulkan has fp32 and fp16, found 'int8'",
        ),
        (ExecuTorchConfig, {"precision": "int8", "backend": "qnn"}, "no backend 'qnn'; it has xnnpack, coreml, vulkan"),
    ],
)
def test_options_that_exclude_each_other(config, options, words):
    with pytest.raises(InputError, match=words):
        config(**options)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_configs_are_frozen_and_named(config):
    made = config(precision=config.default[0])
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.precision = "fp32"
    with pytest.raises(TypeError):
        config(config.default[0])  # by name only: the order says nothing
    assert isinstance(made, FormatConfig)
    assert len({config(precision=p).name for p in config.precisions if p in config.default}) == len(config.default)
