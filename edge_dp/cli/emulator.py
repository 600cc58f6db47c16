"""``edge-dp emulator``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edge_dp.runtime.emulator import Machine

SUMMARY = "build, start and stop emulated arm64 phones"
DESCRIPTION = (
    "An emulated phone is a virtual arm64 machine with one core of a phone, built from Debian packages and reached through the "
    "real adb: use it as --device emulated://CORE. It needs no root and changes nothing on this machine but a cache folder "
    "(EDGE_DP_CACHE, else edge_dp in XDG_CACHE_HOME or ~/.cache). It is not Android, and its clock counts instructions: it tells "
    "what an artifact computes and how much work that is, not how fast a phone is."
)
_CORES = "cortex-a53, cortex-a55, cortex-a76 or cortex-a710"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="fetch the packages and make the image, unless that was done")
    build.add_argument("--refresh", action="store_true", help="make it anew, from today's packages")
    build.set_defaults(action=_build)
    start = actions.add_parser(
        "start", help="start a phone that runs until it is stopped; built before that if need be"
    )
    start.add_argument("core", metavar="CORE", help=_CORES)
    start.add_argument(
        "--memory", type=int, metavar="MB", help="of the phone; its files live there too (default: 1024)"
    )
    start.set_defaults(action=_start)
    stop = actions.add_parser("stop", help="stop a phone, or all")
    stop.add_argument("core", metavar="CORE", nargs="?", help=_CORES)
    stop.add_argument("--all", action="store_true", help="stop all that run")
    stop.set_defaults(action=_stop)
    status = actions.add_parser("status", help="what is built and what runs")
    status.set_defaults(action=_status)
    for action in (build, start, stop, status):
        action.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    code: int = options.action(options)
    return code


def _build(options: argparse.Namespace) -> int:
    from edge_dp.cli.progress import progress_bars
    from edge_dp.runtime.emulator import build_image, host_tools

    with progress_bars() as progress:
        tools = host_tools(progress, refresh=options.refresh)
        image = build_image(progress, refresh=options.refresh)
    built = {"image": str(image.folder), "qemu": str(tools.qemu), "adb": str(tools.adb)}
    _print(options, built, [f"{name}: {path}" for name, path in built.items()])
    return 0


def _start(options: argparse.Namespace) -> int:
    from edge_dp.cli.progress import progress_bars
    from edge_dp.runtime.emulator import start_machine

    with progress_bars() as progress:
        machine = start_machine(options.core, progress, memory_mb=options.memory, keep=True)
    _print(options, _facts(machine), _lines(machine))
    return 0


def _stop(options: argparse.Namespace) -> int:
    from edge_dp.errors import InputError
    from edge_dp.runtime.emulator import machines, stop_machine

    if options.all == (options.core is not None):
        raise InputError(f"emulator stop: expected a core ({_CORES}) or --all, found both or neither.")
    names = [machine.core for machine in machines()] if options.all else [options.core]
    stopped = [name for name in names if stop_machine(name)]
    _print(options, {"stopped": stopped}, [f"stopped {core}" for core in stopped] or ["nothing ran"])
    return 0


def _status(options: argparse.Namespace) -> int:
    from edge_dp.runtime.emulator import find_image, machines

    image, running = find_image(), machines()
    found = {"image": None if image is None else str(image.folder), "running": [_facts(m) for m in running]}
    lines = [f"image: {image.folder}" if image else "image: not built (edge-dp emulator build)"]
    lines += [line for machine in running for line in _lines(machine)] or ["nothing runs"]
    _print(options, found, lines)
    return 0


def _facts(machine: Machine) -> dict[str, Any]:
    return {
        "core": machine.core,
        "device": f"emulated://{machine.core}",
        "serial": machine.serial,
        "adb": machine.adb,
        "environment": machine.environment,
        "pid": machine.pid,
        "memory_mb": machine.memory_mb,
        "kept": machine.kept,
    }


def _lines(machine: Machine) -> list[str]:
    """The machine's address, and a command line that talks to it with adb."""
    import shlex

    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in machine.environment.items())
    command = f"{variables} {shlex.quote(machine.adb)} -s {machine.serial} shell"
    return [f"emulated://{machine.core}: process {machine.pid}, {machine.memory_mb} MB", f"  {command}"]


def _print(options: argparse.Namespace, value: dict[str, Any], lines: list[str]) -> None:
    import json

    print(json.dumps(value) if options.json else "\n".join(lines))
