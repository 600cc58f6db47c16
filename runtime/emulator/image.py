"""The emulated phone's files: Debian's arm64 kernel, an initial file system with the real adbd, a disk with Python and LiteRT."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from edge_dp.errors import DeviceError
from edge_dp.runtime.cache import Progress, cache_folder, filled, is_whole, locked
from edge_dp.runtime.emulator import newc
from edge_dp.runtime.emulator.apt import BACKPORTS, Apt, unpack
from edge_dp.runtime.emulator.packages import (
    GUEST_PACKAGES,
    KERNEL,
    PYTHON_PACKAGES,
    download_wheels,
    extract,
    pinned,
    silent,
)

PYTHON = "/usr/bin/python3"

_MODULES = ("virtio_mmio", "virtio_net", "virtio_blk")
_ROOT = ("usr", "data", "dev", "etc", "opt", "proc", "root", "run", "sys", "tmp", "var")
_FOLDERS = ("opt/python", "usr/bin", "usr/lib", "usr/lib/modules", "usr/lib/aarch64-linux-gnu", "usr/sbin", "var/log")
_WHEELS = ("numpy", "ai-edge-litert", "flatbuffers")
_LIBRARIES = "/opt/python/usr/lib/aarch64-linux-gnu"
_PYTHON_SCRIPT = f"""#!/bin/sh
LD_LIBRARY_PATH={_LIBRARIES} exec /opt/python/usr/bin/python3.11 "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What a virtual machine is started from."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel, as qemu takes it."""
        return self.folder / "kernel"

    @property
    def initrd(self) -> Path:
        """The initial file system, which stays the guest's root. Not compressed: unpacking it would take half of the boot."""
        return self.folder / "initrd.cpio"

    @property
    def disk(self) -> Path:
        """Read-only disk with Python, numpy and LiteRT."""
        return self.folder / "python.ext4"


def find_image() -> Image | None:
    """The image that this version of edge_dp makes, where it was built already."""
    image = Image(cache_folder() / f"image-{_recipe()}")
    return image if is_whole(image.folder) else None


def build_image(progress: Progress = silent, *, refresh: bool = False) -> Image:
    """The image from the cache, else built from packages.

    Args:
        progress: called as it goes on.
        refresh: build it anew, from today's packages.

    Raises:
        DeviceError: the mirror or pip's index cannot be reached, no mke2fs is here, or the cache cannot be written.
    """
    folder = cache_folder() / f"image-{_recipe()}"
    with locked("build"):
        if refresh or not is_whole(folder):
            _build(folder, progress, refresh)
            for other in folder.parent.glob("image-*"):
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
    return Image(folder)


def _build(folder: Path, progress: Progress, refresh: bool) -> None:
    apt = Apt(guest=True)
    apt.update(progress, force=refresh)
    packages = apt.resolve(GUEST_PACKAGES, BACKPORTS)
    kernel = apt.single(apt.dependency(KERNEL, "linux-image-"))
    base = {package.file for package in packages}
    python = [
        package for package in apt.resolve([*GUEST_PACKAGES, *PYTHON_PACKAGES], BACKPORTS) if package.file not in base
    ]
    apt.download([*packages, kernel, *python], "fetch guest", progress)
    progress("fetch wheels", 0, 1, "")
    wheels = download_wheels(_WHEELS, "aarch64")
    progress("fetch wheels", 1, 1, "")
    with filled(folder) as temporary:
        image, work = Image(temporary), temporary / "work"
        unpack([apt.archives / p.file for p in [*packages, kernel]], work / "guest", "unpack guest", progress)
        unpack([apt.archives / p.file for p in python], work / "python", "unpack Python", progress)
        progress("pack image", 0, 2, "")
        shutil.copyfile(next((work / "guest/boot").glob("vmlinuz-*")), image.kernel)
        image.initrd.write_bytes(newc.archive(_initial_files(work / "guest")))
        progress("pack image", 1, 2, "")
        _write_disk(work / "python", wheels, image.disk)
        shutil.rmtree(work)
        progress("pack image", 2, 2, "")


