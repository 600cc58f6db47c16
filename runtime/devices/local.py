"""The machine that edge_dp runs on, as a device."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_dp.errors import DeviceError, InputError
from edge_dp.files import atomic_write
from edge_dp.runtime.devices.base import Completed, Device, DeviceFacts
from edge_dp.runtime.devices.facts import parse_facts
from edge_dp.runtime.devices.process import Process, check_arguments

_NOT_FOUND = 127  # what a shell answers for a program that is not there


class LocalDevice(Device):
    """The machine itself. What is pushed stays where it is: it is here already."""

    address = "local"

    def __init__(self) -> None:
        self._facts: DeviceFacts | None = None
        self._scratch: list[str] = []
        self._spawned: list[Process] = []

    def open(self) -> None:
        """Nothing to reach."""

    def close(self) -> None:  # noqa: D102
        for process in self._spawned:
            process.discard()
        self._spawned.clear()
        for folder in self._scratch:
            shutil.rmtree(folder, ignore_errors=True)
        self._scratch.clear()

    def facts(self) -> DeviceFacts:  # noqa: D102
        if self._facts is None:
            lines = [f"machine:{platform.machine()}", f"system:{platform.system()}", f"online:{_cores()}"]
            lines.append(f"python:{sys.executable}")
            for path in ("/proc/meminfo", "/proc/cpuinfo"):
                with contextlib.suppress(OSError):  # macOS has none
                    lines.append(Path(path).read_text())
            self._facts = parse_facts("\n".join(lines))
        return self._facts

    def run(  # noqa: D102
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        check_arguments(self.address, arguments, environment)
        try:
            process = Process(arguments, environment)
        except DeviceError as error:
            return Completed(_NOT_FOUND, b"", str(error).encode())
        try:
            output, errors = process.finish(stdin, timeout_s)
        except TimeoutError as error:
            raise DeviceError(
                f"{self.address}: {arguments[0]}: expected an end within {timeout_s:g} s, found it still running; it was ended"
            ) from error
        return Completed(process.returncode, output, errors)

    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:  # noqa: D102
        check_arguments(self.address, arguments, environment)
        self._spawned = [process for process in self._spawned if process.poll() is None]
        process = Process(arguments, environment)
        self._spawned.append(process)
        return process

    def push(self, path: Path, *, executable: bool = False) -> str:  # noqa: D102
        if not path.exists():
            raise InputError(f"{path}: expected a file or folder, found none. Check the path.")
        if executable and not os.access(path, os.X_OK):
            raise DeviceError(f"{path}: expected a program that may be executed, found one that may not. Run: chmod +x")
        return str(path.absolute())

    def pull(self, remote: str, path: Path) -> None:  # noqa: D102
        try:
            content = Path(remote).read_bytes()
        except OSError as error:
            raise DeviceError(f"{self.address}: {remote!r}: expected a file, found: {error.strerror}") from error
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)

    def scratch(self) -> str:  # noqa: D102
        try:
            folder = tempfile.mkdtemp(prefix="edge_dp-")
        except OSError as error:
            raise DeviceError(
                f"{self.address}: cannot make a folder in {tempfile.gettempdir()}: {error.strerror}. Free space there."
            ) from error
        self._scratch.append(folder)
        return folder

    def clean(self) -> None:
        """Nothing was put here."""


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
