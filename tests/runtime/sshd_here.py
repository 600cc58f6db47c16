"""The real OpenSSH server on loopback, run by whoever runs the tests, with keys and settings of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from ..conftest import missing

_SETTINGS = """
Port {port}
ListenAddress 127.0.0.1
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/user_key.pub"
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
# With a level, bash leaves the start-up file of whoever runs the tests alone.
SetEnv XDG_CACHE_HOME="{home}" SHLVL=1{more}
"""
_CLIENT = """
IdentityFile "{folder}/{key}"
IdentitiesOnly yes
IdentityAgent none
UserKnownHostsFile "{folder}/known_hosts"
GlobalKnownHostsFile /dev/null
StrictHostKeyChecking yes
"""


class SshdHere:
    """A machine behind ssh that is this one.

    Args:
        folder: empty, for keys and what is pushed.
        search: folder that programs are looked for in first, such as one with a Python that has engines.
        largest_file_kb: what a file may grow to; a full disk, for what is pushed. The server writes no file itself.
    """

    def __init__(self, folder: Path, largest_file_kb: int = 8192, search: Path | None = None) -> None:
        program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
        if program is None:
            missing("no sshd (Debian: openssh-server)")
        self.folder = folder
        self.home = folder / "home of 'the' \"user\"; $(touch pwned)"
        self.home.mkdir()
        self.port = _free_port()
        for name in ("host_key", "user_key", "strange_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", folder / name], check=True)
        host_key = (folder / "host_key.pub").read_text()
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{self.port} {host_key}")
        more = f' PATH="{search}:{os.defpath}"' if search else ""
        quoted = str(self.home).replace('"', '\\"')
        (folder / "sshd_config").write_text(_SETTINGS.format(port=self.port, folder=folder, home=quoted, more=more))
        for key in ("user_key", "strange_key"):
            (folder / f"{key} config").write_text(_CLIENT.format(folder=folder, key=key))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as the service does; sshd as root insists on it
        command = f'ulimit -f {2 * largest_file_kb}; exec "$0" -D -e -f "$1"'
        self._log = (folder / "sshd.log").open("wb")
        self._server = subprocess.Popen(
            ["sh", "-c", command, program, folder / "sshd_config"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        self.options = ["-F", str(folder / "user_key config")]
        self.strange = ["-F", str(folder / "strange_key config")]
        self.destination = f"{getpass.getuser()}@127.0.0.1:{self.port}"
        self._wait(folder / "sshd.log")

    def vanish(self) -> None:
        """End the server and its connections, as if it lost power; what it started runs on."""
        self._signal(signal.SIGKILL, "sshd")

    def freeze(self) -> None:
        """Stop the server and its connections: connected, but it answers nothing."""
        self._signal(signal.SIGSTOP, "sshd")

    def close(self) -> None:
        self._signal(signal.SIGKILL)
        self._server.wait()
        self._log.close()

    def _signal(self, number: int, only: str = "") -> None:
        for pid in _family(self._server.pid):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if only in Path(f"/proc/{pid}/comm").read_text():
                    os.kill(pid, number)

    def _wait(self, log: Path) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._server.poll() is None:
            if b"Server listening" in log.read_bytes():
                return
            time.sleep(0.02)
        said = log.read_text()
        self.close()
        missing(f"sshd does not start here: {said}")


def _family(pid: int) -> list[int]:
    """A process and every one under it, the deepest first."""
    with contextlib.suppress(FileNotFoundError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [*(below for child in children for below in _family(int(child))), pid]
    return []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
