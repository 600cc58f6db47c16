"""The transfer curve of sRGB (IEC 61966-2-1), for arrays of numpy and of torch: ``xp`` is the module of their kind."""

from __future__ import annotations

from typing import Any

import numpy as np


def srgb_to_linear(encoded: Any, xp: Any = np) -> Any:
    """Linear light in [0, 1] of sRGB values in [0, 1]; any shape, same dtype.

    L = V / 12.92 where V <= 0.04045, else ((V + 0.055) / 1.055)^2.4.

    Source: IEC 61966-2-1.
    """
    return xp.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(light: Any, xp: Any = np) -> Any:
    """The inverse of ``srgb_to_linear``, but for 3e-8 where the standard's two pieces meet; any shape, same dtype.

    V = 12.92 L where L <= 0.0031308, else 1.055 L^(1 / 2.4) - 0.055.

    Source: IEC 61966-2-1.
    """
    return xp.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


LIGHT_OF_LEVEL = srgb_to_linear(np.linspace(0, 1, 256, dtype=np.float32))
"""Linear light of each 8-bit level, (256,) float32: indexed by an image, the image in linear light."""
