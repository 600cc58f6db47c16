"""Fit point-spread functions over the field to measured kernels, and measure kernels on captures of a chart of dots.

The fit is nonlinear least squares (Levenberg-Marquardt) over all kernels at once. The kernel at one place depends on a dozen
local numbers only, and these on the coefficients over the field linearly, so the normal equations of the whole are sums of
Kronecker products of small local ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.optics.field_psf import aperture_light, centroids, checked_kernels, fit_into
from edge_dp.sensors.profile import FieldPolynomial
from edge_dp.sensors.psf_field import LocalPsf, PsfField, degree_of, polynomial_terms, term_count

Plane = NDArray[np.float64]

_STEP = 1e-3  # for numerical derivatives
_DIGITS = 5  # of the coefficients; more change kernels by less than 1e-4
_MOST_STEPS = 40
_VERTICAL_WEIGHT = 0.2  # of 1 px of vertical distance of the centroids, in norms of a kernel
_START_SOFTNESS, _START_SPLIT = 0.15, 0.8  # about what a phone has; the fit is not sensitive to them

_DOT_LEVEL = 0.12  # of the brightest dot: what belongs to one
_LEAST_DOT_PX = 9
_LEAST_DOTS = 4


def grid_positions(rows: int, columns: int) -> Plane:
    """(rows * columns, 2) field positions (x, y), -1..1, of the middles of a grid of tiles, row by row."""
    x, y = np.meshgrid((2 * np.arange(columns) + 1) / columns - 1, (2 * np.arange(rows) + 1) / rows - 1)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def fit_psf_field(
    left: NDArray[np.floating],
    right: NDArray[np.floating],
    positions: NDArray[np.floating],
    field_px: tuple[int, int],
    *,
    blur_px: float = 0.0,
    aperture_degree: int = 2,
    field_degree: int = 2,
    disparity_degree: int = 4,
) -> PsfField:
    """Fit a ``PsfField`` to kernels measured at one defocus.

    Args:
        left, right: (N, K, K) kernels of each view, K odd; both views of a place share a frame, of which a common shift does not
            matter. Convolution kernels: the image of a point. Noise about 0 may be negative, as clipping it would bias the fit.
        positions: (N, 2) places in the field (x, y), -1..1; ``grid_positions`` gives those of a grid.
        field_px: (width, height) of the field, for the record.
        blur_px: sigma of what blurs in focus too, and so does not grow with defocus; 0 for kernels relative to a focused image.
        aperture_degree: of the polynomials over the aperture, 1 or more.
        field_degree, disparity_degree: of the polynomials over the field of the kernels' shape and of the distance of the
            centroids; lowered where fewer places, or fewer columns or rows of them, cannot tell more. Where
            kernels are noisy, as those cut out of a chart are, take 2 for the distance too.

    Raises:
        InputError: arrays of other or unlike shapes, or kernels that are no kernels; places where the views do not differ.
    """
    if left.shape != right.shape:
        raise InputError(
            f"kernels: expected left and right kernels of one shape, found {left.shape} and {right.shape}."
        )
    targets = np.stack(
        [checked_kernels(view, f"{side} kernels", signed=True) for side, view in (("left", left), ("right", right))],
        axis=1,
    )
    if positions.shape != (len(targets), 2):
        raise InputError(f"positions: expected ({len(targets)}, 2), one for each kernel, found {positions.shape}.")
    if aperture_degree < 1 or min(field_degree, disparity_degree) < 0:
        raise InputError("degree: expected 1 or more over the aperture and 0 or more over the field. Raise it.")
    middles = centroids(targets)
    separations = middles[:, 1] - middles[:, 0]
    if not (np.sign(separations[:, 0]) == np.sign(separations[0, 0])).all() or np.abs(separations[:, 0]).min() < 0.1:
        raise InputError(
            "kernels: expected the centroids of the views apart along x, to the same side everywhere, found distances of "
            f"{separations[:, 0].min():.2f} to {separations[:, 0].max():.2f} px. Measure farther from focus."
        )
    basis = _field_basis(positions, disparity_degree)
    disparity_px = np.linalg.lstsq(basis, separations[:, 0], rcond=None)[0]
    places = [
        _Place(target, separation[1], common, disparity, blur_px)
        for target, separation, common, disparity in zip(
            targets, separations, middles.mean(axis=1), basis @ disparity_px, strict=True
        )
    ]
    shape = _fit(places, _field_basis(positions, field_degree), term_count(aperture_degree) - 1)
    softness, one, other, *aperture = (tuple(round(float(number), _DIGITS) for number in row) for row in shape)
    half = len(aperture) // 2
    return PsfField(
        field_px=field_px,
        blur_px=blur_px,
        disparity_px=tuple(round(float(number), _DIGITS) for number in disparity_px),
        softness=softness,
        stretch=(one, other),
        shared=tuple(aperture[:half]),
        split=tuple(aperture[half:]),
    )


def alpha_field_of(psf: PsfField) -> FieldPolynomial:
    """How alpha varies over the field, mean 1: as the distance of the centroids, since one defocus was measured everywhere."""
    degree = degree_of(len(psf.disparity_px))
    rows = np.zeros((degree + 1, degree + 1))
    terms = iter(psf.disparity_px)
    for total in range(degree + 1):
        for j in range(total + 1):
            rows[j, total - j] = next(terms)
    even = np.array([0.0 if i % 2 else 1 / (i + 1) for i in range(degree + 1)])  # means of x**i over -1..1
    rows /= even @ rows @ even
    return FieldPolynomial(tuple(tuple(round(float(value), _DIGITS) for value in row) for row in rows), psf.field_px)


@dataclass(frozen=True, slots=True)
class _Place:
    """What was measured at one place, and how far a model is from it."""

    kernels: Plane  # (2, K, K)
    vertical: float  # distance of the centroids, px
    common: Plane  # (2,) mean of the centroids
    disparity: float
    blur_px: float

    def residual(self, numbers: Plane) -> Plane:
        """(2 K K + 1,) differences, the kernels' in norms of the measured pair."""
        softness, one, other, *aperture = (float(number) for number in numbers)
        half = len(aperture) // 2
        light = aperture_light(LocalPsf(softness, (one, other), tuple(aperture[:half]), tuple(aperture[half:])))
        common = (float(self.common[0]), float(self.common[1]))
        size = self.kernels.shape[-1]
        model = np.stack(
            [
                fit_into(light.kernel(self.disparity, side, max(softness, 0.0), self.blur_px, common), size)
                for side in (-1, 1)
            ]
        )
        vertical = float((light.weights[1] - light.weights[0]) @ light.y) * self.disparity - self.vertical
        kernels = (model - self.kernels).ravel() / np.linalg.norm(self.kernels)
        return np.append(kernels, _VERTICAL_WEIGHT * vertical)

    def derivatives(self, numbers: Plane, residual: Plane) -> Plane:
        """(numbers, 2 K K + 1) derivatives of the residual."""
        moved = numbers + _STEP * np.eye(len(numbers))
        return np.stack([(self.residual(row) - residual) / _STEP for row in moved])


