"""Emulated phones: virtual arm64 machines built from Debian packages, with the real adbd in them."""

from edge_dp.runtime.emulator.image import PYTHON, Image, build_image, find_image
from edge_dp.runtime.emulator.machine import (
    CORES,
    Machine,
    find_machine,
    machine_in_use,
    machines,
    start_machine,
    stop_machine,
)
from edge_dp.runtime.emulator.packages import cross_compiler, host_tools, wheel

__all__ = [
    "CORES",
    "PYTHON",
    "Image",
    "Machine",
    "build_image",
    "cross_compiler",
    "find_image",
    "find_machine",
    "host_tools",
    "machine_in_use",
    "machines",
    "start_machine",
    "stop_machine",
    "wheel",
]
