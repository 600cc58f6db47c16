"""Every MIL op against torch in float64 or the specification's own examples, through a package written to disk."""

from __future__ import annotations

import gc
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

if any(importlib.util.find_spec(module) is None for module in ("coremltools", "torch")):
    pytest.skip("needs the coreml extra", allow_module_level=True)

import torch
from torch.nn import functional as F  # noqa: N812

from edge_dp.quiet import quiet
from edge_dp.runtime.engines.coreml import read_program
from edge_dp.runtime.engines.mil import OPS

with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb  # noqa: N813
    from coremltools.converters.mil.mil import types

Oracle = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Precision:
    """The float type of a whole program."""

    numpy: Any
    mil: Any

    def const(self, value: Any) -> Any:
        """A parameter as the program holds it: floats in its float type, anything else as it is."""
        floating = isinstance(value, float) or (isinstance(value, np.ndarray) and value.dtype.kind == "f")
        return np.asarray(value).astype(self.numpy)[()] if floating else value

    def exact(self, value: Any) -> Any:
        """The same parameter for the oracle: what the program holds, as float64."""
        held = self.const(value)
        return torch.tensor(np.asarray(held, np.float64)) if isinstance(held, np.floating | np.ndarray) else held

    def allowed_error(self, expected: np.ndarray) -> np.ndarray:
        """1e-6 of the range for float32; for float16 half a step between halves besides."""
        error = np.full(expected.shape, 1e-6 * max(1.0, np.abs(expected).max()))
        return error + np.spacing(np.abs(expected).astype(np.float16)) / 2 if self.numpy is np.float16 else error


FP32 = Precision(np.float32, types.fp32)
FP16 = Precision(np.float16, types.fp16)


@dataclass(frozen=True)
class Case:
    """One op of one varying tensor x; ``oracle(x)``, or ``oracle(x, parameters)``, computes the same in float64."""

    op: str
    shape: tuple[int, ...]
    parameters: dict[str, Any]
    oracle: Oracle
    low: float = -2.0
    operand: str = "x"

    def written(self, x: Any, precision: Precision) -> Any:
        constants = {name: precision.const(value) for name, value in self.parameters.items()}
        found = getattr(mb, self.op)(**{self.operand: x}, **constants)
        return found[0] if isinstance(found, (list, tuple)) else found


def of_x(op: str, oracle: Oracle, shape: tuple[int, ...] = (1, 4, 7, 8), low: float = -2.0, **parameters: Any) -> Case:
    return Case(op, shape, parameters, lambda x, p: oracle(x), low)


