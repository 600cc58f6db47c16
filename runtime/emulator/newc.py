"""Archives of the kernel's initial file system: cpio in the format newc, as the kernel's early-userspace/buffer-format says."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MAGIC = "070701"
_END = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the archive, owned by root.

    mode: kind and permissions, as in ``stat``; data: a file's bytes or a link's target; device: major and minor number.
    """

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(name: str, permissions: int = 0o755) -> Entry:
    """An entry for a folder."""
    return Entry(name, stat.S_IFDIR | permissions)


def file(name: str, data: bytes, permissions: int = 0o644) -> Entry:
    """An entry for a file of these bytes."""
    return Entry(name, stat.S_IFREG | permissions, data)


def link(name: str, target: str) -> Entry:
    """An entry for a symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, os.fsencode(target))


def copy(name: str, path: Path) -> Entry:
    """An entry with the contents and permissions of a file or symbolic link on this machine."""
    if path.is_symlink():
        return link(name, str(path.readlink()))
    return file(name, path.read_bytes(), stat.S_IMODE(path.stat().st_mode))


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive, same bytes for same entries: no times, inode numbers counted. A folder comes before what is in it.

    Raises:
        ValueError: a file of 4 GiB or more, which the format cannot hold.
    """
    parts = []
    for inode, entry in enumerate([*entries, Entry(_END, 0)], start=1):
        if len(entry.data) >= 1 << 32:
            raise ValueError(f"{entry.name}: {len(entry.data)} bytes are more than a newc archive can hold")
        name = os.fsencode(entry.name) + b"\0"
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        header = _MAGIC + "".join(f"{number:08X}" for number in numbers)
        parts += [_padded(header.encode() + name), _padded(entry.data)]
    return b"".join(parts)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
