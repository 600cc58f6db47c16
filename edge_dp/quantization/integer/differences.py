"""Where an engine follows another rule than the integer reference: the operation and its rounding, named."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Difference:
    """One operation in one engine.

    rule: what the engine does and what the reference does; values differ by a step where the two round apart.
    """

    engine: str
    operation: str
    rule: str


DIFFERENCES: tuple[Difference, ...] = (
    Difference(
        "converted graph (PyTorch)",
        "bilinear",
        "float weights, ties to even; the weights of x2 are sixteenths, so that many values lie halfway. Reference: weights of "
        "11 bits, half up. Golden vectors and stages are of the graph with ties up (half_up)",
    ),
    Difference(
        "converted graph (PyTorch)",
        "add, sub",
        "sum of floats, ties to even. Reference: multipliers of 21 bits, half up",
    ),
    Difference(
        "converted graph (PyTorch)",
        "convolution, linear, mul, mean",
        "products and sums of floats, each rounded. Reference: exact sums, then a product in float32",
    ),
    Difference(
        "onnxruntime",
        "bilinear",
        "float weights between a dequantise and a quantise node, ties to even. Reference: weights of 11 bits, half up",
    ),
    Difference(
        "litert (XNNPACK)",
        "rescale",
        "a quantise node right after a dequantise node has a multiplier of 8 bits (qs8-vcvt). Reference and ExecuTorch: "
        "through float",
    ),
    Difference(
        "litert without XNNPACK",
        "convolution, transposed convolution, linear, mul, mean",
        "multiplier of 31 bits, then a shift, both rounded, half away from zero. Reference: a product in float32, half to even",
    ),
    Difference(
        "litert without XNNPACK",
        "add, sub",
        "both sides shifted left by 20 bits and multiplied by 31-bit fractions, rounded in between. Reference: multipliers of "
        "21 bits, one rounding",
    ),
    Difference(
        "litert without XNNPACK",
        "bilinear",
        "weights of 10 bits, half away from zero. Reference: 11 bits, half up",
    ),
)
