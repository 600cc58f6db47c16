"""Python environments beside the SDK's own, for engines that cannot live in it; made when first asked for, then kept."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_dp.errors import EngineError
from edge_dp.runtime.cache import cache_folder, filled, is_whole, locked

_TIME_LIMIT_S = 600


@dataclass(frozen=True, slots=True)
class Environment:
    """What is installed in it, as pip takes it, and the last Python (major, minor) that there are wheels for."""

    name: str
    requirements: tuple[str, ...]
    last_python: tuple[int, int]

    def why_not(self) -> str | None:
        """Why it cannot be made with this Python, in words; None where it can, given a package index."""
        if sys.version_info[:2] > self.last_python:
            newest = ".".join(map(str, self.last_python))
            found = ".".join(map(str, sys.version_info[:2]))
            return f"{self.requirements[0]} exists up to Python {newest}, found {found}"
        return None

    def python(self) -> str:
        """Path of its interpreter. The first call makes it, which takes seconds and a package index; others wait for that.

        Raises:
            EngineError: it cannot be made; the message says what failed.
            DeviceError: the cache folder cannot be written.
        """
        key = hashlib.sha256("\n".join([sys.version, sys.base_prefix, *self.requirements]).encode()).hexdigest()[:12]
        folder = cache_folder() / "environments" / f"{self.name}-{key}"
        interpreter = folder / "bin" / "python"
        with locked(f"environment-{self.name}"):
            if not (interpreter.exists() and is_whole(folder)):
                with filled(folder) as temporary:
                    self._make(temporary)
        return str(interpreter)

    def _make(self, folder: Path) -> None:
        self._run("cannot be made", [sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        self._run("cannot be filled", [*pip, *self.requirements])

    def _run(self, what: str, arguments: Sequence[str]) -> None:
        where = f"environment {self.name} ({', '.join(self.requirements)})"
        try:
            done = subprocess.run(
                arguments, capture_output=True, stdin=subprocess.DEVNULL, timeout=_TIME_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EngineError(f"{where} {what}: not done after {_TIME_LIMIT_S} s. Try again.") from error
        except OSError as error:
            raise EngineError(f"{where} {what}: {error}") from error
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
            raise EngineError(f"{where} {what}: {' | '.join(said[-3:])[:400] or f'exit code {done.returncode}'}")


TFLITE_RUNTIME = Environment("tflite-runtime", ("tflite-runtime==2.14.0", "numpy<2"), (3, 11))
