"""What the emulator is made of, unpacked in the cache: tools of this machine, files of the guest, a cross compiler, wheels."""

from __future__ import annotations

import platform
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edge_dp.errors import DeviceError
from edge_dp.runtime.cache import Progress, cache_folder, filled, is_whole, locked
from edge_dp.runtime.emulator.apt import BACKPORTS, RELEASE, Apt, machine_release, unpack

GUEST_PACKAGES = ("adbd", "busybox-static", "libgomp1", "libstdc++6")
PYTHON_PACKAGES = ("python3.11-minimal", "libpython3.11-stdlib")
KERNEL = "linux-image-cloud-arm64"
COMPILER = "g++-aarch64-linux-gnu"

_LEAST_QEMU = 10  # earlier ones know no Cortex-A710, or count otherwise
_LEAST_ADB = 30  # earlier ones know no servers on a unix socket
_MULTIARCH = f"{platform.machine()}-linux-gnu"
_TOOLS = {"qemu-system-aarch64": "qemu-system-arm", "adb": "adb"}
_NATIVE = (".so", ".h", ".hpp", ".cmake", ".a", ".inc")


@dataclass(frozen=True, slots=True)
class HostTools:
    """Programs of this machine that the emulator needs."""

    qemu: Path
    adb: Path


def silent(stage: str, done: int, total: int, text: str) -> None:
    """Progress that nobody watches."""


def host_tools(progress: Progress = silent, *, refresh: bool = False) -> HostTools:
    """The programs qemu and adb, from PATH where they are new enough, else unpacked into the cache.

    Raises:
        DeviceError: the mirror cannot be reached, or this machine runs another release than the packages are for.
    """
    found = {tool: path for tool in _TOOLS if (path := _suitable(tool)) is not None}
    if absent := [tool for tool in _TOOLS if tool not in found]:
        folder = cache_folder() / "tools"
        found |= {tool: folder / "bin" / tool for tool in absent}
        with locked("build"):
            if refresh or not is_whole(folder) or not all(found[tool].is_file() for tool in absent):
                _unpack_for_here(folder, {tool: _TOOLS[tool] for tool in absent}, BACKPORTS, progress, refresh)
    return HostTools(found["qemu-system-aarch64"], found["adb"])


def cross_compiler(progress: Progress = silent) -> Path:
    """A C++ compiler that runs here and compiles for arm64: ``aarch64-linux-gnu-g++`` of PATH, else unpacked into the cache.

    Raises:
        DeviceError: the mirror cannot be reached, or this machine runs another release than the packages are for.
    """
    name = "aarch64-linux-gnu-g++"
    if own := shutil.which(name) or (shutil.which("g++") if platform.machine() == "aarch64" else None):
        return Path(own)
    folder = cache_folder() / "compiler"
    with locked("build"):
        if not is_whole(folder):
            _unpack_for_here(folder, {name: COMPILER}, RELEASE, progress, refresh=False)
    return folder / "bin" / name


def wheel(name: str, machine: str, progress: Progress = silent) -> Path:
    """Libraries, headers and CMake files of a package's wheel for another machine, as a folder laid out as in site-packages.

    Args:
        name: such as executorch; its version is the one that edge_dp is known to work with.
        machine: aarch64 or x86_64.
        progress: called as the download goes on.
    """
    folder = cache_folder() / "wheels" / f"{name}-{pinned(name)}-{machine}"
    with locked("build"):
        if not is_whole(folder):
            progress("wheels", 0, 1, name)
            (archive,) = download_wheels([name], machine)
            with filled(folder) as temporary:
                extract(archive, temporary, _is_native)
            progress("wheels", 1, 1, name)
    return folder


