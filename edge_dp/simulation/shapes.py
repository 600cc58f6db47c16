"""Silhouettes of objects on a canvas, and the planar parts that an object is made of: one plane, facets, or faces of a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]
"""(Hc, Wc), 0 outside, 255 inside, anti-aliased."""
Point = NDArray[np.float64]
"""(2,) x and y, px."""
Plane = tuple[float, float, float]
"""(d0, dx, dy): disparity d0 + dx * x + dy * y, px, with x, y in px from the canvas centre."""

Box = tuple[int, int, int, int]
"""(top, bottom, left, right), px: rows from top to bottom - 1 and columns from left to right - 1."""

_SHIFT = 4
"""Corners are handed to OpenCV in units of 2^-4 px."""


@dataclass(frozen=True, slots=True)
class Part:
    """One planar piece of an object.

    mask: what is seen of it.
    drawn: the same and, below the object's later parts, a strip beyond the common edge as wide as blur reaches: without it
        the two blurred rims would let what lies behind the object shine through where they meet.
    plane: its disparity.
    """

    mask: Mask
    drawn: Mask
    plane: Plane


def polygon(canvas: tuple[int, int], corners: NDArray[np.float64]) -> Mask:
    """The filled polygon with these corners (N, 2), px."""
    mask = np.zeros(canvas, np.uint8)
    cv2.fillPoly(mask, [_fixed_point(corners)], 255, cv2.LINE_AA, shift=_SHIFT)
    return mask


def ellipse(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """An ellipse with one half-axis of ``size`` px and the other 0.3 to 1 times as long, at any angle."""
    return polygon(canvas, centre + _ring(64) * size @ np.diag([1.0, rng.uniform(0.3, 1.0)]) @ _turn(rng))


def polygon_at(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """A polygon of 3 to 7 corners around the centre, 0.6 to 1.2 times ``size`` px away from it."""
    count = int(rng.integers(3, 8))
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(0, 0.8, count)) / count + rng.uniform(0, 6.3)
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    return polygon(canvas, centre + ring * size * rng.uniform(0.6, 1.2, (count, 1)))


def rectangle(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """A book, screen or picture: nearly upright, or turned by any angle in a quarter of the draws."""
    half = size * np.array([rng.uniform(0.5, 1.2), rng.uniform(0.5, 1.2)])
    turn = rng.uniform(0, np.pi) if rng.uniform() < 0.25 else rng.normal(0, 0.06)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    return polygon(canvas, centre + corners @ _rotation(turn))


def blob(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """A closed curve whose radius wavers around ``size`` px."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    order = np.arange(1, 6)
    waves = np.cos(angles[:, None] * order + rng.uniform(0, 6.3, 5)) @ (rng.uniform(0, 0.35, 5) / order)
    return polygon(canvas, centre + _ring(64) * ((1.0 + waves) * size)[:, None])


