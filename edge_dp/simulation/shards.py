"""Numbered files made by a pool of processes: those that exist are kept, so that a killed run goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
from numpy.lib.npyio import NpzFile

from edge_dp.errors import EdgeDpError, InputError
from edge_dp.files import json_dump, json_load


def claim_folder(folder: Path, note: str, settings: dict[str, Any], *, holds: str, resume: bool) -> None:
    """Make ``folder`` the place of what ``settings`` describe, or find that it is.

    Args:
        folder: new, empty, or claimed before by the same settings.
        note: name of the file in it that keeps the settings.
        settings: what can be written as JSON.
        holds: what the folder is to hold, for the messages.
        resume: whether it is to be claimed already.

    Raises:
        InputError: it holds something else, is claimed already without ``resume``, or by other settings.
        SchemaError: the note is damaged.
    """
    path = folder / note
    if path.is_file():
        if not resume:
            raise InputError(
                f"{folder}: holds a {holds} already. Pass --resume to go on with it, or name another folder."
            )
        if difference := first_difference(json.loads(json.dumps(settings)), json_load(path)):
            raise InputError(
                f"{path}: {difference}. Resume with the settings it was begun with, or name another folder."
            )
        return
    if resume:
        raise InputError(f"{folder}: nothing to resume, no {note} there. Leave out --resume to begin.")
    if folder.exists() and (not folder.is_dir() or any(entry.name[0] != "." for entry in folder.iterdir())):
        found = "other files" if folder.is_dir() else "a file"
        raise InputError(f"{folder}: expected an empty or new folder for the {holds}, found {found}. Name another.")
    json_dump(settings, path)


def make_shards(
    shards: Sequence[Path], make: Callable[[Path, int], None], workers: int, progress: Callable[[int], None]
) -> None:
    """Make the files that do not exist yet. An interruption ends when those being made are done; none is left in part.

    Args:
        shards: the files, in one folder.
        make: called with a file and its place in ``shards``, in another process, so it must be picklable. It must write
            the file atomically, and what it writes must depend on its arguments alone.
        workers: processes.
        progress: called with the number of files that exist so far.

    Raises:
        EdgeDpError: ``make`` raised it, or a worker was killed.
    """
    missing = [(path, index) for index, path in enumerate(shards) if not path.is_file()]
    _remove_leftovers([path for path, _ in missing])
    done = len(shards) - len(missing)
    progress(done)
    # Not forked: OpenCV's and torch's threads do not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        waiting = iter(missing)
        running: set[Future[None]] = set()
        try:
            # No more than run at once are handed out, so that an interruption has only those to wait for.
            while running := running | {pool.submit(make, *job) for job in islice(waiting, workers - len(running))}:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for job in finished:
                    job.result()
                done += len(finished)
                progress(done)
        except BrokenProcessPool as error:
            raise EdgeDpError(
                f"{shards[0].parent}: a worker process ended early: killed, perhaps for want of memory (take fewer workers), or "
                "begun by a script that lacks if __name__ == '__main__'. Then resume."
            ) from error


@contextmanager
def open_shard(path: Path) -> Iterator[NpzFile]:
    """The arrays of a shard, read when asked for.

    Raises:
        InputError: it is damaged, or lacks an array that the block asks for, or the block raises ValueError; it is named.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, NpzFile):
            raise ValueError("a single array")
        with archive:
            yield archive
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: damaged shard ({error}); delete it and run again") from error


def _start_worker() -> None:
    """An interrupt is the parent's to handle, the pool fills the cores, and no worker outlives a parent that was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _remove_leftovers(missing: Sequence[Path]) -> None:
    """Remove what a killed writer of these files left: ``.STEM.*.SUFFIX``, see ``atomic_write``."""
    stems = {path.stem for path in missing}
    for folder in {path.parent for path in missing}:
        for leftover in folder.glob(".*.*"):
            if leftover.name.split(".")[1] in stems:
                leftover.unlink(missing_ok=True)


def first_difference(expected: Any, found: Any, where: str = "") -> str | None:
    """Where two JSON values differ first, and how; None where they are equal."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for name in {**expected, **found}:
            below = f"{where}.{name}" if where else name
            if name not in found:
                return f"{below}: expected the field, found none"
            if name not in expected:
                return f"{below}: expected no such field, found one"
            if difference := first_difference(expected[name], found[name], below):
                return difference
        return None
    return None if expected == found else f"{where}: expected {expected!r}, found {found!r}"
