"""Phones that are emulated on this machine: a virtual arm64 machine, reached through the real adb like any other phone."""

from __future__ import annotations

from contextlib import ExitStack

from edge_dp.runtime.cache import Progress
from edge_dp.runtime.devices.adb import AdbDevice
from edge_dp.runtime.emulator.machine import check_core, machine_in_use, twin_of
from edge_dp.runtime.emulator.packages import silent

SCHEME = "emulated://"


class EmulatedDevice(AdbDevice):
    """A virtual machine with one core of a phone. Its clock advances 2 ns per instruction: no time of a phone.

    One that runs already is used; else it is started, and built before that if need be. The last user in any process stops it,
    unless ``edge-dp emulator start`` told it to stay.

    Args:
        core: one of ``edge_dp.runtime.emulator.CORES``.
        progress: called while it is built and started.
        address: that it goes by, if not by its core's.

    Raises:
        InputError: no such core.
    """

    emulated = True

    def __init__(self, core: str, progress: Progress = silent, *, address: str | None = None) -> None:
        super().__init__(check_core(core), address=address or f"{SCHEME}{core}")
        self.core = core
        self._progress = progress
        self._machine = ExitStack()

    def open(self) -> None:
        """Start the machine unless it runs, and reach it.

        Raises:
            DeviceError: it cannot be built or started; says what to do.
        """
        with ExitStack() as undo:
            machine = undo.enter_context(machine_in_use(self.core, self._progress))
            self.serial, self._adb, self._variables = machine.serial, machine.adb, machine.environment
            super().open()
            self._machine = undo.pop_all()

    def close(self) -> None:
        """Let go of the machine; the last user stops it."""
        try:
            super().close()
        finally:
            self._machine.close()

    def twin(self) -> EmulatedDevice:
        """A second machine with the same core, under the same address: it counts the same instructions."""
        return EmulatedDevice(twin_of(self.core), self._progress, address=self.address)
