"""Whether a data set on disk is what it should be: complete, of one size and depth, and with the axis and sign promised."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge_dp.data.dataset import DpDataset
from edge_dp.data.headers import Header, has_header, read_header
from edge_dp.data.matching import corner_shifts, rank_correlation
from edge_dp.data.registry import DatasetEntry, dataset_entry, open_dataset, recognise
from edge_dp.data.sample import DpSample
from edge_dp.errors import InputError
from edge_dp.quiet import quiet

LEAST_SHIFT_PX = 0.03  # below, corners do not move: there is no axis to tell
LEAST_RATIO = 2.0  # of the shift along one axis to that along the other, to tell the axis
LEAST_CORNERS = 30  # per sample, with ground truth, to correlate with it
LEAST_CORRELATION = 0.1  # to tell the sign
_VIEWS = ("left", "right")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class FileRow:
    """Files of one kind."""

    split: str  # "" for a set without splits
    role: str
    count: int
    sizes: dict[str, int]  # "WxH" -> files
    bits: dict[str, int]  # bits per channel -> files


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the views themselves say. None: they do not tell."""

    samples: int  # read
    corners: int
    shift_along_px: float | None  # median of |shift| along the promised axis
    shift_across_px: float | None  # and along the other one
    dp_axis: str | None  # of the files
    correlation: float | None  # median over samples: rank correlation of shift and ground truth, both farther is larger
    lowest_light: float | None  # of the views, in linear light
    highest_light: float | None


@dataclass(frozen=True, slots=True)
class DataCheck:
    """The findings. ``problems`` is empty where all is well."""

    root: str
    dataset: str
    title: str
    samples: int
    promised_axis: str
    promised_sign: str
    promised_bits: tuple[int, ...]
    files: tuple[FileRow, ...]
    measured: Measurement
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
    and matched.

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
    rows: list[FileRow] = []
    problems: list[str] = []
    evidence = _Evidence()
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
        problems += reader.listing.missing
        problems += [
            f"{root / path}: expected a name of the layout, found another. Rename it."
            for path in reader.listing.unknown
        ]
        survey = _Survey(reader, progress)
        rows += survey.rows(split)
        problems += survey.unreadable + survey.odd_bits(entry) + survey.odd_sizes()
        problems += evidence.collect(
            reader, [name for name in reader.names if name not in survey.broken], samples, progress
        )
    measured = evidence.measurement(entry)
    return DataCheck(
        root=str(root),
        dataset=entry.name,
        title=entry.title,
        samples=total,
        promised_axis=entry.dp_axis,
        promised_sign=entry.sign,
        promised_bits=entry.bits,
        files=tuple(rows),
        measured=measured,
        problems=tuple(problems + _broken_promises(entry, measured, root)),
    )


class _Survey:
    """The headers of all files of a reader."""

    def __init__(self, reader: DpDataset, progress: Progress) -> None:
        self.unreadable: list[str] = []
        self.broken: set[str] = set()  # samples
        self._counts: Counter[str] = Counter()
        self._headers: dict[str, dict[str, Header]] = defaultdict(dict)  # role -> sample -> header
        self._reader = reader
        for done, name in enumerate(reader.names):
            progress("files", done, len(reader))
            for role, path in reader.paths(name).items():
                self._counts[role] += 1
                if has_header(path):
                    self._read(name, role, path)
        progress("files", len(reader), len(reader))

    def _read(self, name: str, role: str, path: Path) -> None:
        try:
            self._headers[role][name] = read_header(path)
        except InputError as error:
            self.unreadable.append(str(error))
            self.broken.add(name)

    def rows(self, split: str) -> list[FileRow]:
        """One per role."""
        rows = []
        for role in sorted(self._counts, key=lambda role: (role not in _VIEWS, role)):
            headers = self._headers[role].values()
            sizes = Counter(f"{header.width}x{header.height}" for header in headers)
            bits = Counter(str(header.bits) for header in headers)
            rows.append(FileRow(split, role, self._counts[role], dict(sizes.most_common()), dict(bits.most_common())))
        return rows

    def odd_bits(self, entry: DatasetEntry) -> list[str]:
        """Views of another bit depth than the set promises; one line per depth, as all of them may be so."""
        expected = " or ".join(str(bits) for bits in entry.bits)
        odd = defaultdict(list)
        for role in _VIEWS:
            for name, header in self._headers[role].items():
                if header.bits not in entry.bits:
                    odd[header.bits].append(self._reader.paths(name)[role])
        return [
            f"{paths[0]}: expected {expected} bits per channel, found {bits}{_and_others(paths)}. Get the files as published."
            for bits, paths in odd.items()
        ]

    def odd_sizes(self) -> list[str]:
        """Files of another size than more than half of their kind, whichever way up, and pairs of two sizes."""
        problems = {}
        for role, headers in self._headers.items():
            groups: dict[str, dict[str, Header]] = defaultdict(dict)
            for name, header in headers.items():
                groups[self._reader.group(name)][name] = header
            for members in groups.values():
                counts = Counter(_upright(header) for header in members.values())
                usual, often = counts.most_common(1)[0]
                if 2 * often <= len(members):
                    continue
                for name, header in members.items():
                    if _upright(header) != usual:
                        expected = f"{usual[1]}x{usual[0]}, as most"
                        problems[name, role] = self._odd_size(name, role, header, expected)
        for name, header in self._headers["right"].items():
            left = self._headers["left"].get(name)
            differ = left is not None and (left.width, left.height) != (header.width, header.height)
            if left is not None and differ and not {(name, "left"), (name, "right")} & problems.keys():
                expected = f"{left.width}x{left.height} as the left view"
                problems[name, "right"] = self._odd_size(name, "right", header, expected)
        return list(problems.values())

    def _odd_size(self, name: str, role: str, header: Header, expected: str) -> str:
        path = self._reader.paths(name)[role]
        return f"{path}: expected {expected}, found {header.width}x{header.height}. Copy the file again."


