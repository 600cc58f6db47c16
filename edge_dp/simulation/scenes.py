"""Procedural scenes: textured planar layers, each at a signed dual-pixel disparity, laid out as phones see the world.

A scene is described in dual-pixel disparity, not in metres: with the focus unknown the two are one affine map of inverse
depth apart, and the network never needs the metres. Under perspective inverse depth, and so disparity, of a plane is affine
in the image coordinates: planes, boxes and tables are exact.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import SchemaError
from edge_dp.simulation.shapes import (
    SOLID,
    THIN,
    Box,
    Mask,
    Part,
    Plane,
    Point,
    bounding_box,
    box_parts,
    line,
    plane_at,
    plane_map,
    plane_sum,
    rounded_parts,
    silhouette,
    where_positive,
)
from edge_dp.simulation.texture_folder import folder_texture
from edge_dp.simulation.textures import add_highlights, random_texture, repeated, textureless, to_light, with_contrast

Map = NDArray[np.float32]

_STEEPEST = 0.05
"""Largest slope of tables and second walls, px of disparity per px: steeper ones would turn away from a side camera."""
_BLUR_RADIUS = 2.8
"""Radius of the blur, px per px of disparity, at the smallest alpha that sensors have: 1 / (2 * 0.18)."""


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """Ranges from which scenes are drawn, uniformly unless said otherwise. Fields named ``_share`` are probabilities."""

    height: int = 192
    width: int = 256
    margin: int = 24
    """Canvas beyond the frame on every side, px: blur and side cameras look past the frame."""
    disparity: tuple[float, float] = (-4.0, 5.0)
    """Nearest and farthest dual-pixel disparity, px."""
    layers: tuple[int, int] = (2, 7)
    """Fewest and most layers; background, table and each visible face of a box are one layer each."""
    slant_share: float = 0.5
    """Share of single planes, background included, that are slanted."""
    one_sided_share: float = 0.5
    """Share of scenes that lie wholly in front of or behind the focus plane, as most phone captures do."""
    channels: int = 1
    """1, or 3 for red, green, blue."""
    table_share: float = 0.4
    """Share of scenes with a floor or table that meets the background in a line; objects stand on it."""
    corner_share: float = 0.1
    """Share of scenes with a second wall that meets the background in a nearly upright line."""
    box_share: float = 0.2
    """Share of objects that are boxes, of which two or three faces are seen."""
    rounded_share: float = 0.12
    """Share of objects that bulge towards the camera, approximated by three facets."""
    thin_share: float = 0.18
    """Share of objects that are thin structures: stems with leaves, wires, fences."""
    textureless_share: float = 0.2
    """Share of surfaces without texture: plain walls, smooth objects."""
    repeated_share: float = 0.06
    """Share of surfaces with texture that repeats along x, the dual-pixel axis."""
    saturated_share: float = 0.1
    """Share of surfaces with lamps or highlights on them, brighter than white."""
    textures: str | None = None
    """A folder of images, searched recursively, to crop textures from."""
    folder_share: float = 0.6
    """Share of the other surfaces whose texture comes from that folder, where one is given."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise SchemaError(f"channels: expected 1 or 3, found {self.channels}")
        if not 1 <= self.layers[0] <= self.layers[1]:
            raise SchemaError(f"layers: expected fewest and most with 1 <= fewest <= most, found {self.layers}")
        for name in (f.name for f in fields(self) if f.name.endswith("_share")):
            if not 0 <= getattr(self, name) <= 1:
                raise SchemaError(f"{name}: expected a probability, 0 to 1, found {getattr(self, name)}")
        for names in (("box_share", "rounded_share", "thin_share"), ("textureless_share", "repeated_share")):
            if (total := sum(getattr(self, name) for name in names)) > 1 + 1e-9:
                raise SchemaError(f"{', '.join(names)}: expected a sum of at most 1, found {total:g}")


