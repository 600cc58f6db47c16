"""Where labelled captures come from: rendered rigs, as they are made or from a folder, and real rigs in dpMV's layout.

Each gives the same: views of the rig's cameras, the two dual-pixel views, how the pixels of one lie to those of the other, and
how inverse depth becomes dual-pixel disparity where that is known.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.data.dual_pixel.dpmv import DpMv
from edge_dp.data.simulated import SimulatedDataset
from edge_dp.errors import InputError, SchemaError
from edge_dp.sensors import SensorProfile
from edge_dp.simulation.capture import SIMULATOR, SimulatedRig, SimulationConfig, simulate_with_rig
from edge_dp.simulation.rig import SideCamera
from edge_dp.srgb import linear_to_srgb
from edge_dp.training.labels.dual_pixel import DualPixelMap
from edge_dp.training.teachers.base import Camera, View

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Frame:
    """How the first view of a rig lies to the dual-pixel views: turned, cut, scaled, in this order.

    Args:
        quarter_turns: counter-clockwise, of the rig's view.
        margin: px of it beyond the dual-pixel frame on every side, after the turn.
        size: (H, W) of the dual-pixel views.
    """

    quarter_turns: int
    margin: int
    size: tuple[int, int]

    def __call__(self, plane: Array) -> Array:
        """A map of the first view -> (H, W) of the dual-pixel views; nearest pixels, so that nothing mixes across an edge."""
        turned = np.rot90(plane, self.quarter_turns)
        inner = turned[self.margin : turned.shape[0] - self.margin, self.margin : turned.shape[1] - self.margin]
        if inner.shape == self.size:
            return np.ascontiguousarray(inner)
        resized = cv2.resize(np.ascontiguousarray(inner), self.size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        return np.asarray(resized, np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class RigCapture:
    """One capture of a rig that holds a dual-pixel camera.

    name: for messages and provenance.
    views: (2, H, W) float32 linear light, left and right dual-pixel view, mean over colours.
    rig: views of the cameras, first that which the dual-pixel camera shares its centre with.
    frame: how its pixels lie to those of ``views``.
    optics: from inverse depth to dual-pixel disparity; None where it is to be fitted.
    metric: inverse depths are in 1 / m, so that relative depth has a meaning.
    truth: (H, W) float32 true disparity for evaluation; None where unknown.
    """

    name: str
    views: Array
    rig: tuple[View, ...]
    frame: Frame
    optics: DualPixelMap | None
    metric: bool
    truth: Array | None


class CaptureSource(Protocol):
    """A sequence of captures. It travels to other processes, so it must be picklable."""

    def __len__(self) -> int:
        """How many captures there are."""
        ...

    def note(self) -> dict[str, Any]:
        """What the captures depend on, as JSON values: goes into the provenance of each label."""
        ...

    def read(self, index: int) -> RigCapture:
        """Capture number ``index``.

        Raises:
            InputError: a camera or file is missing or damaged; it is named.
        """
        ...


@dataclass(frozen=True, slots=True)
class RenderedCaptures:
    """Captures simulated when asked for, the same from the same seed, whatever the process."""

    seed: int
    count: int
    config: SimulationConfig

    def __len__(self) -> int:
        return self.count

    def note(self) -> dict[str, Any]:
        """As ``CaptureSource.note``; the count is left out, as more captures leave the first ones as they are."""
        config = dataclasses.asdict(self.config)
        return {"kind": "rendered", "simulator": SIMULATOR, "seed": self.seed, "simulation": config}

    def read(self, index: int) -> RigCapture:
        """Capture number ``index``."""
        capture, rig = simulate_with_rig(self.seed, index, self.config)
        return rendered_capture(f"seed {self.seed}, capture {index}", capture.views, capture.disparity, rig)


class RenderedFolder:
    """A data set that ``edge-dp simulate --rig`` wrote.

    Raises:
        InputError: as ``SimulatedDataset``, or it was written without the rig.
    """

    def __init__(self, root: Path) -> None:
        self.captures = SimulatedDataset(root)
        if "side" not in self.captures.note.fields:
            raise InputError(f"{root}: expected captures with the rig's views, found none. Simulate them with --rig.")

    def __len__(self) -> int:
        return len(self.captures)

    def note(self) -> dict[str, Any]:
        """As ``CaptureSource.note``."""
        settings = self.captures.note.settings()
        kept = ("simulator", "seed", "config", "source")
        return {"kind": "rendered_folder", **{name: settings[name] for name in kept if name in settings}}

    def read(self, index: int) -> RigCapture:
        """Capture number ``index``."""
        name = self.captures.names[index]
        sample, rig = self.captures.read(name), self.captures.rig_views(name)
        assert sample.disparity is not None
        return RigCapture(
            f"{self.captures.root}: {name}",
            np.stack([sample.left.mean(axis=0), sample.right.mean(axis=0)]),
            _views_of_levels(rig.reference, rig.side, rig.opposite, rig.camera),
            Frame(0, rig.margin, sample.left.shape[1:]),
            DualPixelMap.of_side_camera(rig.camera),
            False,
            sample.disparity if sample.mask is None else np.where(sample.mask, sample.disparity, np.nan),
        )


@dataclass(frozen=True, slots=True)
class RigOptics:
    """What is known of a real rig; turns its disparity into dual-pixel disparity without a fit.

    Args:
        focal_px: focal length of the rectified photographs, px.
        baseline_m: from the dual-pixel camera to a neighbour.
        focus_m: distance of the dual-pixel camera's focus plane.
        horizon_px: disparity of the horizon in the rectified photographs.
    """

    focal_px: float
    baseline_m: float
    focus_m: float
    horizon_px: float = 0.0

    def __post_init__(self) -> None:
        for name in ("focal_px", "baseline_m", "focus_m"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise SchemaError(f"{name}: expected a number above 0, found {value}")


class DpMvVideos:
    """Frames in dpMV's layout: photographs of cameras A (right), B (middle, with dual-pixel views) and C (left).

    Args:
        root: holds ``rectified/`` and ``unrectified/``.
        cameras: beside B; None for those that the set has.
        every: take every so many frames of each video.
        size: (H, W) to scale the dual-pixel views to; None for that of the files.
        sensor: in place of the profile for these files.
        optics: of the rig; None: fit each capture. Then the sensor needs a lens and alpha.

    Raises:
        InputError: as ``DpMv``; no photographs of B or of any other camera.
    """

    def __init__(
        self,
        root: Path,
        *,
        cameras: str | None = None,
        every: int = 1,
        size: tuple[int, int] | None = None,
        sensor: SensorProfile | None = None,
        optics: RigOptics | None = None,
    ) -> None:
        self.captures = DpMv(root, sensor=sensor)
        self.cameras = _cameras_of(self.captures, cameras)
        self.size, self.optics, self.every = size, optics, every
        by_video: dict[str, list[str]] = {}
        for name in self.captures.names:
            by_video.setdefault(name.split("/")[0], []).append(name)
        self._by_video = by_video
        self._take(sorted(by_video))

    def _take(self, videos: Sequence[str]) -> None:
        self.videos = tuple(videos)
        self.names = tuple(name for video in videos for name in self._by_video[video][:: self.every])

    def only(self, videos: Sequence[str]) -> DpMvVideos:
        """The same without the frames of other videos."""
        part = copy.copy(self)
        part._take(videos)
        return part

    def __len__(self) -> int:
        return len(self.names)

    def note(self) -> dict[str, Any]:
        """As ``CaptureSource.note``."""
        return {
            "kind": "dpmv",
            "cameras": self.cameras,
            "videos": list(self.videos),
            "every": self.every,
            "size": list(self.size) if self.size else None,
            "sensor": self.captures.sensor.name,
            "optics": dataclasses.asdict(self.optics) if self.optics else None,
        }

    def read(self, index: int) -> RigCapture:
        """Frame number ``index``."""
        name = self.names[index]
        sample = self.captures.read(name)
        photographs = self.captures.photographs(name, "B" + self.cameras)
        views = np.stack([sample.left.mean(axis=0), sample.right.mean(axis=0)])
        files = views.shape[1:]
        size = self.size or files
        if size != files:
            views = np.stack([cv2.resize(view, size[::-1], interpolation=cv2.INTER_AREA) for view in views])
        shape = photographs["B"].shape[1:]
        unit = self.optics.baseline_m if self.optics else 1.0
        places = {"A": unit, "B": 0.0, "C": -unit}
        focal = self.optics.focal_px if self.optics else 1.0
        rig = tuple(
            View(photographs[camera], Camera.rectified(shape, (places[camera], 0.0), focal))
            for camera in "B" + self.cameras
        )
        return RigCapture(
            f"{self.captures.root}: {name}",
            views.astype(np.float32),
            rig,
            Frame(1, 0, (size[0], size[1])),
            self._optics(size[1] / files[1]),
            self.optics is not None and self.optics.horizon_px == 0,
            None,
        )

    def _optics(self, px_per_px: float) -> DualPixelMap | None:
        if self.optics is None:
            return None
        known = self.optics
        ideal = DualPixelMap.of_optics(self.captures.sensor, known.focus_m, px_per_px)
        # The teacher counts from disparity 0, depth from that of the horizon.
        horizon = known.horizon_px / (known.focal_px * known.baseline_m)
        return DualPixelMap(ideal.slope, ideal.offset - ideal.slope * horizon)


def split_videos(videos: Sequence[str], held_out: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Videos to train on and to hold out: whole videos, as frames of one show the same scene.

    Args:
        held_out: share to hold out, in [0, 1); at least one video, where it is above 0.

    Returns:
        Both sorted. Which is which depends on the names' SHA-256 alone, not on their order.

    Raises:
        InputError: a share outside [0, 1), or that leaves no video to train on.
    """
    if not 0 <= held_out < 1:
        raise InputError(f"held-out share: expected at least 0 and below 1, found {held_out}")
    ranked = sorted(videos, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = max(1, round(held_out * len(ranked))) if held_out > 0 else 0
    if count and count >= len(ranked):
        raise InputError(f"held-out share {held_out}: expected videos left to train on, found {len(ranked)} in all")
    return tuple(sorted(ranked[count:])), tuple(sorted(ranked[:count]))


def rendered_capture(name: str, views: Array, disparity: Array, rig: SimulatedRig) -> RigCapture:
    """A rendered capture, (2, C, H, W) views and (H, W) true disparity, with the rig that saw the same scene."""
    return RigCapture(
        name,
        views.mean(axis=1, dtype=np.float32),
        rig_views(rig),
        Frame(0, rig.margin, (disparity.shape[0], disparity.shape[1])),
        DualPixelMap.of_side_camera(rig.camera),
        False,
        disparity,
    )


def rig_views(rig: SimulatedRig) -> tuple[View, ...]:
    """The cameras of a rendered rig as 8-bit sRGB photographs: middle, right, left."""
    reference, side, opposite = (
        np.rint(255 * linear_to_srgb(light.clip(0, 1))).astype(np.uint8)
        for light in (rig.reference, rig.side, rig.opposite)
    )
    return _views_of_levels(reference, side, opposite, rig.camera)


def _views_of_levels(
    reference: NDArray[np.uint8], side: NDArray[np.uint8], opposite: NDArray[np.uint8], camera: SideCamera
) -> tuple[View, ...]:
    """The unit of length is the baseline, that of inverse depth a px of disparity."""
    if any(camera.turn_deg):
        raise InputError(
            f"rig: expected rectified views, found a side camera turned by {camera.turn_deg} degrees. Rectify first."
        )
    x, y = math.cos(camera.angle), math.sin(camera.angle)
    places = ((0.0, 0.0), (x, y), (-x, -y))
    return tuple(
        View(levels.astype(np.float32) / np.float32(255), Camera.rectified(levels.shape[1:], place))
        for levels, place in zip((reference, side, opposite), places, strict=True)
    )


def _cameras_of(captures: DpMv, asked: str | None) -> str:
    """Cameras beside B, from those that any capture has photographs of."""
    present = {
        role[-1] for files in captures.listing.files.values() for role in files if role.startswith("photograph_")
    }
    if asked is not None and (not asked or set(asked) - set("AC") or len(set(asked)) != len(asked)):
        raise InputError(f"cameras: expected A, C or AC, those beside B, found {asked!r}")
    cameras = asked or "".join(sorted(present - {"B"}))
    for camera in ("B", *(cameras or "A")):
        if camera not in present:
            raise InputError(
                f"{captures.root}: expected photographs of camera {camera} in rectified/{camera}/Video_data, found none. Stereo "
                "needs B and at least one of A and C."
            )
    return cameras
