"""The methods of the disparity benchmark: students as they are exported, matching, and what scores without looking."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
from baselines import MAX_DISPARITY, constant, sgbm
from classical import match, match_wls
from numpy.typing import NDArray
from scene_sets import NETWORK_SIZE, Map, PositionPrior, SceneSet, resized

import edge_dp
from edge_dp.bundle.manifest import MANIFEST, Bundle, read_bundle
from edge_dp.data import DpSample
from edge_dp.errors import InputError
from edge_dp.files import sha256
from edge_dp.models.checkpoint import read_checkpoint, shipped_checkpoints
from edge_dp.runtime.predictor import Predictor
from edge_dp.runtime.student import Student
from edge_dp.sensors import SensorProfile
from edge_dp.sensors.fit import predict_disparity

PRECISIONS = ("int8", "fp32")
BAR = "match + WLS"
LENS = "the lens itself"
FIELD = "int8, field inside"
"""Of an artifact that corrects for its sensor's field."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row.

    predict: disparity of a capture of a set, (H, W) px of the capture.
    student: name of the checkpoint, and precision of the artifact, for a network.
    suits: whether it can be asked about a set, of which a capture is given.
    corrects_field: whether the artifact corrects its disparity for the field of the set's sensor itself.
    """

    name: str
    predict: Callable[[DpSample, SceneSet], Map]
    student: str = ""
    precision: str = ""
    parameters: int | None = None
    multiply_adds: int | None = None
    suits: Callable[[SceneSet, DpSample], bool] = lambda captures, sample: True
    corrects_field: bool = False


def controls() -> list[Method]:
    """Matching, what scores without looking at the views, and the lens: the floor for who is not told its field."""

    @cache
    def prior(captures: SceneSet) -> PositionPrior:
        return PositionPrior(captures)

    return [
        Method("constant", lambda sample, _: constant(sample.left[0], sample.right[0])),
        Method(
            "position only",
            lambda sample, captures: prior(captures)(sample.name, *sample.left.shape[1:]),
            suits=lambda captures, sample: len(captures.names) > 1 and captures.truth(sample) is not None,
        ),
        Method("block matching", lambda sample, captures: _shrunk(sample, captures, match)),
        Method("SGM", _semi_global),
        Method(BAR, lambda sample, captures: _shrunk(sample, captures, match_wls)),
        Method(
            LENS,
            _shown_by_the_lens,
            suits=lambda captures, sample: captures.sensor is not None and sample.depth is not None,
        ),
    ]


@contextmanager
def students(
    checkpoints: Sequence[str | Path],
    bundles: Path,
    wanted: Callable[[str], bool] = lambda _: True,
    size: tuple[int, int] | None = None,
) -> Iterator[list[Method]]:
    """Every artifact of some checkpoints, as exported to ExecuTorch; exported first where ``bundles`` has none of that content.

    In int8 twice: as it is, and exported for the sensor of a set whose field is calibrated, with that corrected.

    Args:
        checkpoints: names of shipped ones, or folders.
        wanted: of a method's name; a checkpoint of which none is wanted is not exported.
        size: height and width of the input; that of each data set unless given.

    Raises:
        InputError: two checkpoints have one name.
    """
    methods: list[Method] = []
    with ExitStack() as stack:

        @cache
        def predictor(
            checkpoint: str | Path, precision: str, size: tuple[int, int], captures: SceneSet | None = None
        ) -> Predictor:
            field = captures.sensor() if captures and captures.sensor else None
            bundle = exported(checkpoint, bundles, size, field)
            return stack.enter_context(edge_dp.load(bundle.folder, f"executorch-{precision}"))

        for checkpoint in checkpoints:
            name = str(checkpoint) if str(checkpoint) in shipped_checkpoints() else _name(Path(checkpoint))
            if any(method.student == name for method in methods):
                raise InputError(
                    f"{checkpoint}: expected checkpoints of different names, found {name} twice. Rename one."
                )
            for precision in PRECISIONS:
                if wanted(f"{name} {precision}"):
                    methods.append(_student(name, precision, partial(predictor, checkpoint, precision), size))
            if wanted(f"{name} {FIELD}"):
                methods.append(_of_field(name, partial(predictor, checkpoint, "int8"), size))
        yield methods


def float_student(name: str, checkpoint: Path) -> Method:
    """A checkpoint in float, by torch: for comparisons of trainings, which need no export. Its time says nothing."""
    import torch

    saved = read_checkpoint(checkpoint)
    module = saved.build()

    def predict(sample: DpSample, captures: SceneSet) -> Map:
        student = Student(*captures.network_size, saved.exposure)
        buffer = student.buffer()
        student.fill(buffer, sample.left, sample.right, sample.name)
        with torch.no_grad():
            disparity, confidence = module(torch.from_numpy(buffer))
        outputs = {"disparity": disparity.numpy(), "confidence": confidence.numpy()}
        return student.disparity(outputs, *sample.left.shape[1:])

    parameters = sum(parameter.numel() for parameter in module.parameters())
    return Method(name, predict, saved.student, "float", parameters)


def exported(
    checkpoint: str | Path, bundles: Path, size: tuple[int, int], field: SensorProfile | None = None
) -> Bundle:
    """The bundle of a checkpoint, made unless ``bundles`` holds one of the same weights, ranges, size and field.

    Args:
        field: sensor for whose field the artifact, in int8 alone, corrects.

    Raises:
        InputError: there is no such checkpoint.
        ExportError: as ``edge_dp.export_checkpoint``.
    """
    folder = shipped_checkpoints().get(str(checkpoint), Path(checkpoint))
    if not (folder / "config.yaml").is_file():
        known = ", ".join(shipped_checkpoints())
        raise InputError(f"{checkpoint}: expected a checkpoint's folder or one of {known}, found neither.")
    # The configuration holds the checksums of weights and ranges.
    of_field = ""
    if field is not None:
        profile = json.dumps(field.to_dict(), sort_keys=True)
        of_field = f"-{field.name}-{hashlib.sha256(profile.encode()).hexdigest()[:12]}"
    place = bundles / f"{folder.name}-{sha256(folder / 'config.yaml')[:12]}-{size[0]}x{size[1]}{of_field}"
    if (place / MANIFEST).is_file():
        return read_bundle(place)
    return edge_dp.export_checkpoint(
        checkpoint,
        place,
        formats=["executorch"],
        precision=PRECISIONS if field is None else PRECISIONS[0],
        size=size,
        sensor=field,
        correct_field=field is not None,
    )


def _name(folder: Path) -> str:
    """Of a run's folder, RUN/checkpoint, the run."""
    folder = folder.resolve()
    return folder.parent.name if folder.name == "checkpoint" else folder.name


