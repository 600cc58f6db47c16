"""A board or computer behind ssh, by the OpenSSH client of this machine and its user's settings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from edge_dp.errors import DeviceError
from edge_dp.runtime.devices.process import Process
from edge_dp.runtime.devices.shell import ShellDevice

OPTIONS = "EDGE_DP_SSH_OPTIONS"
"""Environment variable with further arguments for ssh, such as ``-F FILE`` or ``-i FILE``."""

_SETTINGS = (
    "BatchMode=yes",  # a question would hang
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    "RequestTTY=no",  # binary clean
    "EscapeChar=none",
    "RemoteCommand=none",
    "PermitLocalCommand=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
)
# ssh puts user and host into command lines that its settings may hold (ProxyCommand, Match exec): nothing a shell would obey.
_ADDRESS = re.compile(
    r"ssh://((?P<user>[A-Za-z0-9_.+][A-Za-z0-9_.+@-]*)@)?"
    r"(?P<host>[A-Za-z0-9_.][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?"
)
_LONGEST_FOLDER = 70  # a socket's path has at most 104 letters, and ssh adds to it


class SshDevice(ShellDevice):
    """A device behind ssh. Its user's shell there must be a POSIX one. Safe for one thread per object.

    One connection is made by ``open`` and shared by everything that follows; its socket lies in a private folder.

    Args:
        destination: ``[user@]host[:port]``; host may be a name of the user's ssh settings.
        options: further arguments for ssh, first of all; the default is what ``EDGE_DP_SSH_OPTIONS`` holds.

    Raises:
        DeviceError: not such a destination.
    """

    def __init__(self, destination: str, options: Sequence[str] | None = None) -> None:
        super().__init__(f"ssh://{destination}")
        self._options = shlex.split(os.environ.get(OPTIONS, "")) if options is None else list(options)
        self._to = _destination(self.address)
        self._folder: Path | None = None
        self._connection: Process | None = None

    def open(self) -> None:  # noqa: D102
        if shutil.which("ssh") is None:
            raise DeviceError(
                f"{self.address}: expected the program 'ssh', found none. Install OpenSSH (Debian: openssh-client)"
            )
        self._folder = Path(tempfile.mkdtemp(prefix="edge_dp-", dir=_short_folder()))
        try:
            self._connection = self._start("exec cat")  # ends when its input does, and with it the connection
            home = self._shell('echo "${XDG_CACHE_HOME:-$HOME/.cache}"', 30).stdout.decode(errors="replace").strip("\n")
            if not home.startswith("/"):
                raise DeviceError(f"{self.address}: expected an absolute path in HOME there, found {home!r}")
        except BaseException:
            self.close()
            raise
        self._root = f"{home}/edge_dp-device"

    def close(self) -> None:  # noqa: D102
        super().close()
        if self._connection is not None:
            self._connection.discard()
            self._connection = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _command(self, line: str) -> list[str]:
        share = f"ControlMaster={'no' if self._connection else 'yes'}"
        settings = [part for setting in (*_SETTINGS, share) for part in ("-o", setting)]
        in_sh = f"exec sh -c {shlex.quote(line)}"  # the user's own shell there may be another
        return ["ssh", *self._options, *settings, "-S", f"{self._folder}/s", *self._to, in_sh]

    def _gone(self, words: str) -> DeviceError:
        by_hand = shlex.join(["ssh", *self._options, "-o", "BatchMode=yes", *self._to, "true"])
        return DeviceError(
            f"{self.address}: expected a machine that answers and lets us in, found: {words}. Try until it works: {by_hand}"
        )


def _destination(address: str) -> list[str]:
    """Arguments of ssh for an address.

    Raises:
        DeviceError: it is no such address, or has characters that some shell might read.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise DeviceError(
            f"{address!r}: expected ssh://[user@]host[:port] with plain letters, digits and ._- only. For anything else give "
            "the host a name in ~/.ssh/config"
        )
    user, host, port = match["user"], match["host"].strip("[]"), match["port"]
    return [*(("-l", user) if user else ()), *(("-p", port) if port else ()), "--", host]


def _short_folder() -> str | None:
    """Where the socket's folder goes; None for the usual place."""
    return "/tmp" if len(tempfile.gettempdir()) > _LONGEST_FOLDER else None