@dataclass(frozen=True, slots=True)
class Layer:
    """A surface on the canvas (Hc, Wc): a plane, or with ``relief`` any continuous one.

    radiance: (C, Hc, Wc) linear light >= 0, more than 1 where it saturates the sensor; defined wherever opacity > 0.
    opacity: (Hc, Wc) coverage, [0, 1].
    plane: (d0, dx, dy): disparity d0 + dx * x + dy * y, px, with x, y in px from the canvas centre.
    relief: (Hc, Wc) px, added to the plane's disparity; None for a plane. Blur spreads beyond the surface, so it continues there.
    box: (top, bottom, left, right), px: opacity is 0 outside [top:bottom, left:right]; all 0 for an empty layer.
    """

    radiance: Map
    opacity: Map
    plane: Plane
    relief: Map | None = None
    box: Box = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "box", bounding_box((self.opacity > 0).view(np.uint8)))

    def disparity(self, box: Box | None = None) -> Map:
        """(Hc, Wc) px; with a box, of these rows and columns only."""
        height, width = self.opacity.shape
        flat = plane_map(self.plane, (height, width), box)
        if self.relief is None:
            return flat
        top, bottom, left, right = box or (0, height, 0, width)
        return flat + self.relief[top:bottom, left:right]


@dataclass(frozen=True, slots=True)
class Scene:
    """Layers from back to front, with the limits of their disparities, px, where they are opaque at all."""

    layers: tuple[Layer, ...]
    nearest: float
    farthest: float


def random_scene(rng: np.random.Generator, config: SceneConfig) -> Scene:
    """Draw a scene; the same generator state gives the same scene.

    Behind is a wall, which may meet a table, floor or second wall. Objects follow from far to near; one that would lie
    behind what it covers is moved nearer as a whole. The first layer is opaque everywhere.

    Raises:
        InputError: the folder of textures, or an image in it, cannot be read.
    """
    limits = disparity_range(rng, config)
    canvas = config.height + 2 * config.margin, config.width + 2 * config.margin
    count = int(rng.integers(config.layers[0], config.layers[1] + 1))
    background, table = _background(rng, config, limits, canvas, count)
    front = plane_map(background[0].plane, canvas)  # disparity of the front-most surface so far
    layers: list[Layer] = []
    for part in background:
        layers += _painted(rng, config, [part])
        _bring_forward(front, part)
    for depth, centre, size in _placements(rng, limits, canvas, table, count - len(background)):
        if len(layers) == count:
            break
        parts, has_one_surface = _object(rng, config, limits, canvas, centre, size, count - len(layers))
        parts = _before([replace(part, plane=plane_sum(part.plane, (depth, 0, 0))) for part in parts], front, limits[0])
        for group in [parts] if has_one_surface else [[part] for part in parts]:
            layers += _painted(rng, config, group)
        for part in parts:
            _bring_forward(front, part)
    return Scene(tuple(layers), *limits)


def disparity_range(rng: np.random.Generator, config: SceneConfig) -> tuple[float, float]:
    """Nearest and farthest disparity of one scene, px, drawn within ``config.disparity``: often on one side of focus."""
    low, high = config.disparity
    if low < -0.3 and high > 0.3 and rng.uniform() < config.one_sided_share:
        if rng.uniform() < 0.35:
            high = 0.3
        else:
            low = -0.3
    # A random stretch of it: shallow scenes are as common as deep ones.
    length = (high - low) * rng.uniform(0.15, 1.0)
    start = rng.uniform(low, high - length)
    return float(start), float(start + length)


def _background(
    rng: np.random.Generator, config: SceneConfig, limits: tuple[float, float], canvas: tuple[int, int], count: int
) -> tuple[list[Part], Plane | None]:
    """A wall, second wall and table as far as the scene has them, back to front; and the table's plane."""
    height, width = canvas
    has_table = count > 1 and rng.uniform() < config.table_share
    has_corner = count > 1 + has_table and rng.uniform() < config.corner_share
    wall = _wall(rng, config, limits, canvas, alone=not has_table and not has_corner)
    everywhere = np.full(canvas, 255, np.uint8)
    parts, table = [Part(everywhere, everywhere, wall)], None
    if has_corner:
        through = np.array([rng.uniform(0.1, 0.9) * width, height / 2])
        side = np.pi / 2 if rng.uniform() < 0.5 else -np.pi / 2
        edge = line(canvas, through, side + rng.normal(0, 0.05))
        mask = where_positive(edge, canvas)
        parts.append(Part(mask, mask, _towards_camera(rng, wall, edge, mask, limits[0])))
    if has_table:
        edge = line(canvas, np.array([width / 2, rng.uniform(0.25, 0.8) * height]), rng.normal(0, 0.06))
        mask = where_positive(edge, canvas)
        table = _towards_camera(rng, wall, edge, mask, limits[0])
        for part in parts[1:]:  # the second wall hides the table where it is nearer
            nearer = where_positive(plane_sum(part.plane, table, -1.0), canvas)
            mask = np.where(part.mask > 0, np.minimum(mask, nearer), mask)
        parts.append(Part(mask, mask, table))
    return parts, table


