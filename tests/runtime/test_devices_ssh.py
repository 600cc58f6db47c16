"""Devices behind ssh: what only ssh can do wrong, on the real client and server."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_dp.cli import main
from edge_dp.errors import DeviceError
from edge_dp.runtime.devices import open_device, shell
from edge_dp.runtime.devices.ssh import OPTIONS, SshDevice

from .processes import end, gone, marker, sleeps
from .sshd_here import SshdHere


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[SshdHere]:
    """One that a test may break."""
    folder = tmp_path / "mortal"
    folder.mkdir()
    machine = SshdHere(folder)
    yield machine
    machine.close()


def test_a_machine_that_vanishes_in_mid_run(mortal):
    device = SshDevice(mortal.destination, mortal.options)
    device.open()
    name = marker()
    with ThreadPoolExecutor() as threads:
        running = threads.submit(device.run, ["sh", "-c", f"echo began; sleep {name}"], timeout_s=60)
        assert sleeps(name)
        mortal.vanish()
        with pytest.raises(DeviceError, match="mid-run"):
            running.result(30)
    end(name)
    with pytest.raises(DeviceError, match=r"answers and lets us in.*refused.*Try until it works: ssh"):
        device.push(Path(__file__))
    device.close()


def test_a_machine_that_hangs(mortal, monkeypatch):
    monkeypatch.setattr(shell, "_ANSWER_S", 0.5)
    monkeypatch.setattr(shell, "_END_S", 0.5)
    mortal.freeze()
    with pytest.raises(DeviceError, match="no answer within"):
        SshDevice(mortal.destination, mortal.options).open()


def test_a_connection_that_hangs_in_mid_run(mortal, monkeypatch):
    monkeypatch.setattr(shell, "_END_S", 0.5)
    monkeypatch.setattr(shell, "_SHORT_S", 0.5)
    name = marker()
    with SshDevice(mortal.destination, mortal.options) as device, ThreadPoolExecutor() as threads:
        running = threads.submit(device.run, ["sleep", name], timeout_s=3)
        assert sleeps(name)
        mortal.freeze()
        with pytest.raises(DeviceError, match=r"within 3 s"):
            running.result(30)


def test_a_key_that_is_refused(sshd_here):
    with pytest.raises(DeviceError, match=r"Permission denied.*Try until it works"):
        SshDevice(sshd_here.destination, sshd_here.strange).open()


def test_a_server_that_is_not_the_one_it_was(sshd_here, tmp_path):
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd_here.port} {(sshd_here.folder / 'user_key.pub').read_text()}")
    options = ["-o", f"UserKnownHostsFile={tmp_path}/known", *sshd_here.options]
    with pytest.raises(DeviceError, match=r"[Hh]ost key"):
        SshDevice(sshd_here.destination, options).open()


def test_no_server(mortal):
    mortal.close()
    with pytest.raises(DeviceError, match="refused"):
        SshDevice(mortal.destination, mortal.options).open()


def test_without_ssh(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="openssh-client"):
        open_device("ssh://host").open()


@pytest.mark.parametrize(
    "destination",
    [
        "-oProxyCommand=touch pwned", "user@-oProxyCommand=touch", "-l@host", "a b", "a;touch pwned", "$(touch pwned)", "`id`",
        "a'b", 'a"b', "a\nb", "a\n", "host:22;id", "host:22\n", "host:-1", "host:", "user:password@host", "host/path", "%h",
        "a\\b", "ü", "",
    ],
)  # fmt: skip
def test_hosts_reach_no_shell(destination):
    with pytest.raises(DeviceError, match="expected ssh://"):
        SshDevice(destination)


def test_hosts_that_are_hosts():
    for destination in (
        "host",
        "user@host",
        "user@host.example:2222",
        "phone_2",
        "u.s-r@[::1]:22",
        "me@realm@10.0.0.1",
    ):
        assert SshDevice(destination).address == f"ssh://{destination}"


def test_one_connection_serves_everything_and_its_socket_is_private(sshd_here, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", "/tmp")
    with SshDevice(sshd_here.destination, sshd_here.options) as device:
        first = device.run(["sh", "-c", "echo $SSH_CONNECTION"], timeout_s=60).stdout
        assert first == device.run(["sh", "-c", "echo $SSH_CONNECTION"], timeout_s=60).stdout
        folder = device._folder
        assert folder.stat().st_mode & 0o777 == 0o700
        assert any(entry.is_socket() for entry in folder.iterdir())
    assert not folder.exists()


def test_what_is_pushed_is_nobody_elses(sshd_here, tmp_path):
    with SshDevice(sshd_here.destination, sshd_here.options) as device:
        there = Path(device.push(Path(__file__)))
        assert [path.stat().st_mode & 0o077 for path in (there, *there.parents[:2])] == [0, 0, 0]


def test_kill_ends_a_program_that_ignores_its_input_ending(sshd_here):
    name = marker()
    with SshDevice(sshd_here.destination, sshd_here.options) as device:
        process = device.spawn(["sh", "-c", f"trap '' HUP TERM; sleep {name}"])
        assert sleeps(name)
        process.stdin.close()
        process.kill()
        assert gone(name)


def test_the_verb_asks_it_and_cleans_it(sshd_here, monkeypatch, capsys):
    monkeypatch.setenv(OPTIONS, shlex.join(sshd_here.options))
    address = f"ssh://{sshd_here.destination}"
    assert main(["devices", address, "ssh://127.0.0.1:1", "--json"]) == 2
    there, absent = json.loads(capsys.readouterr().out)
    assert there["error"] is None
    assert there["facts"]["machine"] == os.uname().machine
    assert there["engines"]["executorch-native"] is None
    assert "refused" in absent["error"]
    with open_device(address) as device:
        pushed = Path(device.push(Path(__file__)))
    assert pushed.exists()
    assert main(["devices", "--clean", address]) == 0
    assert not pushed.parents[1].exists()
