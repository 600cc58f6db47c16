"""Point-spread functions that vary over the field: from a fit in a sensor profile, or from measured kernels themselves.

Both scale what was measured at one defocus: a ray through (u, v) of the aperture lands at a distance from the point's image that
is proportional to defocus, and on the opposite side in front of focus. So kernels of another disparity are those of the measured
one, larger or smaller, and mirrored through the point where the sign differs. The mean of both views' centroids is where the
point's image is taken to be: published kernels are registered to a few px only, and a shift common to both is no disparity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.optics.psf import Kernel, Plane, finish_kernel, splat
from edge_dp.sensors.psf_field import LocalPsf, PsfField, degree_of, polynomial_terms

_SAMPLES = 48  # across the aperture, at least
_LEAST_SEPARATION = 0.02  # of the centroids, in radii: alpha = 0.01, a twentieth of the weakest sensor known


@dataclass(frozen=True, slots=True)
class FieldPsf:
    """The kernels that a sensor profile's ``PsfField`` describes, at any disparity and place.

    Args:
        field: the fit.
        step: px, see ``PsfModel``.
    """

    field: PsfField
    step: float = 1.0 / 8
    varies: ClassVar[bool] = True

    def kernel(self, disparity: float, side: int, x: float = 0.0, y: float = 0.0) -> Kernel:
        """As ``PsfModel.kernel``; along x the centroid lies at side * d / 2 to 1e-3 px.

        Raises:
            InputError: a field whose views do not differ at this place.
        """
        return _field_kernel(self.field, float(disparity), side, float(x), float(y))


class ApertureLight(NamedTuple):
    """Where the light of points of the aperture lands, for a disparity of 1 px; scale by the disparity."""

    weights: tuple[Plane, Plane]  # (P,) of the left and right view, each with sum 1
    x: Plane  # (P,) px; the centroids of the views lie at -1/2 and +1/2
    y: Plane
    radius: float  # px

    def kernel(
        self, disparity: float, side: int, softness: float, blur_px: float, centre: tuple[float, float] = (0.0, 0.0)
    ) -> Kernel:
        """(K, K) kernel of one view.

        Args:
            disparity: px, signed.
            side: -1 for the left view, +1 for the right one.
            softness: sigma of the rim per radius.
            blur_px: sigma of what blurs in focus too.
            centre: (x, y) px to move it by.
        """
        x, y = self.x * disparity + centre[0], self.y * disparity + centre[1]
        sigma = math.hypot(softness * self.radius * disparity, blur_px)
        return finish_kernel(splat(self.weights[side > 0], x, y), sigma)


def aperture_light(local: LocalPsf, samples: int = _SAMPLES) -> ApertureLight:
    """Sample the aperture as ``PsfField`` describes it at one place.

    Args:
        local: its numbers there.
        samples: points across the aperture.

    Raises:
        InputError: the two views' centroids are not apart along x, left to the left, by at least a hundredth of the diameter.
    """
    u, v, inside, terms = _aperture(samples, degree_of(len(local.shared) + 1))
    a, b = local.stretch
    length = math.hypot(a, b)
    along, across = math.cosh(length), math.sinh(length) / length if length else 1.0  # exp(M) = along + across * M
    x = (along + across * a) * u + across * b * v
    y = across * b * u + (along - across * a) * v
    shared, split = np.dot(local.shared, terms), np.dot(local.split, terms)
    left, right = (_normalised(inside, shared + sign * split) for sign in (-1, 1))
    both = (left + right) / 2
    x, y = x - both @ x, y - both @ y
    separation = float((right - left) @ x)
    if not separation >= _LEAST_SEPARATION:
        raise InputError(
            f"point-spread function: expected centroids of the views at least {_LEAST_SEPARATION} radii apart, found "
            f"{separation:.3g}. Correct split in the sensor profile."
        )
    return ApertureLight((left, right), x / separation, y / separation, 1.0 / separation)


@lru_cache(maxsize=8192)
def _field_kernel(field: PsfField, disparity: float, side: int, x: float, y: float) -> Kernel:
    local, light = _place(field, x, y, _SAMPLES)
    radius = light.radius * abs(disparity)
    samples = _SAMPLES
    gap = max(0.5, local.softness * radius)  # px: the splat, or else the soft rim, fills it
    while 2 * radius / samples > gap:
        samples *= 2
    return _place(field, x, y, samples)[1].kernel(disparity, side, local.softness, field.blur_px)


@lru_cache(maxsize=256)
def _place(field: PsfField, x: float, y: float, samples: int) -> tuple[LocalPsf, ApertureLight]:
    local = field.at(x, y)
    return local, aperture_light(local, samples)


@lru_cache(maxsize=16)
def _aperture(samples: int, degree: int) -> tuple[Plane, Plane, Plane, Plane]:
    """u, v (P,) of points of the unit disc, the share of their cells inside it, and the polynomial terms but the constant."""
    grid = (2 * np.arange(samples) + 1) / samples - 1
    u, v = np.meshgrid(grid, grid)
    inside = np.clip((1 - np.hypot(u, v)) * samples / 2 + 0.5, 0.0, 1.0)
    used = inside > 0
    return u[used], v[used], inside[used], polynomial_terms(u[used], v[used], degree)[1:]


def _normalised(inside: Plane, exponent: Plane) -> Plane:
    weight: Plane = inside * np.exp(exponent - exponent.max())
    return weight / weight.sum()


class MeasuredGrid:
    """Kernels measured at one defocus on a grid over the field, scaled with defocus and interpolated bilinearly in between.

    Args:
        left, right: (rows, columns, K, K) non-negative, K odd; tile [i, j] is measured in the middle of its part of the field.
            Both views of a tile share a frame; a common shift is taken out, and so is a vertical distance of the centroids.
        blur_px: sigma of what blurs in focus too, where the kernels are relative to a focused image.
        step: px, see ``PsfModel``.

    Raises:
        InputError: arrays of other or unlike shapes, NaN or negative values, a kernel without light, or a tile whose centroids
            are not apart along x.
    """

    varies: ClassVar[bool] = True

    def __init__(
        self, left: NDArray[np.floating], right: NDArray[np.floating], blur_px: float = 0.0, step: float = 1.0 / 8
    ) -> None:
        if left.ndim != 4 or left.shape != right.shape:
            raise InputError(
                f"measured kernels: expected left and right (rows, columns, K, K), found {left.shape} and {right.shape}. "
                "Reshape them."
            )
        rows, columns, *size = left.shape
        self.step = step
        self._blur_px = blur_px
        self._grid = (rows, columns)
        self._kernels = tuple(
            checked_kernels(kernels.reshape(-1, *size), "measured kernels") for kernels in (left, right)
        )
        self._centroids = tuple(centroids(kernels) for kernels in self._kernels)
        self._disparities = (self._centroids[1] - self._centroids[0])[:, 0]
        if not np.abs(self._disparities).min() > 1e-3:
            tile = int(np.argmin(np.abs(self._disparities)))
            raise InputError(
                f"measured kernels: expected centroids of the views apart along x, found {self._disparities[tile]:.2g} px in "
                f"tile {tile}. Measure farther from focus."
            )

    def kernel(self, disparity: float, side: int, x: float = 0.0, y: float = 0.0) -> Kernel:
        """As ``PsfModel.kernel``; the centroid lies at (side * d / 2, 0) to 1e-3 px."""
        return _measured_kernel(self, float(disparity), side, float(x), float(y))

    def _make(self, disparity: float, side: int, x: float, y: float) -> Kernel:
        corners = _corners(self._grid, x, y)
        parts = [self._scaled(tile, disparity, side) for tile, _ in corners]
        size = max(part.shape[0] for part in parts)
        mixed = sum(share * fit_into(part, size) for part, (_, share) in zip(parts, corners, strict=True))
        return finish_kernel(np.asarray(mixed), self._blur_px)

    def _scaled(self, tile: int, disparity: float, side: int) -> Plane:
        scale = disparity / self._disparities[tile]
        kernel, own = self._kernels[side > 0][tile], self._centroids[side > 0][tile]
        place = np.array([side * disparity / 2, 0.0])
        radius = kernel.shape[0] // 2
        half = math.ceil(float(np.abs(place).max()) + abs(scale) * (radius + 0.5 + float(np.abs(own).max()))) + 1
        offsets = np.arange(kernel.shape[0]) - radius
        across, down = (_hat_shares((offsets - own[axis]) * scale + place[axis], abs(scale), half) for axis in (0, 1))
        return down @ kernel @ across.T


@lru_cache(maxsize=8192)
def _measured_kernel(grid: MeasuredGrid, disparity: float, side: int, x: float, y: float) -> Kernel:
    return grid._make(disparity, side, x, y)


def _hat_shares(positions: Plane, width: float, half: int) -> Plane:
    """(2 half + 1, N) what each pixel gets of boxes of this width and area 1, spread bilinearly, as ``splat`` does with points.

    The bilinear weight is integrated over each box, so the area is right at any scale and centroids are exact.
    """
    distance = positions - np.arange(-half, half + 1)[:, None]
    if width < 1e-6:
        return np.maximum(1 - np.abs(distance), 0.0)
    return (_hat_integral(distance + width / 2) - _hat_integral(distance - width / 2)) / width


def _hat_integral(t: Plane) -> Plane:
    """Integral of max(1 - |t|, 0) from -1 to t."""
    t = np.clip(t, -1.0, 1.0)
    return t + 0.5 - 0.5 * t * np.abs(t)


def _corners(grid: tuple[int, int], x: float, y: float) -> list[tuple[int, float]]:
    """Tiles around a place in the field and their bilinear shares; outside the outermost centres as on them."""
    (row, down), (column, across) = (
        divmod(float(np.clip((place + 1) / 2 * count - 0.5, 0, count - 1)), 1.0)
        for place, count in zip((y, x), grid, strict=True)
    )
    shares = [
        (int(row + i) * grid[1] + int(column + j), (down if i else 1 - down) * (across if j else 1 - across))
        for i in (0, 1)
        for j in (0, 1)
    ]
    return [(tile, share) for tile, share in shares if share > 0]


def checked_kernels(kernels: NDArray[np.floating], where: str, signed: bool = False) -> Plane:
    """(N, K, K) float64 kernels, each scaled to sum 1.

    Args:
        kernels: (N, K, K), K odd.
        where: what they are, for the messages.
        signed: whether noise may make some values negative.

    Raises:
        InputError: another shape, an even K, NaN, negative values or a kernel without light.
    """
    if kernels.ndim != 3 or kernels.shape[1] != kernels.shape[2] or kernels.shape[1] % 2 == 0 or not len(kernels):
        raise InputError(f"{where}: expected (N, K, K) with K odd, found {kernels.shape}. Crop the kernels.")
    checked = kernels.astype(np.float64)
    sums = checked.sum(axis=(1, 2), keepdims=True)
    if not (np.isfinite(checked).all() and (signed or checked.min() >= 0) and sums.min() > 0):
        raise InputError(
            f"{where}: expected finite values, 0 or above, and light in each, found a smallest value of "
            f"{checked.min():.3g} and a smallest sum of {sums.min():.3g}. Subtract the background and clip."
        )
    return checked / sums


def centroids(kernels: Plane) -> Plane:
    """(..., 2) centroids (x, y) in px from the middle sample of (..., K, K) kernels of sum 1."""
    offsets = np.arange(kernels.shape[-1]) - kernels.shape[-1] // 2
    return np.stack([kernels.sum(axis=-2) @ offsets, kernels.sum(axis=-1) @ offsets], axis=-1)


def fit_into(kernel: NDArray[np.floating], size: int) -> Plane:
    """(size, size) kernel, size odd: its middle part, or itself with zeros around."""
    excess = (kernel.shape[0] - size) // 2
    if excess > 0:
        kernel = kernel[excess:-excess, excess:-excess]
    return np.pad(kernel.astype(np.float64), max(-excess, 0))
