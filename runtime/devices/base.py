"""The contract between the runtime and a machine that runs artifacts: the host, a board behind ssh, a phone behind adb.

A device runs programs and holds files, nothing more; what an engine is, it does not know. Arguments are lists and reach no shell
unquoted. Files pushed are found again by their contents: what is there already is not sent again.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What a device says of itself; empty where it does not tell.

    machine: instruction set as ``uname -m`` calls it, such as aarch64.
    features: of the processor, as /proc/cpuinfo names them.
    python: interpreter that can run the agent; null where there is none.
    """

    machine: str
    system: str
    processor: str = ""
    cores: int = 1
    memory_bytes: int | None = None
    features: tuple[str, ...] = ()
    python: str | None = None


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended: its exit code and what it wrote."""

    code: int
    stdout: bytes
    stderr: bytes


class Device(ABC):
    """A machine that runs artifacts. Open it with ``open_device`` and use it as a context manager.

    address: as the user named it: ``local``, ``ssh://user@host``, ``adb://SERIAL``, ``emulated://cortex-a76``.
    emulated: its clock counts instructions, so a time on it is no time of a phone.
    """

    address: str
    emulated: bool = False

    @abstractmethod
    def open(self) -> None:
        """Reach the device, and start it where that is ours to do.

        Raises:
            DeviceError: it is not there, refuses us, or the tool that reaches it (ssh, adb, qemu) is missing; says what to do.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of it; stop what ``open`` started. Calling it twice does no harm."""

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """What it is; asked once, then remembered."""

    @abstractmethod
    def run(
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a program to its end, whatever its exit code.

        Raises:
            DeviceError: the device is gone, or the program took longer than ``timeout_s`` (it is ended).
        """

    @abstractmethod
    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a program whose standard input, output and error, binary and unchanged, are pipes of the process returned.

        The program must end when its standard input does. ``kill`` of the process ends it in any case, and so does ``close``.

        Raises:
            DeviceError: the device is gone, or this machine has no such program.
        """

    @abstractmethod
    def push(self, path: Path, *, executable: bool = False) -> str:
        """Put a file or a folder there, unless the same contents are there already.

        Returns:
            Its path on the device, ending in the same name.

        Raises:
            DeviceError: the device is gone or full; nothing half-written is left under that path.
        """

    @abstractmethod
    def pull(self, remote: str, path: Path) -> None:
        """Fetch a file, atomically; DeviceError where there is none or the device is gone."""

    @abstractmethod
    def scratch(self) -> str:
        """A new empty folder on the device, removed by ``close``."""

    @abstractmethod
    def clean(self) -> None:
        """Remove everything that edge_dp has put there."""

    def twin(self) -> Device | None:
        """Another machine of the very same kind, unopened, to share the work with; None where there is but one."""
        return None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
