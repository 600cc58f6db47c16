"""Everything that can be checked of a bundle without running an artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_dp.bundle.card import Card, card_differences, read_card
from edge_dp.bundle.manifest import MANIFEST, Artifact, Bundle, GoldenCase, TensorSpec, read_bundle
from edge_dp.errors import EdgeDpError, MissingExtraError
from edge_dp.sensors.profile import SensorProfile

CardReader = Callable[[Path], str | None]
"""Gives the card that an artifact carries, None where it has none.

Raises:
    MissingExtraError: what reads the format is not installed.
    EdgeDpError: the artifact is damaged.
"""

STAGES = "stages.json"
REPORT_FILES = ("report.json", "report.html")
REPORT_FOLDER = "report_pictures"


@dataclass(frozen=True, slots=True)
class BundleCheck:
    """What is wrong with a bundle, in words, and what could not be looked at here.

    files: how many were compared with their checksums. arrays: how many golden arrays were read. cards: how many artifacts
    carry a card that equals the manifest.
    """

    bundle: str
    problems: tuple[str, ...]
    unchecked: tuple[str, ...]
    files: int
    arrays: int
    cards: int

    @property
    def passed(self) -> bool:
        """Nothing is wrong with what was looked at."""
        return not self.problems


def check_bundle(folder: str | Path, card_readers: Mapping[str, CardReader] | None = None) -> BundleCheck:
    """Check a bundle's manifest, files, golden arrays and the cards in its artifacts.

    Args:
        folder: the bundle.
        card_readers: by format; artifacts of other formats are listed as unchecked. None: cards are left out.

    Raises:
        InputError: there is no bundle.
        SchemaError: the manifest cannot be read; the message names the field.
    """
    bundle = read_bundle(folder)
    check = _Check(bundle, card_readers)
    check.run()
    return BundleCheck(
        str(folder), tuple(check.problems), tuple(check.unchecked), check.files, check.arrays, check.cards
    )


class _Check:
    """One run over one bundle: collects, never stops at the first problem."""

    def __init__(self, bundle: Bundle, readers: Mapping[str, CardReader] | None) -> None:
        self.bundle, self.manifest, self.readers = bundle, bundle.manifest, readers
        self.problems: list[str] = []
        self.unchecked: list[str] = []
        self.damaged: set[str] = set()
        self.files = self.arrays = self.cards = 0

    def run(self) -> None:
        self._check_sensor()
        self._check_quantization()
        self._check_files()
        self.problems += [f"{path}: not in the manifest" for path in surplus_files(self.bundle)]
        for case in self.manifest.golden:
            self._check_case(case)
        if self.readers is None:
            self.unchecked.append("the cards in the artifacts")
        for artifact in self.manifest.artifacts:
            self._check_artifact(artifact)

    def _check_sensor(self) -> None:
        sensor, preprocessing = self.manifest.sensor, self.manifest.preprocessing
        if sensor is None:
            return
        try:
            profile = SensorProfile.from_dict(sensor, f"{self.bundle.folder / MANIFEST}: sensor")
        except EdgeDpError as error:
            self.problems.append(str(error))
            return
        if preprocessing is None:
            return
        for name in ("black_level", "white_level", "right_gain"):
            said, known = getattr(preprocessing, name), getattr(profile, name)
            if said is not None and said != known:
                self.problems.append(
                    f"{MANIFEST}: preprocessing: {name}: expected {known} as sensor {profile.name} has it, found {said}"
                )

    def _check_quantization(self) -> None:
        for entry in self.manifest.quantization:
            if not entry.executable:
                self.problems.append(
                    f"{MANIFEST}: quantization: {entry.tensor}: expected a scale above 0 and an int8 zero point, found "
                    f"{entry.scale} and {entry.zero_point}"
                )

    def _check_files(self) -> None:
        for path, digest in self.manifest.checksums():
            try:
                self.bundle.check_files({path: digest})
                self.files += 1
            except EdgeDpError as error:
                self.damaged.add(path)
                self.problems.append(str(error))

    def _check_case(self, case: GoldenCase) -> None:
        arrays = [(file, spec) for spec in self.manifest.inputs for file in [case.inputs[spec.name]]]
        for tensors in (*case.outputs.values(), *case.artifacts.values()):
            arrays += [(tensors[spec.name], spec) for spec in self.manifest.outputs]
        inputs = set(case.inputs.values())
        for file, spec in arrays:
            if file in self.damaged:
                continue
            try:
                array = self.bundle.array(file, spec)
            except EdgeDpError as error:
                self.problems.append(str(error))
                continue
            self.arrays += 1
            if file in inputs and (words := _outside(array, spec)):
                self.problems.append(f"{self.bundle.path(file)}: {spec.name}: {words}")

    def _check_artifact(self, artifact: Artifact) -> None:
        if self.damaged & set(artifact.files):
            return
        size = sum(self.bundle.path(file).stat().st_size for file in artifact.files)
        if size != artifact.size_bytes:
            self.problems.append(
                f"{MANIFEST}: artifacts: {artifact.name}: size_bytes: expected {size} as its files have, found "
                f"{artifact.size_bytes}"
            )
        if self.readers is not None:
            self._read_card(artifact, self.readers.get(artifact.format))

    def _read_card(self, artifact: Artifact, reader: CardReader | None) -> None:
        if reader is None:
            self.unchecked.append(f"{artifact.name}: no reader of cards in format {artifact.format}")
            return
        path = self.bundle.path(artifact.path)
        try:
            text = reader(path)
        except MissingExtraError as error:
            self.unchecked.append(f"{artifact.name}: {error}")
            return
        except EdgeDpError as error:
            self.problems.append(str(error))
            return
        if text is None:
            self.unchecked.append(f"{artifact.name}: carries no card")
            return
        self._check_card(text, path)

    def _check_card(self, text: str, path: Path) -> None:
        try:
            differences = card_differences(read_card(text, str(path)), Card.of(self.manifest))
        except EdgeDpError as error:
            self.problems.append(str(error))
            return
        self.problems += [f"{path}: card: {words}" for words in differences]
        self.cards += not differences


def surplus_files(bundle: Bundle) -> Iterator[str]:
    """Files and links in the bundle's folder that neither its manifest nor edge_dp put there besides, relative to it, sorted."""
    known = {MANIFEST, STAGES, *REPORT_FILES, *(file for file, _ in bundle.manifest.checksums())}
    found = []
    for place, folders, files in os.walk(bundle.folder):  # does not follow links
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        found += [(Path(place) / name).relative_to(bundle.folder) for name in (*files, *links)]
    for path in sorted(found):
        if path.as_posix() not in known and path.parts[0] != REPORT_FOLDER:
            yield path.as_posix()


def _outside(array: NDArray[np.float32], spec: TensorSpec) -> str | None:
    """In words, if an input leaves its range."""
    if spec.value_range is None:
        return None
    low, high = spec.value_range
    least, most = float(array.min()), float(array.max())
    if least >= np.float32(low) and most <= np.float32(high):
        return None
    return f"expected values from {low:g} to {high:g}, found {least:g} to {most:g}"