def stem(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """A bent stem, mostly upright, 1 to 8 px thick, with up to six leaves."""
    mask = np.zeros(canvas, np.uint8)
    lean = _rotation(rng.normal(0, 0.5))
    bend = rng.normal(0, 0.35, 2)
    t = np.linspace(0, 1, 24)[:, None]
    root, knee, tip = np.array([[0.0, 1.0], [bend[0], 0.0], [bend[1], -1.0]]) @ lean * 1.6 * size
    line = centre - knee / 2 + (1 - t) ** 2 * root + 2 * t * (1 - t) * knee + t**2 * tip
    thickness = int(np.clip(np.exp(rng.uniform(0, np.log(8))), 1, max(1.0, size / 3)))
    cv2.polylines(mask, [_fixed_point(line)], False, 255, thickness, cv2.LINE_AA, shift=_SHIFT)
    for _ in range(int(rng.integers(0, 7))):
        length, angle = size * rng.uniform(0.15, 0.6), rng.uniform(0, 2 * np.pi)
        u = np.linspace(0, np.pi, 12)
        rim = np.concatenate([np.sin(u), -np.sin(u)]) * rng.uniform(0.12, 0.3)
        along = np.concatenate([1 - np.cos(u), 1 + np.cos(u)]) / 2
        leaf = np.stack([along, rim], 1) * length @ _rotation(angle) + line[int(rng.integers(4, len(line)))]
        cv2.fillPoly(mask, [_fixed_point(leaf)], 255, cv2.LINE_AA, shift=_SHIFT)
    return mask


def wires(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """One to four bars or cables, 1 to 12 px thick, right across the canvas or of the object's size."""
    mask = np.zeros(canvas, np.uint8)
    reach = size if rng.uniform() < 0.4 else 2.0 * max(canvas)
    thickness = int(np.exp(rng.uniform(0, np.log(12))))
    for index in range(int(rng.integers(1, 5))):
        start = centre + (rng.uniform(-size, size, 2) if index else 0.0)
        along = np.array([[1.0, 0.0]]) @ _turn(rng) * reach
        ends = np.concatenate([start - along, start + along])
        cv2.polylines(mask, [_fixed_point(ends)], False, 255, thickness, cv2.LINE_AA, shift=_SHIFT)
    return mask


def fence(rng: np.random.Generator, canvas: tuple[int, int], centre: Point, size: float) -> Mask:
    """Parallel bars across the canvas, as wide as half the gaps or less; a third of the draws cross them with others."""
    del size  # a fence goes on beyond the frame
    mask = np.zeros(canvas, np.uint8)
    thickness = int(rng.integers(2, 14))
    pitch = rng.uniform(2.5, 6.0) * thickness
    turn = rng.normal(0, 0.1) if rng.uniform() < 0.5 else rng.uniform(0, np.pi)
    for quarter in range(2 if rng.uniform() < 1 / 3 else 1):
        along, across = _rotation(turn + quarter * np.pi / 2) @ np.array([[0.0, 1.0], [1.0, 0.0]])
        for k in range(-6, 7):
            middle = centre + across * k * pitch
            ends = np.stack([middle - along * 2 * max(canvas), middle + along * 2 * max(canvas)])
            cv2.polylines(mask, [_fixed_point(ends)], False, 255, thickness, cv2.LINE_AA, shift=_SHIFT)
    return mask


Silhouette = Callable[[np.random.Generator, tuple[int, int], Point, float], Mask]
SOLID: dict[str, tuple[float, Silhouette]] = {
    "blob": (0.3, blob),
    "ellipse": (0.25, ellipse),
    "rectangle": (0.25, rectangle),
    "polygon": (0.2, polygon_at),
}
"""Share and function of each silhouette of a compact object."""
THIN: dict[str, tuple[float, Silhouette]] = {"stem": (0.6, stem), "wires": (0.25, wires), "fence": (0.15, fence)}
"""Share and function of each thin structure."""


def silhouette(
    rng: np.random.Generator,
    kinds: dict[str, tuple[float, Silhouette]],
    canvas: tuple[int, int],
    centre: Point,
    size: float,
) -> Mask:
    """A silhouette of a random one of these kinds."""
    shares = np.cumsum([share for share, _ in kinds.values()])
    index = int(np.searchsorted(shares, rng.uniform(0, shares[-1]), side="right"))
    return list(kinds.values())[index][1](rng, canvas, centre, size)


def bounding_box(mask: Mask) -> Box:
    """The box of what is not 0."""
    left, top, width, height = cv2.boundingRect(mask)
    return top, top + height, left, left + width


def plane_map(plane: Plane, canvas: tuple[int, ...], box: Box | None = None) -> NDArray[np.float32]:
    """A plane's values on a canvas (Hc, Wc), or within a box of it."""
    height, width = canvas
    top, bottom, left, right = box or (0, height, 0, width)
    d0, dx, dy = plane
    x = np.arange(left, right) - (width - 1) / 2
    y = np.arange(top, bottom) - (height - 1) / 2
    return (dx * x).astype(np.float32) + (d0 + dy * y).astype(np.float32)[:, None]


def plane_at(plane: Plane, point: Point, canvas: tuple[int, int]) -> float:
    """A plane's value in a point, px on the canvas."""
    return float(plane[0] + plane[1] * (point[0] - (canvas[1] - 1) / 2) + plane[2] * (point[1] - (canvas[0] - 1) / 2))


def plane_sum(one: Plane, other: Plane, factor: float = 1.0) -> Plane:
    """``one + factor * other``."""
    return one[0] + factor * other[0], one[1] + factor * other[1], one[2] + factor * other[2]


def line(canvas: tuple[int, int], through: Point, angle: float) -> Plane:
    """Distance, px, from a line through a point on the canvas at ``angle`` to the x axis: positive below it, at angle 0."""
    along, down = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    return _plane_through(canvas, through, np.stack([along, down]), np.array([0.0, 1.0]))


def where_positive(plane: Plane, canvas: tuple[int, int]) -> Mask:
    """The half of the canvas where a plane is positive."""
    steepness = float(np.hypot(plane[1], plane[2]))
    distance = plane_map(plane_sum((0.0, 0.0, 0.0), plane, 1 / (steepness + 1e-12)), canvas)
    return np.asarray((np.clip(distance + np.float32(0.5), 0, 1) * np.float32(255)).round(), np.uint8)


def box_parts(
    rng: np.random.Generator,
    canvas: tuple[int, int],
    centre: Point,
    size: float,
    relief: float,
    reach: float,
    faces: int,
) -> list[Part]:
    """A box of which two or three faces are seen, nearest at its front edge or corner; the farther faces come first.

    From the corner three edges start, and disparity rises linearly along each: a face is the parallelogram of two edges,
    so that neighbours agree along the edge they share. Disparity is 0 at the corner.

    Args:
        size: half the box's extent on the canvas, px.
        relief: rise of disparity over 1 px of an edge that recedes steeply, px.
        reach: radius of the widest blur, px.
        faces: 2 (the corner is an upright edge) or 3 (seen from above as well).
    """
    lift = rng.uniform(0.2, 0.75, 2) if faces == 3 else rng.normal(0, 0.08, 2)  # how much the receding edges climb
    length = size * rng.uniform(0.5, 1.4, 3)
    edges = np.array([[-np.cos(lift[0]), -np.sin(lift[0])], [np.cos(lift[1]), -np.sin(lift[1])], [0.0, 1.0]])
    edges = edges @ _rotation(rng.normal(0, 0.08)) * length[:, None]
    rise = relief * length * np.array([*rng.uniform(0.25, 1.0, 2), rng.uniform(0.0, 0.25) * (faces == 3)])
    corner = centre - np.array([0.0, 0.5 * length[2] if faces == 2 else 0.25 * length[2]])
    pieces = []
    for first, second in ((0, 2), (1, 2), (0, 1))[:faces]:
        pair, rises = edges[[first, second]], rise[[first, second]]
        # The face itself, and the same with a strip beyond the two edges that it shares.
        seen, extended = (
            polygon(canvas, corner + np.array([[s, t], [1, t], [1, 1], [s, 1]]) @ pair)
            for s, t in ((0.0, 0.0), tuple(-reach / np.linalg.norm(pair, axis=1)))
        )
        pieces.append((float(rises.sum()), seen, extended, _plane_through(canvas, corner, pair, rises)))
    pieces.sort(key=lambda piece: -piece[0])
    return _overlapped([piece[1:] for piece in pieces])


def rounded_parts(
    rng: np.random.Generator, mask: Mask, centre: Point, size: float, bulge: float, reach: float
) -> list[Part]:
    """A silhouette bulging towards the camera: three facets of a cylinder whose axis is mostly upright.

    Disparity is 0 on the middle facet, a third of the object's ``size`` to either side of the axis, and rises to ``bulge``
    px at ``size`` px from the axis. The two outer facets come first. ``reach`` is the radius of the widest blur, px.
    """
    canvas = (mask.shape[0], mask.shape[1])
    across, axis = _rotation(rng.normal(0, 0.25) + (np.pi / 2 if rng.uniform() < 0.2 else 0.0))
    edge, far = size / 3, 4.0 * max(canvas)
    middle = _strip(canvas, centre, axis, across, (-edge, edge))
    pieces = []
    for outward in (-across, across):
        seen, extended = (_strip(canvas, centre, axis, outward, (start, far)) for start in (edge, edge - reach))
        rises = np.array([bulge / (size - edge), 0.0])
        plane = _plane_through(canvas, centre + edge * outward, np.stack([outward, axis]), rises)
        pieces.append((np.minimum(mask, seen), np.minimum(mask, extended), plane))
    pieces.append((np.minimum(mask, middle), np.minimum(mask, middle), (0.0, 0.0, 0.0)))
    return _overlapped(pieces)


def _overlapped(pieces: list[tuple[Mask, Mask, Plane]]) -> list[Part]:
    """Parts from (what is seen, the same extended, plane), back to front: each extends below the later ones only."""
    parts: list[Part] = []
    later = np.zeros_like(pieces[0][0])
    for seen, extended, plane in reversed(pieces):
        below = np.minimum(extended, cv2.add(seen, later))
        parts.append(Part(seen, np.maximum(seen, below), plane))
        later = np.asarray(cv2.add(later, seen), np.uint8)
    return parts[::-1]


def _strip(canvas: tuple[int, int], centre: Point, axis: Point, across: Point, between: tuple[float, float]) -> Mask:
    far = 4.0 * max(canvas)
    near, away = (centre + across * distance for distance in between)
    return polygon(canvas, np.stack([near - far * axis, near + far * axis, away + far * axis, away - far * axis]))


def _plane_through(
    canvas: tuple[int, int], point: Point, directions: NDArray[np.float64], rises: NDArray[np.float64]
) -> Plane:
    """The plane that is 0 in a point (px on the canvas) and rises by ``rises`` (2,) along ``directions`` (2, 2)."""
    dx, dy = np.linalg.solve(directions, rises)
    offset = point - (np.array([canvas[1], canvas[0]]) - 1) / 2
    return float(-dx * offset[0] - dy * offset[1]), float(dx), float(dy)


def _ring(count: int) -> NDArray[np.float64]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def _rotation(angle: float) -> NDArray[np.float64]:
    return np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def _turn(rng: np.random.Generator) -> NDArray[np.float64]:
    return _rotation(rng.uniform(0, np.pi))


def _fixed_point(corners: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(corners * 2**_SHIFT).astype(np.int32)
