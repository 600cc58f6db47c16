"""Kinds of arguments that several verbs take."""

from __future__ import annotations

import argparse
import contextlib


def image_size(text: str) -> tuple[int, int]:
    """Height and width from ``HEIGHTxWIDTH``, for argparse."""
    return _two_numbers(text, "HEIGHTxWIDTH such as 384x512")


def two_numbers(text: str) -> tuple[int, int]:
    """Two whole numbers above 0 from ``AxB``, for argparse."""
    return _two_numbers(text, "two whole numbers such as 6x8")


def named_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Name and sizes from ``NAME=1x3x384x512``, for argparse."""
    name, equals, sizes = text.partition("=")
    shape = sizes.split("x")
    if not (equals and name and all(size.isdecimal() and int(size) for size in shape)):
        raise argparse.ArgumentTypeError(f"expected NAME=SIZES such as left=1x1x384x512, found {text!r}")
    return name, tuple(int(size) for size in shape)


def distance_range(text: str) -> tuple[float, float]:
    """Nearest and farthest of ``METRES:METRES``, or one distance twice, for argparse; inf is the horizon."""
    with contextlib.suppress(ValueError):
        nearest, farthest = (float(part) for part in (text.split(":") * 2 if ":" not in text else text.split(":")))
        if 0 < nearest <= farthest:
            return nearest, farthest
    raise argparse.ArgumentTypeError(f"expected METRES or rising METRES:METRES such as 0.5:2, found {text!r}")


def _two_numbers(text: str, expected: str) -> tuple[int, int]:
    first, cross, second = text.partition("x")
    if not (cross and first.isdecimal() and second.isdecimal() and int(first) and int(second)):
        raise argparse.ArgumentTypeError(f"expected {expected}, found {text!r}")
    return int(first), int(second)
