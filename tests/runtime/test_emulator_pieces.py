"""What emulated phones are made of, piece by piece: archive, packages, cache, image, the states of machines."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_dp.cli import main
from edge_dp.errors import DeviceError, InputError
from edge_dp.runtime import cache
from edge_dp.runtime.devices.emulated import EmulatedDevice
from edge_dp.runtime.emulator import apt, image, machine, newc, packages
from edge_dp.runtime.emulator.machine import find_machine, machines, start_machine, stop_machine

from ..conftest import missing

CORE = "cortex-a76"


# -- pieces ------------------------------------------------------------------------------------------------------------------


def read_newc(data: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """What the kernel would read, written from its documentation: name -> mode, data, device."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, device, length = numbers[1], numbers[6], (numbers[9], numbers[10]), numbers[11]
        name = data[at + 110 : at + 110 + length]
        assert name.endswith(b"\0")
        start = (at + 110 + length + 3) // 4 * 4
        if name == b"TRAILER!!!\0":
            return found
        found[os.fsdecode(name[:-1])] = (mode, data[start : start + size], device)
        at = (start + size + 3) // 4 * 4


names = st.text(st.characters(codec="utf-8", exclude_characters="\0/"), min_size=1, max_size=12)


@given(files=st.dictionaries(names, st.binary(max_size=40), max_size=6))
def test_archives_hold_what_was_put_in(files):
    entries = [newc.file(name, data, 0o640) for name, data in files.items()]
    found = read_newc(newc.archive([newc.folder("a folder"), *entries]) + b"beyond")
    assert found.pop("a folder")[0] == stat.S_IFDIR | 0o755 or "a folder" in files
    assert {name: data for name, (_, data, _) in found.items() if name != "a folder"} == {
        name: data for name, data in files.items() if name != "a folder"
    }


def test_archives_keep_links_permissions_and_devices(tmp_path):
    (tmp_path / "tool").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "tool").chmod(0o755)
    (tmp_path / "alias").symlink_to("tool")
    console = newc.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    entries = [newc.copy("bin/tool", tmp_path / "tool"), newc.copy("bin/alias", tmp_path / "alias"), console]
    assert read_newc(newc.archive(entries)) == {
        "bin/tool": (stat.S_IFREG | 0o755, b"#!/bin/sh\n", (0, 0)),
        "bin/alias": (stat.S_IFLNK | 0o777, b"tool", (0, 0)),
        "dev/console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
    }
    assert newc.archive(entries) == newc.archive(entries)


ONE_LINE = """
# deb http://commented.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/debian.gpg] http://mirror.example/debian/ bookworm main contrib # a remark
deb-src http://mirror.example/debian bookworm main
deb https://packages.example/apt tool-bookworm main
"""
DEB822 = """
Types: deb deb-src
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates
# a remark
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: bookworm
Components: main

types: deb
uris: http://deb.example/debian-security
suites: bookworm-security
components: main
trusted: yes
"""


