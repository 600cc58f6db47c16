"""Emulated phones: started as processes of their own, found again by later commands, stopped; several at once."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

from edge_dp.errors import DeviceError, EdgeDpError, InputError
from edge_dp.files import json_dump, json_load
from edge_dp.runtime.cache import Progress, cache_folder, locked, unwritable_as_device_error
from edge_dp.runtime.emulator.image import Image, build_image
from edge_dp.runtime.emulator.packages import HostTools, host_tools, silent

CORES = ("cortex-a53", "cortex-a55", "cortex-a76", "cortex-a710")
MEMORY_MB = 1024
LEAST_MEMORY_MB = 512
BOOT_LIMIT_S = 90.0

_HOST = "127.0.0.1"
_TWIN = ".2"  # after the name of a core
_READY = b"edge_dp: ready"
_ADBS_OWN_PORTS = range(5555, 5586)  # adb takes what listens there for an emulator of Android's and lists it twice
_KERNEL_OPTIONS = "console=ttyAMA0 quiet panic=-1 nokaslr cryptomgr.notests"
_children: dict[int, subprocess.Popen[bytes]] = {}  # started by this process, which has to reap them


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine that was started, and its adb server.

    born, server_born: when the processes started, in the kernel's clock ticks: a process id alone may be another's by now.
    kept: whether it runs until it is told to stop, not only as long as it is used.
    """

    core: str
    pid: int
    born: int
    server_pid: int
    server_born: int
    port: int
    folder: str
    adb: str
    memory_mb: int
    kept: bool = False

    @property
    def serial(self) -> str:
        """Name of the device for ``adb -s``."""
        return f"{_HOST}:{self.port}"

    @property
    def socket(self) -> Path:
        """Where its adb server listens."""
        return Path(self.folder) / "adb"

    @property
    def environment(self) -> dict[str, str]:
        """What the adb client needs in its environment to find this machine's server."""
        return {"ADB_SERVER_SOCKET": f"localfilesystem:{self.socket}"}

    @property
    def alive(self) -> bool:
        """Whether the processes run still."""
        return _runs(self.pid, self.born) and _runs(self.server_pid, self.server_born)

    def adb_command(self, *arguments: str, timeout_s: float = 20.0) -> subprocess.CompletedProcess[str]:
        """Run the adb client against this machine's server."""
        return subprocess.run(
            [self.adb, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )


def twin_of(core: str) -> str:
    """Name of a second machine with the same core."""
    return f"{core}{_TWIN}"


def check_core(core: str) -> str:
    """The core's name; InputError unless it is one of CORES, or the twin of one."""
    if core.removesuffix(_TWIN) not in CORES:
        raise InputError(f"{core}: expected a core that can be emulated, one of {', '.join(CORES)}.")
    return core


def find_machine(core: str) -> Machine | None:
    """The machine with that core where one runs."""
    path = _state(check_core(core))
    if not path.exists():
        return None
    try:
        machine = Machine(**json_load(path))
        return machine if machine.alive else None
    except (EdgeDpError, TypeError):
        return None


def machines() -> list[Machine]:
    """All that run."""
    names = [name for core in CORES for name in (core, twin_of(core))]
    return [machine for name in names if (machine := find_machine(name)) is not None]


def start_machine(
    core: str, progress: Progress = silent, *, memory_mb: int | None = None, keep: bool = False
) -> Machine:
    """The machine with that core, started (and built before that) unless it runs, and answering adb.

    Args:
        core: one of CORES.
        progress: called as it goes on.
        memory_mb: its files live there too; null for what it has, or MEMORY_MB.
        keep: let it run until ``stop_machine``.

    Raises:
        InputError: no such core, too little memory, or other memory than it runs with.
        DeviceError: it cannot be built, or does not come up; the error holds what its console says.
    """
    check_core(core)
    if memory_mb is not None and memory_mb < LEAST_MEMORY_MB:
        raise InputError(
            f"memory: expected at least {LEAST_MEMORY_MB} MB, as its files live there too, found {memory_mb}."
        )
    tools, image = host_tools(progress), build_image(progress)
    with locked(core):
        machine = find_machine(core)
        if machine is None:
            _stop(core)  # what is left of one that died
            machine = _spawn(core, image, tools, memory_mb or MEMORY_MB)
        elif memory_mb not in (None, machine.memory_mb):
            raise InputError(f"emulated://{core}: runs with {machine.memory_mb} MB, not {memory_mb}. Stop it first.")
        try:
            if keep and not machine.kept:
                machine = replace(machine, kept=True)
                json_dump(asdict(machine), _state(core))
            _wait(machine, progress)
        except BaseException:
            _stop(core)
            raise
    return machine


def stop_machine(core: str) -> bool:
    """Stop the machine with that core; whether one ran. Nothing is left of it, whether it answers or not."""
    with locked(check_core(core)):
        ran = find_machine(core) is not None
        _stop(core)
    return ran


@contextmanager
def machine_in_use(core: str, progress: Progress = silent) -> Iterator[Machine]:
    """The machine with that core, started unless it runs; the last user, of all processes, stops it unless it is kept."""
    users = cache_folder() / f"{check_core(core)}.users"
    with unwritable_as_device_error():
        users.parent.mkdir(parents=True, exist_ok=True)
        stream = users.open("w")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        machine = start_machine(core, progress)
        try:
            yield machine
        finally:
            with locked(core):
                found = find_machine(core)
                if (found is None or not found.kept) and _is_last(stream):
                    _stop(core)
                else:
                    fcntl.flock(stream, fcntl.LOCK_UN)  # before another of the last users looks


def _is_last(users: IO[str]) -> bool:
    """Whether no other process, or other part of this one, holds the file's lock; the lock stays exclusive if so."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(core: str, image: Image, tools: HostTools, memory_mb: int) -> Machine:
    """Start qemu and an adb server, and write down what was started before anything can fail."""
    # Not in the cache, as the path of a unix socket has to be short: 107 bytes.
    parent = tempfile.gettempdir()
    folder = Path(tempfile.mkdtemp(prefix=f"edge_dp_{core}_", dir=parent if len(parent) < 60 else "/tmp"))
    port = _free_port()
    options = {
        "-name": f"edge_dp_{core}",
        "-M": "virt",
        "-cpu": core.removesuffix(_TWIN),
        "-smp": "1",
        "-m": str(memory_mb),
        # Its clock advances 2 ns per instruction, and follows ours while it idles. With sleep=off it would run ahead to the next
        # timer instead, and an idle guest take a whole core of this machine.
        "-icount": "shift=1,sleep=on",
        "-serial": f"file:{folder}/console.log",
        "-kernel": str(image.kernel),
        "-initrd": str(image.initrd),
        "-append": _KERNEL_OPTIONS,
        # It reaches nothing, and this machine alone reaches it.
        "-netdev": f"user,id=net,restrict=on,hostfwd=tcp:{_HOST}:{port}-:6555",
        "-drive": f"if=none,id=python,format=raw,readonly=on,file={_quoted(image.disk)}",
    }
    devices = ["-device", "virtio-net-device,netdev=net", "-device", "virtio-blk-device,drive=python"]
    plain = ["-nodefaults", "-display", "none", "-no-reboot"]
    command = [str(tools.qemu), *(part for option in options.items() for part in option), *devices, *plain]
    # No USB: another server may hold a phone there. No port scan, no keys in the user's home.
    own = {"ADB_USB": "0", "ADB_EMU": "0", "ADB_MDNS": "0", "HOME": str(folder), "TMPDIR": str(folder)}
    server = [str(tools.adb), "-L", f"localfilesystem:{folder}/adb", "nodaemon", "server"]
    pid = _launch(command, folder / "qemu.log", {})
    server_pid = _launch(server, folder / "server.log", own)
    machine = Machine(
        core, pid, _born(pid), server_pid, _born(server_pid), port, str(folder), str(tools.adb), memory_mb
    )
    json_dump(asdict(machine), _state(core))
    return machine


def _launch(command: Sequence[str], log: Path, environment: dict[str, str]) -> int:
    """Start a process that outlives this one."""
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    _children[process.pid] = process
    return process.pid


def _wait(machine: Machine, progress: Progress) -> None:
    """Wait until adb reaches the guest."""
    folder, begin = Path(machine.folder), time.monotonic()
    stage = f"boot {machine.core}"
    progress(stage, 0, 3, "")
    _until(machine.socket.exists, machine, begin, "its adb server to listen")
    progress(stage, 1, 3, "")
    _until(lambda: _READY in (folder / "console.log").read_bytes(), machine, begin, "its kernel to start adbd")
    progress(stage, 2, 3, "")
    _until(lambda: _answers(machine), machine, begin, "adb to reach it")
    progress(stage, 3, 3, "")


def _answers(machine: Machine) -> bool:
    with suppress(subprocess.TimeoutExpired):
        if machine.adb_command("-s", machine.serial, "get-state").stdout.strip() == "device":
            return True
        machine.adb_command("disconnect", machine.serial)
        machine.adb_command("connect", machine.serial)
    return False


def _until(done: Callable[[], bool], machine: Machine, begin: float, what: str) -> None:
    while True:
        with suppress(FileNotFoundError):  # a log that is not begun
            if done():
                return
        if not machine.alive or time.monotonic() - begin > BOOT_LIMIT_S:
            break
        time.sleep(0.02)
    state = f"not within {BOOT_LIMIT_S:.0f} s" if machine.alive else "it ended"
    raise DeviceError(
        f"emulated://{machine.core}: waited for {what}: {state}. {_last_words(Path(machine.folder))} Try edge-dp emulator build "
        "--refresh; if that does not help, report it with this message."
    )


def _last_words(folder: Path) -> str:
    """The end of what the machine's processes wrote, on one line."""
    for name in ("qemu.log", "server.log", "console.log"):
        with suppress(OSError):
            if words := " ".join((folder / name).read_text(errors="replace").split())[-600:]:
                return f"{name} ends: {words}"
    return "It wrote nothing."


def _stop(core: str) -> None:
    """End the processes of a machine, where they are those that were started, and remove what it left."""
    path = _state(core)
    if not path.exists():
        return
    try:
        machine = Machine(**json_load(path))
    except (EdgeDpError, TypeError):
        path.unlink()  # damaged: there is no telling what it named
        return
    if machine.socket.exists():  # a client that found the server dead will have started another
        with suppress(OSError, subprocess.TimeoutExpired):
            machine.adb_command("kill-server", timeout_s=5)
    for pid, born in ((machine.server_pid, machine.server_born), (machine.pid, machine.born)):
        _end(pid, born)
    folder = Path(machine.folder)
    if folder.name.startswith(f"edge_dp_{core}_"):
        shutil.rmtree(folder, ignore_errors=True)
    path.unlink(missing_ok=True)


def _end(pid: int, born: int) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + 3
        while _runs(pid, born) and time.monotonic() < deadline:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
            time.sleep(0.02)


def _runs(pid: int, born: int) -> bool:
    """Whether the process that started then runs still; one that did not start never did."""
    if pid in _children and _children[pid].poll() is not None:
        del _children[pid]
    return born > 0 and _born(pid) == born


def _born(pid: int) -> int:
    """When a process started, in clock ticks since the system did (proc(5), stat, field 22); 0 where it does not run."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0
    return 0 if state == "Z" and pid not in _children else int(fields[18])


def _free_port() -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((_HOST, 0))
            port = int(probe.getsockname()[1])
        if port not in _ADBS_OWN_PORTS:
            return port


def _state(core: str) -> Path:
    return cache_folder() / "running" / f"{core}.json"


def _quoted(path: Path) -> str:
    """A path within an option of qemu, where a comma ends the value unless doubled."""
    return str(path).replace(",", ",,")