def download_wheels(names: Sequence[str], machine: str) -> list[Path]:
    """Wheels of packages for CPython 3.11, without what they depend on; those here already are not fetched again.

    Raises:
        DeviceError: pip is absent or cannot find or fetch one.
    """
    folder = cache_folder() / "archives" / machine
    folder.mkdir(parents=True, exist_ok=True)
    platforms = [f"--platform=manylinux_2_{minor}_{machine}" for minor in (28, 27, 17)]
    choice = [*platforms, "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
    wanted = {name: pinned(name) for name in names}
    found = {name: _wheel_file(folder, name, version) for name, version in wanted.items()}
    if absent := [name for name, path in found.items() if path is None]:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", *choice]
        pins = [f"{name}=={wanted[name]}" for name in absent]
        result = subprocess.run([*command, "--dest", folder, *pins], capture_output=True, text=True, check=False)
        if result.returncode:
            said = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or [result.stderr]
            raise DeviceError(
                f"wheels of {', '.join(pins)} for {machine}: pip could not fetch them: {' '.join(said[-1].split())}. Check the "
                "network and pip's index, then try again."
            )
        found = {name: _wheel_file(folder, name, version) for name, version in wanted.items()}
    return [path for path in found.values() if path is not None]


def extract(archive: Path, folder: Path, wanted: Callable[[str], bool]) -> None:
    """Unpack the members of a wheel that are wanted.

    Raises:
        DeviceError: it is damaged; it is removed, so that the next try fetches it again.
    """
    try:
        with zipfile.ZipFile(archive) as members:
            members.extractall(folder, [name for name in members.namelist() if wanted(name)])
    except (zipfile.BadZipFile, zlib.error) as error:
        archive.unlink(missing_ok=True)
        raise DeviceError(f"{archive}: damaged ({error}); removed. Try again: it is fetched anew.") from error


def _unpack_for_here(folder: Path, tools: Mapping[str, str], release: str, progress: Progress, refresh: bool) -> None:
    """Unpack packages (by the program wanted of each) and what they need here; ``folder/bin`` gets what runs the programs."""
    names = list(tools.values())
    if (running := machine_release()) != RELEASE:
        raise DeviceError(
            f"{' and '.join(tools)}: expected on PATH, or a machine with Debian {RELEASE}, whose packages can be unpacked; found "
            f"neither (this is {running or 'another system'}). Install qemu {_LEAST_QEMU} or newer, adb and a cross compiler."
        )
    apt = Apt(guest=False)
    apt.update(progress, force=refresh)
    archives = apt.download(apt.resolve(names, release), f"fetch {folder.name}", progress)
    with filled(folder) as temporary:
        unpack(archives, temporary, f"unpack {folder.name}", progress)
        (temporary / "bin").mkdir(exist_ok=True)
        for tool in tools:
            script = temporary / "bin" / tool
            script.write_text(_wrapper(folder, tool))
            script.chmod(0o755)


def _wrapper(folder: Path, tool: str) -> str:
    """A script that runs an unpacked program with the libraries unpacked beside it, and becomes it: it keeps its process id."""
    usr = folder / "usr"
    libraries = [folder / "lib" / _MULTIARCH, usr / "lib" / _MULTIARCH, usr / "lib" / _MULTIARCH / "android"]
    path = shlex.quote(":".join(map(str, libraries)))
    options = {"qemu-system-aarch64": ["-L", str(usr / "share/qemu")], "aarch64-linux-gnu-g++": [f"--sysroot={folder}"]}
    command = shlex.join([str(usr / "bin" / tool), *options.get(tool, [])])
    return f'#!/bin/sh\nexport LD_LIBRARY_PATH={path}"${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"\nexec {command} "$@"\n'


def _suitable(tool: str) -> Path | None:
    """The tool on PATH, where it is new enough."""
    path = shutil.which(tool)
    if path is None:
        return None
    option, pattern, least = {
        "qemu-system-aarch64": ("--version", r"version (\d+)", _LEAST_QEMU),
        "adb": ("version", r"Version (\d+)", _LEAST_ADB),
    }[tool]
    try:
        said = subprocess.run([path, option], capture_output=True, text=True, check=False, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(pattern, said)
    return Path(path) if match and int(match[1]) >= least else None


def _is_native(member: str) -> bool:
    """Whether a file of a wheel is of use without Python."""
    return ".cpython-" not in member and (member.endswith(_NATIVE) or ".so." in member)


def _wheel_file(folder: Path, name: str, version: str) -> Path | None:
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    return next(iter(sorted(folder.glob(pattern))), None)


def pinned(name: str) -> str:
    """The version of a package that edge_dp is known to work with."""
    text = resources.files("edge_dp").joinpath("constraints.txt").read_text(encoding="utf-8")
    match = re.search(rf"^{re.escape(name)}==([^\s;]+)", text, re.MULTILINE)
    if match is None:
        raise DeviceError(
            f"{name}: expected a version in edge_dp/constraints.txt, found none. Name a package listed there."
        )
    return match[1]
