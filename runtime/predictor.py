"""The predictor: camera planes in, disparity, confidence and metric depth out, as the bundle's manifest prescribes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Artifact, Bundle, read_bundle
from edge_dp.data.images import correct_field, light_of_levels, match_views
from edge_dp.data.sample import DpSample
from edge_dp.errors import InputError, MissingExtraError
from edge_dp.models.confidence import expected_error
from edge_dp.optics import disparity_to_depth
from edge_dp.runtime.cell import signature
from edge_dp.runtime.engines import EngineEntry, engine_for, engine_named, make_engine
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.student import INPUT, Map, Student
from edge_dp.sensors import SensorProfile

_FORMATS = ("executorch", "tflite", "onnx", "coreml")  # of equally precise artifacts, the default's


@dataclass(frozen=True, slots=True)
class _Lens:
    """What turns the disparity of a capture into metres."""

    sensor: SensorProfile
    focus_m: float
    samples_per_px: float

    def depth(self, corrected: Map) -> Map:
        samples = corrected * np.float32(self.samples_per_px)
        return disparity_to_depth(samples, self.sensor, self.focus_m).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one capture, at the capture's own size (H, W), the dual-pixel axis along x.

    Each map is computed when it is first asked for, and is the caller's own: a later prediction does not overwrite it.

    size: (H, W).
    outputs: as the network gave them, at its resolution and in px of its input, by name; for who enlarges them otherwise.
    """

    size: tuple[int, int]
    outputs: Tensors
    _student: Student
    _sensor: SensorProfile | None
    _lens: _Lens | None

    @cached_property
    def disparity(self) -> Map:
        """(H, W) px of the capture, left(x) = right(x + d), positive farther than the focus plane.

        As the artifact says it: as the sensor shows it, or corrected for its field already, as the bundle was exported.
        """
        return self._student.disparity(self.outputs, *self.size)

    @cached_property
    def corrected_disparity(self) -> Map:
        """(H, W) px: as a lens equally strong all over the field would show it, so that it is affine in inverse depth.

        As ``edge_dp.data.correct_field`` by the profile of the sensor, of whose field the views show all; the disparity itself
        where no profile says how the sensor's strength varies, or the artifact has corrected it.
        """
        return self.disparity.copy() if self._sensor is None else correct_field(self.disparity, self._sensor)

    @cached_property
    def confidence(self) -> Map:
        """(H, W) the code of ``edge_dp.models.confidence``, clipped to [0, 1]."""
        return self._student.confidence(self.outputs, *self.size)

    @cached_property
    def expected_error(self) -> Map:
        """(H, W) mean absolute error of the disparity that the confidence promises, px of the capture."""
        return expected_error(self.confidence) * self._student.stretch(self.size[1])

    @cached_property
    def depth(self) -> Map | None:
        """(H, W) metres, inf at the horizon and beyond; None where focus or optics are unknown.

        Source: ``edge_dp.optics.disparity_to_depth``.

        Raises:
            OpticsError: a focus distance within the focal length.
        """
        return None if self._lens is None else self._lens.depth(self.corrected_disparity)


class Predictor:
    """Runs one artifact of a bundle in this process. Use it as a context manager.

    Thread-safe: calls from several threads wait for each other, as one engine and one input buffer serve them all. To predict
    several captures at the same time, open a predictor in each thread.

    Args:
        bundle: read with ``read_bundle``.
        artifact: name in the manifest, such as ``tflite-int8``. Unless given, the first that an engine here executes: integers
            before floats, ExecuTorch before TFLite, ONNX and Core ML, reference evaluators last.
        engine: name in ``edge_dp.runtime.engines.ENGINES``, such as ``litert``; unless given, the first for the artifact.
        threads: CPU threads per inference.

    Attributes:
        bundle, artifact, engine: what it runs; an engine that is used beside the predictor must not be so by another thread.

    Raises:
        InputError: no such artifact or engine, they do not go together, or the bundle is not of a dual-pixel student.
        ChecksumError: the artifact is damaged.
        MissingExtraError: its engine is not installed.
    """

    def __init__(
        self, bundle: Bundle, artifact: str | None = None, engine: str | None = None, threads: int = 1
    ) -> None:
        Student.of(bundle)  # says first whether it is one
        chosen, entry = _choose(bundle, artifact, engine)
        self._student = Student.of(bundle, chosen)
        bundle.check_files(chosen.files)
        self.bundle, self.artifact = bundle, chosen
        self.engine = make_engine(entry, bundle.path(chosen.path), signature(bundle), threads)
        self._buffer = self._student.buffer()
        self._lock = threading.Lock()
        where = f"{bundle.folder}: sensor"
        recorded = bundle.manifest.sensor
        self._sensor = None if recorded is None else SensorProfile.from_dict(recorded, where)

    def __enter__(self) -> Self:
        with self._lock:
            self.engine.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self.engine.deactivate()

    def network_input(self, sample: DpSample) -> Map:
        """(1, 2, h, w): both views resized by area to the network's size, normalised and dithered. A fresh array.

        Raises:
            InputError: the views are smaller than the network's input, have several channels, or are black.
        """
        student = replace(self._student, saturates=False)
        buffer = student.buffer()
        student.fill(buffer, sample.left, sample.right, sample.name)
        return buffer

    def predict(
        self,
        left: DpSample | NDArray[Any],
        right: NDArray[Any] | None = None,
        *,
        sensor: SensorProfile | None = None,
        focus_m: float | None = None,
        samples_per_px: float = 1.0,
    ) -> Prediction:
        """Disparity and confidence of one capture, and its depth where the focus distance is known.

        Two planes in place of a sample may be whole numbers or floats. Whole numbers are levels as in the sensor's files and are
        turned into linear light, exchanged, brightened and turned as its profile says. Floats are linear light in [0, 1], true
        left and right, equally bright, the dual-pixel axis along x.

        Args:
            left: a sample, or the left plane, (H, W) or (1, H, W).
            right: the right plane; None with a sample.
            sensor: of planes; the manifest's unless given.
            focus_m: focus distance, metres; unless given, that of the profile, where it names one.
            samples_per_px: samples of the sensor's files per px of the capture along x, such as 4 where the views have been made
                four times smaller; depth needs it.

        Raises:
            InputError: the views differ in size, are smaller than the network's input, have several channels, are black, or hold
                levels or values that the sensor does not give; a focus distance without optics; another sensor than the one for
                whose field the bundle corrects.
            EngineError: not active, or the engine failed.
        """
        name = left.name if isinstance(left, DpSample) else "capture"
        with self._lock:
            views, of_capture = self._views(left, right, sensor)
            lens = _lens((of_capture, self._sensor), focus_m, samples_per_px, name)
            self._student.check_sensor(of_capture, name)
            self._student.fill(self._buffer, *views, name)
            outputs = self.engine.infer({INPUT: self._buffer})
        height, width = views[0].shape[-2:]
        field = of_capture if lens is None else lens.sensor
        if self._student.corrected_for is not None:
            field = None  # nothing is left to correct
        return Prediction((height, width), outputs, self._student, field, lens)

    def _views(
        self, left: DpSample | NDArray[Any], right: NDArray[Any] | None, sensor: SensorProfile | None
    ) -> tuple[tuple[Map, Map], SensorProfile | None]:
        """Both views in linear light, and the sensor that took them."""
        if isinstance(left, DpSample):
            if right is not None or sensor is not None:
                raise InputError("predict: expected a sample alone, found a right plane or a sensor beside it")
            return (left.left, left.right), left.sensor
        if right is None:
            raise InputError("predict: expected a left and a right plane, or a sample, found a left plane alone")
        sensor = sensor or self._sensor
        if left.dtype != right.dtype:
            raise InputError(f"capture: expected planes of one dtype, found {left.dtype} and {right.dtype}")
        if left.dtype.kind not in "ui":
            return (_light("left", left), _light("right", right)), sensor
        if sensor is None:
            raise InputError(
                f"capture: expected a sensor, as the planes are levels ({left.dtype}), found none. Pass it."
            )
        planes = [light_of_levels(plane, sensor, which) for plane, which in ((left, "left"), (right, "right"))]
        return match_views(planes[0], planes[1], sensor, "right"), sensor


