"""Accuracy on the device: the task's metric on a data set, through the artifact and through the model itself.

What a data set knows decides what is scored: disparity in px gives the end-point error; disparity or depth up to an affine map
gives AI(1), AI(2) and 1 - |Spearman|, under the data set's own protocol where it has published one. Beside depth, disparity is
corrected for the field of the sensor first. Lower is better in all.

A bundle stands alone and holds no float model, but an artifact in fp32 whose parity with it has been proven: that artifact, on
the host, stands for the model.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.manifest import Artifact, Bundle
from edge_dp.data import Dataset, DpSample, correct_field, open_dataset, to_sensor_orientation
from edge_dp.data.registry import dataset_entry
from edge_dp.errors import EdgeDpError, InputError, MissingExtraError
from edge_dp.metrics import PROTOCOLS, ai1, ai2, bad_px, epe, one_minus_abs_spearman
from edge_dp.metrics import evaluate as evaluate_protocol
from edge_dp.runtime.dataset_parity import Comparison, DatasetParity, ExpectedOutputs, Reference
from edge_dp.runtime.engines import EngineEntry, engine_for, make_engine
from edge_dp.runtime.engines.base import Engine, Tensors
from edge_dp.runtime.student import INPUT, Map, Student

Run = Callable[[Sequence[Tensors]], Sequence[Tensors]]
"""Outputs of some inputs, such as ``Engine.infer_all``."""
Scores = dict[str, float]
"""By metric; lower is better."""
Progress = Callable[[int, int], None]
"""Called with samples done and samples in all."""

BATCH = 8
"""Captures that are run at once: at 2000 x 1500 px they hold 200 MB."""


@dataclass(frozen=True, slots=True)
class Score:
    """One metric over a data set; lower is better.

    drop: how much worse the artifact is, relative to the model; negative where better. Where the model scores 0, the difference.
    """

    metric: str
    model: float
    artifact: float
    drop: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a data set says of one artifact.

    samples: how many were scored. unscored: how many have no ground truth.
    model: what stood for the model, such as ``executorch-fp32 on the host``.
    """

    dataset: str
    samples: int
    scores: tuple[Score, ...]
    model: str = ""
    unscored: int = 0


def evaluate(
    run: Run,
    student: Student,
    dataset: Dataset[DpSample],
    name: str,
    *,
    samples: int | None = None,
    finished: dict[str, Scores] | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Scores]:
    """Score every sample of a data set, preprocessed as the manifest says, its disparity at the size of the capture.

    Args:
        run: executes the network.
        name: of the data set, for its protocol.
        samples: the first ones only; all unless given.
        finished: scores of an earlier run, by sample: such samples are not run again, and new ones are added to it as they are
            done, so that a run that breaks off can go on.

    Returns:
        By sample; empty scores for a sample without ground truth.

    Raises:
        InputError: a sample cannot be read or is no input for the network. EngineError, DeviceError: of ``run``.
    """
    finished = {} if finished is None else finished
    names = list(itertools.islice(dataset.names, samples))
    left = [sample for sample in names if sample not in finished]
    for batch in _batches(left):
        captures = [dataset.read(each) for each in batch]
        inputs: list[Tensors] = []
        for capture in captures:
            student.check_sensor(capture.sensor, f"{dataset.root}: {capture.name}")
            inputs.append({INPUT: student.buffer()})
            student.fill(inputs[-1][INPUT], capture.left, capture.right, f"{dataset.root}: {capture.name}")
        for each, capture, outputs in zip(batch, captures, run(inputs), strict=True):
            disparity = student.disparity(outputs, *capture.left.shape[-2:])
            finished[each] = score(disparity, capture, name, is_corrected=student.corrected_for is not None)
            progress(sum(sample in finished for sample in names), len(names))
    return {sample: finished[sample] for sample in names}