def _student(
    name: str, precision: str, predictor: Callable[[tuple[int, int]], Predictor], size: tuple[int, int] | None
) -> Method:
    manifest = predictor(size or NETWORK_SIZE).bundle.manifest
    return Method(
        f"{name} {precision}",
        lambda sample, captures: predictor(size or captures.network_size).predict(sample).disparity,
        name,
        precision,
        manifest.parameters,
        manifest.multiply_adds,
    )


def _of_field(name: str, predictor: Callable[..., Predictor], size: tuple[int, int] | None) -> Method:
    manifest = predictor(size or NETWORK_SIZE).bundle.manifest
    return Method(
        f"{name} {FIELD}",
        lambda sample, captures: predictor(size or captures.network_size, captures).predict(sample).disparity,
        name,
        "int8",
        manifest.parameters,
        manifest.multiply_adds,
        suits=lambda captures, _: captures.sensor is not None,
        corrects_field=True,
    )


def _shrunk(
    sample: DpSample, captures: SceneSet, method: Callable[[Map, Map, tuple[int, int]], NDArray[np.float32]]
) -> Map:
    """A method on views made smaller, as the set says."""
    height, width = sample.left.shape[1:]
    size = (width // captures.shrink, height // captures.shrink)
    views = [cv2.resize(view[0], size, interpolation=cv2.INTER_AREA) for view in (sample.left, sample.right)]
    low, high = (round(limit / captures.shrink) for limit in captures.search_px)
    return resized(method(views[0], views[1], (low, high)), height, width)


def _shown_by_the_lens(sample: DpSample, captures: SceneSet) -> Map:
    """The disparity that the calibrated lens shows of the true depth; its field keeps it from being affine in inverse depth."""
    assert captures.sensor is not None
    return predict_disparity(sample, captures.sensor())


def _semi_global(sample: DpSample, captures: SceneSet) -> Map:
    """At half of the resolution of other matching, where it does best on real captures."""
    height, width = sample.left.shape[1:]
    shrink = 2 * captures.shrink
    size = (width // shrink, height // shrink)
    views = [cv2.resize(view[0], size, interpolation=cv2.INTER_AREA) for view in (sample.left, sample.right)]
    return resized(sgbm(views[0], views[1], MAX_DISPARITY), height, width)