def _field_basis(positions: NDArray[np.floating], degree: int) -> Plane:
    """(N, terms) polynomial terms over the field, of at most the degree that the positions tell apart."""
    while True:
        basis = polynomial_terms(positions[:, 0].astype(float), positions[:, 1].astype(float), degree).T
        if degree == 0 or np.linalg.matrix_rank(basis, tol=1e-3 * len(basis) ** 0.5) == basis.shape[1]:
            return basis
        degree -= 1


def _fit(places: list[_Place], basis: Plane, aperture_terms: int) -> Plane:
    """(numbers, terms) coefficients over the field of each local number, by Levenberg-Marquardt with Marquardt's scaling."""
    coefficients = np.zeros((3 + 2 * aperture_terms, basis.shape[1]))
    coefficients[0, 0], coefficients[3 + aperture_terms, 0] = _START_SOFTNESS, _START_SPLIT
    residuals, cost = _evaluate(places, basis, coefficients)
    damping = 1e-3
    for _ in range(_MOST_STEPS):
        normal, gradient = _normal_equations(places, basis, coefficients, residuals)
        before = cost
        while damping < 1e6:
            scaled = normal + damping * np.diag(np.diag(normal)) + 1e-9 * np.eye(len(normal))
            tried = coefficients - np.linalg.solve(scaled, gradient).reshape(coefficients.shape)
            new_residuals, new_cost = _evaluate(places, basis, tried)
            if new_cost < cost:
                coefficients, residuals, cost = tried, new_residuals, new_cost
                damping /= 10
                break
            damping *= 10
        if before - cost <= 1e-4 * before:
            break
    return coefficients


def _evaluate(places: list[_Place], basis: Plane, coefficients: Plane) -> tuple[list[Plane], float]:
    """Residuals of each place and their squared norm; infinite where the views no longer differ somewhere."""
    try:
        residuals = [place.residual(row) for place, row in zip(places, basis @ coefficients.T, strict=True)]
    except InputError:
        return [], np.inf
    return residuals, float(sum(residual @ residual for residual in residuals))


