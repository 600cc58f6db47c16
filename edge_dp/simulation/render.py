"""From a scene to what cameras see of it: the two dual-pixel views, the all-in-focus view and the true disparity.

Everything in linear light. Layers are blurred with opacity premultiplied and composited back to front ("over"), so a blurred
foreground lets the real background through at its rim and no halo arises. A slanted layer is blurred as a few fronto-parallel
ones and interpolated between them: interpolating two point-spread functions interpolates their centroids exactly.

This is the half that needs OpenCV alone; ``render_torch`` does the same on a GPU. Both take what to convolve, where and with what
from ``layer_planes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.optics.psf import PsfModel
from edge_dp.simulation.kernels import FieldWindow, PlaneKernels, plane_kernels, round_disparity
from edge_dp.simulation.scenes import Layer, Map, Scene

SIDES = (-1, 1)
"""Left and right view."""
WHOLE_FIELD = FieldWindow()
_HALF = np.array([0.125, 0.25, *np.arange(0.5, 64.5, 0.5)])
_PLANES = np.concatenate([-_HALF[::-1], [0.0], _HALF])
"""Disparities of the blurs between which a slanted plane is interpolated, px. Near focus, where a small disc is unlike a point,
they lie closer."""
_SAME_DISPARITY = 1.0 / 64  # px of disparity that nothing resolves
_FAR = 1e30  # a neighbour that never takes a share
_DIRECT_SIZE = 9  # kernels up to this size are cheaper without Fourier transform

Views = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class BlurPlane:
    """One of the blurs that a layer is interpolated from: a hat function of the disparity, 1 at ``disparity``.

    below, above: the neighbouring planes, px; infinitely far at either end, where the hat stays 1.
    """

    disparity: float
    below: float
    above: float


def layer_planes(low: float, high: float, step: float) -> tuple[BlurPlane, ...]:
    """The blurs of a layer with disparities from ``low`` to ``high``, px, for a model that takes multiples of ``step``."""
    if high - low < _SAME_DISPARITY:
        nearest = round_disparity((low + high) / 2, step)
        if abs(nearest - (low + high) / 2) <= _SAME_DISPARITY / 2:
            return (BlurPlane(nearest, -_FAR, _FAR),)
    low, high = np.floor(low / step + 1e-6) * step, np.ceil(high / step - 1e-6) * step
    planes = np.unique([low, *_PLANES.clip(low, high), high]).tolist()
    return tuple(
        BlurPlane(plane, below, above)
        for plane, below, above in zip(planes, [-_FAR, *planes[:-1]], [*planes[1:], _FAR], strict=True)
    )


def render_views(scene: Scene, psf: PsfModel, margin: int, window: FieldWindow = WHOLE_FIELD) -> Views:
    """Both dual-pixel views, (2, C, H, W) linear light, left first.

    Args:
        scene: layers on a canvas ``margin`` px larger than the frame on every side. What lies beyond the canvas is taken to
            look like its border.
        psf: point-spread functions of the views.
        window: the part of the field that the frame shows, for a model that varies over it.
    """
    channels, height, width = scene.layers[0].radiance.shape
    height, width = height - 2 * margin, width - 2 * margin
    views = np.zeros((2, channels, height, width), np.float32)
    for layer in scene.layers:
        _over(views, layer, psf, margin, window)
    return views


def render_pinhole(scene: Scene, margin: int) -> Map:
    """The all-in-focus view from the middle of the lens, (C, H, W)."""
    result = np.zeros_like(scene.layers[0].radiance)
    for layer in scene.layers:
        result = result * (1.0 - layer.opacity) + layer.radiance * layer.opacity
    return crop(result, margin)


def render_disparity(scene: Scene, margin: int) -> Map:
    """Ground-truth dual-pixel disparity of the front-most surface, (H, W) px."""
    result = scene.layers[0].disparity()
    for layer in scene.layers[1:]:
        result = np.where(layer.opacity > 0.5, layer.disparity(), result)
    return crop(result, margin)


def crop(image: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """(..., H, W) without ``margin`` px on every side."""
    return np.ascontiguousarray(image[..., margin : image.shape[-2] - margin, margin : image.shape[-1] - margin])


def disparity_limits(layer: Layer) -> tuple[float, float]:
    """Least and greatest disparity within a layer's box, px; of a relief where the layer is opaque at all."""
    top, bottom, left, right = layer.box
    if layer.relief is not None:
        inside = layer.disparity(layer.box)[layer.opacity[top:bottom, left:right] > 0]
        return float(inside.min()), float(inside.max())
    corners = [layer.disparity((y, y + 1, x, x + 1)).item() for y in (top, bottom - 1) for x in (left, right - 1)]
    return min(corners), max(corners)


Array = TypeVar("Array", bound=Any)


def hat(disparity: Array, plane: Array | float, below: Array | float, above: Array | float) -> Array:
    """Share of a blur in what is interpolated, [0, 1]; those of all planes of a layer sum to 1. Tensors do as well as arrays."""
    rise: Any = (disparity - below) / (plane - below)
    fall: Any = (above - disparity) / (above - plane)
    return rise.clip(0, 1) * fall.clip(0, 1)


