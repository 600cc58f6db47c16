"""What the headers of all files of a data set say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edge_dp.data.dataset import Dataset
from edge_dp.data.headers import Header, check_archive, has_header, read_header
from edge_dp.data.registry import DatasetEntry
from edge_dp.errors import InputError

_IMAGES = ("left", "right", "colour", "view")  # kinds of files whose bits a data set promises
_PAIR = ("left", "right")


@dataclass(frozen=True, slots=True)
class FileRow:
    """Files of one kind."""

    split: str  # "" for a set without splits
    role: str
    count: int
    per_sample: dict[str, int]  # files -> samples that have as many
    sizes: dict[str, int]  # "WxH" -> files
    bits: dict[str, int]  # bits per channel -> files


class _File(NamedTuple):
    name: str  # of the sample
    kind: str
    path: Path
    header: Header


class Survey:
    """The files of all samples of a reader, each looked at once.

    Attributes:
        broken: names of samples with a file that is missing, truncated or of another kind than its suffix says.
    """

    def __init__(self, reader: Dataset[Any], entry: DatasetEntry, advance: Callable[[], None]) -> None:
        self.broken: set[str] = set()
        self._reader = reader
        self._entry = entry
        self._unreadable: dict[Path, str] = {}
        self._seen: dict[str, set[Path]] = defaultdict(set)  # kind -> files; samples may share one
        self._per_sample: dict[str, Counter[int]] = defaultdict(Counter)
        self._files: list[_File] = []
        for name in reader.names:
            counts: Counter[str] = Counter()
            for role, path in reader.paths(name).items():
                kind = role.partition("/")[0]
                counts[kind] += 1
                self._look_at(name, kind, path)
            for kind, count in counts.items():
                self._per_sample[kind][count] += 1
            advance()

    def _look_at(self, name: str, kind: str, path: Path) -> None:
        if path not in self._seen[kind]:
            self._seen[kind].add(path)
            try:
                if has_header(path):
                    self._files.append(_File(name, kind, path, read_header(path)))
                elif path.suffix == ".npz":
                    check_archive(path)
            except InputError as error:
                self._unreadable[path] = str(error)
        if path in self._unreadable:
            self.broken.add(name)

    def rows(self, split: str) -> list[FileRow]:
        """One per kind of file."""
        rows = []
        for kind in sorted(self._seen, key=lambda kind: (kind not in _IMAGES, kind)):
            files = [file for file in self._files if file.kind == kind]
            rows.append(
                FileRow(
                    split,
                    kind,
                    len(self._seen[kind]),
                    _counts(self._per_sample[kind].elements()),
                    _counts(map(_size, files)),
                    _counts(file.header.bits for file in files),
                )
            )
        return rows

    def problems(self) -> list[str]:
        """What is odd, by file."""
        return [*self._unreadable.values(), *self._odd_bits(), *self._odd_sizes()]

    def _odd_bits(self) -> list[str]:
        """Images of another bit depth than the set promises; one line per depth, as all of them may be so."""
        expected = " or ".join(str(bits) for bits in self._entry.bits)
        odd = defaultdict(list)
        for file in self._files:
            if file.kind in _IMAGES and file.header.bits not in self._entry.bits:
                odd[file.header.bits].append(file.path)
        return [
            f"{paths[0]}: expected {expected} bits per channel, found {bits}{_and_others(paths)}. Get the files as published."
            for bits, paths in odd.items()
        ]

    def _odd_sizes(self) -> list[str]:
        """Files of another size than more than half of their kind, whichever way up, or than the others of their sample."""
        problems: dict[Path, str] = {}
        groups: dict[tuple[str, str], list[_File]] = defaultdict(list)
        for file in self._files:
            groups[file.kind, self._reader.group(file.name)].append(file)
        for files in groups.values():
            usual, often = Counter(_upright(file.header) for file in files).most_common(1)[0]
            for file in files if 2 * often > len(files) else ():
                if _upright(file.header) != usual:
                    problems[file.path] = _odd_size(file, f"{usual[1]}x{usual[0]}, as most")
        first: dict[str, _File] = {}
        for file in self._files:
            # The truth of dual-pixel captures has sizes of its own; that of other sets lies on the pixels of the image.
            if self._entry.kind == "dual_pixel" and file.kind not in _PAIR:
                continue
            other = first.setdefault(file.name, file)
            if _size(file) != _size(other) and not {file.path, other.path} & problems.keys():
                problems[file.path] = _odd_size(file, f"{_size(other)} as {other.path.name}")
        return list(problems.values())


def _size(file: _File) -> str:
    return f"{file.header.width}x{file.header.height}"


def _odd_size(file: _File, expected: str) -> str:
    return f"{file.path}: expected {expected}, found {_size(file)}. Copy the file again."


def _upright(header: Header) -> tuple[int, int]:
    """Shorter and longer side."""
    return min(header.width, header.height), max(header.width, header.height)


def _counts(values: Iterable[object]) -> dict[str, int]:
    return dict(Counter(str(value) for value in values).most_common())


def _and_others(paths: list[Path]) -> str:
    return f" there and in {len(paths) - 1} others" if len(paths) > 1 else ""