def save(folder: Path, shape: tuple[int, ...], build: Any, precision: Precision = FP32, target: Any = None) -> Path:
    """A package whose program is ``out = build(x)``, exactly as written: no pass of the converter runs."""
    target = target or ct.target.iOS17
    with quiet():

        @mb.program(input_specs=[mb.TensorSpec(shape, dtype=precision.mil)], opset_version=target)
        def program(x):
            return mb.identity(x=build(x), name="out")

        model = ct.convert(
            program,
            source="milinternal",
            convert_to="mlprogram",
            minimum_deployment_target=target,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
        package = folder / "case.mlpackage"
        model.save(str(package))
    return package


def evaluate(folder: Path, x: Any, build: Any, precision: Precision = FP32, target: Any = None) -> Any:
    """``build(x)``, written to a package in ``folder``, read back and evaluated."""
    x = np.asarray(x, dtype=np.float32)
    return read_program(save(folder, x.shape, build, precision, target)).run({"x": x})["out"]


@pytest.fixture(autouse=True, scope="module")
def _few_objects_to_collect():
    """Every conversion collects garbage; walking all that torch allocated on import would take most of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


def sample(*shape: int, low: float = -2.0, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(low, 2.0, shape).astype(np.float32)


W, WD, WT = sample(6, 4, 3, 3, seed=1), sample(8, 1, 3, 3, seed=2), sample(4, 3, 3, 3, seed=3)
B3, B6, V4, ROWS = sample(3, seed=4), sample(6, seed=5), sample(4, low=0.1, seed=6), sample(7, 1, seed=7)
IMAGE = (1, 4, 7, 8)


def conv(oracle: Oracle, shape: tuple[int, ...] = IMAGE, **parameters: Any) -> Case:
    return Case("conv", shape, parameters, oracle)


def conv_transpose(oracle: Oracle, **parameters: Any) -> Case:
    return Case("conv_transpose", IMAGE, {"weight": WT, **parameters}, oracle)


CONVOLUTION = [
    conv(
        lambda x, p: F.conv2d(x, p.weight, p.bias, (2, 1), (2, 1), (1, 2)),
        **{"weight": W, "bias": B6, "strides": [2, 1], "dilations": [1, 2], "pad_type": "custom", "pad": [2, 2, 1, 1]},
    ),
    conv(lambda x, p: F.conv2d(F.pad(x, (0, 1, 2, 0)), p.weight), weight=W, pad_type="custom", pad=[2, 0, 0, 1]),
    conv(  # the odd column goes to the end
        lambda x, p: F.conv2d(F.pad(x, (0, 1, 1, 1)), p.weight, stride=2), weight=W, strides=[2, 2], pad_type="same"
    ),
    conv(  # and here to the start
        lambda x, p: F.conv2d(F.pad(x, (1, 0, 1, 1)), p.weight, None, 2),
        weight=W,
        strides=[2, 2],
        pad_type="same_lower",
    ),
    conv(lambda x, p: F.conv2d(x, p.weight, groups=8), (1, 8, 6, 5), weight=WD, groups=8, pad_type="valid"),
    conv(lambda x, p: F.conv1d(x, p.weight), (2, 4, 9), weight=W[:, :, 0], pad_type="valid"),
    conv(lambda x, p: F.conv3d(x, p.weight), (1, 4, 5, 6, 7), weight=W[..., None, :], pad_type="valid"),
    conv_transpose(
        lambda x, p: F.conv_transpose2d(x, p.weight, p.bias, (2, 3), dilation=(2, 1)),
        **{"bias": B3, "strides": [2, 3], "dilations": [2, 1], "pad_type": "valid"},
    ),
    conv_transpose(
        lambda x, p: F.conv_transpose2d(x, p.weight, stride=2)[:, :, 1:, :-2],
        **{"strides": [2, 2], "pad_type": "custom", "pad": [1, 0, 0, 2]},
    ),
    conv_transpose(  # longer than the kernel reaches
        lambda x, p: F.conv_transpose2d(x, p.weight, p.bias, 2, output_padding=1),
        **{"bias": B3, "strides": [2, 2], "pad_type": "valid", "output_shape": [1, 3, 16, 18]},
    ),
    conv_transpose(
        lambda x, p: F.conv_transpose2d(x, p.weight, stride=2, groups=2)[:, :, :-1, :-1],
        **{"strides": [2, 2], "groups": 2, "pad_type": "same"},
    ),
    conv_transpose(  # the kernel is smaller than the stride
        lambda x, p: F.conv_transpose2d(x, p.weight, p.bias, 5, output_padding=2),
        **{"bias": B3, "strides": [5, 5], "pad_type": "same"},
    ),
    Case("linear", (3, 5), {"weight": sample(6, 5), "bias": B6}, lambda x, p: F.linear(x, p.weight, p.bias)),
    Case("matmul", (2, 3, 7), {"y": ROWS}, lambda x, p: x @ p.y),
    Case("matmul", (2, 7, 3), {"y": ROWS.T, "transpose_x": True, "transpose_y": True}, lambda x, p: x.mT @ p.y.mT),
]

ELEMENTWISE = [
    of_x("relu", F.relu),
    of_x("relu6", F.relu6, low=-9.0),
    of_x("clip", lambda x: x.clamp(-0.5, 1.25), alpha=-0.5, beta=1.25),
    of_x("clamped_relu", lambda x: torch.where(x >= 0, x, 0.25 * x).clamp(max=1.5), alpha=0.25, beta=1.5),
    of_x("thresholded_relu", lambda x: F.threshold(x, 0.5, 0.0), alpha=0.5),
    of_x("leaky_relu", lambda x: F.leaky_relu(x, 0.125), alpha=0.125),
    of_x("elu", lambda x: F.elu(x, 0.5), alpha=0.5),
    of_x("gelu", F.gelu, mode="EXACT"),
    of_x("gelu", lambda x: F.gelu(x, approximate="tanh"), mode="TANH_APPROXIMATION"),
    of_x("gelu", lambda x: x * torch.sigmoid(1.702 * x), mode="SIGMOID_APPROXIMATION"),
    of_x("sigmoid", torch.sigmoid, low=-30.0),
    of_x("sigmoid_hard", lambda x: (0.25 * x + 0.5).clamp(0, 1), low=-4.0, alpha=0.25, beta=0.5),
    of_x("silu", F.silu),
    of_x("softplus", F.softplus, low=-30.0),
    of_x("tanh", torch.tanh),
    of_x("exp", torch.exp),
    of_x("log", torch.log, low=0.1),
    of_x("sqrt", torch.sqrt, low=0.1),
    of_x("rsqrt", torch.rsqrt, low=0.1),
    of_x("square", torch.square),
    of_x("abs", torch.abs),
    of_x("floor", torch.floor),
    of_x("round", torch.round),
    of_x("sin", torch.sin),
    of_x("cos", torch.cos),
    of_x("tan", torch.tan, low=1.6),  # past the pole
    of_x("atan", torch.atan, low=-30.0),
    of_x("erf", torch.erf),
    of_x("exp2", torch.exp2),
    of_x("inverse", lambda x: 1 / (x + 0.25), low=0.5, epsilon=0.25),
    of_x("sign", lambda x: (x > 0.0).double() - (x < 0.0).double()),
    of_x("ceil", lambda x: -torch.floor(-x)),
    Case("floor_div", IMAGE, {"y": 0.75}, lambda x, p: torch.floor(x / p.y)),
    Case("mod", IMAGE, {"y": 0.75}, lambda x, p: x - p.y * torch.floor(x / p.y)),
    Case("prelu", IMAGE, {"alpha": V4}, lambda x, p: F.prelu(x, p.alpha)),
    Case("add", IMAGE, {"y": 0.3}, lambda x, p: x + p.y),
    Case("add", IMAGE, {"y": ROWS}, lambda x, p: x + p.y),
    Case("sub", IMAGE, {"x": 1.0}, lambda y, p: 1.0 - y, operand="y"),
    Case("mul", IMAGE, {"y": ROWS}, lambda x, p: x * p.y),
    Case("real_div", IMAGE, {"x": 3.0}, lambda y, p: 3.0 / y, low=0.5, operand="y"),
    Case("pow", IMAGE, {"y": 3.0}, lambda x, p: x**3),
    Case("maximum", IMAGE, {"y": 0.5}, lambda x, p: x.clamp(min=0.5)),
    Case("minimum", IMAGE, {"y": 0.5}, lambda x, p: x.clamp(max=0.5)),
]

REDUCTION = [
    of_x("softmax", lambda x: x.softmax(1), axis=1),
    of_x("reduce_mean", lambda x: x.mean((2, 3), keepdim=True), axes=[2, 3], keep_dims=True),
    of_x("reduce_mean", lambda x: x.mean((0, 1, 2, 3), keepdim=True), keep_dims=True),
    of_x("reduce_sum", lambda x: x.sum(-1), axes=[-1]),
    of_x("reduce_max", lambda x: x.amax(1, keepdim=True), axes=[1], keep_dims=True),
    of_x("reduce_min", lambda x: x.amin((0, 2)), axes=[0, 2]),
    of_x("reduce_l1_norm", lambda x: x.abs().sum((1, 3)), axes=[1, 3]),
    of_x("reduce_l2_norm", lambda x: x.square().sum(1, keepdim=True).sqrt(), axes=[1], keep_dims=True),
    of_x("reduce_log_sum_exp", lambda x: x.exp().sum((2, 3)).log(), axes=[2, 3]),
    of_x("instance_norm", lambda x: F.instance_norm(x, eps=2.0**-10), epsilon=2.0**-10),
    of_x("layer_norm", lambda x: F.layer_norm(x, (7, 8), eps=2.0**-10), axes=[2, 3], epsilon=2.0**-10),
    Case(
        "layer_norm",
        IMAGE,
        {"axes": [1], "gamma": V4, "beta": -V4, "epsilon": 0.5},
        lambda x, p: F.layer_norm(x.movedim(1, -1), (4,), p.gamma, p.beta, 0.5).movedim(-1, 1),
    ),
    Case(
        "batch_norm",
        IMAGE,
        {"mean": V4, "variance": V4, "gamma": -V4, "beta": 2 * V4, "epsilon": 0.5},
        lambda x, p: F.batch_norm(x, p.mean, p.variance, p.gamma, p.beta, eps=0.5),
    ),
]


def pool(op: str, oracle: Oracle, k: list[int], pad: list[int] | str = "valid", **more: Any) -> Case:
    border = {"pad_type": pad} if isinstance(pad, str) else {"pad_type": "custom", "pad": pad}
    return Case(op, IMAGE, {"kernel_sizes": k, "strides": [2, 2], **border, **more}, lambda x, p: oracle(x))


WITHOUT_PADDING = {"exclude_padding_from_average": True}
POOLING = [
    pool("max_pool", lambda x: F.max_pool2d(x, (3, 2), 2, (1, 0)), [3, 2], [1, 1, 0, 0]),
    pool("max_pool", lambda x: F.max_pool2d(F.pad(x, (0, 1), value=-9.0), 3, 2), [3, 3], [0, 0, 0, 1]),
    pool("max_pool", lambda x: F.max_pool2d(x, 2, 2, ceil_mode=True), [2, 2], ceil_mode=True),
    pool("avg_pool", lambda x: F.avg_pool2d(x, 3, 2, 1), [3, 3], [1] * 4),
    pool("avg_pool", lambda x: F.avg_pool2d(F.pad(x, (0, 1)), 3, 2), [3, 3], [0, 0, 0, 1]),
    pool("avg_pool", lambda x: F.avg_pool2d(x, 3, 2, 1, False, False), [3, 3], [1] * 4, **WITHOUT_PADDING),
    pool(  # 7 rows make 4 windows: the last holds one row of x
        "avg_pool", lambda x: F.avg_pool2d(torch.cat([x, x[:, :, 6:]], 2), 2), [2, 2], "same", **WITHOUT_PADDING
    ),
    pool("avg_pool", lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True), [2, 2], ceil_mode=True),
]


LAYOUT = [
    Case("reshape", IMAGE, {"shape": [0, -1, 8, 1]}, lambda x, p: x.reshape(1, 28, 8, 1)),
    of_x("transpose", lambda x: x.permute(2, 0, 3, 1), perm=[2, 0, 3, 1]),
    of_x("expand_dims", lambda x: x[None, ..., None], (2, 3), axes=[0, -1]),
    of_x("squeeze", lambda x: x[0, :, 0], (1, 4, 1, 8), axes=[0, -2]),
    of_x("slice_by_index", lambda x: x[:, 1:3, :-1, ::2], begin=[0, 1, 0, 0], end=[1, 3, -1, 8], stride=[1, 1, 1, 2]),
    of_x(  # an index, a negative stride and masks
        "slice_by_index",
        lambda x: x[0, :, 2:].flip(-1)[..., ::3],
        **{"begin": [-1, 3, 2, 0], "end": [0, 0, 0, 0], "stride": [1, 1, 1, -3], "squeeze_mask": [True] + [False] * 3},
        **{"begin_mask": [False, True, False, True], "end_mask": [False, True, True, True]},
    ),
    of_x("slice_by_size", lambda x: x[:, 1:3, 2:, 4:6], begin=[0, 1, 2, 4], size=[1, 2, -1, 2]),
    of_x("crop", lambda x: x[..., 1:5, :7], crop_height=[1, 2], crop_width=[0, 1]),
    *(
        of_x("pad", partial(F.pad, pad=(1, 2, 0, 3), mode=mode), pad=[0, 3, 1, 2], mode=mode, constant_val=0.0)
        for mode in ("constant", "reflect", "replicate")
    ),
    of_x("pad", lambda x: F.pad(x, (1, 2), value=0.5), pad=[1, 2], constant_val=0.5),
    of_x("tile", lambda x: x.repeat(1, 2, 1, 3), reps=[1, 2, 1, 3]),
    of_x("split", lambda x: x[:, :3], split_sizes=[3, 1], axis=1),
    of_x("split", lambda x: x[:, :2], num_splits=2, axis=1),
    of_x("reverse", lambda x: x[..., [7, 6, 5, 4, 3, 2, 1, 0]], axes=[-1]),
    of_x("gather", lambda x: torch.stack([x[:, 2], x[:, 0], x[:, 3]], 1), indices=[2, 0, -1], axis=1),
    of_x("gather", lambda x: x[:, :, 5], indices=np.int32(5), axis=2),
    of_x("gather", lambda x: x[:, [[0, 1], [3, 3]]], indices=[[0, 1], [3, 3]], axis=1),
    of_x("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), upscale_factor=2),
    of_x("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (1, 2, 4, 6), downscale_factor=np.uint32(2)),
]

DOUBLE = {"scale_factor_height": 2, "scale_factor_width": 2}
TARGET = {"target_size_height": 5, "target_size_width": 13}
bilinear = partial(F.interpolate, mode="bilinear")
RESAMPLING = [
    of_x("upsample_nearest_neighbor", lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3), **DOUBLE),
    of_x("resize_nearest_neighbor", partial(F.interpolate, size=(5, 13)), **TARGET),
    of_x("upsample_bilinear", partial(bilinear, scale_factor=2), **DOUBLE, align_corners=False),
    of_x("upsample_bilinear", partial(bilinear, scale_factor=2, align_corners=True), **DOUBLE),
    of_x(
        "upsample_bilinear",
        lambda x: bilinear(x[None], (14, 8), align_corners=True)[0],
        (4, 7, 8),
        scale_factor_height=2,
    ),
    of_x("resize_bilinear", partial(bilinear, size=(5, 13)), **TARGET, sampling_mode="UNALIGN_CORNERS"),
    of_x(
        "resize_bilinear", partial(bilinear, size=(5, 13), align_corners=True), **TARGET, sampling_mode="ALIGN_CORNERS"
    ),
    Case(
        "resize",
        IMAGE,
        {"shape": [0, 12], "resized_dims": np.uint32(2), "sampling_mode": "UNALIGN_CORNERS"},
        lambda x, p: bilinear(x, (7, 12)),
    ),
    Case(
        "resize",
        IMAGE,
        {"shape": [12], "resized_dims": np.uint32(1), "interpolation_mode": "NEAREST_NEIGHBOR"},
        lambda x, p: F.interpolate(x, (7, 12)),
    ),
]

CASES = [*CONVOLUTION, *ELEMENTWISE, *REDUCTION, *POOLING, *LAYOUT, *RESAMPLING]


@pytest.mark.parametrize("precision", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=[f"{case.op}-{index}" for index, case in enumerate(CASES)])
def test_op_matches_torch(case: Case, precision: Precision, tmp_path: Path) -> None:
    x = sample(*case.shape, low=case.low)
    package = save(tmp_path, case.shape, lambda v: case.written(v, precision), precision)
    program = read_program(package)
    assert case.op in program.op_types
    assert {kind.dtype for kind in (*program.inputs.values(), *program.outputs.values())} == {precision.mil.__name__}
    exact = SimpleNamespace(**{name: precision.exact(value) for name, value in case.parameters.items()})
    expected = case.oracle(precision.exact(x), exact).numpy()
    found = program.run({"x": x})["out"]
    assert found.shape == expected.shape
    assert np.all(np.abs(found - expected) <= precision.allowed_error(expected))


def test_concat_and_stack_keep_their_order(tmp_path: Path) -> None:
    x = sample(2, 3)

    def build(v: Any) -> Any:
        w = mb.mul(x=v, y=np.float32(-1))
        joined = mb.concat(values=(v, w), axis=1)  # (2, 6)
        mixed = mb.concat(values=(v, w), axis=-1, interleave=True)  # (2, 6)
        return mb.stack(values=(joined, mixed), axis=1)  # (2, 2, 6)

    joined = np.concatenate([x, -x], 1)
    mixed = np.stack([x[:, 0], -x[:, 0], x[:, 1], -x[:, 1], x[:, 2], -x[:, 2]], 1)
    assert np.array_equal(evaluate(tmp_path, x, build), np.stack([joined, mixed], 1))


def test_depth_to_space_puts_the_block_first(tmp_path: Path) -> None:
    """TensorFlow's own example: four channels of one pixel become one 2 x 2 block per output channel."""
    x = np.arange(1, 13).reshape(1, 12, 1, 1)  # block (i, j), then output channel
    spread = evaluate(tmp_path, x, lambda v: mb.depth_to_space(x=v, block_size=2))
    assert np.array_equal(spread[0], [[[1, 4], [7, 10]], [[2, 5], [8, 11]], [[3, 6], [9, 12]]])
    assert np.array_equal(evaluate(tmp_path, spread, lambda v: mb.space_to_depth(x=v, block_size=2)), x)


@pytest.mark.parametrize(
    ("mode", "count", "points"),
    [
        ("UNALIGN_CORNERS", 5, [0.0, 0.1, 0.5, 0.9, 1.0]),
        ("UNALIGN_CORNERS", 6, [0.0, 0.0, 1 / 3, 2 / 3, 1.0, 1.0]),
        ("STRICT_ALIGN_CORNERS", 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        ("ALIGN_CORNERS", 6, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("STRICT_ALIGN_CORNERS", 1, [0.0]),
        ("DEFAULT", 5, [0.0, 0.4, 0.8, 1.0, 1.0]),
        ("DEFAULT", 6, [0.0, 1 / 3, 2 / 3, 1.0, 1.0, 1.0]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("OFFSET_CORNERS", 6, [1 / 12, 0.25, 5 / 12, 7 / 12, 0.75, 11 / 12]),
    ],
)
def test_resize_bilinear_samples_where_the_specification_says(
    mode: str, count: int, points: list[float], tmp_path: Path
):
    """Over the elements 0 and 1 the value is the sample point; the points are those of the MIL documentation."""

    def build(v: Any) -> Any:
        return mb.resize_bilinear(x=v, target_size_height=count, target_size_width=count, sampling_mode=mode)

    ramp = np.array([[[[0.0, 2.0], [1.0, 3.0]]]])  # row + 2 column
    expected = np.add.outer(points, 2 * np.asarray(points))
    assert np.allclose(evaluate(tmp_path, ramp, build)[0, 0], expected, atol=1e-6)


def test_upsample_bilinear_without_half_pixel_centres(tmp_path: Path) -> None:
    def build(v: Any) -> Any:
        return mb.upsample_bilinear(x=v, scale_factor_width=2, align_corners=False, half_pixel_centers=False)

    assert np.allclose(evaluate(tmp_path, [[[[0.0, 1.0, 2.0]]]], build), [0, 0.5, 1, 1.5, 2, 2], atol=1e-6)


@pytest.mark.parametrize("precision", [FP32, FP16], ids=["fp32", "fp16"])
@pytest.mark.parametrize(("zero_point", "low", "high"), [(np.int8(-3), -128, 127), (np.uint8(1), 0, 255)])
def test_quantize_rounds_halves_to_even_then_shifts_then_clamps(
    zero_point: Any, low: int, high: int, precision: Precision, tmp_path: Path
) -> None:
    def build(v: Any) -> Any:
        scale, dtype = precision.numpy(0.5), zero_point.dtype.name
        q = mb.quantize(input=v, scale=scale, zero_point=zero_point, output_dtype=dtype)
        return mb.cast(x=q, dtype=precision.mil.__name__)

    steps = np.array([-2000, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.75, 2000])
    rounded = np.array([-2000, -2, -2, 0, 0, 2, 2, 1, 2000])
    assert np.array_equal(evaluate(tmp_path, steps / 2, build, precision), (rounded + int(zero_point)).clip(low, high))


def test_quantize_and_dequantize_along_an_axis(tmp_path: Path) -> None:
    x, scale, zero = sample(2, 3, 5), np.float32([0.5, 0.01, 0.1]), np.int8([0, 7, -128])

    def build(v: Any) -> Any:
        q = mb.quantize(input=v, scale=scale, zero_point=zero, axis=1, output_dtype="int8")
        return mb.dequantize(input=q, scale=scale, zero_point=zero, axis=-2)

    steps = np.clip(np.rint(x / scale[:, None]) + zero[:, None], -128, 127)
    assert np.allclose(evaluate(tmp_path, x, build), (steps - zero[:, None]) * scale[:, None], atol=1e-6)


DATA = np.array([[-127, 0, 127], [1, 2, 3]], np.int8)
VECTORS = np.array([1, 2, 3, 10, 20, 30], np.float32).reshape(1, 1, 2, 3)
WEIGHTS: dict[str, tuple[Any, Callable[[], Any], Any]] = {
    "affine": (
        ct.target.iOS17,
        lambda: mb.constexpr_affine_dequantize(
            quantized_data=DATA, scale=np.float32([0.5, 4]), zero_point=np.int8([-100, 3]), axis=np.int32(0)
        ),
        [[-13.5, 50, 113.5], [-8, -4, 0]],
    ),
    "by block": (
        ct.target.iOS18,
        lambda: mb.constexpr_blockwise_shift_scale(
            data=np.arange(8, dtype=np.int8).reshape(2, 4),
            scale=np.float32([[1, 10], [2, 20]]),
            offset=np.int8([[0, 1], [0, 1]]),
        ),
        [[0, 1, 10, 20], [8, 10, 100, 120]],
    ),
    "packed palette": (  # the documentation's order of bits: elements 0, 3, 2, 1, then the fifth
        ct.target.iOS17,
        lambda: mb.constexpr_lut_to_dense(
            indices=np.uint8([0b01101100, 0b00000011]), lut=np.float32([0, 1.5, -2, 8]), shape=np.uint32([5])
        ),
        [0, 8, -2, 1.5, 8],
    ),
    "two tables": (  # this and the next two are the documentation's own cases
        ct.target.iOS18,
        lambda: mb.constexpr_lut_to_dense(
            indices=np.array([[2, 3], [3, 0], [1, 0], [3, 0], [2, 1], [0, 3]]).astype(types.np_uint2_dtype),
            lut=np.float32([1, 5, 9, 13, 2, 10, 18, 26]).reshape(2, 1, 4, 1),
        ),
        [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]],
    ),
    "vectors down": (
        ct.target.iOS18,
        lambda: mb.constexpr_lut_to_dense(
            indices=np.array([[0, 0], [1, 0]]).astype(types.np_uint1_dtype), lut=VECTORS, vector_axis=0
        ),
        [[1, 1], [2, 2], [3, 3], [10, 1], [20, 2], [30, 3]],
    ),
    "vectors across": (
        ct.target.iOS18,
        lambda: mb.constexpr_lut_to_dense(
            indices=np.array([[0, 0], [1, 0]]).astype(types.np_uint1_dtype), lut=VECTORS, vector_axis=-1
        ),
        [[1, 2, 3, 1, 2, 3], [10, 20, 30, 1, 2, 3]],
    ),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_weights_are_unpacked_when_loading(kind: str, tmp_path: Path) -> None:
    target, build, expected = WEIGHTS[kind]
    x = np.zeros(np.shape(expected))
    assert np.array_equal(evaluate(tmp_path, x, lambda v: mb.add(x=v, y=build()), target=target), expected)
    assert read_program(tmp_path / "case.mlpackage").op_types == ("add", "identity")


def test_casts(tmp_path: Path) -> None:
    def build(v: Any) -> Any:
        whole = mb.cast(x=mb.cast(x=v, dtype="int32"), dtype="fp32")
        half = mb.cast(x=mb.cast(x=v, dtype="fp16"), dtype="fp32")
        truth = mb.cast(x=mb.cast(x=v, dtype="bool"), dtype="fp32")
        return mb.stack(values=(whole, half, truth), axis=0)

    found = evaluate(tmp_path, [-2.75, 0.0, 1.0 + 2.0**-11], build)
    assert found.tolist() == [[-2, 0, 1], [-2.75, 0, 1], [1, 0, 1]]


COMPARISONS = {
    "greater": np.greater,
    "greater_equal": np.greater_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "equal": np.equal,
    "not_equal": np.not_equal,
}
X, Y = np.array([-1.0, 0.5, 2.0, 0.5], np.float32), np.array([0.5, 0.5, 0.5, -0.5], np.float32)


@pytest.mark.parametrize("op", COMPARISONS)
def test_comparisons_choose(op: str, tmp_path: Path) -> None:
    found = evaluate(tmp_path, X, lambda v: mb.select(cond=getattr(mb, op)(x=v, y=Y), a=v, b=np.float32(9)))
    assert found.tolist() == np.where(COMPARISONS[op](X, Y), X, 9).tolist()


def test_truth_values_are_joined(tmp_path: Path) -> None:
    def build(v: Any) -> Any:
        positive, small = mb.greater(x=v, y=np.float32(0)), mb.less(x=v, y=np.float32(1))
        joined = (
            mb.logical_and(x=positive, y=small),
            mb.logical_or(x=positive, y=small),
            mb.logical_not(x=positive),
        )
        return mb.stack(values=[mb.cast(x=value, dtype="fp32") for value in joined], axis=0)

    assert evaluate(tmp_path, X, build).tolist() == [[0, 1, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0]]


def test_fill_like_takes_the_shape_alone(tmp_path: Path) -> None:
    found = evaluate(tmp_path, X, lambda v: mb.add(x=v, y=mb.fill_like(ref_tensor=v, value=np.float32(2.5))))
    assert found.tolist() == (X + 2.5).tolist()


def test_gather_refuses_batches_and_what_is_out_of_range() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    gather = OPS["gather"].function
    with pytest.raises(ValueError, match="expected batch_dims 0, found 1"):
        gather(x, (0, 1), 1, 1)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        gather(x, (0, 3), 1)


def test_every_op_is_tested() -> None:
    elsewhere = {
        *COMPARISONS,
        "fill_like",
        "logical_and",
        "logical_not",
        "logical_or",
        "select",
        "cast",
        "concat",
        "constexpr_affine_dequantize",
        "constexpr_blockwise_shift_scale",
        "stack",
        "identity",
    }
    elsewhere |= {"constexpr_lut_to_dense", "depth_to_space", "dequantize", "quantize", "space_to_depth"}
    assert set(OPS) == {case.op for case in CASES} | elsewhere
