"""The predictor: camera planes in, disparity out, with the preprocessing that the bundle's manifest prescribes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Bundle, read_bundle
from edge_dp.data.sample import DpSample
from edge_dp.errors import InputError
from edge_dp.models.confidence import expected_error
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.runtime.engines import engine_for, make_engine
from edge_dp.runtime.validate import signature

Map = NDArray[np.float32]
DEFAULT_ARTIFACT = "executorch-int8"


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network says of one capture, at the capture's own size (H, W), the dual-pixel axis along x.

    disparity: px of the capture, left(x) = right(x + d), positive farther than the focus plane.
    confidence: the code of ``edge_dp.models.confidence``, clipped to [0, 1].
    expected_error: mean absolute error that the confidence promises, px of the capture.
    """

    disparity: Map
    confidence: Map
    expected_error: Map


class Predictor:
    """Runs one artifact of a bundle. Not thread-safe. Use it as a context manager.

    Args:
        bundle: read with ``read_bundle``.
        artifact: name in the manifest, such as ``tflite-int8``.
        threads: CPU threads per inference.

    Raises:
        InputError: no such artifact, or the bundle is not of a dual-pixel student.
        ChecksumError: the artifact is damaged.
        MissingExtraError: its engine is not installed.
    """

    def __init__(self, bundle: Bundle, artifact: str = DEFAULT_ARTIFACT, threads: int = 1) -> None:
        chosen = bundle.manifest.artifact(artifact)
        self._exposure = _exposure(bundle)
        bundle.check_files(chosen.files)
        self.bundle, self.artifact = bundle, chosen
        self._engine = make_engine(engine_for(chosen.format), bundle.path(chosen.path), signature(bundle), threads)
        self._height, self._width = bundle.manifest.inputs[0].shape[2:]

    def __enter__(self) -> Self:
        self._engine.activate()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.deactivate()

    def network_input(self, sample: DpSample) -> Map:
        """(1, 2, h, w): both views resized by area to the network's size, exposure normalised.

        Raises:
            InputError: the views are smaller than the network's input, have several channels, or are black.
        """
        channels, height, width = sample.left.shape
        if channels != 1:
            raise InputError(f"{sample.name}: expected one green plane per view, found {channels} channels")
        if height < self._height or width < self._width:
            raise InputError(
                f"{sample.name}: expected views of at least {self._width}x{self._height} px (width x height), found "
                f"{width}x{height}. Export the bundle at a smaller size: edge-dp export --size"
            )
        size = (self._width, self._height)
        views = np.stack(
            [cv2.resize(view[0], size, interpolation=cv2.INTER_AREA) for view in (sample.left, sample.right)]
        )
        return self._exposure(views)[None] if self._exposure is not None else views[None]

    def predict(self, sample: DpSample) -> Prediction:
        """Disparity and confidence of one capture; ``InputError`` as in ``network_input``."""
        outputs = self._engine.infer({"views": self.network_input(sample)})
        _, height, width = sample.left.shape
        disparity, confidence = (
            cv2.resize(outputs[name][0, 0], (width, height), interpolation=cv2.INTER_LINEAR)
            for name in ("disparity", "confidence")
        )
        stretch = np.float32(width / self._width)  # disparity lies along x, so only the width's factor counts
        confidence = np.clip(confidence, 0.0, 1.0)
        return Prediction(disparity * stretch, confidence, expected_error(confidence) * stretch)


def _exposure(bundle: Bundle) -> ExposureNormalisation | None:
    """What the bundle asks for before inference; InputError where it takes no views or gives no disparity."""
    manifest = bundle.manifest
    views = [
        spec for spec in manifest.inputs if spec.name == "views" and len(spec.shape) == 4 and spec.shape[:2] == (1, 2)
    ]
    maps = {spec.name for spec in manifest.outputs if len(spec.shape) == 4}
    if manifest.preprocessing is None or len(views) != len(manifest.inputs) or not maps >= {"disparity", "confidence"}:
        found = ", ".join(spec.name for spec in (*manifest.inputs, *manifest.outputs))
        raise InputError(
            f"{bundle.folder}: expected a dual-pixel student (preprocessing, input views, outputs disparity and confidence), "
            f"found {manifest.model} with {found}. Run its artifacts with the engines of edge_dp.runtime.engines."
        )
    return manifest.preprocessing.exposure


def load(bundle: str | Path, artifact: str = DEFAULT_ARTIFACT, *, threads: int = 1) -> Predictor:
    """Open a bundle for prediction.

    >>> with edge_dp.load("bundle") as predictor:      # doctest: +SKIP
    ...     prediction = predictor.predict(read_pair("l.png", "r.png", load_sensor("pixel4")))
    """
    return Predictor(read_bundle(bundle), artifact, threads)
