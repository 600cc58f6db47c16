"""The host's end of a worker: requests to an agent in another process, with limits, however that process is reached."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.runtime.agent import MAX_ARRAYS, Arrays, ProtocolError, frame, read_frame

Spawn = Callable[[], "subprocess.Popen[bytes]"]
"""Starts an agent whose standard input and output are pipes; its standard error is a pipe or goes elsewhere."""

_LAST_WORDS = 4096  # bytes of standard error that are kept
_PIPE_BYTES = 1 << 20
_FAREWELL_S = 2.0  # for what has been killed or told to quit


class WorkerError(Exception):
    """The worker cannot answer any more: it died, was killed at its limit, or sent something else than replies."""


class Worker:
    """One agent process. Not thread-safe.

    Args:
        spawn: starts it.

    Raises:
        OSError, EdgeDpError: as ``spawn`` does.
    """

    def __init__(self, spawn: Spawn) -> None:
        self._process = spawn()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._stderr = -1 if self._process.stderr is None else self._process.stderr.fileno()
        self._said = b""
        self._deadline = 0.0
        for descriptor in (self._stdin, self._stdout, self._stderr):
            if descriptor >= 0:
                os.set_blocking(descriptor, False)
        for descriptor in (self._stdin, self._stdout):
            _enlarge(descriptor)

    @property
    def pid(self) -> int:
        """Of the process on this machine."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def ask(
        self,
        request: Mapping[str, Any],
        arrays: Mapping[str, NDArray[np.float32]],
        seconds: float,
        most: int = MAX_ARRAYS,
    ) -> tuple[dict[str, Any], Arrays]:
        """Send a request and wait for the reply.

        Args:
            request: header; arrays: after it.
            seconds: until the reply must be here, whole.
            most: bytes of arrays that the reply may have.

        Raises:
            WorkerError: no reply came. The process has been ended, whatever it was doing.
        """
        self._deadline = time.monotonic() + seconds
        try:
            for piece in frame(request, arrays):
                self._write(memoryview(piece))
            return read_frame(self._read, most)
        except TimeoutError:
            self.kill()
            raise WorkerError(f"no answer within {seconds:g} s; it was ended{self._last_words()}") from None
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._await_end()
            raise WorkerError(f"it {self._how_it_ended()}{self._last_words()}") from None
        except ProtocolError as error:
            self.kill()
            raise WorkerError(f"its answer is damaged: {error}{self._last_words()}") from None
        except BaseException:  # an interrupt: the reply may still come, and would be taken for that to the next request
            self.kill()
            raise

    def close(self) -> None:
        """End the process: by the end of its input, or by force where that does not help. Calling it twice does no harm."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._await_end()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._await_end()

    def _write(self, rest: memoryview) -> None:
        while rest:
            self._wait(self._stdin, select.POLLOUT)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._stdin, rest) :]

    def _read(self, buffer: memoryview) -> None:
        while buffer:
            try:
                count = os.readv(self._stdout, [buffer])
            except BlockingIOError:
                self._wait(self._stdout, select.POLLIN)
                continue
            if not count:
                raise EOFError
            buffer = buffer[count:]

    def _wait(self, descriptor: int, event: int) -> None:
        """Until something can be done with ``descriptor``; what the worker says meanwhile is taken, lest it waits for us."""
        while True:
            poll = select.poll()
            poll.register(descriptor, event)
            if self._stderr >= 0:
                poll.register(self._stderr, select.POLLIN)
            left = self._deadline - time.monotonic()
            ready = dict(poll.poll(max(0.0, left * 1e3)))
            if self._stderr in ready:
                self._listen()
            if descriptor in ready:
                return
            if left <= 0:
                raise TimeoutError

    def _listen(self) -> bool:
        """Take some of what the worker says; whether there was any."""
        try:
            said = os.read(self._stderr, 1 << 16)
        except BlockingIOError:
            return False
        self._said = (self._said + said)[-_LAST_WORDS:]
        if not said:
            self._stderr = -1
        return bool(said)

    def _await_end(self) -> None:
        try:
            self._process.wait(_FAREWELL_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _how_it_ended(self) -> str:
        code = self._process.returncode
        return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"

    def _last_words(self) -> str:
        while self._stderr >= 0 and self._listen():
            pass
        lines = [line.strip() for line in self._said.decode(errors="replace").splitlines() if line.strip()]
        return f"; its last words: {' | '.join(lines[-3:])[-300:]}" if lines else ""


def _enlarge(pipe: int) -> None:
    """Let a pipe hold more, where the system can: an array then passes in few turns of the two processes."""
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with contextlib.suppress(OSError):  # no pipe but a socket, or more than this user may have
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
