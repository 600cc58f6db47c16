"""What a machine says of itself, read the same way from this machine and from a remote shell."""

from __future__ import annotations

from collections import defaultdict

from edge_dp.runtime.devices.base import DeviceFacts

PYTHON = (3, 9)
"""The oldest that runs the agent."""

_CHECK = f"""
from importlib.util import find_spec
import sys
sys.exit(sys.version_info < {PYTHON} or find_spec("numpy") is None)
"""  # importing numpy takes seconds on an emulated processor
PROBE = f"""
unset OMP_NUM_THREADS OMP_THREAD_LIMIT  # nproc would obey them
echo "machine:$(uname -m)"
echo "system:$(uname -s)"
echo "online:$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null)"
python=$(command -v python3 2>/dev/null) &&
  "$python" -c '{_CHECK}' >/dev/null 2>&1 && echo "python:$python"
cat /proc/meminfo /proc/cpuinfo 2>/dev/null
"""
"""Shell line whose output ``parse_facts`` reads."""

_IMPLEMENTER_ARM = "0x41"
_ARM_PARTS = {  # as in the Main ID Register of each core's technical reference manual
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd09": "Cortex-A73",
    "0xd0a": "Cortex-A75",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse-V1",
    "0xd41": "Cortex-A78",
    "0xd44": "Cortex-X1",
    "0xd46": "Cortex-A510",
    "0xd47": "Cortex-A710",
    "0xd48": "Cortex-X2",
    "0xd49": "Neoverse-N2",
    "0xd4d": "Cortex-A715",
    "0xd4e": "Cortex-X3",
}


def parse_facts(text: str) -> DeviceFacts:
    """Facts from lines ``key: value``: those of ``PROBE`` and of /proc, in any order; what is absent stays empty."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if value.strip():
            found[key.strip().lower()].append(value.strip())

    def first(key: str) -> str:
        return found[key][0] if found[key] else ""

    memory = first("memtotal").split()
    online = first("online")
    return DeviceFacts(
        machine=first("machine"),
        system=first("system"),
        processor=_processor(found),
        cores=int(online) if online.isdigit() else max(1, len(found["processor"])),
        memory_bytes=int(memory[0]) * 1024 if memory and memory[0].isdigit() else None,
        features=tuple((first("features") or first("flags")).split()),
        python=first("python") or None,
    )


def _processor(found: dict[str, list[str]]) -> str:
    """Name of each kind of core, once: ``Cortex-A55 + Cortex-A76``."""
    if found["cpu part"]:
        makers = found["cpu implementer"] or [""]
        cores = zip(makers, found["cpu part"], strict=False)
        names = [
            _ARM_PARTS.get(part, part) if maker == _IMPLEMENTER_ARM else f"{maker} {part}" for maker, part in cores
        ]
    else:
        names = found["model name"] or found["hardware"]
    return " + ".join(dict.fromkeys(names))