def test_sources_are_read_in_both_formats(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d/debian.sources").write_text(DEB822)
    (tmp_path / "sources.list.d/readme.txt").write_text(ONE_LINE)
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc"
    assert apt.machine_sources(tmp_path) == [
        apt.Source("http://mirror.example/debian/", "bookworm", ("main", "contrib"), {"Signed-By": "/keys/debian.gpg"}),
        apt.Source("https://packages.example/apt", "tool-bookworm", ("main",)),
        apt.Source("http://deb.example/debian", "bookworm", ("main",), {"Signed-By": key}),
        apt.Source("http://deb.example/debian", "bookworm-updates", ("main",), {"Signed-By": key}),
        apt.Source("http://deb.example/debian-security", "bookworm-security", ("main",), {"Trusted": "yes"}),
    ]


def test_packages_come_from_the_machines_mirror():
    chosen = apt.debian_sources([*apt.parse_one_line(ONE_LINE), *apt.parse_deb822(DEB822)])
    assert [(s.uri, s.suite) for s in chosen] == [
        ("http://mirror.example/debian/", "bookworm"),
        ("http://mirror.example/debian/", "bookworm-backports"),
        ("http://deb.example/debian-security", "bookworm-security"),
    ]
    assert all(s.options == {"Signed-By": "/keys/debian.gpg"} for s in chosen[:2])


def test_a_machine_without_debian_sources_takes_the_main_mirror():
    chosen = apt.debian_sources(list(apt.parse_one_line("deb http://ubuntu.example/ubuntu noble main")))
    assert {s.uri for s in chosen} == {"http://deb.debian.org/debian"}


def test_modules_are_loaded_after_what_they_need(tmp_path):
    needs = {
        "virtio_net": "net_failover,virtio-ring",
        "net_failover": "failover",
        "failover": "",
        "virtio_ring": "built_in",
    }
    modules = {}
    for name, others in needs.items():
        modules[name] = tmp_path / f"{name}.ko"
        modules[name].write_bytes(b"\x7fELF\0license=GPL\0depends=" + others.encode() + b"\0intree=Y\0")
    assert image.module_order(modules, ("virtio_net", "failover")) == [
        "failover",
        "net_failover",
        "virtio_ring",
        "virtio_net",
    ]


def test_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("EDGE_DP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "edge_dp"
    monkeypatch.setenv("EDGE_DP_CACHE", str(tmp_path / "own"))
    assert cache.cache_folder() == tmp_path / "own"


# -- the cache ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(monkeypatch, tmp_path):
    folder = tmp_path / "a cache, with 'quotes'"
    monkeypatch.setenv("EDGE_DP_CACHE", str(folder))
    return folder


def test_folders_are_whole_or_not_there(empty_cache):
    folder = empty_cache / "made"
    with pytest.raises(RuntimeError, match="killed"), cache.filled(folder) as temporary:
        (temporary / "half").write_text("half")
        raise RuntimeError("killed")
    assert list(empty_cache.iterdir()) == []
    for text in ("first", "second"):
        with cache.filled(folder) as temporary:
            (temporary / "file").write_text(text)
        assert (folder / "file").read_text() == text
        assert cache.is_whole(folder)
    assert list(empty_cache.iterdir()) == [folder]


@pytest.fixture
def built(empty_cache, monkeypatch):
    """The folders that an image was built into; it holds a kernel alone."""
    folders = []

    def build(folder, progress, refresh):
        folders.append(folder)
        with cache.filled(folder) as temporary:
            (temporary / "kernel").write_bytes(b"kernel")

    monkeypatch.setattr(image, "_build", build)
    return folders


@pytest.mark.parametrize("damage", ["truncate", "delete", "listing"])
def test_a_damaged_image_is_built_anew(built, damage):
    made = image.build_image()
    assert image.build_image() == made == image.find_image()
    assert len(built) == 1
    if damage == "truncate":
        made.kernel.write_bytes(b"ker")
    elif damage == "delete":
        made.kernel.unlink()
    else:
        (made.folder / "edge_dp.json").write_text("{")
    assert image.find_image() is None
    assert image.build_image().kernel.read_bytes() == b"kernel"
    assert len(built) == 2


def test_two_builders_build_once(built):
    threads = [threading.Thread(target=image.build_image) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1


def test_a_cache_that_is_a_file_is_said_to_be(empty_cache):
    empty_cache.write_text("a file")
    with pytest.raises(DeviceError, match="EDGE_DP_CACHE"):
        image.build_image()


def test_damaged_downloads_are_removed_and_named(tmp_path):
    package, wheel = tmp_path / "adbd.deb", tmp_path / "numpy.whl"
    for path in (package, wheel):
        path.write_bytes(b"!<arch>\ndebian-binary")
    if shutil.which("dpkg-deb") is None:
        missing("no dpkg-deb here")
    with pytest.raises(DeviceError, match=r"adbd\.deb.*fetched anew"):
        apt.unpack([package], tmp_path / "out", "unpack", packages.silent)
    with pytest.raises(DeviceError, match=r"numpy\.whl.*fetched anew"):
        packages.extract(wheel, tmp_path / "out", lambda name: True)
    assert not package.exists()
    assert not wheel.exists()


def test_wheels_give_what_is_wanted(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.writestr("a/lib/liba.so.1", "library")
        archive.writestr("a/_c.cpython-311-aarch64-linux-gnu.so", "binding")
        archive.writestr("a/__init__.py", "code")
    packages.extract(tmp_path / "a.whl", tmp_path / "out", packages._is_native)
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["liba.so.1"]


def test_a_mirror_that_does_not_answer_is_named(empty_cache, monkeypatch):
    if shutil.which("apt-get") is None:
        missing("no apt-get here")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        mirror = f"http://127.0.0.1:{closed.getsockname()[1]}/debian"
        monkeypatch.setattr(apt, "machine_sources", lambda: [apt.Source(mirror, "bookworm", ("main",))])
        with pytest.raises(DeviceError, match=rf"{mirror}.*[Cc]heck the network"):
            image.build_image()
    assert image.find_image() is None
    assert main(["emulator", "status"]) == 0


def test_a_machine_without_apt_is_told_so(empty_cache, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(DeviceError, match="expected apt-get"):
        image.build_image()
    monkeypatch.setattr(packages, "machine_release", lambda: "noble")
    with pytest.raises(DeviceError, match=r"qemu-system-aarch64 and adb.*noble"):
        packages.host_tools()


@pytest.mark.parametrize(
    ("says", "suits"), [("version 7.2.19 (Debian)", False), ("version 10.0.2", True), ("what?", False)]
)
def test_tools_of_the_path_are_used_when_new_enough(monkeypatch, tmp_path, says, suits):
    tool = tmp_path / "qemu-system-aarch64"
    tool.write_text(f"#!/bin/sh\necho 'QEMU emulator {says}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert packages._suitable("qemu-system-aarch64") == (tool if suits else None)


# -- states ------------------------------------------------------------------------------------------------------------------


def state_of(core, **changes):
    processes = {"pid": 1, "born": 1, "server_pid": 1, "server_born": 1}
    known = {"core": core, **processes, "port": 1, "folder": "/", "adb": "adb", "memory_mb": 1}
    path = machine._state(core)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known | changes))
    return path


def test_another_process_with_that_number_is_left_alone(empty_cache, tmp_path):
    with subprocess.Popen(["sleep", "60"]) as bystander:
        path = state_of(CORE, pid=bystander.pid, server_pid=bystander.pid, folder=str(tmp_path))
        assert find_machine(CORE) is None
        assert stop_machine(CORE) is False
        assert bystander.poll() is None
        bystander.kill()
    assert not path.exists()
    assert tmp_path.is_dir()


def test_a_damaged_state_is_no_machine(empty_cache):
    path = state_of(CORE)
    path.write_text('{"core": "cortex-a76"')
    assert machines() == []
    assert stop_machine(CORE) is False
    assert not path.exists()


@pytest.mark.parametrize("core", ["cortex-a72", "../cortex-a76", "a76\n", ""])
def test_other_cores_are_refused(core, empty_cache):
    for call in (EmulatedDevice, find_machine, start_machine, stop_machine):
        with pytest.raises(InputError, match="one of cortex-a53, cortex-a55, cortex-a76, cortex-a710"):
            call(core)


def test_commands_refuse_what_makes_no_sense(empty_cache, capsys):
    assert main(["emulator", "stop"]) == 2
    assert main(["emulator", "stop", CORE, "--all"]) == 2
    assert main(["emulator", "start", CORE, "--memory", "64"]) == 2
    assert "at least 512 MB" in capsys.readouterr().err
    assert main(["emulator", "stop", "--all"]) == 0
    assert main(["emulator", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"image": None, "running": []}


def test_a_machine_that_ends_at_once_is_explained(empty_cache, monkeypatch, tmp_path):
    qemu, adb = tmp_path / "qemu", tmp_path / "adb"
    qemu.write_text("#!/bin/sh\necho 'unsupported machine type' >&2\nexit 1\n")
    adb.write_text("#!/bin/sh\nexec sleep 60\n")
    for tool in (qemu, adb):
        tool.chmod(0o755)
    monkeypatch.setattr(machine, "host_tools", lambda progress: packages.HostTools(qemu, adb))
    monkeypatch.setattr(machine, "build_image", lambda progress: image.Image(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(DeviceError, match=r"it ended.*unsupported machine type"):
        start_machine(CORE)
    assert machines() == []
    assert not list(tmp_path.glob("edge_dp_*"))
