"""A device that is reached through a POSIX shell on its other end: what ssh and adb have in common.

Every command line is made here, from arguments that are quoted one by one. A line begins by saying the number of its own process,
so that its end can be forced later, and ends by saying the exit code, so that output cut short is told from output that is all.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import secrets
import shlex
import subprocess
import tarfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge_dp.errors import DeviceError, InputError
from edge_dp.files import atomic_write
from edge_dp.runtime.devices.base import Completed, Device, DeviceFacts
from edge_dp.runtime.devices.facts import PROBE, parse_facts
from edge_dp.runtime.devices.process import Process, check_arguments, one_line

_ANSWER_S = 20.0  # from the start of a line to its first word: connecting and logging in
_SHORT_S = 30.0  # for what the device does without the network
_FACTS_S = 90.0  # an interpreter starts, perhaps on an emulated processor
_END_S = 8.0
_SLOWEST = 200_000  # bytes per second of the slowest line that is not taken for a hung one
_FIRST = b"edge_dp:"
_MODE, _EXECUTABLE_MODE = 0o600, 0o700


class ShellDevice(Device):
    """A device behind a remote shell. Safe for one thread per device object.

    Args:
        address: as the user named it.
        root: absolute folder there that holds what is pushed; subclasses may set it when they open.
    """

    def __init__(self, address: str, root: str = "") -> None:
        self.address = address
        self._root = root
        self._facts: DeviceFacts | None = None
        self._scratch: list[str] = []
        self._spawned: list[Process] = []
        self._answers = True  # as far as is known; spares waiting for a device that has gone

    @abstractmethod
    def _command(self, line: str) -> list[str]:
        """The local command that has the device's shell run ``line``, standard input and output binary."""

    def _environment(self) -> Mapping[str, str] | None:
        """Variables for the local command."""
        return None

    @abstractmethod
    def _gone(self, words: str) -> DeviceError:
        """The error for a device that does not answer; ``words`` are the tool's own."""

    def close(self) -> None:  # noqa: D102
        for process in self._spawned:
            process.discard()
        self._spawned.clear()
        if self._scratch and self._answers:
            with contextlib.suppress(DeviceError):
                self._shell(f"rm -rf {_words(self._scratch)}", _SHORT_S)
        self._scratch.clear()

    def facts(self) -> DeviceFacts:  # noqa: D102
        if self._facts is None:
            done = self._shell(PROBE, _FACTS_S)
            self._facts = parse_facts(done.stdout.decode(errors="replace"))
        return self._facts

    def run(  # noqa: D102
        self,
        arguments: Sequence[str],
        *,
        timeout_s: float,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
    ) -> Completed:
        return self._shell(self._line(arguments, environment), timeout_s, stdin)

    def spawn(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:  # noqa: D102
        self._spawned = [process for process in self._spawned if process.poll() is None]
        process = self._start(self._line(arguments, environment))
        self._spawned.append(process)
        return process

    def push(self, path: Path, *, executable: bool = False) -> str:  # noqa: D102
        content = _content(path, executable)
        name = path.absolute().name
        mode = _EXECUTABLE_MODE if executable else _MODE
        key = hashlib.sha256(f"{name}\0{mode}\0{path.is_dir()}\0".encode() + content).hexdigest()
        there = f"{self._root}/{key}/{name}"
        if self._shell(f"[ -e {shlex.quote(there)} ]", _SHORT_S).code == 0:
            return there
        token = secrets.token_hex(8)
        stage = f"{self._root}/.{token}"  # gets its name when it is whole; if another did so meanwhile, it goes
        sent = f"{stage}/{token}" if path.is_dir() else f"{stage}/{name}"
        folder, part, final = shlex.quote(stage), shlex.quote(sent), shlex.quote(there)
        place = f"tar -xf {part} -C {folder} && rm {part}" if path.is_dir() else f"chmod {mode:o} {part}"
        home = shlex.quote(f"{self._root}/{key}")
        done = self._shell(
            f"umask 077; mkdir -p {shlex.quote(self._root)} && mkdir {folder} && cat > {part} && "
            f'{{ [ "$(wc -c < {part})" -eq {len(content)} ] || {{ echo "only a part of it arrived" >&2; false; }}; }} && '
            f"{place} && {{ [ -e {final} ] || mv {folder} {home}; }} && [ -e {final} ]; "
            f"code=$?; rm -rf {folder} {home}/.{token}; exit $code",
            _SHORT_S + len(content) / _SLOWEST,
            content,
        )
        if done.code:
            raise DeviceError(
                f"{self.address}: {path}: cannot put it there: {one_line(done.stderr)}. Nothing of it was left. "
                f"Free space there, or run: edge-dp devices --clean {shlex.quote(self.address)}"
            )
        return there

    def pull(self, remote: str, path: Path) -> None:  # noqa: D102
        file = shlex.quote(remote)
        size = self._shell(f"[ -f {file} ] && wc -c < {file}", _SHORT_S)
        if size.code:
            raise DeviceError(f"{self.address}: {remote!r}: expected a file there, found none")
        done = self._shell(f"exec cat < {file}", _SHORT_S + int(size.stdout) / _SLOWEST)
        if done.code:
            raise DeviceError(f"{self.address}: {remote!r}: cannot be read: {one_line(done.stderr)}")
        with atomic_write(path) as temporary:
            temporary.write_bytes(done.stdout)

    def scratch(self) -> str:  # noqa: D102
        folder = f"{self._root}/scratch-{secrets.token_hex(8)}"
        quoted = shlex.quote(folder)
        done = self._shell(f"umask 077; mkdir -p {shlex.quote(self._root)} && mkdir {quoted}", _SHORT_S)
        if done.code:
            raise DeviceError(
                f"{self.address}: cannot make a folder in {self._root}: {one_line(done.stderr)}. Free space there."
            )
        self._scratch.append(folder)
        return folder

    def clean(self) -> None:  # noqa: D102
        done = self._shell(f"rm -rf {shlex.quote(self._root)}", _SHORT_S)
        if done.code:
            raise DeviceError(f"{self.address}: cannot remove {self._root}: {one_line(done.stderr)}")
        self._scratch.clear()

    def _line(self, arguments: Sequence[str], environment: Mapping[str, str] | None) -> str:
        check_arguments(self.address, arguments, environment)
        exports = "".join(f"export {name}={shlex.quote(value)}; " for name, value in (environment or {}).items())
        return f"{exports}exec {_words(arguments)}"

    def _shell(self, line: str, timeout_s: float, stdin: bytes = b"") -> Completed:
        """Have the shell run ``line`` to its end; ``exit`` and ``exec`` in it are allowed."""
        token = secrets.token_hex(8)
        process = self._start(f"({line}\n); code=$?; echo; echo {token}:$code")
        try:
            output, errors = process.finish(stdin, timeout_s)
        except TimeoutError as error:
            raise DeviceError(
                f"{self.address}: expected an end within {timeout_s:g} s, found it still running; it was ended. Give it "
                "longer, or restart the device if it hangs."
            ) from error
        output, marker, code = output.rpartition(f"\n{token}:".encode())
        if not (marker and code.strip().isdigit()):
            process.kill()
            raise self._gone(f"it went in mid-run: {one_line(errors)}")
        return Completed(int(code), output, errors)

    def _start(self, line: str) -> Process:
        """Start ``line`` and wait for its first word."""
        remote: list[int] = []
        process = Process(
            self._command(f"echo {_FIRST.decode()}$$; {line}"), self._environment(), lambda: self._end(remote)
        )
        try:
            number = process.read_line(_FIRST, _ANSWER_S)
            self._answers = number is not None and number.strip().isdigit()
            if number is None or not self._answers:
                raise self._gone(one_line(process.last_words(), f"no answer within {_ANSWER_S:g} s"))
            remote.append(int(number))
        except BaseException:
            process.discard()
            raise
        return process

    def _end(self, remote: Sequence[int]) -> None:
        """End the group of processes that a line leads; in vain where the device has gone, which ends them too."""
        for number in remote if self._answers else ():
            line = f"kill -9 -{number} || kill -9 {number}"
            try:
                Process(self._command(line), self._environment()).finish(b"", _END_S)
            except (DeviceError, TimeoutError):
                self._answers = False


def _words(arguments: Sequence[str]) -> str:
    return " ".join(shlex.quote(argument) for argument in arguments)


def _content(path: Path, executable: bool) -> bytes:
    """What is sent for a file or folder; the same bytes for the same contents, whatever their dates and owners."""
    try:
        if not path.is_dir():
            return path.read_bytes()
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:  # toybox, busybox read it
            for entry in (path, *sorted(path.rglob("*"))):
                item = tarfile.TarInfo(str(Path(path.absolute().name) / entry.relative_to(path)))
                item.mode = _EXECUTABLE_MODE if executable or entry.is_dir() or os.access(entry, os.X_OK) else _MODE
                if entry.is_dir():
                    item.type = tarfile.DIRTYPE
                    archive.addfile(item)
                else:
                    content = entry.read_bytes()
                    item.size = len(content)
                    archive.addfile(item, io.BytesIO(content))
        return stream.getvalue()
    except OSError as error:
        raise InputError(
            f"{path}: expected a file or folder to push, found: {error.strerror}. Check the path."
        ) from error
