"""From linear camera planes to what the network takes. The manifest carries these numbers; a camera app repeats them.

Only one step is left once black level, white level and shading are corrected: exposure. Dual-pixel disparity does not depend
on how bright the scene is, so both views are multiplied by one gain that brings their common mean to a fixed value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError


@dataclass(frozen=True, slots=True)
class ExposureNormalisation:
    """y = clip(gain * x, 0, 1) with gain = target_mean / mean(left and right), at most ``max_gain``.

    Light stays linear: both views share the gain, so their ratio is kept. What is more than 1 / target_mean times
    brighter than the mean saturates, in both views alike.
    """

    target_mean: float = 0.2
    max_gain: float = 200.0

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
        return np.clip(views.astype(np.float32, copy=False) * gains, 0.0, 1.0)
