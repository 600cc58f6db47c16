"""Half-aperture point-spread functions: what each view of a dual pixel makes of a point that is out of focus.

A thin lens blurs a point to a disc of the circle-of-confusion diameter c. The left and right photodiode each weigh the disc by
a profile that falls off across the aperture; the distance of the two centroids is the dual-pixel disparity

    d = alpha * c

with alpha a property of the sensor: 4 / (3 pi) = 0.424 for an ideal half disc, 1/4 for a disc with a linear ramp, about 0.21
measured on a Pixel 4. The models here have one profile over the whole field; ``edge_dp.optics.field_psf`` has those that vary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError

Kernel = NDArray[np.float32]
Plane = NDArray[np.float64]

ALPHA_HALF_DISC = 4.0 / (3.0 * math.pi)
ALPHA_RAMP = 0.25
_RADIAL_SAMPLES = 24  # fine samples per radius, at least; enough for 1e-3 of the area of the smallest disc
_LEAST_BLUR = 0.05  # px: less is nothing


class PsfModel(Protocol):
    """Point-spread functions of both views as a function of disparity and place in the field. Hashable and immutable."""

    @property
    def step(self) -> float:
        """Px: disparities are rounded to multiples of it, so that kernels are made once. Between them, interpolate."""
        ...

    @property
    def varies(self) -> bool:
        """Whether kernels depend on the place in the field."""
        ...

    def kernel(self, disparity: float, side: int, x: float = 0.0, y: float = 0.0) -> Kernel:
        """Point-spread function of one view.

        Args:
            disparity: d in px, left(x) = right(x + d); positive farther than focus.
            side: -1 for the left view, +1 for the right one.
            x, y: place in the field, from -1 to 1: left to right and top to bottom.

        Returns:
            (K, K) with K odd, float32, non-negative, sum 1, not writable; to be convolved with (not correlated). The right
            view's centroid lies ``disparity`` px to the right of the left one's.
        """
        ...

    def __hash__(self) -> int:
        """Equal for equal models: kernels are cached by them."""
        ...


@dataclass(frozen=True, slots=True)
class ApertureModel:
    """A profile across the aperture that is the same in the whole field.

    Args:
        blur_px: standard deviation of what blurs even focused light (lens, pixel aperture), px.
    """

    blur_px: float = 0.0
    step: ClassVar[float] = 1.0 / 64
    varies: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.blur_px < math.inf:
            raise InputError(f"blur_px: expected px, 0 or above, found {self.blur_px}. Correct it.")

    @property
    def alpha(self) -> float:
        """Disparity per circle-of-confusion diameter: the profile's centroid, in radii."""
        raise NotImplementedError

    def profile(self, u: Plane, v: Plane) -> Plane:
        """How much of the light through (u, v) of the aperture the photodiode on the side of +u gets.

        Args:
            u, v: coordinates in radii along and across the dual-pixel axis; only the unit disc counts.

        Returns:
            Weights >= 0 of the shape of u, up to a factor.
        """
        raise NotImplementedError

    def kernel(self, disparity: float, side: int, x: float = 0.0, y: float = 0.0) -> Kernel:
        """As ``PsfModel.kernel``; centroid at side * d / 2 to 1e-3 px, the same for each x, y."""
        del x, y
        return _kernel(self, float(disparity), side)


@dataclass(frozen=True, slots=True)
class HalfAperture(ApertureModel):
    """A ramp of slope s <= 1, (1 + s u) / 2, up to alpha = 1/4; beyond that a mix of the full ramp with the half disc.

    So 4 / (3 pi) is the ideal half disc, 1/4 the disc with a linear ramp, and any sensor's alpha lies between 0 and those.

    Raises:
        InputError: strength outside (0, 4 / (3 pi)].

    Source: thin lens; half-disc and ramp centroids by integration over the disc.
    """

    strength: float = ALPHA_HALF_DISC

    def __post_init__(self) -> None:
        ApertureModel.__post_init__(self)
        if not 0.0 < self.strength <= ALPHA_HALF_DISC + 1e-9:
            raise InputError(f"alpha: expected a value in (0, {ALPHA_HALF_DISC:.3f}], found {self.strength}")

    @property
    def alpha(self) -> float:
        """As given."""
        return self.strength

    def profile(self, u: Plane, v: Plane) -> Plane:
        """See the class."""
        if self.strength <= ALPHA_RAMP:
            return 0.5 * (1.0 + (self.strength / ALPHA_RAMP) * u)
        mix = min(1.0, (self.strength - ALPHA_RAMP) / (ALPHA_HALF_DISC - ALPHA_RAMP))
        step = np.where(u > 0, 1.0, np.where(u == 0, 0.5, 0.0))
        return mix * step + (1.0 - mix) * 0.5 * (1.0 + u)


@dataclass(frozen=True, slots=True)
class TranslatingDisc(ApertureModel):
    """The disc times the sum of its translations by 0 to one diameter: at (u, v) that is u + sqrt(1 - v^2).

    Source: Punnappurath et al., "Modeling Defocus-Disparity in Dual-Pixel Sensors", ICCP 2020, in the limit of a fine grid.
    Both views together are proportional to the length of the row's chord, not uniform.
    """

    @property
    def alpha(self) -> float:
        """(pi / 4) / (8 / 3), by integration; 0.286 when sampled on a kernel of radius 20 px as published."""
        return 3.0 * math.pi / 32.0

    def profile(self, u: Plane, v: Plane) -> Plane:
        """See the class."""
        return np.maximum(u + np.sqrt(np.maximum(1.0 - v**2, 0.0)), 0.0)


