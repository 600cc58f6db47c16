"""``edge-dp devices``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dp.runtime.devices import Listed
    from edge_dp.runtime.devices.base import Device, DeviceFacts

SUMMARY = "which machines are there to run artifacts, and which engines each can run"
DESCRIPTION = (
    "List this machine, the phones that adb knows and the emulated phones, and ask each that is ready what it is and which "
    "engines it can run; or ask the devices named. A device is local, adb://SERIAL, ssh://[USER@]HOST[:PORT] or emulated://CORE. "
    "Exit code 2 where one that was named does not answer."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("addresses", nargs="*", metavar="ADDRESS", help="only these devices")
    parser.add_argument("--clean", action="store_true", help="remove from the devices named what edge_dp has put there")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import json
    from concurrent.futures import ThreadPoolExecutor

    from edge_dp.errors import InputError
    from edge_dp.runtime.devices import list_devices, open_device

    if options.clean:
        if not options.addresses:
            raise InputError("--clean: expected the addresses of the devices to clean, found none")
        for address in options.addresses:
            with open_device(address) as device:
                device.clean()
            print(f"{address}: removed what edge_dp had put there")
        return 0
    if options.addresses:
        devices = [open_device(address) for address in options.addresses]
        with ThreadPoolExecutor() as threads:
            found = list(threads.map(_ask, devices))
    else:
        listed = list_devices()
        with ThreadPoolExecutor() as threads:
            found = list(
                threads.map(lambda one: _ask(open_device(one.address)) if one.ready else _unasked(one), listed)
            )
    if options.json:
        print(json.dumps(found))
    else:
        _print_table(found)
    return 2 if options.addresses and any(one["error"] for one in found) else 0


def _ask(device: Device) -> dict[str, Any]:
    """What a device says of itself, or why it does not answer."""
    from dataclasses import asdict

    from edge_dp.errors import EdgeDpError
    from edge_dp.runtime.engines import engines_on

    try:
        with device:
            facts, engines = device.facts(), engines_on(device)
    except EdgeDpError as error:
        return {"address": device.address, "facts": None, "engines": {}, "error": str(error), "note": None}
    return {"address": device.address, "facts": asdict(facts), "engines": engines, "error": None, "note": _note(facts)}


def _unasked(one: Listed) -> dict[str, Any]:
    note = f"{one.label}: {one.why_not or 'name it to ask it'}"
    return {"address": one.address, "facts": None, "engines": {}, "error": None, "note": note}


def _note(facts: DeviceFacts) -> str:
    memory = "" if facts.memory_bytes is None else f", {facts.memory_bytes / 2**30:.1f} GB"
    return f"{facts.system} {facts.machine}, {facts.processor or 'unnamed processor'}, {facts.cores} core(s){memory}"


def _print_table(found: list[dict[str, Any]]) -> None:
    from edge_dp.cli.tables import console, plain_table

    rows = []
    for one in found:
        runs = [name for name, reason in one["engines"].items() if reason is None]
        rows.append((one["address"], one["error"] or one["note"], ", ".join(runs) or "-"))
    console().print(plain_table("Devices", ("address", "what it is", "engines that it can run"), rows))
