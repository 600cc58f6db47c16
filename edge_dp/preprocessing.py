"""From linear camera planes to what the network takes. The manifest carries these numbers; a camera app repeats them.

What is left once black level, white level and shading are corrected:

- Exposure. Dual-pixel disparity does not depend on how bright the scene is, so both views are multiplied by one gain that brings
  their common mean to a fixed value.
- Transfer. Of the 256 levels that integer networks see, equal steps of light leave a shadow a handful.
- Dither. Where light changes slowly and without noise, as in captures made smaller, levels have borders. They lie in other places
  in either view, and would look like disparity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.schema import one_of
from edge_dp.errors import InputError, SchemaError

TRANSFERS = {"linear": "linear light", "square_root": "square root of linear light"}
"""How the network's input tells light, and in words. ``square_root``: the noise of photons grows as the root of the light, so
equal steps of the root are equally fine beside the noise, in shadow as in light (Anscombe, Biometrika 1948)."""


@dataclass(frozen=True, slots=True)
class ExposureNormalisation:
    """y = transfer(clip(gain * x, 0, 1)) with gain = target_mean / mean(left and right), at most ``max_gain``.

    Both views share the gain, so their ratio is kept. What is more than 1 / target_mean times brighter than the mean saturates,
    in both views alike.

    target_mean: of the light, before the transfer.
    max_gain: of a dark capture.
    transfer: of ``TRANSFERS``; the square root is IEEE 754's, the same on every machine.
    """

    target_mean: float = 0.2
    max_gain: float = 200.0
    transfer: Annotated[str, one_of(*TRANSFERS)] = "linear"

    def __post_init__(self) -> None:
        if self.transfer not in TRANSFERS:
            raise SchemaError(f"transfer: expected {' or '.join(TRANSFERS)}, found {self.transfer}")

    def gain(self, mean: float) -> np.float32:
        """What to multiply views by whose common mean is ``mean``; float32, in which they are multiplied.

        Raises:
            InputError: the mean is not above 0.
        """
        if not mean > 0:  # NaN fails too
            raise InputError("both views are black: expected a mean above the black level")
        return np.float32(min(self.target_mean / mean, self.max_gain))

    def __call__(self, views: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalise ``views`` (..., 2, H, W), linear light in [0, 1]; the mean is taken over the last three axes.

        Raises:
            InputError: a view holds no light at all.
        """
        means = views.mean(axis=(-3, -2, -1), keepdims=True, dtype=np.float64)
        gains = np.array([self.gain(mean) for mean in means.flat], np.float32).reshape(means.shape)
        light = np.clip(views.astype(np.float32, copy=False) * gains, 0.0, 1.0)
        return np.sqrt(light, out=light) if self.transfer == "square_root" else light


def dither(height: int, width: int, step: float) -> NDArray[np.float32]:
    """Noise that turns the borders between levels into noise, once it is added to a network's input before that is rounded.

    Uniform and independent of pixel to pixel and view to view, but the same for every capture and on every machine:
    ((h(i) >> 8) + 0.5) / 2^24 - 0.5 steps for the i-th value of (view, row, column), where h is the hash of 32 bits "lowbias32".

    Args:
        height, width: of the input.
        step: of its quantisation.

    Returns:
        (2, height, width), within half a step of zero.

    Source: non-subtractive dither, Lipshitz, Wannamaker and Vanderkooy, J. Audio Eng. Soc. 40(5), 1992; the hash, Wellons,
    "Prospecting for Hash Functions", 2018.
    """
    h = np.arange(2 * height * width, dtype=np.uint32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
    h ^= h >> np.uint32(16)
    share = ((h >> np.uint32(8)).astype(np.float64) + 0.5) / 2**24 - 0.5
    return (share * step).astype(np.float32).reshape(2, height, width)
