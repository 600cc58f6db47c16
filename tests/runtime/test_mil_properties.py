"""MIL ops over random parameters, against their formulas written out element by element or against torch."""

from __future__ import annotations

import importlib.util
import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from edge_dp.runtime.engines.mil import OPS

small = st.integers(1, 3)
seeds = st.integers(0, 2**32 - 1)
sizes = st.tuples(st.integers(3, 9), st.integers(3, 9))
pairs = st.tuples(small, small)
borders = st.tuples(*[st.integers(0, 2)] * 4)


def op(name: str, **operands: Any) -> Any:
    return OPS[name].function(**operands)


def sample(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-2, 2, shape).astype(np.float32))


def windows(x: Any, kernel: Any, strides: Any, dilations: Any = (1, 1)) -> Any:
    """(N, C, *D) -> (N, C, *D', *K): what a kernel sees at each place."""
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    seen = np.lib.stride_tricks.sliding_window_view(x, extent, axis=(2, 3))
    return seen[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


@given(seed=seeds, size=sizes, kernel=pairs, strides=pairs, dilations=pairs, pad=borders, groups=small)
def test_conv_sums_what_the_kernel_sees(
    seed: int, size: Any, kernel: Any, strides: Any, dilations: Any, pad: Any, groups: int
) -> None:
    x, bias = sample(seed, 2, 2 * groups, *size), sample(seed + 1, 3 * groups)
    weight = sample(seed + 2, 3 * groups, 2, *kernel)
    top, bottom, left, right = pad
    room = (size[0] + top + bottom, size[1] + left + right)
    if any((k - 1) * d + 1 > n for k, d, n in zip(kernel, dilations, room, strict=True)):
        return
    around = np.pad(x.double().numpy(), [(0, 0), (0, 0), (top, bottom), (left, right)])
    seen = windows(around, kernel, strides, dilations)
    seen = seen.reshape(2, groups, 2, *seen.shape[2:])
    grouped = weight.double().numpy().reshape(groups, 3, 2, *kernel)
    expected = np.einsum("ngcijhw,gochw->ngoij", seen, grouped).reshape(2, 3 * groups, *seen.shape[3:5])
    found = op(
        "conv",
        x=x,
        weight=weight,
        bias=bias,
        strides=strides,
        pad_type="custom",
        pad=pad,
        dilations=dilations,
        groups=groups,
    )
    np.testing.assert_allclose(found.numpy(), expected + bias.double().numpy()[:, None, None], atol=2e-5)


@given(seed=seeds, size=sizes, kernel=pairs, strides=pairs, pad=borders)
def test_conv_transpose_is_the_adjoint_of_conv(seed: int, size: Any, kernel: Any, strides: Any, pad: Any) -> None:
    """<conv(y), x> = <y, conv_transpose(x)> for every y, where the convolution covers all of y."""
    weight, x = sample(seed, 3, 4, *kernel), sample(seed + 1, 1, 3, *size)
    full = [
        (n - 1) * s + k - before - after
        for n, s, k, before, after in zip(size, strides, kernel, pad[::2], pad[1::2], strict=True)
    ]
    if min(full) < 1:
        return
    found = op("conv_transpose", x=x, weight=weight, strides=strides, pad_type="custom", pad=pad)
    assert found.shape == (1, 4, *full)
    y = sample(seed + 2, 1, 4, *full)
    there = op("conv", x=y, weight=weight, strides=strides, pad_type="custom", pad=pad)
    assert there.shape == x.shape
    left, right = (there.double() * x.double()).sum(), (y.double() * found.double()).sum()
    assert abs(left - right) <= 1e-4 * (1 + abs(left))


@given(seed=seeds, size=sizes, kernel=pairs, strides=pairs, pad=borders, exclude=st.booleans())
def test_pools_take_the_largest_and_the_mean_of_each_window(
    seed: int, size: Any, kernel: Any, strides: Any, pad: Any, exclude: bool
) -> None:
    if any(before >= k or after >= k for k, before, after in zip(kernel, pad[::2], pad[1::2], strict=True)):
        return  # a window of nothing but padding has no largest element
    x = sample(seed, 1, 2, *size)
    border = [(0, 0), (0, 0), pad[:2], pad[2:]]
    options = {"kernel_sizes": kernel, "pad_type": "custom", "strides": strides, "pad": pad}
    largest = windows(np.pad(x.numpy(), border, constant_values=-np.inf), kernel, strides).max((-2, -1))
    np.testing.assert_array_equal(op("max_pool", x=x, **options).numpy(), largest)
    total = windows(np.pad(x.double().numpy(), border), kernel, strides).sum((-2, -1))
    count = windows(np.pad(np.ones((1, 1, *size)), border), kernel, strides).sum((-2, -1))
    found = op("avg_pool", x=x, exclude_padding_from_average=exclude, **options)
    np.testing.assert_allclose(found.numpy(), total / (count if exclude else np.prod(kernel)), atol=1e-5)


@given(seed=seeds, size=sizes, factor=st.tuples(st.integers(1, 4), st.integers(1, 4)), corners=st.booleans())
def test_upsampling_is_linear_between_the_points_of_its_rule(seed: int, size: Any, factor: Any, corners: bool) -> None:
    x = sample(seed, 1, 2, *size)
    scales = {"scale_factor_height": float(factor[0]), "scale_factor_width": float(factor[1])}
    expected = x.double().numpy()
    for axis, (n, f) in enumerate(zip(size, factor, strict=True), start=2):
        i = np.arange(n * f)
        points = i * (n - 1) / (n * f - 1) if corners else ((i + 0.5) / f - 0.5).clip(0, n - 1)
        expected = np.apply_along_axis(lambda line, p=points, n=n: np.interp(p, np.arange(n), line), axis, expected)
    found = op("upsample_bilinear", x=x, align_corners=corners, **scales)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    nearest = op("upsample_nearest_neighbor", x=x, **scales)
    np.testing.assert_array_equal(nearest.numpy(), x.numpy().repeat(factor[0], 2).repeat(factor[1], 3))


@given(seed=seeds, scale=st.floats(2.0**-12, 4.0), zero_point=st.integers(-128, 127), unsigned=st.booleans())
def test_quantize_then_dequantize_is_within_half_a_step(
    seed: int, scale: float, zero_point: int, unsigned: bool
) -> None:
    """And uint8 with zero point z + 128 is int8 with z."""
    scale, x = float(np.float16(scale)), sample(seed, 200) * 80
    shift = 128 if unsigned else 0
    options = {"scale": scale, "zero_point": zero_point + shift}
    q = op("quantize", input=x, output_dtype="uint8" if unsigned else "int8", **options)
    assert q.dtype == (torch.uint8 if unsigned else torch.int8)
    quotient = x.double().numpy() / scale
    clear = np.abs(quotient % 1 - 0.5) > 1e-3  # in the middle between two steps, float32 decides
    expected = np.clip(np.rint(quotient) + zero_point, -128, 127)
    np.testing.assert_array_equal((q.int().numpy() - shift)[clear], expected[clear])
    low, high = ((end - zero_point) * scale for end in (-128, 127))
    found = op("dequantize", input=q, **options)
    assert (found - x.clamp(low, high)).abs().max() <= scale * (0.5 + 1e-4)


@given(seed=seeds, data=st.data())
def test_slices_are_those_of_numpy(seed: int, data: Any) -> None:
    x = sample(seed, 2, 5, 6, 7)
    begin, end, stride = [], [], []
    for n in x.shape:
        first = data.draw(st.integers(0, n - 1))
        begin.append(first)
        end.append(data.draw(st.integers(first + 1, n)))
        stride.append(data.draw(small))
    found = op("slice_by_index", x=x, begin=tuple(begin), end=tuple(end), stride=tuple(stride))
    expected = x.numpy()[tuple(itertools.starmap(slice, zip(begin, end, stride, strict=True)))]
    np.testing.assert_array_equal(found.numpy(), expected)


@given(seed=seeds, pad=borders, axes=st.sets(st.integers(-4, 3), min_size=1), keep=st.booleans())
def test_pad_mean_and_products_are_those_of_numpy(seed: int, pad: Any, axes: set[int], keep: bool) -> None:
    x, weight = sample(seed, 2, 3, 4, 5), sample(seed + 1, 6, 5)
    padded = op("pad", x=x, pad=pad, mode="constant", constant_val=0.25)
    border = [(0, 0), (0, 0), pad[:2], pad[2:]]
    np.testing.assert_array_equal(padded.numpy(), np.pad(x.numpy(), border, constant_values=0.25))
    distinct = tuple({axis % 4 for axis in axes})
    mean = op("reduce_mean", x=x, axes=distinct, keep_dims=keep)
    np.testing.assert_allclose(mean.numpy(), x.double().numpy().mean(distinct, keepdims=keep), atol=1e-6)
    product = x.double().numpy() @ weight.double().numpy().T
    np.testing.assert_allclose(op("linear", x=x, weight=weight).numpy(), product, atol=1e-5)
    np.testing.assert_allclose(op("matmul", x=x, y=weight, transpose_y=True).numpy(), product, atol=1e-5)


@given(seed=seeds, low=st.floats(-2, 0), high=st.floats(0, 2))
def test_activations_are_those_of_torch(seed: int, low: float, high: float) -> None:
    x = sample(seed, 3, 50) * 4
    for found, expected in (
        (op("relu", x=x), F.relu(x)),
        (op("relu6", x=x), F.relu6(x)),
        (op("clip", x=x, alpha=low, beta=high), x.clip(low, high)),
        (op("sigmoid", x=x), 1 / (1 + torch.exp(-x.double()))),
        (op("sigmoid_hard", x=x, alpha=1 / 6, beta=0.5), F.hardsigmoid(x)),
    ):
        assert (found - expected).abs().max() <= 1e-6
