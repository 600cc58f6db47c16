"""What all readers of data sets share: a lazy sequence of samples, and which files make up a sample.

A layout is a list of parts. ``Part("left", "views/{}_left.png")`` says that ``views/003_left.png`` is the left view of
the sample ``003``; what each ``{}`` stands for, joined by "/", is the sample's name.
"""

from __future__ import annotations

import itertools
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from edge_dp.data.sample import DpSample
from edge_dp.errors import InputError
from edge_dp.sensors import SensorProfile

IMAGE_SUFFIXES = frozenset({".exr", ".jpeg", ".jpg", ".npy", ".pfm", ".pgm", ".png", ".ppm", ".tif", ".tiff"})
Sample = TypeVar("Sample")


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of file of a data set."""

    role: str  # "left", "right", "truth", ...
    template: str  # of its path below the root; each {} stands for a part of one name
    required: bool = True  # a file that is not required makes no sample by itself
    prefix: str = ""  # of the sample's name, where the template cannot tell one group of samples from another

    @property
    def folder(self) -> str:
        """The folder below the root from which on names vary; "" for the root itself."""
        return "/".join(itertools.takewhile(lambda name: "{}" not in name, self.template.split("/")[:-1]))

    @property
    def depth(self) -> int:
        """How many folders lie between ``folder`` and the file."""
        return self.template.count("/") - (self.folder.count("/") + 1 if self.folder else 0)

    def pattern(self) -> re.Pattern[str]:
        """Matches the path below ``folder``; a group for each {}."""
        below = self.template[len(self.folder) + 1 :] if self.folder else self.template
        return re.compile("([^/]+)".join(re.escape(text) for text in below.split("{}")))

    def path(self, name: str) -> str:
        """The path below the root of this part of the sample ``name``."""
        return self.template.format(*name.removeprefix(self.prefix).split("/"))


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a data set, by sample. Nothing of them has been opened.

    Attributes:
        files: name of the sample -> role -> path below the root, in the order of the names; complete samples only. Files
            of one kind of which a sample has several have roles KIND/WHICH, such as "view/017".
        problems: what incomplete samples lack, and which lines of lists are malformed, in words.
        unknown: paths of image files that are part of no sample.
    """

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __add__(self, other: Listing) -> Listing:
        return Listing(self.files | other.files, self.problems + other.problems, self.unknown + other.unknown)


def match_files(root: Path, parts: Iterable[Part]) -> Listing:
    """Find the files of every sample by their names.

    Raises:
        InputError: ``root`` is no folder, or a folder in it may not be read.
    """
    check_folder(root)
    parts = tuple(parts)
    found: dict[str, dict[str, str]] = {}
    unknown: list[str] = []
    for (folder, depth), group in itertools.groupby(
        sorted(parts, key=lambda part: (part.folder, part.depth)), key=lambda part: (part.folder, part.depth)
    ):
        patterns = [(part, part.pattern()) for part in group]
        above = f"{folder}/" if folder else ""
        for path in files_below(root / folder, depth):
            for part, pattern in patterns:
                if match := pattern.fullmatch(path):
                    name = part.prefix + "/".join(match.groups())
                    found.setdefault(name, {})[part.role] = above + path
                    break
            else:
                if is_image(path):
                    unknown.append(above + path)
    return _complete(root, found, parts, unknown)


def match_order(root: Path, folders: dict[str, str]) -> Listing:
    """Pair files by their place in the sorted lists of their folders, for sets whose names differ between the folders.

    Args:
        root: the folder of the data set.
        folders: role -> folder below the root; samples are named after the files of the first.

    Raises:
        InputError: ``root`` is no folder, or a folder in it may not be read.
    """
    check_folder(root)
    lists = {
        role: [path for path in files_below(root / folder, 0) if is_image(path)] for role, folder in folders.items()
    }
    first = next(iter(folders))
    missing = [
        f"{root / folders[role]}: expected {len(lists[first])} images, as many as in {folders[first]}, found "
        f"{len(files)}. They are paired by their order: complete the folder."
        for role, files in lists.items()
        if len(files) != len(lists[first])
    ]
    if missing:
        return Listing(problems=tuple(missing))
    files = {
        PurePosixPath(names[0]).stem: {role: f"{folders[role]}/{name}" for role, name in zip(lists, names, strict=True)}
        for names in zip(*lists.values(), strict=True)
    }
    return Listing(files)


def files_below(folder: Path, depth: int) -> list[str]:
    """Sorted paths, relative to ``folder``, of the files ``depth`` folders below it; none where it does not exist.

    Raises:
        InputError: a folder may not be read.
    """
    if not folder.exists():
        return []
    names = [name for name, is_folder in _scan(folder) if is_folder == (depth > 0)]
    if depth == 0:
        return names
    return [f"{name}/{path}" for name in names for path in files_below(folder / name, depth - 1)]


