"""Taps: an artifact in which every activation is an output too, so that the ordinary engines show what is inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_dp.runtime.engines.base import Signature

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Tap:
    """One tensor of an artifact that has become an output.

    output: its name as an output. tensor: what the artifact itself calls it.
    shape: as the artifact stores it; channels may come last.
    scale, zero_point: as stored, in int8 terms; null for a float tensor.
    offset: what the stored integers exceed int8 by, 128 for uint8.
    dequantised: whether the engine gives real numbers in place of the integers.
    """

    output: str
    tensor: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int = 0
    offset: int = 0
    dequantised: bool = False

    def codes(self, given: Array) -> Array:
        """What the engine gave for it as the stored integers, in int8 terms; of a float tensor the values."""
        if self.scale is None:
            return given
        if self.dequantised:
            return np.rint(given / np.float32(self.scale)) + np.float32(self.zero_point)
        return given - np.float32(self.offset)

    def real(self, codes: Array) -> Array:
        """What ``codes`` mean to whatever reads the tensor."""
        if self.scale is None:
            return codes
        return (codes - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class Tapped:
    """A rewritten artifact: the signature of the original with the taps' outputs behind its own, in the order of execution."""

    signature: Signature
    taps: tuple[Tap, ...]

    @classmethod
    def of(cls, signature: Signature, taps: Sequence[Tap]) -> Tapped:
        """The original's signature, lengthened."""
        added = tuple((tap.output, tap.shape) for tap in taps)
        return cls(Signature(signature.inputs, (*signature.outputs, *added)), tuple(taps))


def tap_name(index: int) -> str:
    """Of the output of a tap."""
    return f"tap_{index}"


def views(array: Array, shape: tuple[int, ...]) -> list[Array]:
    """``array`` as an activation of ``shape``, channels first: as it lies, with channels last, or both where both fit."""
    found = [array] if array.shape == shape else []
    if len(shape) == 4 and array.shape == (shape[0], shape[2], shape[3], shape[1]):
        found.append(np.moveaxis(array, -1, 1))
    return found
