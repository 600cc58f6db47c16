"""How the files of data sets are read whose camera has no sensor profile of its own here."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from edge_dp.sensors import SensorProfile, load_sensor


def file_profile(
    name: str,
    description: str,
    source: str,
    *,
    bits: Literal[8, 16],
    transfer: Literal["linear", "srgb"] = "srgb",
    dp_axis: Literal["x", "y"] = "x",
) -> SensorProfile:
    """Full-range levels, black 0; optics and shading unknown, so that disparity is affine only.

    Args:
        name: of the profile.
        description: of camera and files.
        source: where dtype, levels and transfer curve come from, or that they are taken and not known.
        bits: of the files.
        transfer: curve of the files.
        dp_axis: along which axis of the files the views differ.
    """
    return replace(
        load_sensor("generic_8bit"),
        name=name,
        description=description,
        dtype="uint8" if bits == 8 else "uint16",
        bit_depth=bits,
        white_level=float(2**bits - 1),
        transfer=transfer,
        dp_axis=dp_axis,
        sources={"black_level": source, "white_level": source},
    )
