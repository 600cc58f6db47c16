"""Each rule of the integer reference against exact rational arithmetic, written down again from its formula."""

import decimal
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_dp.errors import ExportError
from edge_dp.quantization.integer import convolution, elementwise, moves, reduction, resampling
from edge_dp.quantization.integer.arithmetic import Integers, Quantisation, Weights, dequantise, quantise, requantise

HALF = Fraction(1, 2)
scales = st.builds(lambda mantissa, exponent: mantissa * 2.0**exponent, st.integers(1024, 2047), st.integers(-20, -8))
quantisations = st.builds(Quantisation, scales, st.integers(-128, 127))
many = settings(max_examples=60, deadline=None)


def float32(x: Fraction) -> Fraction:
    """The nearest float32, half to even; nothing here depends on subnormal numbers."""
    if abs(x) < Fraction(2) ** -126:
        return Fraction(0)
    quantum = Fraction(2) ** (math.floor(math.log2(abs(x))) - 23)
    if abs(x) / quantum >= 2**24:  # log2 was rounded up or down next to a power of two
        quantum *= 2
    return round(x / quantum) * quantum


def saturate(q: int, low: int = -128, high: int = 127) -> int:
    return max(low, min(high, q))


def requantised(accumulator: int, scale: Fraction, output: Quantisation) -> int:
    steps = float32(float32(Fraction(accumulator)) * scale)
    return saturate(round(steps) + output.zero_point, output.lowest, output.highest)


def ratio(*scale: float) -> Fraction:
    """First times the others but the last, over the last, rounded to float32 after each."""
    product = Fraction(scale[0])
    for factor in scale[1:-1]:
        product = float32(product * Fraction(factor))
    return float32(product / Fraction(scale[-1]))


@st.composite
def activations(draw, shape: tuple[int, ...], quantisation: Quantisation | None = None) -> Integers:
    values = np.random.default_rng(draw(st.integers(0, 2**32))).integers(-128, 128, shape)
    return Integers(torch.from_numpy(values.astype(np.int32)), quantisation or draw(quantisations))


@st.composite
def near_output(draw, typical: float) -> Quantisation:
    """An output's quantisation whose scale makes results of ``typical`` size fill the range more or less."""
    wanted = typical / 64 * draw(st.floats(0.3, 3.0))
    return Quantisation(float(np.float16(max(wanted, 2.0**-12))), draw(st.integers(-128, 127)))


def numbers(integers: Integers) -> list[int]:
    return [int(v) for v in integers.centred.flatten()]


@given(st.floats(-1e9, 1e9, width=32) | st.floats(-4, 4, width=32), quantisations)
@many
def test_quantise_multiplies_by_the_reciprocal_and_rounds_half_to_even(x, output):
    steps = float32(Fraction(x) * float32(1 / Fraction(output.scale)))
    assert int(quantise(torch.tensor(x), output)) == saturate(round(steps) + output.zero_point)


@given(quantisations)
@many
def test_dequantised_integers_quantise_back_to_themselves(quantisation):
    codes = Integers(torch.arange(-128, 128, dtype=torch.int32), quantisation)
    assert torch.equal(quantise(dequantise(codes), quantisation), codes.values)


@given(st.integers(-(2**31), 2**31 - 1), st.integers(2**23, 2**24 - 1), st.integers(-56, -24), st.integers(-128, 127))
@many
def test_requantise_rounds_conversion_product_and_result(accumulator, mantissa, exponent, zero_point):
    scale = mantissa * 2.0**exponent
    output = Quantisation(1.0, zero_point)
    found = requantise(torch.tensor(accumulator, dtype=torch.int64), torch.tensor(scale, dtype=torch.float32), output)
    assert int(found) == requantised(accumulator, Fraction(scale), output)