def _wall(
    rng: np.random.Generator, config: SceneConfig, limits: tuple[float, float], canvas: tuple[int, int], alone: bool
) -> Plane:
    """The farthest surface: mostly far within the limits, and inside them over the whole canvas."""
    low, high = limits
    span = (high - low) * (0.8 if alone else 0.4)  # leave room for what comes towards the camera
    depth = high - span * rng.uniform() ** 2
    dx, dy = _slant(rng, config, span, canvas, floor_share=0.5 if alone else 0.0)
    swing = (abs(dx) * canvas[1] + abs(dy) * canvas[0]) / 2
    shrink = min(1.0, span / (2 * swing + 1e-9))
    dx, dy, swing = dx * shrink, dy * shrink, swing * shrink
    return float(np.clip(depth, high - span + swing, high - swing)), dx, dy


def _slant(
    rng: np.random.Generator, config: SceneConfig, span: float, canvas: tuple[int, int], floor_share: float
) -> tuple[float, float]:
    """(dx, dy) of a plane: 0, or a rise of up to ``span`` px over the canvas; with ``floor_share`` the lower the nearer."""
    if rng.uniform() >= config.slant_share:
        return 0.0, 0.0
    angle = -np.pi / 2 + rng.normal(0, 0.2) if rng.uniform() < floor_share else rng.uniform(0, 2 * np.pi)
    rise = rng.uniform(0.1, 1.0) * span
    return float(rise * np.cos(angle) / canvas[1]), float(rise * np.sin(angle) / canvas[0])


def _towards_camera(rng: np.random.Generator, wall: Plane, edge: Plane, mask: Mask, low: float) -> Plane:
    """The plane that leaves ``wall`` where ``edge``, a distance in px, is 0 and comes nearer on ``mask``, to ``low`` at most."""
    canvas = mask.shape[0], mask.shape[1]
    room = (plane_map(wall, canvas) - np.float32(low)) / plane_map(edge, canvas).clip(1.0)
    steepest = float(room.min(where=mask > 0, initial=_STEEPEST))
    return plane_sum(wall, edge, -steepest * float(np.sqrt(rng.uniform(0.05, 1.0))))  # mostly a large part of the room


def _placements(
    rng: np.random.Generator, limits: tuple[float, float], canvas: tuple[int, int], table: Plane | None, count: int
) -> list[tuple[float, Point, float]]:
    """Disparity, centre and half size (px) of ``count`` objects, from far to near; most stand on the table, if any."""
    placements = []
    for _ in range(count):
        centre = rng.uniform((0.0, 0.1), (1.0, 1.0)) * (canvas[1], canvas[0])
        # Log-uniform, and now and then the large object that fills the picture.
        size = float(np.exp(rng.uniform(np.log(0.07 if rng.uniform() < 0.7 else 0.3), np.log(0.6))) * canvas[0])
        depth = rng.uniform(*limits)
        if table is not None and rng.uniform() < 0.7:
            foot = np.array([centre[0], min(centre[1] + 0.8 * size, canvas[0] - 1.0)])
            depth = np.clip(plane_at(table, foot, canvas), *limits)
        placements.append((float(depth), centre, size))
    return sorted(placements, key=lambda placement: -placement[0])


