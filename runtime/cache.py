"""Where downloads and what is made of them are kept, so that they are made once: whole folders, under locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_dp.errors import DeviceError

Progress = Callable[[str, int, int, str], None]
"""Called with stage, done, total and a text."""

_UNUSABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EEXIST,
)
_LISTING = "edge_dp.json"  # names and sizes of a folder's files; its presence says that the folder is whole


def cache_folder() -> Path:
    """``$EDGE_DP_CACHE``, or ``edge_dp`` in ``$XDG_CACHE_HOME`` or ``~/.cache``; it may not exist yet."""
    if own := os.environ.get("EDGE_DP_CACHE"):
        return Path(own).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "edge_dp"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of the cache, across processes; waits while another holds it."""
    with unwritable_as_device_error():
        cache_folder().mkdir(parents=True, exist_ok=True)
        stream = (cache_folder() / f"{name}.lock").open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextmanager
def filled(folder: Path) -> Iterator[Path]:
    """Give an empty temporary sibling to fill; it takes the name ``folder``, replacing an old one, when the block ends well.

    Hold a lock: of two that fill the same folder at once, one would fail. What a kill leaves goes with the next call.

    Raises:
        DeviceError: the disk is full or the cache cannot be written.
    """
    with unwritable_as_device_error():
        for left_over in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
        temporary.mkdir(parents=True)
        try:
            yield temporary
            sizes = dict(_sizes(temporary))
            (temporary / _LISTING).write_text(json.dumps(sizes))
            if folder.exists():
                folder.rename(old := temporary.with_name(f"{temporary.name}.old"))
                temporary.rename(folder)
                shutil.rmtree(old, ignore_errors=True)
            else:
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def is_whole(folder: Path) -> bool:
    """Whether ``filled`` wrote the folder and each file has its size still."""
    try:
        sizes = json.loads((folder / _LISTING).read_text())
        return all((folder / name).lstat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


@contextmanager
def unwritable_as_device_error() -> Iterator[None]:
    """Turn an OSError of the cache into a DeviceError that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise DeviceError(
            f"{error.filename or cache_folder()}: the cache cannot be used: {error.strerror or error}. Free space, or choose "
            "another folder with EDGE_DP_CACHE."
        ) from error


def _sizes(folder: Path) -> Iterator[tuple[str, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.is_file() and not path.is_symlink():
                yield str(path.relative_to(folder)), path.stat().st_size
