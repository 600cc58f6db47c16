"""Between captures and a dual-pixel student: its input made of two camera planes, and maps of the capture made of its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Artifact, Bundle, TensorSpec
from edge_dp.errors import InputError
from edge_dp.preprocessing import ExposureNormalisation, dither
from edge_dp.runtime.engines.base import Tensors
from edge_dp.sensors.profile import SensorProfile

Map = NDArray[np.float32]
INPUT = "views"
OUTPUTS = ("disparity", "confidence")


@dataclass(frozen=True, slots=True)
class Student:
    """How a bundle's manifest says a dual-pixel student is fed.

    height, width: of its input.
    saturates: whether the artifact's own quantisation of the input takes all light above 1 to its highest level, so that clipping
    it before changes nothing.
    dither: (2, height, width), added to the input; None where the manifest asks for none.
    corrected_for: name of the sensor for whose field the artifacts correct the disparity themselves; None where they do not.
    """

    height: int
    width: int
    exposure: ExposureNormalisation | None
    saturates: bool = False
    dither: Map | None = field(default=None, compare=False, repr=False)
    corrected_for: str | None = None

    @classmethod
    def of(cls, bundle: Bundle, artifact: Artifact | None = None) -> Student:
        """Of a bundle, fed to any artifact or to one alone; InputError where it takes no views or gives no disparity."""
        manifest = bundle.manifest
        views = [
            spec for spec in manifest.inputs if spec.name == INPUT and len(spec.shape) == 4 and spec.shape[:2] == (1, 2)
        ]
        maps = {spec.name for spec in manifest.outputs if len(spec.shape) == 4}
        if manifest.preprocessing is None or len(views) != len(manifest.inputs) or not maps >= set(OUTPUTS):
            found = ", ".join(spec.name for spec in (*manifest.inputs, *manifest.outputs))
            raise InputError(
                f"{bundle.folder}: expected a dual-pixel student (preprocessing, input views, outputs disparity and "
                f"confidence), found {manifest.model} with {found}. Run its artifacts with the engines of "
                "edge_dp.runtime.engines."
            )
        height, width = views[0].shape[2:]
        saturates = artifact is not None and artifact.reference == "quantised" and _highest(views[0]) <= 1.0
        step = manifest.preprocessing.dither
        noise = None if step is None else dither(height, width, step)
        corrected_for = str((manifest.sensor or {}).get("name")) if manifest.field_corrected else None
        return cls(height, width, manifest.preprocessing.exposure, saturates, noise, corrected_for)

    def check_sensor(self, sensor: SensorProfile | None, name: str) -> None:
        """Refuse a capture, called ``name``, of another sensor than the one whose field is corrected; InputError."""
        if self.corrected_for is not None and sensor is not None and sensor.name != self.corrected_for:
            raise InputError(
                f"{name}: expected a capture of {self.corrected_for}, for whose field the bundle corrects, found one of "
                f"{sensor.name}. Export a bundle for {sensor.name}, or one without --correct-field."
            )

    def buffer(self) -> Map:
        """(1, 2, h, w) for ``fill``."""
        return np.zeros((1, 2, self.height, self.width), np.float32)

    def fill(self, buffer: Map, left: Map, right: Map, name: str) -> None:
        """Resize both views by area to the network's size, normalise them by ``exposure``, without copying what fits, and dither.

        For an artifact that ``saturates`` light above 1 is left to it.

        Args:
            buffer: (1, 2, h, w), overwritten.
            left, right: (1, H, W) or (H, W) float32 linear light in [0, 1], dual-pixel axis along x, shading matched.
            name: what messages call the capture.

        Raises:
            InputError: the views are smaller than the network's input, differ in size, have several channels, or are black.
        """
        views = [self._plane(view, name) for view in (left, right)]
        if views[0].shape != views[1].shape:
            sizes = [f"{view.shape[1]}x{view.shape[0]}" for view in views]
            raise InputError(f"{name}: expected two views of one size, found {sizes[0]} and {sizes[1]} px.")
        size = (self.width, self.height)
        if views[0].shape != (self.height, self.width):
            for view, plane in zip(views, buffer[0], strict=True):
                cv2.resize(view, size, dst=plane, interpolation=cv2.INTER_AREA)
            views = list(buffer[0])
        if self.exposure is None:
            buffer[0] = views
        else:
            self._expose(buffer, views, name, self.exposure)
        if self.dither is not None:
            np.add(buffer[0], self.dither, out=buffer[0])

    def _expose(self, buffer: Map, views: list[Map], name: str, exposure: ExposureNormalisation) -> None:
        light = sum(cv2.sumElems(view)[0] for view in views)  # in float64, at a tenth of what numpy takes
        try:
            gain = exposure.gain(light / (2 * self.height * self.width))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        for index in (1, 0):  # the right view was read last and lies in the processor's cache
            plane = buffer[0, index]
            np.multiply(views[index], gain, out=plane)
            if not self.saturates:
                np.clip(plane, 0.0, 1.0, out=plane)
            if exposure.transfer == "square_root":
                cv2.sqrt(plane, dst=plane)

    def stretch(self, width: int) -> np.float32:
        """How many px of a capture of that width make one of the network's input; of disparity along x, its unit."""
        return np.float32(width / self.width)

    def disparity(self, outputs: Tensors, height: int, width: int) -> Map:
        """(height, width) px of a capture of that size, enlarged bilinearly. A fresh array."""
        disparity = _enlarged(outputs["disparity"], height, width)
        if width != self.width:
            disparity *= self.stretch(width)
        return disparity

    def confidence(self, outputs: Tensors, height: int, width: int) -> Map:
        """(height, width) code of ``edge_dp.models.confidence``, clipped to [0, 1], enlarged bilinearly. A fresh array."""
        return _enlarged(outputs["confidence"].clip(0.0, 1.0), height, width)

    def _plane(self, view: Map, name: str) -> Map:
        plane = view
        if view.ndim == 3:
            if view.shape[0] != 1:
                raise InputError(f"{name}: expected one green plane per view, found {view.shape[0]} channels")
            plane = view[0]
        if plane.ndim != 2 or plane.dtype != np.float32:
            raise InputError(f"{name}: expected float32 (H, W) views, found {view.dtype} {view.shape}")
        height, width = plane.shape
        if height < self.height or width < self.width:
            raise InputError(
                f"{name}: expected views of at least {self.width}x{self.height} px (width x height), found "
                f"{width}x{height}. Export the bundle at a smaller size: edge-dp export --size"
            )
        return plane


def _highest(spec: TensorSpec) -> float:
    """Real value of the highest int8 level."""
    return math.inf if spec.scale is None or spec.zero_point is None else spec.scale * (127 - spec.zero_point)


def _enlarged(output: Map, height: int, width: int) -> Map:
    """(1, 1, h, w) -> (height, width)."""
    enlarged: Any = cv2.resize(output[0, 0], (width, height), interpolation=cv2.INTER_LINEAR)
    return enlarged
