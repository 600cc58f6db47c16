"""Kinds of arguments that several verbs take."""

from __future__ import annotations

import argparse
import contextlib


def image_size(text: str) -> tuple[int, int]:
    """Height and width from ``HEIGHTxWIDTH``, for argparse."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 384x512, found {text!r}")
    return int(height), int(width)


def distance_range(text: str) -> tuple[float, float]:
    """Nearest and farthest of ``METRES:METRES``, or one distance twice, for argparse; inf is the horizon."""
    with contextlib.suppress(ValueError):
        nearest, farthest = (float(part) for part in (text.split(":") * 2 if ":" not in text else text.split(":")))
        if 0 < nearest <= farthest:
            return nearest, farthest
    raise argparse.ArgumentTypeError(f"expected METRES or rising METRES:METRES such as 0.5:2, found {text!r}")