@given(st.floats(-8, 8, width=32), st.floats(-8, 8, width=32), quantisations)
@many
def test_fused_clamp_narrows_to_the_integers_of_its_bounds(a, b, quantisation):
    low, high = min(a, b), max(a, b)
    expected = [
        saturate(round(float32(float32(Fraction(bound) / Fraction(quantisation.scale)) + quantisation.zero_point)))
        for bound in (low, high)
    ]
    narrowed = quantisation.clamped(low, high)
    assert [narrowed.lowest, narrowed.highest] == expected
    assert narrowed.clamped(None, None) == narrowed


@given(st.data(), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.sampled_from([0, 1]), st.sampled_from([1, 2]))
@many
def test_convolution(data, stride, dilation, padding, groups):
    x = data.draw(activations((1, 4, 5, 6)))
    weight, bias, output = data.draw(layers((6, 4 // groups, 2, 3), 0, x))
    found = convolution.convolution(
        x, weight, bias, (stride,) * 2, (padding,) * 2, (dilation,) * 2, groups, output=output
    )
    centred, w = x.centred.numpy(), weight.values.numpy()
    expected = np.empty(found.shape, dtype=int)
    for k, row, column in np.ndindex(found.shape[1:]):
        total = 0
        for c, i, j in np.ndindex(w.shape[1:]):
            y, z = row * stride - padding + i * dilation, column * stride - padding + j * dilation
            if 0 <= y < 5 and 0 <= z < 6:
                total += int(w[k, c, i, j]) * int(centred[0, c + k // (6 // groups) * w.shape[1], y, z])
        expected[0, k, row, column] = finished(total, k, x, weight, bias, output)
    assert np.array_equal(found.numpy(), expected)


@given(st.data(), st.sampled_from([1, 2]), st.sampled_from([0, 1]), st.sampled_from([1, 2]))
@many
def test_transposed_convolution(data, stride, padding, groups):
    x = data.draw(activations((1, 4, 3, 4)))
    weight, bias, output = data.draw(layers((4, 2, 3, 4), 1, x, groups))
    found = convolution.transposed_convolution(
        x, weight, bias, (stride,) * 2, (padding,) * 2, (0, 0), groups, output=output
    )
    total = np.zeros((2 * groups, (3 - 1) * stride + 3, (4 - 1) * stride + 4), dtype=int)
    w = weight.values.numpy().astype(int)
    for c, row, column in np.ndindex(4, 3, 4):
        group = c // (4 // groups)
        place = np.s_[2 * group : 2 * group + 2, row * stride : row * stride + 3, column * stride : column * stride + 4]
        total[place] += w[c] * int(x.centred[0, c, row, column])
    total = total[:, padding : total.shape[1] - padding, padding : total.shape[2] - padding]
    expected = [finished(int(total[i]), i[0] % 2, x, weight, bias, output, i[0]) for i in np.ndindex(total.shape)]
    assert found.flatten().tolist() == expected


@given(st.data())
@many
def test_linear(data):
    x = data.draw(activations((3, 7)))
    weight, bias, output = data.draw(layers((5, 7), 0, x))
    sums = x.centred.numpy() @ weight.values.numpy().T
    expected = [[finished(int(sums[i, k]), k, x, weight, bias, output) for k in range(5)] for i in range(3)]
    assert convolution.linear(x, weight, bias, output=output).tolist() == expected


@st.composite
def layers(draw, shape: tuple[int, ...], axis: int, x: Integers, groups: int = 1):
    """Weights, a bias (or none) on the grid of the accumulator, and an output to fit."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scales = np.float16(rng.uniform(2**-8, 2**-6, shape[axis])).astype(np.float32)
    values = torch.from_numpy(rng.integers(-127, 128, shape).astype(np.int32))
    weight = Weights(values, torch.from_numpy(scales), axis)
    steps = rng.integers(-5000, 5000, shape[axis] * groups)
    grid = np.tile(scales.astype(float), groups) * x.quantisation.scale
    bias = torch.from_numpy((steps * grid).astype(np.float32)) if draw(st.booleans()) else None
    return weight, bias, draw(near_output(4 * 70 * 70 * x.quantisation.scale * 2**-7))


def finished(total, channel, x, weight, bias, output, bias_channel=None):
    """An output of a layer from its exact sum of products."""
    scale = float(weight.scales[channel])
    if bias is not None:
        grid = Fraction(x.quantisation.scale) * Fraction(scale)
        total += round(Fraction(float(bias[channel if bias_channel is None else bias_channel])) / grid)
    return requantised(total, ratio(x.quantisation.scale, scale, output.scale), output)


@given(st.data(), st.sampled_from([1, -1]))
@many
def test_sum_and_difference_in_fixed_point(data, sign):
    a, b = data.draw(activations((40,))), data.draw(activations((40,)))
    output = data.draw(near_output(128 * max(a.quantisation.scale, b.quantisation.scale)))
    found = (elementwise.add if sign > 0 else elementwise.subtract)(a, b, output=output).tolist()
    ratios = [ratio(x.quantisation.scale, output.scale) for x in (a, b)]
    shift = 20 - max(k for k in range(-40, 40) if Fraction(2) ** k <= max(ratios))
    m, n = (round(r * 2**shift) for r in ratios)
    assert found == [
        saturate(math.floor(Fraction(m * p + sign * n * q, 2**shift) + HALF) + output.zero_point)
        for p, q in zip(numbers(a), numbers(b), strict=True)
    ]


def test_sum_refuses_a_factor():
    x = Integers(torch.zeros(1, dtype=torch.int32), Quantisation(1.0, 0))
    with pytest.raises(ExportError, match="alpha"):
        elementwise.add(x, x, 2, output=Quantisation(1.0, 0))


@given(st.data())
@many
def test_product(data):
    a, b = data.draw(activations((2, 3, 4))), data.draw(activations((2, 1, 4)))
    output = data.draw(near_output(128 * 128 * a.quantisation.scale * b.quantisation.scale))
    scale = ratio(a.quantisation.scale, b.quantisation.scale, output.scale)
    products = (a.centred.numpy() * b.centred.numpy()).flatten()
    found = elementwise.multiply(a, b, output=output).flatten().tolist()
    assert found == [requantised(int(p), scale, output) for p in products]


@given(quantisations)
@many
def test_sigmoid(quantisation):
    output = Quantisation(1 / 256, -128)
    codes = Integers(torch.arange(-128, 128, dtype=torch.int32), quantisation)
    with decimal.localcontext(prec=60):
        exact = [
            Fraction(1 / (1 + (-decimal.Decimal(n) * decimal.Decimal(quantisation.scale)).exp()))
            for n in numbers(codes)
        ]
    expected = [saturate(round(float32(s) * 256) - 128) for s in exact]
    assert elementwise.sigmoid(codes, output=output).tolist() == expected


@given(quantisations, st.integers(-128, 127), st.floats(0.3, 3.0))
@many
def test_rescaling_goes_through_float(quantisation, zero_point, factor):
    output = Quantisation(float(np.float16(quantisation.scale * factor)), zero_point)
    codes = Integers(torch.arange(-128, 128, dtype=torch.int32), quantisation)
    reals = [float32(n * Fraction(quantisation.scale)) for n in numbers(codes)]
    expected = [saturate(round(float32(x * float32(1 / Fraction(output.scale)))) + zero_point) for x in reals]
    assert elementwise.rescale(codes, output=output).tolist() == expected


@given(st.data(), st.integers(1, 9), st.integers(1, 9), st.booleans())
@many
def test_mean(data, height, width, keepdim):
    x = data.draw(activations((1, 3, height, width)))
    output = data.draw(near_output(64 * x.quantisation.scale))
    count = height * width
    factor = float32(ratio(x.quantisation.scale, output.scale) * float32(Fraction(1, count)))
    offset = float32(output.zero_point - float32(count * x.quantisation.zero_point * factor))
    found = reduction.mean(x, [2, -1], keepdim, output=output)
    assert found.shape == ((1, 3, 1, 1) if keepdim else (1, 3))
    sums = [int(s) for s in x.values.sum((0, 2, 3))]
    assert found.flatten().tolist() == [saturate(round(float32(float32(s * factor) + offset))) for s in sums]


@given(st.data(), *(st.integers(1, 7) for _ in range(2)), *(st.integers(1, 15) for _ in range(2)), st.booleans())
@many
def test_bilinear_has_weights_of_eleven_bits_and_rounds_half_up(data, height, width, tall, wide, corners):
    x = data.draw(activations((1, 2, height, width)))
    found = resampling.bilinear(x, (tall, wide), corners, None, output=x.quantisation)
    values = x.values.numpy().astype(int)

    def tap(source, target, i):
        if corners:
            place = float32(i * float32(Fraction(source - (target > 1), max(target - 1, 1))))
        else:
            scale = float32(Fraction(source, target))
            place = float32(float32(i * scale) + float32(scale / 2 - HALF))
        place = min(max(place, Fraction(0)), Fraction(source - 1))
        return math.floor(place), min(math.floor(place) + 1, source - 1), round((place - math.floor(place)) * 2**11)

    for row, column in np.ndindex(tall, wide):
        top, bottom, v = tap(height, tall, row)
        left, right, u = tap(width, wide, column)
        for c in range(2):
            plane = values[0, c]
            total = (plane[top, left] * (2048 - u) + plane[top, right] * u) * (2048 - v)
            total += (plane[bottom, left] * (2048 - u) + plane[bottom, right] * u) * v
            assert found[0, c, row, column] == math.floor(Fraction(int(total), 2**22) + HALF)


def test_bilinear_takes_a_factor():
    x = Integers(torch.tensor([[[[0, 100]]]], dtype=torch.int32), Quantisation(1.0, 0))
    found = resampling.bilinear(x, None, False, (1.0, 2.0), output=x.quantisation)
    assert found.tolist() == [[[[0, 25, 75, 100]]]]


@given(st.data())
@many
def test_moves_change_no_integer(data):
    x = data.draw(activations((1, 2, 4, 6)))
    values, output = x.values.numpy(), x.quantisation
    windows = values.reshape(1, 2, 2, 2, 3, 2)
    assert np.array_equal(moves.max_pool(x, (2, 2), output=output), windows.max(axis=(3, 5)))
    assert np.array_equal(moves.nearest(x, None, (2.0, 2.0), output=output), values.repeat(2, 2).repeat(2, 3))
    assert np.array_equal(moves.concatenate([x, x], 1, output=output), np.concatenate([values, values], 1))
    padded = np.pad(values, ((0, 0), (0, 0), (3, 4), (1, 2)), constant_values=output.zero_point)
    assert np.array_equal(moves.pad(x, (1, 2, 3, 4), output=output), padded)
    assert np.array_equal(moves.constant_pad(x, (1, 2, 3, 4), output=output), padded)
    turned = moves.moving(torch.ops.aten.permute.default)(x, [0, 2, 3, 1], output=output)
    assert np.array_equal(turned, values.transpose(0, 2, 3, 1))
    assert np.array_equal(elementwise.clamp(x, output=output.clamped(0.0, None)), values.clip(output.zero_point))


@pytest.mark.parametrize(
    "move",
    [
        lambda x, output: moves.max_pool(x, (1, 1), output=output),
        lambda x, output: moves.concatenate([x], output=output),
        lambda x, output: moves.pad(x, (1, 1), output=output),
        lambda x, output: moves.nearest(x, (2, 2), None, output=output),
        lambda x, output: resampling.bilinear(x, (2, 2), False, None, output=output),
        lambda x, output: elementwise.clamp(x, output=output),
        lambda x, output: moves.moving(torch.ops.aten.view.default)(x, [1], output=output),
    ],
)
def test_moves_refuse_another_quantisation(move):
    x = Integers(torch.zeros((1, 1, 1, 1), dtype=torch.int32), Quantisation(1.0, 0))
    with pytest.raises(ExportError, match="share"):
        move(x, Quantisation(0.5, 0))
