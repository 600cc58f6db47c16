"""The real adb and the real adbd on this machine, in a network of their own: adbd wants no keys and listens everywhere."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edge_dp.runtime.cache import cache_folder, filled, is_whole, locked
from edge_dp.runtime.emulator.apt import BACKPORTS, Apt, unpack
from edge_dp.runtime.emulator.packages import host_tools, silent

from ..conftest import missing

SERIAL = "127.0.0.1:6555"
_PACKAGE = "adbd"
_TOOLS = (
    "cat",
    "chmod",
    "echo",
    "env",
    "find",
    "mkdir",
    "mv",
    "nproc",
    "printf",
    "ps",
    "rm",
    "sh",
    "sleep",
    "tar",
    "touch",
    "uname",
    "wc",
)
_LOOPBACK_UP = (  # as 'ip link set lo up', which is not everywhere
    "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0x49))"
)


class AdbHere:
    """A device that is this machine: a private adb server on a unix socket, adbd, and a small disk for what is pushed.

    Args:
        folder: empty, for logs and the device's disk.
        disk_mb: size of that disk.
    """

    serial = SERIAL

    def __init__(self, folder: Path, disk_mb: int = 16) -> None:
        self.adb = str(host_tools().adb)
        self.root = str(folder / 'device\'s "disk"; $(touch pwned)')
        Path(self.root).mkdir()
        self.tools = folder / "bin"  # and no Python, as on a phone
        self.tools.mkdir()
        for tool in _TOOLS:
            (self.tools / tool).symlink_to(str(shutil.which(tool)))
        self._socket = (
            Path(tempfile.mkdtemp(prefix="adb-", dir="/tmp")) / "s"
        )  # pytest's paths are too long for a socket
        self.environment = {"ADB_SERVER_SOCKET": f"localfilesystem:{self._socket}", "HOME": str(folder)}
        script = (
            f"{shlex.quote(sys.executable)} -c {shlex.quote(_LOOPBACK_UP)} && "
            f"mount -t tmpfs -o size={disk_mb}m none {shlex.quote(self.root)} && "
            f"{{ PATH={shlex.quote(str(self.tools))} ADBD_PORT={SERIAL.split(':')[1]} {shlex.quote(str(_adbd()))} & }} && "
            f"exec {shlex.quote(self.adb)} -L localfilesystem:{self._socket} nodaemon server"
        )
        self._namespace = subprocess.Popen(
            [
                "unshare",
                "--user",
                "--map-root-user",
                "--net",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                script,
            ],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=(folder / "adb.log").open("wb"),
            stderr=subprocess.STDOUT,
        )
        self._connect(folder / "adb.log")

    def vanish(self) -> None:
        """End adbd as if the cable were pulled."""
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """Stop adbd: connected, but it answers nothing."""
        self._signal(signal.SIGSTOP)

    def close(self) -> None:
        self._namespace.kill()
        self._namespace.wait()
        shutil.rmtree(self._socket.parent)

    def _signal(self, number: int) -> None:
        (server,) = _children(self._namespace.pid)
        for child in _children(server):
            os.kill(child, number)

    def _connect(self, log: Path) -> None:
        deadline = time.monotonic() + 30
        environment = {**os.environ, **self.environment}
        while time.monotonic() < deadline and self._namespace.poll() is None:
            if self._socket.exists():
                command = [self.adb, "connect", SERIAL]
                said = subprocess.run(
                    command, env=environment, capture_output=True, text=True, check=False, timeout=30
                ).stdout
                if "connected to" in said:
                    return
            time.sleep(0.05)
        said = log.read_text()
        self.close()
        missing(f"no private network for adbd here, or no adbd: {said}")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _adbd() -> Path:
    """Debian's adbd with the libraries that it needs, unpacked once."""
    folder = cache_folder() / "adbd-here"
    with locked("adbd-here"):
        if not is_whole(folder):
            apt = Apt(guest=False)
            apt.update(silent)
            archives = apt.download(apt.resolve([_PACKAGE], BACKPORTS), "adbd", silent)
            with filled(folder) as temporary:
                unpack(archives, temporary, "adbd", silent)
                libraries = sorted({str(p.parent.relative_to(temporary)) for p in temporary.rglob("*.so*")})
                path = ":".join(f"{folder}/{name}" for name in libraries)
                script = temporary / _PACKAGE
                script.write_text(
                    f"#!/bin/sh\nLD_LIBRARY_PATH={shlex.quote(path)} "
                    f"exec {shlex.quote(str(folder / 'usr/lib/android-sdk/platform-tools' / _PACKAGE))}\n"
                )
                script.chmod(0o755)
    return folder / _PACKAGE
