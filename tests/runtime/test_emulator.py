"""Real emulated phones under the real qemu and adb."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_dp.cli import main
from edge_dp.errors import DeviceError
from edge_dp.runtime import cache
from edge_dp.runtime.devices.emulated import EmulatedDevice
from edge_dp.runtime.emulator import image, machine, packages
from edge_dp.runtime.emulator.machine import find_machine, machine_in_use, stop_machine

from ..conftest import missing

CORE, OTHER = "cortex-a76", "cortex-a53"
PART_OF_A76 = "0xd0b"  # Main ID Register, in the core's technical reference manual

# Counts the instructions that hashing takes: perf_event_open(2), PERF_TYPE_HARDWARE, PERF_COUNT_HW_INSTRUCTIONS, user mode.
COUNT = """
import ctypes, hashlib, os, struct
flags = 1 << 5 | 1 << 6  # exclude_kernel, exclude_hv
attributes = ctypes.create_string_buffer(struct.pack("<IIQQQQQ", 0, 112, 1, 0, 0, 0, flags).ljust(112, bytes(1)))
perf_event_open = 241  # arm64
counter = ctypes.CDLL(None, use_errno=True).syscall(perf_event_open, attributes, 0, -1, -1, 0)
assert counter >= 0, os.strerror(ctypes.get_errno())
def instructions(size):
    data = bytes(size)
    before = os.read(counter, 8)
    hashlib.md5(data)
    return struct.unpack("<Q", os.read(counter, 8))[0] - struct.unpack("<Q", before)[0]
print([instructions(size) for size in (64, 1000064, 4000064)])
"""


@pytest.fixture(scope="module")
def real_cache(tmp_path_factory):
    """A cache of our own with the user's image and tools in it: no machine that the user runs is touched."""
    try:
        tools, built = packages.host_tools(), image.build_image()
    except DeviceError as error:
        missing(f"no emulator can be built here: {error}")
    folder = tmp_path_factory.mktemp("cache")
    for path in {built.folder, tools.qemu.parents[1], tools.adb.parents[1]}:
        if path.parent == cache.cache_folder():
            (folder / path.name).symlink_to(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_DP_CACHE", str(folder))
        yield folder
        for core in machine.CORES:
            stop_machine(core)


@pytest.fixture(scope="module")
def phone(real_cache):
    with EmulatedDevice(CORE) as device:
        yield device


def test_the_phone_is_what_it_is_called(phone):
    facts = phone.facts()
    assert (facts.machine, facts.system, facts.cores) == ("aarch64", "Linux", 1)
    assert "asimddp" in facts.features
    assert facts.python == image.PYTHON
    assert phone.emulated
    assert PART_OF_A76.encode() in phone.run(["cat", "/proc/cpuinfo"], timeout_s=20).stdout


def test_programs_run_with_their_exit_code_and_streams(phone):
    done = phone.run(["sh", "-c", "cat; echo wrong >&2; exit 37"], timeout_s=20, stdin=b"in\0put")
    assert (done.code, done.stdout, done.stderr) == (37, b"in\0put", b"wrong\n")


def test_files_come_back_as_they_went(phone, tmp_path):
    data = os.urandom(3_000_017)
    (tmp_path / "a file").write_bytes(data)
    remote = phone.push(tmp_path / "a file")
    phone.pull(remote, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == data
    assert phone.push(tmp_path / "a file") == remote


def test_instructions_are_counted(phone):
    done = phone.run([image.PYTHON, "-c", COUNT], timeout_s=60)
    assert done.code == 0, done.stderr
    small, one, four = json.loads(done.stdout)
    assert one - small > 1e6
    assert (four - small) / (one - small) == pytest.approx(4, rel=0.01)


def test_litert_runs_on_the_phone(phone):
    code = "import numpy, ai_edge_litert.interpreter as i; print(numpy.arange(3).sum(), i.Interpreter.__name__)"
    done = phone.run([image.PYTHON, "-c", code], timeout_s=60)
    assert (done.code, done.stdout) == (0, b"3 Interpreter\n"), done.stderr


def test_the_phone_reaches_nothing(phone):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = phone.run(["nc", "-w", "2", "10.0.2.2", str(port)], timeout_s=30)
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert done.code != 0


def test_a_full_phone_says_so(phone, tmp_path):
    size = phone.run(["sh", "-c", "df -k /data | tail -1 | awk '{print $4}'"], timeout_s=20)
    spare = phone.scratch()
    fill = phone.run(["fallocate", "-l", str(1024 * (int(size.stdout) - 512)), f"{spare}/fill"], timeout_s=60)
    assert fill.code == 0, fill.stderr
    (tmp_path / "large").write_bytes(os.urandom(2_000_000))
    with pytest.raises(DeviceError, match="space"):
        phone.push(tmp_path / "large")
    assert phone.run(["rm", f"{spare}/fill"], timeout_s=20).code == 0
    phone.push(tmp_path / "large")


def test_a_second_user_finds_the_first_ones_machine(phone):
    first = find_machine(CORE)
    assert first is not None
    with EmulatedDevice(CORE) as second:
        assert second.serial == phone.serial
        assert find_machine(CORE) == first
    assert find_machine(CORE) == first
    assert phone.run(["true"], timeout_s=20).code == 0


def test_commands_start_find_and_stop(real_cache, capsys):
    assert main(["emulator", "start", OTHER, "--json"]) == 0
    started = json.loads(capsys.readouterr().out)
    assert started["device"] == f"emulated://{OTHER}"
    script = f"from edge_dp.cli import main; main(['emulator', 'start', '{OTHER}', '--json'])"
    again = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert json.loads(again.stdout) == started
    running = find_machine(OTHER)
    assert running is not None
    with EmulatedDevice(OTHER) as device:
        assert device.serial == started["serial"]
    assert find_machine(OTHER) == running  # kept, whoever used it
    assert main(["emulator", "start", OTHER, "--memory", "2048"]) == 2
    capsys.readouterr()
    assert main(["emulator", "stop", OTHER, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"stopped": [OTHER]}
    for pid in (running.pid, running.server_pid):
        assert not Path(f"/proc/{pid}").exists()
    assert not Path(running.folder).exists()
    assert main(["emulator", "stop", OTHER]) == 0
    assert find_machine(OTHER) is None


def test_the_last_user_stops_it_and_a_dead_one_is_replaced(real_cache):
    with machine_in_use(OTHER) as first:
        os.kill(first.pid, 9)
        while first.alive:
            time.sleep(0.01)
        with machine_in_use(OTHER) as second:
            assert second.pid != first.pid
            assert not Path(first.folder).exists()
            done = second.adb_command("-s", second.serial, "shell", "exit 3")
            assert done.returncode == 3
        assert second.alive
    assert find_machine(OTHER) is None
    assert not Path(f"/proc/{second.pid}").exists()
    assert not Path(second.folder).exists()