def _normal_equations(
    places: list[_Place], basis: Plane, coefficients: Plane, residuals: list[Plane]
) -> tuple[Plane, Plane]:
    size = coefficients.size
    normal, gradient = np.zeros((size, size)), np.zeros(size)
    for place, terms, residual in zip(places, basis, residuals, strict=True):
        derivatives = place.derivatives(coefficients @ terms, residual)
        normal += np.kron(derivatives @ derivatives.T, np.outer(terms, terms))
        gradient += np.kron(derivatives @ residual, terms)
    return normal, gradient


@dataclass(frozen=True, slots=True, eq=False)
class KernelMatch:
    """How well modelled kernels match measured ones.

    separation_error: (N, 2) px, modelled minus measured distance of the views' centroids, along x and down.
    correlation: (N, 2) Pearson correlation over the measured kernel's frame, left and right view.
    """

    separation_error: Plane
    correlation: Plane


def match_kernels(
    model: Callable[[int, int], NDArray[np.floating]], left: NDArray[np.floating], right: NDArray[np.floating]
) -> KernelMatch:
    """Compare modelled with measured kernels.

    Before correlating, the modelled pair is moved so that the mean of both views' centroids is where it is measured: where in
    its frame a measured pair lies is registration.

    Args:
        model: kernel (K, K) of sum 1 as a function of index and side (-1 left, +1 right).
        left, right: (N, K, K) measured kernels, as for ``fit_psf_field``.
    """
    views = [checked_kernels(view, "kernels") for view in (left, right)]
    size = views[0].shape[-1]
    errors, correlations = [], []
    for index, measured in enumerate(zip(*views, strict=True)):
        pair = [model(index, side).astype(np.float64) for side in (-1, 1)]
        ours, theirs = (np.stack([centroids(kernel) for kernel in kernels]) for kernels in (pair, measured))
        errors.append((ours[1] - ours[0]) - (theirs[1] - theirs[0]))
        x, y = theirs.mean(axis=0) - ours.mean(axis=0)
        move = np.array([[1, 0, x], [0, 1, y]])
        moved = [cv2.warpAffine(fit_into(kernel, size), move, (size, size)) for kernel in pair]
        correlations.append([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(moved, measured, strict=True)])
    return KernelMatch(np.array(errors), np.array(correlations))


@dataclass(frozen=True, slots=True, eq=False)
class DotKernels:
    """Kernels measured on single dots of a chart.

    left, right: (N, K, K) float64 of sum 1; both views of a dot share a frame. Noise about 0 is not clipped.
    positions: (N, 2) places in the field (x, y), -1..1.
    """

    left: Plane
    right: Plane
    positions: Plane

    def on_grid(self, rows: int, columns: int) -> tuple[Plane, Plane]:
        """Left and right kernels (rows, columns, K, K) of the middles of a grid of tiles, for ``MeasuredGrid``.

        Each is the mean of the four nearest dots, weighted by the inverse square of the distance, after the dots' pairs
        have been moved to the middle of their frames, with what noise leaves below 0 clipped.
        """
        middle = (centroids(self.left) + centroids(self.right)) / 2
        size = self.left.shape[-1]
        views = [
            [
                cv2.warpAffine(kernel, np.array([[1, 0, -x], [0, 1, -y]]), (size, size))
                for kernel, (x, y) in zip(view, middle, strict=True)
            ]
            for view in (self.left, self.right)
        ]
        left, right = (np.empty((rows * columns, size, size)) for _ in views)
        for tile, place in enumerate(grid_positions(rows, columns)):
            distance = np.linalg.norm(self.positions - place, axis=1)
            nearest = np.argsort(distance)[:4]
            share = 1 / (distance[nearest] ** 2 + 1e-6)
            for grid, view in zip((left, right), views, strict=True):
                grid[tile] = np.maximum(
                    np.tensordot(share / share.sum(), np.stack([view[dot] for dot in nearest]), axes=1), 0
                )
        shape = (rows, columns, size, size)
        return left.reshape(shape), right.reshape(shape)


