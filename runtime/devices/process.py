"""A program on a device as a process of this machine: binary pipes, a time limit, and an end that reaches the device too."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from edge_dp.errors import DeviceError

_MOST_ERRORS = 2000
_LAST_WORDS_S = 2.0


class Process(subprocess.Popen[bytes]):
    """A program whose standard input, output and error are pipes. It leads a group of its own, which ``kill`` ends as a whole.

    Args:
        command: program and arguments; no shell reads them.
        environment: variables beside those of this process.
        end: called by ``kill`` before anything else, to end what runs on the device.

    Raises:
        DeviceError: the program is not there or cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        end: Callable[[], None] | None = None,
    ) -> None:
        self._end = end
        try:
            super().__init__(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        except OSError as error:
            raise DeviceError(
                f"{command[0]}: expected a program, found: {error.strerror}. Install it or check the path."
            ) from error

    def kill(self) -> None:
        """End it and every process of its group, here and on the device."""
        if self._end is not None:
            self._end()
            self._end = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def finish(self, stdin: bytes, timeout_s: float) -> tuple[bytes, bytes]:
        """Give it its input and wait for its end.

        Returns:
            What it wrote to standard output and to standard error.

        Raises:
            TimeoutError: it took longer; it is ended, as it is on any other exception.
        """
        try:
            return self.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            self.kill()  # also what it left behind, if it has ended itself
            raise TimeoutError from error
        finally:
            self.discard()

    def discard(self) -> None:
        """End it if it runs still and let go of its pipes."""
        if self.poll() is None:
            self.kill()
            self.wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def last_words(self) -> bytes:
        """End it; what it wrote to standard error."""
        self.kill()
        with contextlib.suppress(TimeoutError):
            return self.finish(b"", _LAST_WORDS_S)[1]
        return b""

    def read_line(self, start: bytes, timeout_s: float) -> bytes | None:
        """The rest of the first line of output that begins with ``start``; None where output or time end before it comes.

        Lines before it are dropped, what follows is untouched.
        """
        assert self.stdout is not None
        descriptor, deadline, line = self.stdout.fileno(), time.monotonic() + timeout_s, b""
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select([descriptor], [], [], left)
            letter = os.read(descriptor, 1) if ready else b""  # one by one: what follows is the caller's
            if not letter:
                return None
            if letter != b"\n":
                line += letter
            elif line.startswith(start):
                return line[len(start) :]
            else:
                line = b""
        return None


def one_line(words: bytes, fallback: str = "it gives no reason") -> str:
    """What a program said, on one line."""
    return " ".join(words.decode(errors="replace").split())[-_MOST_ERRORS:] or fallback


def check_arguments(address: str, arguments: Sequence[str], environment: Mapping[str, str] | None) -> None:
    """Raise DeviceError for what no system can pass to a program."""
    if not arguments or not arguments[0]:
        raise DeviceError(f"{address}: expected a program to run, found none")
    for text in (*arguments, *(environment or {}).values()):
        if "\0" in text:
            raise DeviceError(f"{address}: {text!r}: expected an argument without a zero byte")
    for name in environment or {}:
        if not (name.isascii() and name.isidentifier()):
            raise DeviceError(f"{address}: {name!r}: expected the name of an environment variable")
