"""Every MIL op against torch in float64, through a package written to disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_dp.runtime.engines.mil import OPS

from .mil_programs import FP16, FP32, F, Precision, mb, read_program, sample, save, torch

pytestmark = pytest.mark.usefixtures("few_objects_to_collect")

Oracle = Callable[..., torch.Tensor]


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


def test_every_op_is_tested() -> None:
    elsewhere = {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal"}
    elsewhere |= {"logical_and", "logical_not", "logical_or", "select", "cast", "fill_like", "identity"}
    elsewhere |= {"concat", "stack", "depth_to_space", "space_to_depth", "dequantize", "quantize"}
    elsewhere |= {"constexpr_affine_dequantize", "constexpr_blockwise_shift_scale", "constexpr_lut_to_dense"}
    assert set(OPS) == {case.op for case in CASES} | elsewhere  # in test_mil_forms