def _object(
    rng: np.random.Generator,
    config: SceneConfig,
    limits: tuple[float, float],
    canvas: tuple[int, int],
    centre: Point,
    size: float,
    most_parts: int,
) -> tuple[list[Part], bool]:
    """An object of at most so many parts, at disparity 0 in front or in its middle; and whether it has one surface."""
    span, reach = limits[1] - limits[0], 2.0 + _BLUR_RADIUS * max(map(abs, limits))
    kind = rng.uniform()
    if kind < config.box_share and most_parts >= 2:
        faces = 3 if most_parts >= 3 and rng.uniform() < 0.6 else 2
        return box_parts(rng, canvas, centre, size, span * rng.uniform(0.2, 1.2) / canvas[0], reach, faces), False
    kind -= config.box_share
    if 0 <= kind < config.rounded_share and most_parts >= 3:
        mask = silhouette(rng, SOLID, canvas, centre, size)
        return rounded_parts(rng, mask, centre, size, span * rng.uniform(0.1, 0.8) * size / canvas[0], reach), True
    kind -= config.rounded_share
    kinds = THIN if 0 <= kind < config.thin_share else SOLID
    mask = silhouette(rng, kinds, canvas, centre, size)
    dx, dy = _slant(rng, config, span, canvas, floor_share=0.0)
    level = plane_at((0.0, dx, dy), centre, canvas)
    return [Part(mask, mask, (-level, dx, dy))], True


def _before(parts: list[Part], front: Map, low: float) -> list[Part]:
    """``parts`` moved nearer together, or turned fronto-parallel, so that none lies behind what it covers."""
    excess, nearest, farthest, limit = 0.0, np.inf, -np.inf, np.inf
    for part in parts:
        top, bottom, left, right = box = bounding_box(part.drawn)
        crop, region = (slice(top, bottom), slice(left, right)), plane_map(part.plane, front.shape, box)
        seen, drawn = part.mask[crop] > 0, part.drawn[crop] > 0
        excess = max(excess, float((region - front[crop]).max(where=seen, initial=0.0)))
        nearest = min(nearest, float(region.min(where=drawn, initial=np.inf)))
        farthest = max(farthest, float(region.max(where=seen, initial=-np.inf)))
        limit = min(limit, float(front[crop].min(where=drawn, initial=np.inf)))
    if nearest - excess < low:
        level = min(limit, max(farthest, low))
        return [replace(part, plane=(level, 0.0, 0.0)) for part in parts]
    return [replace(part, plane=plane_sum(part.plane, (-excess, 0.0, 0.0))) for part in parts]


def _bring_forward(front: Map, part: Part) -> None:
    """Enter the disparity of ``part`` into ``front`` where it is seen."""
    top, bottom, left, right = box = bounding_box(part.mask)
    crop = slice(top, bottom), slice(left, right)
    np.copyto(front[crop], plane_map(part.plane, front.shape, box), where=part.mask[crop] > 127)


def _painted(rng: np.random.Generator, config: SceneConfig, parts: list[Part]) -> list[Layer]:
    """Layers of the parts of one surface."""
    boxes = np.array([bounding_box(part.drawn) for part in parts])
    top, bottom, left, right = (int(f(boxes[:, i])) for i, f in enumerate((np.min, np.max, np.min, np.max)))
    canvas = parts[0].mask.shape
    radiance = np.zeros((config.channels, *canvas), np.float32)
    if bottom > top and right > left:
        seen = np.maximum.reduce([part.mask[top:bottom, left:right] for part in parts])
        radiance[:, top:bottom, left:right] = _surface(rng, config, seen)
    return [
        Layer(radiance, np.multiply(part.drawn, np.float32(1 / 255), dtype=np.float32), part.plane) for part in parts
    ]


def _surface(rng: np.random.Generator, config: SceneConfig, mask: Mask) -> Map:
    """(C, h, w) linear light of a surface of which ``mask`` (h, w) is seen."""
    height, width = mask.shape
    kind = rng.uniform()
    if kind < config.textureless_share:
        light = to_light(rng, textureless(rng, height, width), config.channels)
    elif kind < config.textureless_share + config.repeated_share:
        light = to_light(rng, with_contrast(rng, repeated(rng, height, width)), config.channels)
    elif config.textures is not None and rng.uniform() < config.folder_share:
        light = folder_texture(rng, config.textures, height, width, config.channels)
    else:
        light = to_light(rng, random_texture(rng, height, width), config.channels)
    return add_highlights(rng, light, mask) if rng.uniform() < config.saturated_share else light