def folders_in(folder: Path, depth: int) -> Iterator[Path]:
    """``folder`` and, sorted, the folders down to ``depth`` levels below it.

    Raises:
        InputError: ``folder`` is none, or one may not be read.
    """
    yield folder
    if depth > 0:
        for name, is_folder in _scan(folder):
            if is_folder:
                yield from folders_in(folder / name, depth - 1)


def list_folder(folder: Path) -> frozenset[str]:
    """Names of what lies in ``folder``, without opening any of it.

    Raises:
        InputError: it is no folder, or may not be read.
    """
    return frozenset(name for name, _ in _scan(folder))


def is_image(path: str) -> bool:
    """Whether the suffix is that of an image or map."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES


def check_folder(root: Path) -> None:
    """Refuse a root that is no folder.

    Raises:
        InputError: it is not there, or a file.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise InputError(f"{root}: expected the folder of a data set, found {found}. Check the path.")


class Dataset(ABC, Generic[Sample]):
    """Samples of one folder, in the order of their names, each read when asked for.

    Opening one lists folders and reads short lists at most. It can be indexed, iterated over and pickled, so that torch's
    DataLoader takes it as it is; samples are dataclasses, so pass a ``collate_fn``.

    Attributes:
        root: the folder.
        names: of the samples.
        listing: which files they consist of.

    Raises:
        InputError: there is no sample of the layout; or, with ``strict``, one of them is not complete: the first missing
            file is named. On reading: a file that is truncated, or of another kind or size than published; it is named.
    """

    def __init__(
        self,
        root: str | Path,
        listing: Listing,
        *,
        expected: str,
        strict: bool,
        names: Sequence[str] | None = None,
    ) -> None:
        self.root = Path(root)
        self.listing = listing
        self.names: Sequence[str] = tuple(listing.files) if names is None else names
        if listing.problems and strict:
            raise InputError(listing.problems[0])
        if not self.names and not listing.problems:
            raise InputError(f"{self.root}: expected {expected}, found none. Pass the folder that holds them.")

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Sample:
        return self.read(self.names[index])

    def paths(self, name: str) -> dict[str, Path]:
        """The files of a sample by role.

        Raises:
            InputError: there is no sample of that name.
        """
        if name not in self.listing.files:
            raise InputError(f"{self.root}: expected the name of a sample, found {name!r}. See its names.")
        return {role: self.root / path for role, path in self.listing.files[name].items()}

    def group(self, name: str) -> str:
        """What samples have in common whose files are of one size and kind; "" where all are."""
        return ""

    @abstractmethod
    def read(self, name: str) -> Sample:
        """Read the sample called ``name``; errors as in the class, and where there is none of that name."""


class DpDataset(Dataset[DpSample]):
    """Dual-pixel samples of one folder.

    Attributes:
        sensor: how the files of the views are read; that of a sample may say more.

    Raises:
        InputError: as ``Dataset``. On reading: what ``read_pair`` raises, or a ground truth of another kind than published.
    """

    def __init__(
        self,
        root: str | Path,
        listing: Listing,
        sensor: SensorProfile,
        *,
        expected: str,
        strict: bool,
        names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(root, listing, expected=expected, strict=strict, names=names)
        self.sensor = sensor


def choose_split(root: str | Path, split: str, splits: tuple[str, ...]) -> Path:
    """``root`` as a path, once ``split`` is known to be one of ``splits``.

    Raises:
        InputError: it is none of them.
    """
    if split not in splits:
        raise InputError(f"{root}: split: expected one of {', '.join(splits)}, found {split!r}. Correct it.")
    return Path(root)


def _scan(folder: Path) -> list[tuple[str, bool]]:
    """Name, and whether it is a folder, of what lies in ``folder``, sorted; hidden ones are left out."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, entry.is_dir()) for entry in entries if entry.name[0] != ".")
    except OSError as error:
        raise InputError(f"{folder}: expected a folder to read, found: {error.strerror}. Check the path.") from error


def _complete(root: Path, found: dict[str, dict[str, str]], parts: tuple[Part, ...], unknown: list[str]) -> Listing:
    """Sort the samples, and part the complete ones from the others."""
    missing = []
    files = {}
    for name in sorted(found):
        required = [part for part in parts if part.required and _concerns(part, name)]
        lacking = [part.path(name) for part in required if part.role not in found[name]]
        if len(lacking) == len(required):
            continue
        if lacking:
            beside = next(iter(found[name].values()))
            missing += [
                f"{root / path}: expected beside {beside}, found nothing. Complete the sample." for path in lacking
            ]
        else:
            files[name] = found[name]
    return Listing(files, tuple(missing), tuple(unknown))


def _concerns(part: Part, name: str) -> bool:
    """Whether a sample of that name belongs to the group of samples that the part is of."""
    return name.startswith(part.prefix) and name.removeprefix(part.prefix).count("/") + 1 == part.template.count("{}")
