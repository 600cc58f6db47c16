"""Files written whole or not at all, and the small readers and checksums that every hand-over needs."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge_dp.errors import InputError, SchemaError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_WORKING_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary sibling of ``path`` to write to; it takes the name ``path`` when the block ends well.

    The sibling keeps the suffix, as image writers choose the format by it. Missing parent folders are made. On an
    exception the sibling goes and what was at ``path`` stays.

    Raises:
        InputError: ``path`` is a folder, or cannot be written (permission, full disk).
    """
    target = Path(path).resolve()
    if target.is_dir():
        raise InputError(f"{path}: expected the name of a file to write, found a folder. Choose another name.")
    temporary = _temporary_sibling(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        _flush(temporary)
        temporary.replace(target)
        _flush(target.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        _unlink(temporary)


@contextmanager
def atomic_folder(path: str | Path, marker: str) -> Iterator[Path]:
    """Give a temporary sibling folder to fill; it takes the name ``path`` when the block ends well.

    An existing folder is replaced only if it is empty or holds ``marker``, which shows that edge_dp wrote it. On an
    exception the sibling goes and what was at ``path`` stays. After a kill ``path`` is the old folder or the new one, whole,
    and the sibling stays under its hidden name; where the system cannot exchange two folders in one step, as Linux can, a
    kill between two renames leaves the old folder under such a name.

    Args:
        path: the folder to write.
        marker: a file that the block must write into the folder, e.g. ``manifest.json``.

    Raises:
        InputError: ``path`` is a file, a folder that edge_dp did not write, or cannot be written.
        FileNotFoundError: the block did not write ``marker``.
    """
    target = Path(path).resolve()
    temporary = _temporary_sibling(target)
    check_replaceable(path, marker)
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        if not (temporary / marker).is_file():
            raise FileNotFoundError(f"{path}: the folder was to hold {marker}, which was not written")
        for entry in temporary.rglob("*"):
            _flush(entry)
        _flush(temporary)
        check_replaceable(path, marker)
        _swap_in(temporary, target)
        _flush(target.parent)
    except OSError as error:
        if error.errno in _FULL:
            raise _unwritable(path, error) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_replaceable(path: str | Path, marker: str) -> None:
    """Raise InputError unless ``atomic_folder`` may write ``path``: nothing is there, an empty folder or one with ``marker``."""
    target = Path(path).resolve()
    try:
        if not target.exists():
            return
        if not target.is_dir():
            raise InputError(f"{path}: expected the name of a folder to write, found a file. Choose another name.")
        foreign = any(target.iterdir()) and not (target / marker).is_file()
    except OSError as error:
        raise _unwritable(path, error) from error
    if foreign:
        raise InputError(
            f"{path}: expected no folder, an empty one or one that edge_dp wrote (with {marker}), found other files. "
            "Nothing was changed; choose another name."
        )


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        InputError: the file does not exist.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def json_dump(value: object, path: str | Path) -> None:
    """Write ``value`` as JSON, atomically: indent 2, keys in the order given, UTF-8, a newline at the end.

    Raises:
        InputError: ``value`` holds NaN or infinity, which JSON does not have, or ``path`` cannot be written.
    """
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise InputError(f"{path}: expected finite numbers only, found NaN or infinity. Write null instead.") from error
    with atomic_write(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def yaml_load(path: str | Path) -> Any:
    """Read a YAML document of plain values.

    Raises:
        InputError: the file does not exist or cannot be read.
        SchemaError: it is not YAML in UTF-8.
    """
    import yaml  # not needed by what reads JSON only

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: not YAML: {' '.join(str(error).split())}") from error


def json_load(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file does not exist or cannot be read.
        SchemaError: it is not JSON in UTF-8, or not an object.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise SchemaError(
            f"{path}: expected JSON, found something else ({error}). Mend or rewrite the file."
        ) from error
    if not isinstance(value, dict):
        raise SchemaError(f"{path}: expected a JSON object, found {type(value).__name__}. Mend or rewrite the file.")
    return value


def _temporary_sibling(target: Path) -> Path:
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")


def _unlink(path: Path) -> None:
    """Remove ``path`` if it is there; a parent that is no folder means that it never was."""
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:
        return


def _swap_in(temporary: Path, target: Path) -> None:
    """Give ``temporary`` the name ``target``; an old ``target`` takes the other's name, or is put back if that fails."""
    if _exchange(temporary, target):
        return
    if not target.exists():
        temporary.rename(target)
        return
    old = _temporary_sibling(target)
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two folders in one step; False where one is absent or the system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and not rename(
        _WORKING_FOLDER, os.fsencode(first), _WORKING_FOLDER, os.fsencode(second), _EXCHANGE
    )


def _flush(path: Path) -> None:
    """Ask the system to put a file, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: str | Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{path}: expected a place that can be written, found: {reason}. Free space or choose another.")


def _unreadable(path: str | Path, error: OSError) -> InputError:
    reason = error.strerror or error
    return InputError(f"{path}: expected a readable file, found: {reason}. Check the path.")