def load(bundle: str | Path, artifact: str | None = None, *, engine: str | None = None, threads: int = 1) -> Predictor:
    """Open a bundle for prediction; arguments and errors as of ``Predictor``.

    >>> with edge_dp.load("bundle") as predictor:      # doctest: +SKIP
    ...     prediction = predictor.predict(read_pair("l.png", "r.png", load_sensor("pixel4")), focus_m=1.5)
    """
    return Predictor(read_bundle(bundle), artifact, engine, threads)


def _choose(bundle: Bundle, artifact: str | None, engine: str | None) -> tuple[Artifact, EngineEntry]:
    manifest = bundle.manifest
    wanted = engine_named(engine) if engine is not None else None
    if artifact is not None:
        chosen = manifest.artifact(artifact)
        if wanted is not None and chosen.format not in wanted.formats:
            raise InputError(f"{artifact}: engine {engine} executes {', '.join(wanted.formats)}, not {chosen.format}.")
        return chosen, wanted or engine_for(chosen.format)
    candidates = [a for a in manifest.artifacts if wanted is None or a.format in wanted.formats]
    if not candidates:
        what = f"an artifact for engine {engine}" if engine else "an artifact"
        raise InputError(f"{bundle.folder}: expected {what}, found {', '.join(a.name for a in manifest.artifacts)}.")
    runnable: list[tuple[Artifact, EngineEntry]] = []
    for candidate in candidates:
        try:
            runnable.append((candidate, wanted or engine_for(candidate.format)))
        except MissingExtraError as error:
            missing = error
    if not runnable:
        raise missing
    return min(runnable, key=lambda pair: _rank(*pair))


def _rank(artifact: Artifact, entry: EngineEntry) -> tuple[bool, bool, int]:
    place = _FORMATS.index(artifact.format) if artifact.format in _FORMATS else len(_FORMATS)
    return not entry.measures_speed, artifact.reference != "quantised", place


def _light(which: str, plane: NDArray[Any]) -> Map:
    """A plane of floats, once it is known to be linear light."""
    view: Map = plane.astype(np.float32, copy=False)
    if not (view.size and view.min() >= 0 and view.max() <= 1):  # NaN fails both
        raise InputError(
            f"{which}: expected linear light in [0, 1], found {plane.dtype} {plane.shape} with other values. Pass levels as "
            "whole numbers with their sensor."
        )
    return view


def _lens(
    profiles: Sequence[SensorProfile | None], focus_m: float | None, samples_per_px: float, name: str
) -> _Lens | None:
    """Of the first profile that knows its optics; None where no focus distance is known."""
    for sensor in profiles:
        if sensor is None or None in (sensor.alpha, sensor.focal_length_m, sensor.f_number, sensor.pitch_um):
            continue
        focus = sensor.focus_m if focus_m is None and isinstance(sensor.focus_m, float) else focus_m
        return None if focus is None else _Lens(sensor, focus, samples_per_px)
    if focus_m is not None:
        raise InputError(
            f"{name}: focus_m: expected a sensor profile with alpha, focal length, f-number and pitch, without which a focus "
            "distance gives no depth, found none. Export the bundle for its sensor, or leave focus_m out."
        )
    return None
