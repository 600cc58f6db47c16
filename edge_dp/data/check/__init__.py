"""Whether a data set on disk is what it should be: complete, of one size and depth, and with the geometry it promises.

``survey`` looks at every file, ``pairs`` and ``scenes`` at samples that have been read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dp.data.check.pairs import PairEvidence, PairMeasurement
from edge_dp.data.check.scenes import SceneEvidence, SceneMeasurement
from edge_dp.data.check.survey import FileRow, Survey
from edge_dp.data.dataset import Dataset
from edge_dp.data.registry import Kind, dataset_entry, open_dataset, recognise
from edge_dp.errors import InputError
from edge_dp.quiet import quiet

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class DataCheck:
    """The findings. ``problems`` is empty where all is well."""

    root: str
    dataset: str
    kind: Kind
    title: str
    samples: int
    promised_axis: str | None  # None for scenes
    promised_sign: str  # "" where nothing has one
    promised_bits: tuple[int, ...]
    files: tuple[FileRow, ...]
    measured: PairMeasurement | SceneMeasurement
    problems: tuple[str, ...]


def check_dataset(
    root: str | Path,
    *,
    dataset: str | None = None,
    samples: int = 8,
    progress: Progress = lambda text, done, total: None,
) -> DataCheck:
    """Examine the data set in ``root``.

    Of every file the header is read, and whether its end is there; ``samples`` of each split, evenly spread, are read whole
    and measured.

    Args:
        root: its folder.
        dataset: its name, where it is not to be recognised.
        samples: to read whole, per split.
        progress: called with a text, how many are done and how many there are.

    Raises:
        InputError: the folder is of no known layout, or holds no sample of the one named; ``samples`` is below 1.
    """
    if samples < 1:
        raise InputError(f"samples: expected at least 1, found {samples}. Pass how many to read.")
    root = Path(root)
    entry = recognise(root) if dataset is None else dataset_entry(dataset)
    evidence = SceneEvidence(entry) if entry.kind == "scene" else PairEvidence(entry)
    rows: list[FileRow] = []
    problems: list[str] = []
    total = 0
    for split in entry.splits_in(root) or ("",):
        try:
            reader = open_dataset(entry.name, root, strict=False, **({"split": split} if split else {}))
        except InputError as error:
            if not split:
                raise
            problems.append(str(error))
            continue
        total += len(reader)
        problems += reader.listing.problems
        problems += [
            f"{root / path}: expected a name of the layout, found another. Rename it."
            for path in reader.listing.unknown
        ]
        stages = _Stages(progress, f"{split} samples".strip(), len(reader) + min(samples, len(reader)))
        survey = Survey(reader, entry, stages.advance)
        rows += survey.rows(split)
        problems += survey.problems()
        whole = [name for name in reader.names if name not in survey.broken]
        problems += _read(reader, whole, samples, evidence.add, stages.advance)
        stages.finish()
    return DataCheck(
        root=str(root),
        dataset=entry.name,
        kind=entry.kind,
        title=entry.title,
        samples=total,
        promised_axis=entry.dp_axis,
        promised_sign=entry.sign,
        promised_bits=entry.bits,
        files=tuple(rows),
        measured=evidence.measurement(),
        problems=(*problems, *(f"{root}: {promise}" for promise in evidence.broken_promises())),
    )


class _Stages:
    """Headers and samples counted as one stage, so that few lines tell of a small set."""

    def __init__(self, progress: Progress, text: str, total: int) -> None:
        self._progress, self._text, self._total = progress, text, total
        self._done = 0

    def advance(self) -> None:
        self._done += 1
        self._progress(self._text, self._done, self._total)

    def finish(self) -> None:
        self._progress(self._text, self._total, self._total)


def _read(
    reader: Dataset[Any], names: list[str], count: int, add: Callable[[Any], None], advance: Callable[[], None]
) -> list[str]:
    """Read ``count`` of the samples, evenly spread; what was wrong with those that could not be read."""
    problems = []
    for index in sorted({round(place) for place in np.linspace(0, len(names) - 1, min(count, len(names)))}):
        try:
            with quiet():  # decoders print of what is odd in a file and harmless
                sample = reader.read(names[index])
        except InputError as error:
            problems.append(str(error))
        else:
            add(sample)
        advance()
    return problems
