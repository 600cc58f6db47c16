"""Machines that run artifacts: this one, boards behind ssh, phones behind adb, emulated phones. As data; none is imported."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from edge_dp.errors import DeviceError
from edge_dp.runtime.devices.base import Device

__all__ = ["DEVICES", "Device", "DeviceKind", "Listed", "list_devices", "open_device"]


@dataclass(frozen=True, slots=True)
class DeviceKind:
    """One way to reach a machine.

    address: what the user writes, with the part in capitals to be filled in.
    target: class whose first argument is that part.
    why_not: None where it can be used here, else the reason in words.
    """

    scheme: str
    address: str
    target: str
    label: str
    why_not: Callable[[], str | None]

    @property
    def has_name(self) -> bool:
        """Whether the address names one of several machines."""
        return "://" in self.address


@dataclass(frozen=True, slots=True)
class Listed:
    """A device, or a kind of them, that can be named here.

    address: to give to ``open_device``; with capitals where the user must fill something in.
    label: what it is.
    ready: whether it can be opened now, without starting a machine first.
    why_not: reason for which it cannot be used at all; null where it can.
    """

    address: str
    label: str
    ready: bool
    why_not: str | None = None


def _needs_program(program: str, package: str) -> Callable[[], str | None]:
    def why_not() -> str | None:
        return None if shutil.which(program) else f"{program} not found (Debian: apt-get install {package})"

    return why_not


def _needs_nothing() -> None:
    return None


DEVICES: dict[str, DeviceKind] = {
    kind.scheme: kind
    for kind in (
        DeviceKind("local", "local", "edge_dp.runtime.devices.local:LocalDevice", "this machine", _needs_nothing),
        DeviceKind(
            "adb",
            "adb://SERIAL",
            "edge_dp.runtime.devices.adb:AdbDevice",
            "phone or board behind adb",
            _needs_program("adb", "adb"),
        ),
        DeviceKind(
            "ssh",
            "ssh://USER@HOST",
            "edge_dp.runtime.devices.ssh:SshDevice",
            "board or computer behind ssh",
            _needs_program("ssh", "openssh-client"),
        ),
        DeviceKind(
            "emulated",
            "emulated://CORE",
            "edge_dp.runtime.devices.emulated:EmulatedDevice",
            "arm64 phone core in an emulator; counts instructions, tells no time",
            _needs_nothing,
        ),
    )
}


def open_device(address: str) -> Device:
    """The device of an address, not yet reached: call its ``open`` or use it in a ``with`` statement.

    Args:
        address: ``local``, ``adb://SERIAL``, ``ssh://[USER@]HOST[:PORT]`` or ``emulated://CORE``.

    Raises:
        DeviceError: no such address. Whether the device answers, ``open`` says.
    """
    scheme, mark, name = address.partition("://")
    kind = DEVICES.get(scheme)
    if kind is None or kind.has_name != bool(mark and name) or (mark and not name):
        known = ", ".join(kind.address for kind in DEVICES.values())
        raise DeviceError(f"{address!r}: expected the address of a device, one of: {known}")
    module, attribute = kind.target.split(":")
    made = getattr(import_module(module), attribute)
    device: Device = made(name) if kind.has_name else made()
    return device


def list_devices() -> list[Listed]:
    """What can be named here: this machine, what adb's server lists, the emulated cores; ssh as a kind only."""
    listed = []
    for kind in DEVICES.values():
        reason = kind.why_not()
        found: list[Listed] = []
        if reason is None:
            try:
                found = _LISTERS[kind.scheme](kind)
            except DeviceError as error:
                reason = str(error)
        listed += found or [Listed(kind.address, kind.label, ready=False, why_not=reason)]
    return listed


def _local(kind: DeviceKind) -> list[Listed]:
    return [Listed(kind.address, kind.label, ready=True)]


def _named_only(kind: DeviceKind) -> list[Listed]:
    return []


def _of_adb(kind: DeviceKind) -> list[Listed]:
    from edge_dp.runtime.devices.adb import adb_devices

    states = [(f"{kind.scheme}://{serial}", state == "device", state) for serial, state in adb_devices()]
    return [Listed(address, kind.label, ready, None if ready else state) for address, ready, state in states]


def _of_emulator(kind: DeviceKind) -> list[Listed]:
    from edge_dp.runtime.emulator.machine import CORES, find_machine

    return [Listed(f"{kind.scheme}://{core}", kind.label, ready=find_machine(core) is not None) for core in CORES]


_LISTERS: dict[str, Callable[[DeviceKind], list[Listed]]] = {
    "local": _local,
    "adb": _of_adb,
    "ssh": _named_only,
    "emulated": _of_emulator,
}