def _over(views: Views, layer: Layer, psf: PsfModel, margin: int, window: FieldWindow) -> None:
    """Composite one blurred layer over both views (2, C, H, W), in place, where its light reaches."""
    height, width = views.shape[2:]
    top, bottom, left, right = layer.box
    if top >= bottom or left >= right:
        return
    planes = layer_planes(*disparity_limits(layer), psf.step)
    kernels = [[plane_kernels(psf, plane.disparity, side) for side in SIDES] for plane in planes]
    reach = max(_reach(of_plane) for of_plane in kernels)
    top, bottom = max(top - reach - margin, 0), min(bottom + reach - margin, height)
    left, right = max(left - reach - margin, 0), min(right + reach - margin, width)
    if top >= bottom or left >= right:
        return
    region = (slice(top, bottom), slice(left, right))
    opaque = _is_opaque(layer)
    light = np.zeros((2, views.shape[1] + (not opaque), bottom - top, right - left), np.float32)
    along_y, along_x = (
        weights[span] for weights, span in zip(window.interpolation(height, width), region, strict=True)
    )
    shares = _shares(layer, planes, (top + margin, bottom + margin, left + margin, right + margin))
    for (rows, columns, share), of_plane in zip(shares, kernels, strict=True):
        if rows.start == rows.stop:  # nothing of the layer, within the frame, is blurred like this
            continue
        reach = _reach(of_plane)
        place = (
            rows.start + top + margin,
            rows.stop + top + margin,
            columns.start + left + margin,
            columns.stop + left + margin,
        )
        convolver = _Convolver(_sources(layer, place, reach, opaque), reach)
        for total, kernel in zip(light, of_plane, strict=True):
            for rank, basis in enumerate(kernel.basis):
                weight = share
                if rank:  # the first coefficient is 1
                    coefficient = along_y[rows] @ kernel.coefficients[rank] @ along_x[columns].T
                    weight = coefficient if share is None else share * coefficient
                for plane, blurred in zip(total, convolver(basis), strict=True):
                    plane[rows, columns] += blurred if weight is None else blurred * weight
    for view, total in zip(views, light, strict=True):
        view[:, *region] = total if opaque else view[:, *region] * (1.0 - total[-1]) + total[:-1]


def _is_opaque(layer: Layer) -> bool:
    height, width = layer.opacity.shape
    return layer.box == (0, height, 0, width) and float(layer.opacity.min()) >= 1.0


def _reach(kernels: list[PlaneKernels]) -> int:
    """How far light spreads, px."""
    return max(kernel.basis.shape[-1] // 2 for kernel in kernels)


def _shares(
    layer: Layer, planes: tuple[BlurPlane, ...], region: tuple[int, int, int, int]
) -> Iterator[tuple[slice, slice, Map | None]]:
    """For each blur, the box of rows and columns in the region (canvas px) where it has a share, and the share; None for all.

    A slanted layer has many blurs, each of which counts in a narrow band: outside it there is nothing to convolve.
    """
    if len(planes) == 1:
        yield slice(0, region[1] - region[0]), slice(0, region[3] - region[2]), None
        return
    disparity = layer.disparity(region)
    for plane in planes:
        share = hat(disparity, plane.disparity, plane.below, plane.above)
        left, top, width, height = cv2.boundingRect((share > 0).astype(np.uint8))
        rows, columns = slice(top, top + height), slice(left, left + width)
        yield rows, columns, share[rows, columns]


def _sources(layer: Layer, region: tuple[int, int, int, int], reach: int, opaque: bool) -> list[Map]:
    """Premultiplied radiance, plane by plane, and opacity (left out where ``opaque``) of a region and ``reach`` px more.

    Args:
        region: (top, bottom, left, right) on the canvas, px. Beyond the canvas its border is repeated.
        opaque: the layer's opacity is 1 throughout.
    """
    height, width = layer.opacity.shape
    top, bottom, left, right = region[0] - reach, region[1] + reach, region[2] - reach, region[3] + reach
    inside = (slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width)))
    beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    opacity = layer.opacity[inside]
    planes = [radiance[inside] if opaque else radiance[inside] * opacity for radiance in layer.radiance]
    planes = planes if opaque else [*planes, opacity]
    if any(beyond):
        return [cv2.copyMakeBorder(plane, *beyond, cv2.BORDER_REPLICATE) for plane in planes]
    return [np.ascontiguousarray(plane) for plane in planes]


class _Convolver:
    """Convolves the same planes with one kernel after another; the spectra of the planes are computed once."""

    def __init__(self, planes: list[Map], reach: int) -> None:
        self.planes, self.reach = planes, reach
        self.spectra: list[Map] = []

    def __call__(self, kernel: NDArray[np.float32]) -> list[Map]:
        """Each plane convolved, without the outer ``reach`` px."""
        reach, half = self.reach, kernel.shape[0] // 2
        height, width = (side - 2 * reach for side in self.planes[0].shape)
        if kernel.shape[0] <= _DIRECT_SIZE:
            outer = slice(reach - half, -(reach - half) or None)
            flipped = kernel[::-1, ::-1]  # filter2D correlates
            blurred = [cv2.filter2D(plane[outer, outer], -1, flipped) for plane in self.planes]
            return [np.asarray(plane[half : half + height, half : half + width], np.float32) for plane in blurred]
        if not self.spectra:
            self.size = tuple(cv2.getOptimalDFTSize(side) for side in self.planes[0].shape)
            self.spectra = [self._spectrum(plane) for plane in self.planes]
        # A product of spectra convolves in a circle: what comes round falls into the first rows and columns, left out here.
        response = self._spectrum(kernel)
        inner = (slice(reach + half, reach + half + height), slice(reach + half, reach + half + width))
        flags = cv2.DFT_SCALE | cv2.DFT_REAL_OUTPUT
        products = [cv2.mulSpectrums(spectrum, response, 0) for spectrum in self.spectra]
        return [np.asarray(cv2.idft(product, flags=flags)[inner], np.float32) for product in products]

    def _spectrum(self, plane: Map) -> Map:
        padded = np.zeros(self.size, np.float32)
        padded[: plane.shape[0], : plane.shape[1]] = plane
        return np.asarray(cv2.dft(padded, nonzeroRows=plane.shape[0]), np.float32)