def score(disparity: Map, sample: DpSample, dataset: str, *, is_corrected: bool = False) -> Scores:
    """The metrics of one disparity map, (H, W) px of the capture; empty where the sample has no ground truth.

    Args:
        dataset: name of the data set; where a protocol of that name is published, it decides how affine truth is scored.
        is_corrected: whether the disparity is corrected for the sensor's field already.

    Raises:
        InputError: of the metrics.
    """
    if sample.mask is not None and not sample.mask.any():
        return {}
    if sample.disparity is not None:
        truth = (disparity, sample.disparity)
        return {
            "EPE px": epe(*truth, sample.mask, sample.confidence),
            "worse than 1 px": bad_px(*truth, 1.0, sample.mask, sample.confidence),
        }
    if sample.affine_disparity is not None and dataset in PROTOCOLS:
        return _by_protocol(disparity, sample, dataset)
    target: NDArray[Any] | None = sample.affine_disparity
    if target is None and sample.depth is not None:
        disparity = disparity if is_corrected else correct_field(disparity, sample.sensor)
        with np.errstate(divide="ignore", invalid="ignore"):  # outside the mask there may be anything
            target = -1 / sample.depth  # what is corrected for the field is affine in inverse depth
    if target is None:
        return {}
    return {
        "AI(1)": ai1(disparity, target, sample.mask, sample.confidence),
        "AI(2)": ai2(disparity, target, sample.mask, sample.confidence),
        "1-|rho|": one_minus_abs_spearman(disparity, target, sample.mask, sample.confidence),
    }


def compare(artifact: dict[str, Scores], model: dict[str, Scores], dataset: str, described: str) -> Accuracy:
    """Means over the samples, of which both have the same.

    Args:
        artifact, model: as of ``evaluate``.
        described: what stood for the model.

    Raises:
        InputError: no sample has ground truth.
    """
    scored = [sample for sample, scores in artifact.items() if scores]
    if not scored:
        raise InputError(
            f"data set {dataset}: expected ground truth to score against, found none. Pass another data set."
        )
    rows = []
    for metric in artifact[scored[0]]:
        mine, its = (float(np.mean([scores[sample][metric] for sample in scored])) for scores in (artifact, model))
        rows.append(Score(metric, its, mine, (mine - its) / (its or 1.0)))
    return Accuracy(dataset, len(scored), tuple(rows), described, len(artifact) - len(scored))


