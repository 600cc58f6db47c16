"""Devices behind adb: the real adb and the real adbd."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_dp.cli import main
from edge_dp.errors import DeviceError
from edge_dp.runtime.devices import list_devices, open_device, shell
from edge_dp.runtime.devices.adb import AdbDevice

from .adb_here import SERIAL, AdbHere
from .processes import marker, sleeps


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[AdbHere]:
    """One that a test may break."""
    folder = tmp_path / "mortal"
    folder.mkdir()
    device = AdbHere(folder)
    yield device
    device.close()


def reach(here: AdbHere) -> AdbDevice:
    return AdbDevice(here.serial, here.adb, here.environment, f"{here.root}/edge_dp")


def test_a_device_that_vanishes_in_mid_run(mortal):
    device = reach(mortal)
    device.open()
    name = marker()
    with ThreadPoolExecutor() as threads:
        running = threads.submit(device.run, ["sh", "-c", f"echo began; sleep {name}"], timeout_s=60)
        assert sleeps(name)
        mortal.vanish()
        with pytest.raises(DeviceError, match="mid-run"):
            running.result(30)
    with pytest.raises(DeviceError, match=r"expected a device that answers.*(offline|not found)"):
        device.push(Path(__file__))
    device.close()


def test_a_device_that_hangs(mortal, monkeypatch):
    monkeypatch.setattr(shell, "_ANSWER_S", 0.5)
    monkeypatch.setattr(shell, "_END_S", 0.5)
    device = reach(mortal)
    device.open()
    mortal.freeze()
    with pytest.raises(DeviceError, match="no answer within"):
        device.run(["echo"], timeout_s=60)


def test_without_adb(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="platform tools"):
        open_device("adb://x").open()
    assert [d.why_not for d in list_devices() if d.address == "adb://SERIAL"] == [
        "adb not found (Debian: apt-get install adb)"
    ]
    assert main(["devices", "adb://x"]) == 2
    assert "platform tools" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("serial", ["no such", "a;touch pwned", "$(touch pwned)", "'", "a\nb", "-s", "", "x\0"])
def test_serials_reach_no_shell(adb_here, monkeypatch, tmp_path, serial):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError, match="expected"), AdbDevice(serial, adb_here.adb, adb_here.environment):
        pass
    assert not list(tmp_path.iterdir())


def test_an_error_names_the_devices_that_are_there(adb_here):
    with pytest.raises(DeviceError, match=rf"not found.*{SERIAL} \(device\)"):
        AdbDevice("other", adb_here.adb, adb_here.environment).open()


def test_the_verb_lists_it_and_its_engines(adb_here, monkeypatch, capsys):
    for name, value in adb_here.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(adb_here.adb).parent}:{os.environ['PATH']}")
    assert shutil.which("adb") == adb_here.adb
    assert main(["devices", "--json"]) == 0
    found = {one["address"]: one for one in json.loads(capsys.readouterr().out)}
    phone = found[f"adb://{SERIAL}"]
    assert phone["facts"]["machine"] == os.uname().machine
    assert phone["engines"]["executorch-native"] is None
    assert phone["engines"]["litert"] == "no Python there"
    assert found["local"]["facts"]["python"]
    assert main(["devices", f"adb://{SERIAL}"]) == 0
    assert "executorch-native" in capsys.readouterr().out
