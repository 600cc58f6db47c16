"""Processes of this machine, found by a number that nobody else has."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def gone(name: str) -> bool:
    """Whether no process of this machine has ``name`` in its arguments; waits for it a little."""
    return _wait(lambda: not any(name in argument for _, arguments in _command_lines() for argument in arguments))


def sleeps(name: str) -> bool:
    """Whether ``sleep name`` runs on this machine; waits for it a little."""
    return _wait(lambda: any(arguments[1:] == [name] for _, arguments in _command_lines()))


def end(name: str) -> None:
    """End every ``sleep name`` of this machine."""
    for pid, arguments in _command_lines():
        if arguments[1:] == [name]:
            os.kill(pid, signal.SIGKILL)


def marker() -> str:
    """Seconds for ``sleep`` that nobody else sleeps."""
    return f"1000.{secrets.randbelow(10**9):09d}"


def _wait(done: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not (found := done()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            yield int(process.name), (process / "cmdline").read_text(errors="replace").split("\0")[:-1]