@dataclass
class Evaluator:
    """Scores engines of one bundle on one data set, and compares their outputs with the model's there.

    The model is run once for all of them. Serves several threads.

    Args:
        bundle: of a dual-pixel student.
        dataset: name in the registry of data sets.
        root: its folder.
        samples: the first ones only; all unless given.
        threads: of the artifact that stands for the model.
        reference: makes the model again, given the bundle; outputs are compared only where it is given.

    Raises:
        InputError: no such data set there, or not of dual-pixel captures; the bundle is of another network.
    """

    bundle: Bundle
    dataset: str
    root: str | Path
    samples: int | None = None
    threads: int = 1
    reference: Callable[[Bundle], Reference] | None = None
    _model: tuple[dict[str, Scores], str] | None = field(default=None, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        if dataset_entry(self.dataset).kind == "scene":
            raise InputError(f"data set {self.dataset}: expected dual-pixel captures, found scenes. Pass another.")
        self._student = Student.of(self.bundle)
        self._captures: Dataset[Any] = open_dataset(self.dataset, self.root)
        self._expected = ExpectedOutputs(self.reference, self.bundle) if self.reference else None

    def evaluate(self, run: Run, progress: Progress = lambda *_: None) -> dict[str, Scores]:
        """Scores of anything that executes the bundle's network, by sample; errors as of ``evaluate``."""
        return evaluate(run, self._student, self._captures, self.dataset, samples=self.samples, progress=progress)

    def accuracy(self, engine: Engine, progress: Progress = lambda *_: None) -> Accuracy:
        """Of an active engine, beside the model's own.

        Raises:
            InputError: as of ``evaluate`` and ``compare``; the bundle has no float artifact.
            MissingExtraError: no engine here executes one.
            EngineError, DeviceError: of an engine.
        """
        return self._beside_the_model(self.evaluate(engine.infer_all, progress))

    def judge(
        self, engine: Engine, artifact: Artifact, progress: Progress = lambda *_: None
    ) -> tuple[Accuracy | None, DatasetParity | None]:
        """Accuracy and parity of an active engine, in one run; errors as of ``accuracy``.

        Args:
            artifact: what the engine executes.

        Returns:
            No accuracy where outputs were compared and no sample has ground truth. No parity where ``reference`` was not given;
            where it makes no model, the parity says why.
        """
        if self._expected is None:
            return self.accuracy(engine, progress), None
        if reason := self._expected.why_not():
            return self.accuracy(engine, progress), DatasetParity(self.dataset, 0, missing=reason)
        expected = functools.partial(self._expected.of, artifact.reference)
        comparison = Comparison(engine.infer_all, expected, self.bundle.manifest.outputs)
        scores = self.evaluate(comparison, progress)
        accuracy = self._beside_the_model(scores) if any(scores.values()) else None
        return accuracy, comparison.result(self.dataset)

    def _beside_the_model(self, scores: dict[str, Scores]) -> Accuracy:
        model, described = self._scores_of_model()
        return compare(scores, model, self.dataset, described)

    def _scores_of_model(self) -> tuple[dict[str, Scores], str]:
        with self._lock:
            if self._model is None:
                from edge_dp.runtime.cell import signature  # which imports this module

                artifact, entry = float_artifact(self.bundle)
                self.bundle.check_files(artifact.files)
                path = self.bundle.path(artifact.path)
                with make_engine(entry, path, signature(self.bundle), self.threads) as engine:
                    self._model = self.evaluate(engine.infer_all), f"{artifact.name} on the host"
            return self._model


def evaluate_bundle(
    bundle: Bundle, engine: Engine, dataset: str, root: str | Path, *, samples: int | None = None
) -> Accuracy:
    """Of one active engine; where there are several, an ``Evaluator`` runs the model once for all. Errors as of it."""
    return Evaluator(bundle, dataset, root, samples).accuracy(engine)


def float_artifact(bundle: Bundle) -> tuple[Artifact, EngineEntry]:
    """The artifact that stands for the model, and its engine here: fp32 before fp16, one whose engine is quick before others.

    Raises:
        InputError: the bundle has none that is compared with the float model.
        MissingExtraError: no engine here executes one; the message names the extra.
    """
    floats = [artifact for artifact in bundle.manifest.artifacts if artifact.reference == "float"]
    if not floats:
        raise InputError(
            f"{bundle.folder}: expected a float artifact to stand for the model, found "
            f"{', '.join(artifact.name for artifact in bundle.manifest.artifacts)}. Export with --precision fp32 too."
        )
    found: list[tuple[Artifact, EngineEntry]] = []
    problem: EdgeDpError | None = None
    for artifact in floats:
        try:
            found.append((artifact, engine_for(artifact.format)))
        except MissingExtraError as error:
            problem = problem or error
    if not found:
        assert problem is not None
        raise problem
    return min(found, key=lambda pair: (pair[0].precision != "fp32", not pair[1].measures_speed))


def _by_protocol(disparity: Map, sample: DpSample, dataset: str) -> Scores:
    """Under the published protocol, whose crops are of the files as they lie."""
    protocol = PROTOCOLS[dataset]

    def in_file(array: NDArray[Any] | None) -> NDArray[Any] | None:
        return None if array is None else to_sensor_orientation(array, sample.sensor)

    weights = (None, None) if protocol.counted == "all" else (in_file(sample.confidence), in_file(sample.mask))
    target = in_file(sample.affine_disparity)
    assert target is not None
    found = evaluate_protocol(protocol, to_sensor_orientation(disparity, sample.sensor), target, *weights)
    names = {"ai1": "AI(1)", "ai2": "AI(2)", "one_minus_abs_spearman": "1-|rho|"}
    return {names[metric]: value for metric, value in found.items()}


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]