@dataclass(frozen=True, slots=True)
class Butterworth(ApertureModel):
    """A disc that is darker in the middle, times a linear ramp: B (1 + u) / 2 with B = q / (1 + q), q = (rho / cutoff)^(2 n).

    B is stretched to [floor, 1] over the disc.

    Args:
        order: n; published sets use 3, 6 and 9.
        cutoff: in radii; published sets use 0.8 and 1.
        floor: brightness of the middle; published sets use 0.1 and 0.2.

    Source: Abuolaim et al., "Learning to Reduce Defocus Blur by Realistically Modeling Dual-Pixel Data", ICCV 2021. Sizes
    here are metric and the sides swap in front of focus as a thin lens has it, which the published code does otherwise.
    """

    order: int = 3
    cutoff: float = 1.0
    floor: float = 0.2

    def __post_init__(self) -> None:
        ApertureModel.__post_init__(self)
        if self.order < 1 or not 0.0 < self.cutoff < math.inf or not 0.0 <= self.floor < 1.0:
            raise InputError(f"Butterworth: expected order >= 1, cutoff > 0 and floor in [0, 1), found {self}")

    @property
    def alpha(self) -> float:
        """By integration on a fine grid."""
        return _alpha(self)

    def profile(self, u: Plane, v: Plane) -> Plane:
        """See the class."""
        rim = self.cutoff ** (-2 * self.order)
        q = ((u**2 + v**2) / self.cutoff**2) ** self.order
        stretched = (q / (1.0 + q)) / (rim / (1.0 + rim))
        return (self.floor + (1.0 - self.floor) * stretched) * 0.5 * (1.0 + u)


@lru_cache(maxsize=64)
def _alpha(model: ApertureModel) -> float:
    grid = (np.arange(801) + 0.5) / 400.5 - 1.0
    u, v = np.meshgrid(grid, grid)
    weight = np.where(u**2 + v**2 <= 1.0, model.profile(u, v), 0.0)
    return float((weight * u).sum() / weight.sum())


@lru_cache(maxsize=16384)
def _kernel(model: ApertureModel, disparity: float, side: int) -> Kernel:
    radius = abs(disparity) / model.alpha / 2.0
    fine = max(2 * _RADIAL_SAMPLES + 1, 2 * math.ceil(4 * radius) + 1)
    u = np.linspace(-1.0, 1.0, fine)
    x, y = np.meshgrid(u, u)
    inside = np.clip((1.0 - np.hypot(x, y)) * fine / 4.0 + 0.5, 0.0, 1.0)  # soft rim: the area is right between samples
    toward = side * math.copysign(1.0, disparity)  # on which side of the centre this view's light lies
    weight = inside * model.profile(toward * x, y)
    weight /= weight.sum()
    # Discretisation moves the centroid by up to a per cent; scaling the sample positions puts it back exactly.
    centroid = float((weight * x).sum()) * radius
    stretch = (side * disparity / 2.0) / centroid if centroid else 1.0
    return finish_kernel(splat(weight, x * radius * stretch, y * radius), model.blur_px)


def splat(weight: Plane, x: Plane, y: Plane) -> Plane:
    """Spread weighted points over the pixels bilinearly, which keeps the centroid below one pixel exact.

    Args:
        weight: any shape, not all 0.
        x, y: px from the centre, of the same shape.

    Returns:
        (K, K), K odd and as small as the points allow, sum 1.
    """
    half = math.floor(max(float(np.abs(x).max()), float(np.abs(y).max()))) + 1
    size = 2 * half + 1
    kernel = np.zeros(size * size)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - x0, y - y0
    for dy, wy in ((0, 1.0 - fy), (1, fy)):
        for dx, wx in ((0, 1.0 - fx), (1, fx)):
            index = (y0 + dy + half) * size + (x0 + dx + half)
            kernel += np.bincount(index.ravel(), (weight * wx * wy).ravel(), minlength=size * size)
    return (kernel / kernel.sum()).reshape(size, size)


def finish_kernel(kernel: Plane, blur_px: float) -> Kernel:
    """Blur by a Gaussian, trim what is empty, scale to sum 1 and make immutable, as kernels are cached and shared.

    Args:
        kernel: (K, K), K odd, non-negative.
        blur_px: standard deviation.
    """
    if blur_px > _LEAST_BLUR:
        along = _gaussian(blur_px)
        kernel = np.asarray(cv2.sepFilter2D(np.pad(kernel, len(along) // 2), -1, along, along), np.float64)
    while (
        kernel.shape[0] > 1 and max(edge.max() for edge in (kernel[0], kernel[-1], kernel[:, 0], kernel[:, -1])) < 1e-7
    ):
        kernel = kernel[1:-1, 1:-1]
    result = np.ascontiguousarray(kernel / kernel.sum(), dtype=np.float32)
    result.setflags(write=False)
    return result


def _gaussian(sigma: float) -> NDArray[np.float64]:
    """(K,) discrete Gaussian, K odd: its variance is sigma^2 for any sigma, where one sampled from the formula falls short.

    Source: Lindeberg, "Scale-Space for Discrete Signals", PAMI 1990: the spectrum is exp(sigma^2 (cos w - 1)).
    """
    half = math.ceil(4 * sigma) + 3
    frequencies = 2 * np.pi * np.arange(2 * half + 2) / (4 * half + 2)
    samples = np.fft.irfft(np.exp(sigma**2 * (np.cos(frequencies) - 1)), 4 * half + 2)
    kernel = np.concatenate([samples[half:0:-1], samples[: half + 1]])
    return kernel / kernel.sum()
