"""Half-aperture point-spread functions: what each view of a dual pixel makes of a point that is out of focus.

A thin lens blurs a point to a disc of the circle-of-confusion diameter c. The left and right photodiode each weigh the disc by
a profile that falls off across the aperture; the distance of the two centroids is the dual-pixel disparity

    d = alpha * c

with alpha a property of the sensor: 4 / (3 pi) = 0.424 for an ideal half disc, 1/4 for a disc with a linear ramp, about 0.21
measured on a Pixel 4.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError

ALPHA_HALF_DISC = 4.0 / (3.0 * math.pi)
ALPHA_RAMP = 0.25
_RADIAL_SAMPLES = 24  # fine samples per radius, at least; enough for 1e-3 of the area of the smallest disc


@lru_cache(maxsize=4096)
def half_aperture_psf(disparity: float, alpha: float, side: int) -> NDArray[np.float32]:
    """Point-spread function of one view.

    The profile over u = x / radius in [-1, 1] is (1 - s u) / 2, a ramp of slope s <= 1, up to alpha = 1/4, and beyond that a mix
    of the full ramp with the half disc, so that the distance of the two centroids is ``disparity`` for any alpha.

    Args:
        disparity: d in px, left(x) = right(x + d); positive farther than focus. The disc's diameter is |d| / alpha.
        alpha: disparity per circle-of-confusion diameter, in (0, 4 / (3 pi)].
        side: -1 for the left view, +1 for the right one.

    Returns:
        (K, K) with K odd, float32, non-negative, sum 1; centroid at (side * d / 2, 0) px from the centre to 1e-3 px.

    Raises:
        InputError: alpha outside its range.

    Source: thin lens; half-disc and ramp centroids by integration over the disc.
    """
    if not 0.0 < alpha <= ALPHA_HALF_DISC + 1e-9:
        raise InputError(f"alpha: expected a value in (0, {ALPHA_HALF_DISC:.3f}], found {alpha}")
    radius = abs(disparity) / alpha / 2.0
    half = math.ceil(radius) + 1
    fine = max(2 * _RADIAL_SAMPLES + 1, 2 * math.ceil(4 * radius) + 1)
    u = np.linspace(-1.0, 1.0, fine)
    x, y = np.meshgrid(u, u)
    inside = np.clip((1.0 - np.hypot(x, y)) * fine / 4.0 + 0.5, 0.0, 1.0)  # soft rim: the area is right between samples
    toward = side * math.copysign(1.0, disparity)  # on which side of the centre this view's light lies
    if alpha <= ALPHA_RAMP:
        profile = 0.5 * (1.0 + toward * (alpha / ALPHA_RAMP) * x)
    else:
        mix = min(1.0, (alpha - ALPHA_RAMP) / (ALPHA_HALF_DISC - ALPHA_RAMP))
        step = np.where(toward * x > 0, 1.0, np.where(x == 0, 0.5, 0.0))
        profile = mix * step + (1.0 - mix) * 0.5 * (1.0 + toward * x)
    weight = inside * profile
    weight /= weight.sum()
    # Discretisation moves the centroid by up to a per cent; scaling the sample positions puts it back exactly.
    centroid = float((weight * x).sum()) * radius
    stretch = (side * disparity / 2.0) / centroid if centroid else 1.0
    return _splat(weight, x * radius * stretch, y * radius, half + 1)


def _splat(
    weight: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64], half: int
) -> NDArray[np.float32]:
    """Spread weighted points over a (2 half + 1)^2 grid bilinearly, which keeps the centroid below one pixel exact."""
    size = 2 * half + 1
    kernel = np.zeros(size * size)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - x0, y - y0
    for dy, wy in ((0, 1.0 - fy), (1, fy)):
        for dx, wx in ((0, 1.0 - fx), (1, fx)):
            index = (y0 + dy + half) * size + (x0 + dx + half)
            kernel += np.bincount(index.ravel(), (weight * wx * wy).ravel(), minlength=size * size)
    result = (kernel / kernel.sum()).reshape(size, size).astype(np.float32)
    result.setflags(write=False)  # it is cached and shared
    return result