def _initial_files(guest: Path) -> Iterator[newc.Entry]:
    """Entries of the initial file system, from unpacked packages: busybox, adbd, libraries, kernel modules and init."""
    yield from map(newc.folder, [*_ROOT, *_FOLDERS])
    for name in ("bin", "lib", "sbin"):
        yield newc.link(name, f"usr/{name}")
    yield newc.Entry("dev/console", 0o20600, device=(5, 1))
    yield newc.copy("usr/bin/busybox", guest / "bin/busybox")
    yield newc.copy("usr/bin/adbd", guest / "usr/lib/android-sdk/platform-tools/adbd")
    yield newc.link("usr/lib/ld-linux-aarch64.so.1", "aarch64-linux-gnu/ld-linux-aarch64.so.1")
    for part in ("lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu"):
        for path in sorted((guest / part).rglob("*")):
            if "gconv" in path.parts:
                continue  # character sets that nothing here speaks
            name = f"usr/lib/aarch64-linux-gnu/{path.relative_to(guest / part)}"
            if path.is_dir() and not path.is_symlink():
                yield newc.folder(name)
            elif ".so" in path.name:
                yield newc.copy(name, path)
    modules = {path.stem.replace("-", "_"): path for path in (guest / "lib/modules").rglob("*.ko")}
    order = module_order(modules, _MODULES)
    for name in order:
        yield newc.copy(f"usr/lib/modules/{name}.ko", modules[name])
    yield newc.file("init", _init_script().replace("MODULES", " ".join(order)).encode(), 0o755)
    yield newc.file("usr/bin/python3", _PYTHON_SCRIPT.encode(), 0o755)
    yield newc.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nshell:x:2000:2000:shell:/:/bin/sh\n")
    yield newc.file("etc/group", b"root:x:0:\nshell:x:2000:\n")


def module_order(modules: dict[str, Path], wanted: tuple[str, ...]) -> list[str]:
    """Kernel modules and what they depend on (by their ``.modinfo``), each after what it needs; built-in ones are left out."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order or name not in modules:
            return
        needed = re.search(rb"\0depends=([^\0]*)\0", modules[name].read_bytes())
        for other in needed[1].decode().split(",") if needed else []:
            add(other.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return order


def _write_disk(tree: Path, wheels: list[Path], disk: Path) -> None:
    """A disk image of the unpacked Python with the wheels beside its library."""
    tool = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
    if tool is None:
        raise DeviceError(
            "mke2fs: expected on PATH or in /usr/sbin, to write a disk image; found none. Install e2fsprogs."
        )
    site = tree / "usr/lib/python3/dist-packages"
    for archive in wheels:
        extract(archive, site, lambda name: "WebGpu" not in name and "/tests/" not in name)
    libraries = tree / "usr/lib/aarch64-linux-gnu"
    for path in (tree / "lib/aarch64-linux-gnu").glob("*"):
        path.rename(libraries / path.name)
    for name in ("usr/share", "lib", "etc", "var"):
        shutil.rmtree(tree / name, ignore_errors=True)
    if sys.version_info[:2] == (3, 11):  # a read-only disk keeps no bytecode of the guest's own
        _compile(tree)
    size = sum(path.lstat().st_size + 4096 for path in tree.rglob("*"))
    form = ["-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(tree)]
    command = [tool, *form, str(disk), f"{size * 11 // 10 // 1024 + 4096}k"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeviceError(
            f"{disk}: mke2fs could not write it: {' '.join(done.stderr.split())}. Free space, then try again."
        )


def _compile(tree: Path) -> None:
    """Compile what Python there is; what cannot be compiled, such as templates of other packages, is left."""
    places = ["-s", str(tree), "-p", "/opt/python", str(tree / "usr/lib")]
    command = [sys.executable, "-m", "compileall", "-qq", "-j2", "--invalidation-mode=unchecked-hash", *places]
    subprocess.run(command, capture_output=True, check=False)


def _init_script() -> str:
    return resources.files("edge_dp.runtime.emulator").joinpath("init.sh").read_text(encoding="utf-8")


def _recipe() -> str:
    """Changes whenever this version of edge_dp would build another image."""
    source = Path(__file__).read_bytes()
    pins = ",".join(f"{name}=={pinned(name)}" for name in _WHEELS)
    return hashlib.sha256(
        source + _init_script().encode() + repr((GUEST_PACKAGES, PYTHON_PACKAGES, pins)).encode()
    ).hexdigest()[:12]
