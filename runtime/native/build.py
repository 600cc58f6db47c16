"""Builds C++ programs against ExecuTorch, for this machine or for a device, once; results are kept in the user's cache folder.

The executorch wheels hold headers and shared libraries that need neither torch nor Python. A program is built against those of
its machine: the installed wheel here, the aarch64 wheel of the same release for arm64. What is returned is a folder that runs
wherever it is copied, as the program finds its libraries beside itself.

    python -m edge_dp.runtime.native.build [aarch64]
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from edge_dp.errors import EngineError
from edge_dp.runtime.cache import cache_folder, filled, is_whole, locked
from edge_dp.runtime.emulator.packages import cross_compiler, pinned, wheel

SOURCES = Path(__file__).resolve().parent
RUNNER = SOURCES / "runner.cpp"
MACHINES = ("x86_64", "aarch64")
"""What programs can be built for, as ``uname -m`` calls it."""

_LIBRARIES = ("", "_kernels_optimized", "_backend_xnnpack", "_threadpool", "_kernels_quantized", "_etdump")
_MACROS = "include/executorch/runtime/core/portable_type/c10"
_FLAGS = (
    "-std=c++17",
    "-O2",
    "-DC10_USING_CUSTOM_GENERATED_MACROS",  # the wheel's own macros stand in for a torch build's
    "-DET_EVENT_TRACER_ENABLED",
    "-DET_USE_THREADPOOL",
)
_TIME_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Toolchain:
    """What builds programs for one kind of machine.

    machine: it builds for, as ``uname -m`` calls it.
    compiler: such as g++, or an Android NDK's ``aarch64-linux-android26-clang++``.
    executorch: folder with ``include`` and ``lib``, of a wheel or of an ExecuTorch installed by CMake.
    version: of ExecuTorch.
    """

    machine: str
    compiler: Path
    executorch: Path
    version: str

    @property
    def libraries(self) -> tuple[Path, ...]:
        """The shared libraries that a program needs beside it; EngineError where one is absent."""
        paths = tuple(self.executorch / "lib" / f"libexecutorch{name}.so" for name in _LIBRARIES)
        for path in paths:
            if not path.is_file():
                raise EngineError(
                    f"{path}: expected a library of ExecuTorch, found none. Install executorch=={pinned('executorch')}: older "
                    "wheels have no libraries for C++."
                )
        return paths


def toolchain(machine: str | None = None) -> Toolchain:
    """The toolchain for ``machine``, by default this one; what is not installed is fetched into the cache.

    Raises:
        EngineError: no compiler, or a machine that is not supported; says what to install.
        DeviceError: a compiler or wheel for another machine cannot be fetched.
    """
    here = platform.machine()
    machine = machine or here
    if machine not in MACHINES or sys.platform != "linux":
        raise EngineError(
            f"native runner: expected {' or '.join(MACHINES)}, built on Linux; found {machine}, on {sys.platform}. For others "
            f"build {SOURCES / 'CMakeLists.txt'} with their compiler."
        )
    compiler = _compiler_here() if machine == here else cross_compiler()
    if machine == here and (installed := _installed()):
        return Toolchain(machine, compiler, installed, metadata.version("executorch"))
    return Toolchain(machine, compiler, wheel("executorch", machine) / "executorch", pinned("executorch"))


def build(source: Path = RUNNER, tools: Toolchain | None = None) -> Path:
    """Compile one C++ source, unless the same one was compiled before with the same tools.

    Args:
        source: includes headers of ``runtime/native/include`` and of ExecuTorch.
        tools: by default those of this machine.

    Returns:
        A folder with the program, named after the source, and the libraries it needs. Do not write into it.

    Raises:
        EngineError: a tool is missing, or the compiler refuses the source; its first error is in the message.
        DeviceError: the cache cannot be written.
    """
    tools = tools or toolchain()
    name = f"{source.stem}-{tools.machine}-{_key(source, tools)}"
    folder = cache_folder() / "native" / name
    with locked("native"):
        if not is_whole(folder):
            with filled(folder) as temporary:
                for library in tools.libraries:
                    shutil.copy(library, temporary / library.name)
                _output(compile_command(source, temporary / source.stem, tools), f"{source}: does not compile")
    return folder


def compile_command(source: Path, program: Path, tools: Toolchain) -> list[str]:
    """The plain compiler line that makes ``program`` of ``source``."""
    return [
        str(tools.compiler),
        *_FLAGS,
        f"-I{SOURCES}",
        f"-I{SOURCES / 'include'}",
        *("-isystem", str(tools.executorch / "include"), "-isystem", str(tools.executorch / _MACROS)),
        str(source),
        *("-o", str(program)),
        f"-L{tools.executorch / 'lib'}",
        "-Wl,-rpath,$ORIGIN",
        "-Wl,--no-as-needed",  # kernels and backends register themselves; nothing names them
        *(f"-lexecutorch{name}" for name in _LIBRARIES),
    ]


def _key(source: Path, tools: Toolchain) -> str:
    """Names everything that the program depends on."""
    digest = hashlib.sha256("\0".join(compile_command(source, Path("program"), tools)).encode())
    digest.update(_output([str(tools.compiler), "--version"], f"{tools.compiler}: is no C++ compiler").encode())
    for path in (source, *sorted(SOURCES.rglob("*.hpp"))):
        digest.update(path.read_bytes())
    for library in tools.libraries:
        facts = library.stat()
        digest.update(f"{library.name} {facts.st_size} {facts.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _output(command: list[str], complaint: str) -> str:
    """What a tool writes to standard output; EngineError beginning with ``complaint`` and its first error where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIME_LIMIT_S, check=False
        )
    except OSError as error:
        raise EngineError(f"{complaint}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{complaint}: {command[0]} did not end within {_TIME_LIMIT_S:g} s") from error
    if done.returncode:
        lines = done.stderr.splitlines() or ["it said nothing"]
        raise EngineError(f"{complaint}: {next((line for line in lines if 'error' in line), lines[-1])[:300]}")
    return done.stdout


def _compiler_here() -> Path:
    for name in ("g++", "clang++"):
        if found := shutil.which(name):
            return Path(found)
    raise EngineError("native runner: expected a C++ compiler, found neither g++ nor clang++. Run: apt-get install g++")


def _installed() -> Path | None:
    """The folder of the installed executorch; None where there is none."""
    found = util.find_spec("executorch")
    return Path(next(iter(found.submodule_search_locations))) if found and found.submodule_search_locations else None


if __name__ == "__main__":
    print(build(tools=toolchain(*sys.argv[1:2])))