@dataclass(slots=True)
class _Evidence:
    """What the samples that were read have shown so far."""

    samples: int = 0
    shifts: list[NDArray[np.float32]] = field(default_factory=list)
    correlations: list[float] = field(default_factory=list)
    light: list[float] = field(default_factory=list)

    def collect(self, reader: DpDataset, names: list[str], count: int, progress: Progress) -> list[str]:
        """Read ``count`` of the samples, evenly spread; what was wrong with those that could not be read."""
        problems = []
        chosen = sorted({round(index) for index in np.linspace(0, len(names) - 1, min(count, len(names)))})
        for done, index in enumerate(chosen):
            progress("samples", done, len(chosen))
            try:
                with quiet():  # decoders print of what is odd in a file and harmless
                    sample = reader.read(names[index])
            except InputError as error:
                problems.append(str(error))
            else:
                self._match(sample)
        progress("samples", len(chosen), len(chosen))
        return problems

    def _match(self, sample: DpSample) -> None:
        found = corner_shifts(sample.left.mean(axis=0), sample.right.mean(axis=0))
        self.samples += 1
        self.shifts.append(found.shifts)
        self.light += [float(value) for view in (sample.left, sample.right) for value in (view.min(), view.max())]
        truth = _farther_is_larger(sample)
        if truth is None:
            return
        height, width = truth.shape
        x, y = found.points.round().astype(np.intp).T.clip(0, np.array([[width - 1], [height - 1]]))
        known = np.isfinite(truth[y, x])
        if known.sum() >= LEAST_CORNERS and np.ptp(truth[y, x][known]) > 0:
            self.correlations.append(rank_correlation(found.shifts[known, 0], truth[y, x][known]))

    def measurement(self, entry: DatasetEntry) -> Measurement:
        """All of it in numbers."""
        shifts = np.concatenate([np.empty((0, 2), np.float32), *self.shifts])
        along, across = (float(value) for value in np.median(np.abs(shifts), axis=0)) if len(shifts) else (None, None)
        axis = None
        if along is not None and across is not None and max(along, across) >= LEAST_SHIFT_PX:
            if along >= LEAST_RATIO * across:
                axis = entry.dp_axis
            elif across >= LEAST_RATIO * along:
                axis = "x" if entry.dp_axis == "y" else "y"
        return Measurement(
            samples=self.samples,
            corners=len(shifts),
            shift_along_px=along,
            shift_across_px=across,
            dp_axis=axis,
            correlation=float(np.median(self.correlations)) if self.correlations else None,
            lowest_light=min(self.light, default=None),
            highest_light=max(self.light, default=None),
        )


def _broken_promises(entry: DatasetEntry, measured: Measurement, root: Path) -> list[str]:
    if measured.dp_axis not in (None, entry.dp_axis):
        return [
            f"{root}: dual-pixel axis: expected {entry.dp_axis}, found {measured.dp_axis} (median shift "
            f"{measured.shift_along_px:.2f} px along {entry.dp_axis}, {measured.shift_across_px:.2f} px across). The files "
            "have been turned, or pass a sensor with that dp_axis."
        ]
    if measured.correlation is not None and measured.correlation <= -LEAST_CORRELATION:
        return [
            f"{root}: sign: expected {entry.sign}, found shifts that run against the ground truth (rank correlation "
            f"{measured.correlation:.2f}). Left and right, or near and far, are swapped: pass a sensor with swap_views."
        ]
    return []


def _farther_is_larger(sample: DpSample) -> NDArray[np.float32] | None:
    """(H, W) ground truth that grows with depth as disparity does, NaN where unknown; None where there is none."""
    truth = sample.disparity if sample.disparity is not None else sample.affine_disparity
    if truth is None and sample.depth is not None:
        known = sample.depth > 0
        truth = np.where(known, -1 / np.where(known, sample.depth, 1), np.nan).astype(np.float32)
    if truth is None or sample.mask is None:
        return truth
    return np.where(sample.mask, truth, np.nan).astype(np.float32)


def _upright(header: Header) -> tuple[int, int]:
    """Shorter and longer side."""
    return min(header.width, header.height), max(header.width, header.height)


def _and_others(paths: list[Path]) -> str:
    return f" there and in {len(paths) - 1} others" if len(paths) > 1 else ""