def kernels_from_dot_chart(
    left: NDArray[np.floating], right: NDArray[np.floating], size: int | None = None, where: str = "dot chart"
) -> DotKernels:
    """Find the dots of a chart out of focus and cut out the kernel of each view around every dot that stands alone.

    The dots may be bright on dark or dark on bright, in any arrangement, but must be small: what a dot measures across blurs
    the kernels, unnoticeably up to a tenth of theirs. Pass to ``fit_psf_field`` as ``blur_px`` the standard deviation of
    the lens, the pixel and the dot (a quarter of its diameter) together.

    Args:
        left, right: (H, W) views of the whole field in linear light, dual-pixel axis along x.
        size: K, odd; None for what the largest dot needs.
        where: the files, for the messages.

    Raises:
        InputError: views of unlike shape, NaN, an even size, or fewer than four dots that stand alone.
    """
    if left.ndim != 2 or left.shape != right.shape or not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise InputError(f"{where}: expected two views (H, W) of finite values, found {left.shape} and {right.shape}.")
    if size is not None and (size < 3 or size % 2 == 0):
        raise InputError(f"{where}: size: expected an odd number, 3 or more, found {size}. Correct it.")
    views = [view.astype(np.float64) for view in (left, right)]
    signal, sign = _above_background(views[0] + views[1])
    noise = 1.4826 * float(np.median(np.abs(signal - np.median(signal))))
    found = (signal > max(_DOT_LEVEL * float(signal.max()), 6 * noise)).astype(np.uint8)
    _, labels, boxes, middles = cv2.connectedComponentsWithStats(found, connectivity=8)
    areas = boxes[:, cv2.CC_STAT_AREA]
    dots = 1 + np.flatnonzero(areas[1:] >= _LEAST_DOT_PX)  # the first is the background
    dots = dots[areas[dots] > 0.3 * np.median(areas[dots])] if len(dots) else dots
    dots = dots[areas[dots] < 3 * np.median(areas[dots])] if len(dots) else dots
    extent = int(max((boxes[dots][:, [cv2.CC_STAT_WIDTH, cv2.CC_STAT_HEIGHT]]).max(), 1)) if len(dots) else 1
    margin = 2 + extent // 8  # for the rim below the level
    half = (size or 2 * (extent // 2 + margin + 2) + 1) // 2
    near = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    height, width = left.shape
    pairs, positions = [], []
    for dot in dots:
        column, row = (round(float(value)) for value in middles[dot])
        if not (half <= column < width - half and half <= row < height - half):
            continue
        window = (slice(row - half, row + half + 1), slice(column - half, column + half + 1))
        if not np.isin(labels[window], np.array([0, dot])).all():
            continue
        inside = cv2.dilate((labels[window] == dot).astype(np.uint8), near) > 0
        if inside.all():
            continue
        pair = [np.where(inside, _above_plane(view[window], ~inside, sign), 0.0) for view in views]
        if min(kernel.sum() for kernel in pair) > 0:
            pairs.append([kernel / kernel.sum() for kernel in pair])
            positions.append([(2 * middles[dot][0] + 1) / width - 1, (2 * middles[dot][1] + 1) / height - 1])
    if len(pairs) < _LEAST_DOTS:
        raise InputError(
            f"{where}: expected at least {_LEAST_DOTS} dots that stand alone, found {len(pairs)} (of {len(dots)} dots, in frames "
            f"of {2 * half + 1} px). Use a chart with dots farther apart, or a smaller defocus."
        )
    kernels = np.array(pairs)
    return DotKernels(kernels[:, 0], kernels[:, 1], np.array(positions))


def _above_plane(crop: Plane, outside: NDArray[np.bool_], sign: int) -> Plane:
    """Light of a bright dot, or share of the background's that a dark one takes; the background is a plane fitted outside it."""
    along = np.linspace(-1, 1, crop.shape[0])
    terms = polynomial_terms(*np.meshgrid(along, along), 1)
    plane = np.tensordot(np.linalg.lstsq(terms[:, outside].T, crop[outside], rcond=None)[0], terms, axes=1)
    if sign > 0:
        return crop - plane
    least = 1e-6 * float(np.abs(plane).max()) + 1e-30  # a chart without light gives no division by 0
    return 1 - crop / np.maximum(plane, least)


def _above_background(image: Plane) -> tuple[Plane, int]:
    """How far pixels stand out of a smooth background, smoothed a little, and +1 for bright dots or -1 for dark ones.

    The background is a polynomial of degree 4 fitted to what is left when pixels far from it are dropped.
    """
    height, width = image.shape
    coarse = cv2.resize(image, (min(width, 96), min(height, 96)), interpolation=cv2.INTER_AREA)
    x, y = np.meshgrid(np.linspace(-1, 1, coarse.shape[1]), np.linspace(-1, 1, coarse.shape[0]))
    terms = polynomial_terms(x, y, 4).reshape(15, -1).T
    values = coarse.ravel()
    fitted = np.full(len(values), np.median(values))
    for _ in range(8):
        error = np.abs(values - fitted)
        kept = error <= 2 * np.median(error) + 1e-12
        fitted = terms @ np.linalg.lstsq(terms[kept], values[kept], rcond=None)[0]
    background = cv2.resize(fitted.reshape(coarse.shape), (width, height), interpolation=cv2.INTER_LINEAR)
    signal = cv2.GaussianBlur(image - background, (0, 0), 1.0).astype(np.float64)
    sign = 1 if signal.max() > -signal.min() else -1
    return sign * signal, sign
