"""Scenes from pictures: an image with a map of disparity, depth or stereo disparity becomes layers that the renderer can blur.

The image is cut at a few disparities into layers, so that the two sides of every edge in depth lie in different ones; what is
continuous stays together as far as possible. Each layer goes on behind the nearer ones, with disparity and light pulled in from
where it is seen, so that a blurred edge uncovers a background that is really there. What the picture does not show, behind
things and beyond its frame, is a guess.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.optics import depth_to_disparity
from edge_dp.sensors import SensorProfile
from edge_dp.simulation.rig import SideCamera
from edge_dp.simulation.scenes import Layer, Map, Scene

Mask = NDArray[np.bool_]

DEPTH_EDGE_PX = 0.5
"""Disparity between neighbouring pixels from which on there is an edge in depth, not a slope: blurs differ by more than a px."""
_CUT_STEP_PX = 1.0 / 16  # layers are cut at multiples of it above the nearest disparity
_LEAST_GAIN = 5e-4  # px of disparity that a cut's edges part, per pixel of the picture; below it no cut is made
_COST = 0.25  # px of disparity for each pair of neighbours that a cut parts though they are continuous
_MOST_LAYERS = 16
_RIM_WEIGHT = 1e-3  # of pixels at a layer's rim in what is pulled in: they mix the light of both sides


def scene_from_disparity(image: Map, disparity: Map, mask: Mask | None = None, *, margin: int = 24) -> Scene:
    """An all-in-focus image with its dual-pixel disparity as a scene.

    Args:
        image: (C, H, W) float32 linear light, 0 or above.
        disparity: (H, W) px, left(x) = right(x + d).
        mask: (H, W) bool, True where the disparity holds. Elsewhere it is filled in from the farther of the two sides of its
            row, as depth cameras and stereo mostly miss what lies behind an edge.
        margin: px of canvas on every side of the frame, filled from its border; the renderer is given the same. As much as
            the radius of the widest kernel.

    Returns:
        Layers on a canvas (H + 2 margin, W + 2 margin). Their pinhole view is the image, their disparity the one given.

    Raises:
        InputError: an array of another type or shape, or a value out of range where the mask holds; it is named with its index.
    """
    _check(image, "disparity", disparity, mask, np.isfinite(disparity), "finite px")
    filled = disparity if mask is None else _filled_from_farther(disparity, mask)
    canvas = np.pad(
        np.concatenate([image, filled[None]]).astype(np.float32), ((0, 0), (margin,) * 2, (margin,) * 2), "edge"
    )
    bands = pairwise([-np.inf, *_cuts(canvas[-1]), np.inf])
    layers = tuple(_layer(canvas, low, high) for low, high in bands)[::-1]
    return Scene(layers, float(filled.min()), float(filled.max()))


def scene_from_depth(
    image: Map,
    depth: Map,
    sensor: SensorProfile,
    focus_m: float,
    mask: Mask | None = None,
    *,
    alpha: float | None = None,
    margin: int = 24,
) -> Scene:
    """An all-in-focus image with its metric depth as a scene, as a sensor's lens sees it.

    Args:
        image: (C, H, W) float32 linear light, 0 or above, in the resolution of the sensor's files.
        depth: (H, W) metres along the optical axis, > 0; inf is the horizon.
        sensor: focal length, f-number, pitch and alpha.
        focus_m: focus distance, metres, above the focal length; inf is focus at the horizon.
        mask: (H, W) bool, True where the depth holds; filled in elsewhere as by ``scene_from_disparity``.
        alpha: disparity per diameter of the circle of confusion, instead of the sensor's.
        margin: as for ``scene_from_disparity``.

    Raises:
        InputError: as ``scene_from_disparity``; a depth that is NaN, 0 or negative where the mask holds.
        OpticsError: focus within the focal length, or a number of the sensor is unknown.

    Source: ``edge_dp.optics.depth_to_disparity``.
    """
    _check(image, "depth", depth, mask, depth > 0, "metres above 0")
    known = depth if mask is None else np.where(mask, depth, 1.0)
    return scene_from_disparity(image, depth_to_disparity(known, sensor, focus_m, alpha), mask, margin=margin)


def scene_from_stereo(
    image: Map, stereo_disparity: Map, camera: SideCamera, mask: Mask | None = None, *, margin: int = 24
) -> Scene:
    """The first image of a rectified stereo pair, with its stereo disparity, as a scene.

    Both disparities are affine in inverse depth, so two numbers of the camera take one to the other: where the lens is focused,
    and how wide the pair's baseline is beside the lens.

    Args:
        image: (C, H, W) float32 linear light, 0 or above; all in focus.
        stereo_disparity: (H, W) px: a point at x of the image is at x - D in the other one.
        camera: the other camera. Its offset is D of what is to be in focus, its gain the px of D per px of dual-pixel disparity.
        mask: (H, W) bool, True where D holds; filled in elsewhere as by ``scene_from_disparity``.
        margin: as for ``scene_from_disparity``.

    Raises:
        InputError: as ``scene_from_disparity``.
    """
    _check(image, "stereo_disparity", stereo_disparity, mask, np.isfinite(stereo_disparity), "finite px")
    return scene_from_disparity(image, camera.dual_pixel_disparity(stereo_disparity), mask, margin=margin)


def _check(image: Map, field: str, values: Map, mask: Mask | None, holds: Mask, expected: str) -> None:
    if image.ndim != 3 or not image.size or image.dtype != np.float32:
        raise InputError(f"image: expected float32, (C, H, W), found {image.dtype}, {image.shape}. Convert it.")
    if (bad := ~((image >= 0) & np.isfinite(image))).any():
        raise InputError(
            f"image{_first(bad)}: expected finite light, 0 or above, found {image[bad][0]:g}. Mend the image."
        )
    for name, array in ((field, values), ("mask", mask)):
        if array is not None and array.shape != image.shape[1:]:
            raise InputError(
                f"{name}: expected (H, W) = {image.shape[1:]} as the image, found {array.shape}. Resize it."
            )
    if mask is not None and (mask.dtype != np.bool_ or not mask.any()):
        raise InputError(
            f"mask: expected bool, True somewhere, found {mask.dtype}, {np.count_nonzero(mask)} set. Mend the mask."
        )
    if (bad := ~holds if mask is None else ~holds & mask).any():
        raise InputError(
            f"{field}{_first(bad)}: expected {expected}, found {values[bad][0]:g}, {np.count_nonzero(bad)} such values in "
            "all. Pass a mask that is False there, and they are filled in."
        )


def _first(bad: Mask) -> str:
    return f"[{', '.join(str(index) for index in np.argwhere(bad)[0])}]"


def _filled_from_farther(disparity: Map, mask: Mask) -> Map:
    """Where the mask does not hold, the farther of the next values left and right; an empty row is that of the nearest other."""
    rows = np.flatnonzero(mask.any(axis=1))
    known, values = mask[rows], disparity[rows]
    columns = np.arange(mask.shape[1])
    left = np.maximum.accumulate(np.where(known, columns, -1), axis=1)
    right = np.minimum.accumulate(np.where(known, columns, mask.shape[1])[:, ::-1], axis=1)[:, ::-1]
    left, right = np.where(left < 0, right, left), np.where(right == mask.shape[1], left, right)
    sides = [np.take_along_axis(values, side, axis=1) for side in (left, right)]
    nearest = np.abs(rows[:, None] - np.arange(len(mask))).argmin(axis=0)
    filled: Map = np.maximum(*sides)[nearest]
    return filled


def _cuts(disparity: Map) -> list[float]:
    """Rising disparities at which to cut, so that the sides of edges in depth are parted.

    Greedily the one that parts the most disparity at edges, less a cost for what is continuous: where a blurred surface is cut,
    one part of it shows through the other. A pixel that an edge runs through has a disparity in between, so one pixel more on
    either side belongs to the edge.
    """
    nearest = float(disparity.min())
    levels = np.floor((disparity - nearest) / _CUT_STEP_PX).astype(np.int64)
    count = int(levels.max()) + 2
    cost = np.zeros(count)
    edges: list[NDArray[np.int64]] = []
    for values, level in ((disparity, levels), (disparity.T, levels.T)):
        is_edge = np.abs(np.diff(values, axis=1)) > DEPTH_EDGE_PX
        wide = np.pad(level, ((0, 0), (1, 1)), "edge")
        inner, outer = ([wide[:, i : wide.shape[1] - 3 + i] for i in chosen] for chosen in ((1, 2), range(4)))
        low, high = np.min(inner, axis=0)[~is_edge], np.max(inner, axis=0)[~is_edge]
        cost += _COST * _parted(low, high, np.ones(low.size), count)
        edges.append(np.stack([np.min(outer, axis=0)[is_edge], np.max(outer, axis=0)[is_edge]]))
    low, high = np.concatenate(edges, axis=1)
    cuts: list[float] = []
    while len(cuts) < _MOST_LAYERS - 1:
        gain = _parted(low, high, (high - low) * _CUT_STEP_PX, count) - cost
        if gain.max() < _LEAST_GAIN * disparity.size:
            break
        best = np.flatnonzero(gain > gain.max() - 1e-6)
        cut = best[len(best) // 2]
        cuts.append(nearest + float(cut) * _CUT_STEP_PX)
        remain = (high < cut) | (low >= cut)
        low, high = low[remain], high[remain]
    return sorted(cuts)


def _parted(
    low: NDArray[np.int64], high: NDArray[np.int64], weight: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """(count,) weight of the pairs that each level parts: those with low < level <= high."""
    entering, leaving = (np.bincount(at + 1, weight, minlength=count + 1) for at in (low, high))
    return np.cumsum(entering - leaving)[:count]


def _layer(canvas: Map, low: float, high: float) -> Layer:
    """What lies from ``low`` to ``high`` px, and how it goes on behind what is nearer.

    It does so where, of all that is not nearer, it is the closest in the picture.

    Args:
        canvas: (C + 1, Hc, Wc) light and disparity.
    """
    disparity = canvas[-1]
    not_nearer = disparity >= low
    seen = not_nearer & (disparity < high)
    opaque = seen
    if not not_nearer.all():
        labels = cv2.distanceTransformWithLabels(
            (~not_nearer).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
        )[1]
        by_label = np.zeros(labels.max() + 1, bool)
        by_label[labels[not_nearer]] = seen[not_nearer]
        opaque = by_label[labels]
    weight = np.where(cv2.erode(seen.view(np.uint8), np.ones((3, 3), np.uint8)) > 0, 1.0, _RIM_WEIGHT) * seen
    *light, relief = np.where(seen, canvas, _pulled(canvas, weight.astype(np.float32)))
    return Layer(np.stack(light), opaque.astype(np.float32), (0.0, 0.0, 0.0), relief)


def _pulled(planes: Map, weight: Map) -> Map:
    """(N, H, W) planes with what has little weight (H, W) replaced by what is around it, the smoother the farther away.

    Pull-push: averages over ever larger squares fill in what the smaller ones lack. Source: Gortler et al., "The Lumigraph",
    SIGGRAPH 1996, section 3.4.
    """
    height, width = weight.shape
    if height == width == 1:
        return planes
    even = ((0, height % 2), (0, width % 2))
    squares = [
        np.pad(plane, even).reshape((height + 1) // 2, 2, (width + 1) // 2, 2).sum(axis=(1, 3))
        for plane in (*(planes * weight), weight)
    ]
    total = squares.pop()
    coarse = _pulled(np.stack(squares) / np.maximum(total, 1e-12), np.minimum(total, 1.0))
    around = np.stack([cv2.resize(plane, (2 * plane.shape[1], 2 * plane.shape[0])) for plane in coarse])
    return weight * planes + (1.0 - weight) * around[:, :height, :width]
