"""Kinds of arguments that several verbs take."""

from __future__ import annotations

import argparse


def image_size(text: str) -> tuple[int, int]:
    """Height and width from ``HEIGHTxWIDTH``, for argparse."""
    height, cross, width = text.partition("x")
    if not (cross and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 384x512, found {text!r}")
    return int(height), int(width)
