"""MIL ops beyond one tensor of floats: order, sampling, quantisation, packed weights, truth; the specification's examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_dp.runtime.engines.mil import OPS

from .mil_programs import FP16, FP32, Precision, ct, evaluate, mb, read_program, sample, torch, types

pytestmark = pytest.mark.usefixtures("few_objects_to_collect")


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
