"""A phone or board behind adb, Google's Android Debug Bridge."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence

from edge_dp.errors import DeviceError
from edge_dp.runtime.devices.process import Process, one_line
from edge_dp.runtime.devices.shell import ShellDevice

ROOT = "/data/local/tmp/edge_dp"
"""Where Android lets the shell user keep files and execute them."""

_ANSWER_S = 20.0  # the first call may start adb's server
_ADVICE = {
    "unauthorized": "Unlock it and allow this computer to debug it.",
    "offline": "Plug it in again, or restart it.",
    "no permissions": "Give your user access to the USB device (udev rules for Android).",
}


class AdbDevice(ShellDevice):
    """A device that adb knows. Safe for one thread per object.

    Args:
        serial: as ``adb devices`` lists it.
        adb: name or path of the program.
        environment: variables for it, such as ADB_SERVER_SOCKET.
        root: folder on the device that holds what is pushed.
        address: how the user named it; the default is ``adb://SERIAL``.
    """

    def __init__(
        self,
        serial: str,
        adb: str = "adb",
        environment: Mapping[str, str] | None = None,
        root: str = ROOT,
        address: str | None = None,
    ) -> None:
        super().__init__(address or f"adb://{serial}", root)
        if not serial or serial.startswith("-") or not serial.isprintable():
            raise DeviceError(f"{self.address!r}: expected adb://SERIAL as 'adb devices' lists it, found {serial!r}")
        self.serial = serial
        self._adb = adb
        self._variables = dict(environment or {})

    def open(self) -> None:  # noqa: D102
        missing = why_no_adb(self._adb)
        if missing:
            raise DeviceError(f"{self.address}: {missing}")
        state = self._ask("get-state")
        if state.strip() != "device":
            raise self._gone(state)
        if "shell_v2" not in self._ask("features").split():
            raise DeviceError(
                f"{self.address}: expected a device with adb's shell_v2 (Android 7 or later), found an older one"
            )

    def _ask(self, question: str) -> str:
        """What adb answers to a question about the device, or its complaint."""
        process = Process([self._adb, "-s", self.serial, question], self._variables)
        try:
            output, errors = process.finish(b"", _ANSWER_S)
        except TimeoutError as error:
            raise self._gone(f"adb did not answer within {_ANSWER_S:g} s") from error
        return output.decode(errors="replace") if process.returncode == 0 else one_line(errors)

    def _command(self, line: str) -> list[str]:
        return [self._adb, "-s", self.serial, "shell", "-T", line]

    def _environment(self) -> Mapping[str, str]:
        return self._variables

    def _gone(self, words: str) -> DeviceError:
        advice = next((text for state, text in _ADVICE.items() if state in words), None)
        if advice is None:
            present = ", ".join(f"{serial} ({state})" for serial, state in self._present()) or "none"
            advice = f"adb lists: {present}. Plug it in, or for one on the network run: adb connect HOST:PORT"
        return DeviceError(f"{self.address}: expected a device that answers, found: {words}. {advice}")

    def _present(self) -> Sequence[tuple[str, str]]:
        with contextlib.suppress(DeviceError):
            return adb_devices(self._adb, self._variables)
        return ()


def why_no_adb(adb: str = "adb") -> str | None:
    """In words why there is no adb to call, or None where there is one."""
    if shutil.which(adb):
        return None
    return f"expected the program {adb!r}, found none. Install Android's platform tools (Debian: apt-get install adb)"


def adb_devices(adb: str = "adb", environment: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Serial and state of each device that adb's server lists.

    Raises:
        DeviceError: adb is missing, or its server does not answer.
    """
    process = Process([adb, "devices"], environment)
    try:
        output, errors = process.finish(b"", _ANSWER_S)
    except TimeoutError as error:
        raise DeviceError(f"adb: expected a list of devices within {_ANSWER_S:g} s. Run: adb kill-server") from error
    if process.returncode:
        raise DeviceError(f"adb: expected a list of devices, found: {one_line(errors)}")
    lines = output.decode(errors="replace").splitlines()[1:]
    return [(serial, state) for serial, _, state in (line.partition("\t") for line in lines) if state]
