"""Scenes drawn from pictures of known geometry, such as RGB-D frames and stereo pairs, in place of procedural ones.

A picture is shrunk, cropped and mirrored at random; it is never enlarged, so that what is sharp stays sharp. Dual-pixel disparity
is affine in inverse depth, d = slope * (1 / g - 1 / z), so a picture without a lens is put between limits of disparity that are
drawn as for procedural scenes; with a lens (``MetricOptics``), its depth in metres has the disparity that the lens gives.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from edge_dp.data.registry import DATASETS, open_dataset, recognise
from edge_dp.data.scenes.scene_sample import SceneSample
from edge_dp.errors import InputError
from edge_dp.optics import depth_to_disparity
from edge_dp.sensors import SensorProfile
from edge_dp.simulation.from_depth import Mask, scene_from_disparity
from edge_dp.simulation.scenes import Map, Scene, SceneConfig, disparity_range

_LEAST_KNOWN = 0.01
"""Share of a picture with known depth below which it is refused: the rest would be a guess."""


class Pictures(Protocol):
    """What pictures are read from: any ``Dataset`` of scenes, or whatever else has names and can be pickled."""

    names: Sequence[str]

    def read(self, name: str) -> SceneSample:
        """The picture of that name."""
        ...


@dataclass(frozen=True, slots=True)
class MetricOptics:
    """A lens that gives depth in metres its disparity, focused at random.

    Args:
        sensor: its focal length, f-number, pitch and alpha must be known. Its point-spread function is not looked at:
            ``LensConfig.models`` says which one is drawn.
        focus_m: nearest and farthest focus distance, metres, between which 1 / focus is uniform; inf is the horizon.

    Raises:
        InputError: the range falls.
        OpticsError: a focus within the focal length, or a number of the sensor is unknown.
    """

    sensor: SensorProfile
    focus_m: tuple[float, float]

    def __post_init__(self) -> None:
        nearest, farthest = self.focus_m
        for focus in self.focus_m:
            depth_to_disparity(1.0, self.sensor, focus)
        if nearest > farthest:
            raise InputError(f"focus_m: expected nearest and farthest in rising order, found {nearest:g}, {farthest:g}")

    def draw_focus(self, rng: np.random.Generator) -> float:
        """A focus distance, metres."""
        nearest, farthest = self.focus_m
        dioptres = rng.uniform(1 / farthest, 1 / nearest)
        return 1 / dioptres if dioptres > 0 else math.inf

    def note(self) -> dict[str, Any]:
        """The numbers that disparity depends on, as JSON, which has no infinity: focus is in dioptres."""
        sensor, (nearest, farthest) = self.sensor, self.focus_m
        return {
            "sensor": sensor.name,
            "focal_length_m": sensor.focal_length_m,
            "f_number": sensor.f_number,
            "pitch_um": sensor.pitch_um,
            "alpha": sensor.alpha,
            "focus_dioptres": [1 / farthest, 1 / nearest],
        }


@dataclass(frozen=True, slots=True)
class SourceNote:
    """What ``dataset.json`` says of the pictures; nothing of where they lie.

    data_set, licence: as registered.
    pictures: how many.
    names_sha256: of their names, in order, a line break after each.
    optics: as ``MetricOptics.note``; None where limits of disparity were drawn.
    """

    data_set: str
    licence: str
    pictures: int
    names_sha256: str
    optics: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class PictureSource:
    """Where the scenes of captures come from. Capture i shows picture i modulo their number.

    data_set: what the pictures are called, in messages and in ``dataset.json``.
    licence: theirs, which what is made of them keeps.
    optics: None to draw the limits of disparity instead, for which depth need not be metric.
    """

    data_set: str
    licence: str
    pictures: Pictures
    optics: MetricOptics | None = None

    def note(self) -> SourceNote:
        """What is recorded of them."""
        names = self.pictures.names
        digest = hashlib.sha256("".join(f"{name}\n" for name in names).encode()).hexdigest()
        optics = None if self.optics is None else self.optics.note()
        return SourceNote(self.data_set, self.licence, len(names), digest, optics)

    def draw(self, rng: np.random.Generator, index: int, config: SceneConfig) -> tuple[Scene, Mask]:
        """The scene of capture ``index``; the same generator state gives the same scene.

        Args:
            config: size, margin, channels and disparity; what else scenes are drawn by means nothing here. One channel is the
                green one, which dual-pixel planes mostly are.

        Returns:
            Layers on a canvas with ``config.margin``; (H, W) bool of the frame, False where the depth was not known and has been
            filled in as by ``scene_from_disparity``.

        Raises:
            InputError: the picture cannot be read, is smaller than the frame, or has too little depth or none; or the lens shows
                it with disparities beyond ``config.disparity``. It is named.
        """
        name = self.pictures.names[index % len(self.pictures.names)]
        where, sample = f"{self.data_set}: picture {name}", self.pictures.read(name)
        mask = np.ones(sample.image.shape[1:], np.bool_) if sample.mask is None else sample.mask
        if mask.mean() < _LEAST_KNOWN:
            raise InputError(
                f"{where}: mask: expected depth at {_LEAST_KNOWN:.0%} of the pixels or more, found {100 * mask.mean():.2g} %. "
                "Leave the picture out."
            )
        if self.optics is None:
            disparity = _between_limits(rng, sample, mask, config, where)
        else:
            disparity = _through_lens(rng, sample, mask, self.optics, config, where)
        return _framed(rng, _with_channels(sample.image, config.channels), disparity, mask, config, where)


def open_pictures(root: str | Path, optics: MetricOptics | None = None) -> PictureSource:
    """The pictures of a data set of scenes, recognised by the names in its folder.

    Raises:
        InputError: no data set there, or one of another kind, or what its reader raises.
    """
    entry, known = (
        recognise(root),
        [name for name, entry in DATASETS.items() if entry.kind == "scene" and entry.depth_m],
    )
    if entry.name not in known:
        raise InputError(
            f"{root}: expected sharp pictures with depth or stereo disparity ({', '.join(known)}), found {entry.name}. Pass "
            "another folder."
        )
    return PictureSource(entry.name, entry.licence, open_dataset(entry.name, root), optics)


def _between_limits(rng: np.random.Generator, sample: SceneSample, mask: Mask, config: SceneConfig, where: str) -> Map:
    """(H, W) px where the mask holds: the nearest of the picture at one limit, the farthest at the other."""
    low, high = disparity_range(rng, config)
    # Either is affine in inverse depth, which rises towards the camera.
    if sample.depth is not None:
        nearness = 1.0 / np.where(mask, sample.depth, np.inf).astype(np.float64)
    elif sample.stereo_disparity is not None:
        nearness = np.where(mask, sample.stereo_disparity, 0.0).astype(np.float64)
    else:
        raise InputError(f"{where}: expected depth or stereo disparity, found neither. Pass another data set.")
    farthest, nearest = nearness.min(where=mask, initial=np.inf), nearness.max(where=mask, initial=-np.inf)
    span = nearest - farthest
    share = (nearest - nearness) / span if span > 0 else np.full(mask.shape, 0.5)
    return (low + (high - low) * share).astype(np.float32)


def _through_lens(
    rng: np.random.Generator, sample: SceneSample, mask: Mask, optics: MetricOptics, config: SceneConfig, where: str
) -> Map:
    """(H, W) px where the mask holds: what the lens, focused at random, makes of the depth."""
    if sample.depth is None:
        raise InputError(
            f"{where}: expected depth in metres, which a lens needs, found none. Leave out the sensor to draw the limits of "
            "disparity instead."
        )
    depth = np.where(mask, sample.depth, np.inf)
    nearest, farthest = float(depth.min()), float(depth.max(where=mask, initial=0.0))
    # At any focus of the range, so that a picture is refused at once, not by chance in the middle of a long run.
    least, most = (
        float(depth_to_disparity(z, optics.sensor, focus))
        for z, focus in zip((nearest, farthest), reversed(optics.focus_m), strict=True)
    )
    low, high = config.disparity
    if least < low or most > high:
        raise InputError(
            f"{where}: expected disparities within scene.disparity, {low:g} to {high:g} px, found {least:.3g} to {most:.3g} px "
            f"through {optics.sensor.name} focused from {optics.focus_m[0]:g} to {optics.focus_m[1]:g} m, for depths from "
            f"{nearest:.3g} to {farthest:.3g} m. Change the focus, or widen scene.disparity in the configuration."
        )
    return depth_to_disparity(depth, optics.sensor, optics.draw_focus(rng)).astype(np.float32)


def _with_channels(image: Map, channels: int) -> Map:
    if len(image) == channels:
        return image
    return image[1:2] if channels == 1 else image[:1].repeat(channels, axis=0)


def _framed(
    rng: np.random.Generator, image: Map, disparity: Map, mask: Mask, config: SceneConfig, where: str
) -> tuple[Scene, Mask]:
    """A random part of the picture, shrunk and mirrored at random, that shows some of what the mask holds for."""
    frame, margin = (config.height, config.width), config.margin
    least = max(side / have for side, have in zip(frame, mask.shape, strict=True))
    if least > 1:
        raise InputError(
            f"{where}: expected at least {frame[0]}x{frame[1]} px (height x width) as the views, for pictures are not enlarged, "
            f"found {mask.shape[0]}x{mask.shape[1]}. Pass a smaller size, or leave the picture out."
        )
    scale = math.exp(rng.uniform(math.log(least), 0.0))
    size = round(mask.shape[0] * scale), round(mask.shape[1] * scale)
    shown = divmod(int(rng.choice(np.flatnonzero(mask))), mask.shape[1])
    image, disparity, mask = _shrunk(image, disparity, mask, size) if size != mask.shape else (image, disparity, mask)
    rows, columns = (
        _stretch(rng, int((place + 0.5) * scale), side, have, margin)
        for place, side, have in zip(shown, frame, size, strict=True)
    )
    if rng.uniform() < 0.5:
        columns = columns[::-1]
    region = np.ix_(rows, columns)
    scene = scene_from_disparity(
        np.ascontiguousarray(image[:, rows[:, None], columns]), disparity[region], mask[region], margin=0
    )
    inner = slice(margin, margin + frame[0]), slice(margin, margin + frame[1])
    return scene, np.ascontiguousarray(mask[region][inner])


def _stretch(rng: np.random.Generator, place: int, side: int, have: int, margin: int) -> np.ndarray[Any, np.dtype[Any]]:
    """Rows (or columns) of a random stretch of ``side`` that holds ``place``, and the margin; beyond the picture, its last."""
    place = min(place, have - 1)
    start = int(rng.integers(max(0, place - side + 1), min(place, have - side) + 1))
    return np.arange(start - margin, start + side + margin).clip(0, have - 1)


def _shrunk(image: Map, disparity: Map, mask: Mask, size: tuple[int, int]) -> tuple[Map, Map, Mask]:
    """The light averaged; disparity and mask picked, as a mean over an edge in depth lies on neither side of it."""
    to = size[::-1]
    light = np.stack([cv2.resize(plane, to, interpolation=cv2.INTER_AREA) for plane in image]).astype(np.float32)
    picked = cv2.resize(disparity, to, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float32)
    return light, picked, cv2.resize(mask.view(np.uint8), to, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.bool_)
