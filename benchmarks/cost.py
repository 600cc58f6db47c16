"""Cost of the students beside the paper's own and the int8 convolution ceiling: ExecuTorch int8, one thread, timed in turn.

    python benchmarks/cost.py [--emulated] [--cores cortex-a76 cortex-a55]

Every student of the registry (shipped weights, or random ones where none are shipped: time does not depend on them), the student
of Garg et al., ICCP 2024, with nearest and with bilinear upsampling, and three 3x3 convolutions of 256 channels at an eighth of
the size, which are about all that the engine can do. Each in the C++ runner, a process per turn, A B C A B C; the ratio is to the
paper's student, as shipped with nearest upsampling. With ``--emulated``: user instructions of one inference on emulated phones.
Artifacts are kept in the folder of ``--artifacts`` under the checksum of what they were made of.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from agreement import Subject, attempt, calibrated, place_of, shipped
from networks import MobileUNet, picture, settled
from rich.console import Console
from rich.table import Table
from torch import nn

from edge_dp.cli.progress import progress_bars
from edge_dp.converters.configs import plan
from edge_dp.converters.describe import multiply_adds
from edge_dp.errors import EdgeDpError, ExportError
from edge_dp.files import atomic_folder, json_dump, json_load, sha256
from edge_dp.models.checkpoint import shipped_checkpoints
from edge_dp.models.registry import STUDENTS, build_student
from edge_dp.runtime.devices.emulated import EmulatedDevice
from edge_dp.runtime.emulator import CORES
from edge_dp.runtime.engines.base import Signature, Tensors
from edge_dp.runtime.engines.native import NativeEngine
from edge_dp.runtime.latency import Timed

PAPER, PAPER_BILINEAR, CEILING = "paper's student", "paper's student, bilinear", "ceiling"
SEED = 4
COUNT = 5
INPUT = "views"
NOTE = "artifact.json"
LEAST_SPEED_UP, LEAST_SHARE, MOST_INSTRUCTIONS = 12.0, 0.35, 80e6
"""Of dp_disparity_s: times as fast as the paper's student, share of the ceiling, instructions on the A76."""
JUDGED, JUDGED_CORE = "dp_disparity_s", "cortex-a76"
LEAST = ("least ms", "x as fast", "% of ceiling")
DEFAULT_CORES = ("cortex-a76", "cortex-a55")


@dataclass(frozen=True, slots=True)
class Artifact:
    """One network as exported.

    path: of the int8 ``.pte``.
    """

    name: str
    path: Path
    parameters: int
    multiply_adds: int
    signature: Signature

    def inputs(self) -> Tensors:
        """Noise in [0, 1]."""
        rng = np.random.default_rng(SEED)
        return {name: rng.uniform(size=shape).astype(np.float32) for name, shape in self.signature.inputs}


@dataclass(slots=True)
class Cost:
    """What was measured of one network.

    p50_ms, least_ms: in turn with the others; the least is what a machine that does other work besides disturbs least.
    peak_memory_bytes: resident, of the runner's process.
    instructions: user instructions of one inference by emulated core.
    """

    name: str
    parameters: int
    multiply_adds: int
    p50_ms: float
    least_ms: float
    peak_memory_bytes: int | None
    instructions: dict[str, int]

    @property
    def gmac_per_s(self) -> float:
        """Billion multiply-adds per second, by the median."""
        return self.multiply_adds / self.p50_ms / 1e6

    @property
    def best_gmac_per_s(self) -> float:
        """The same by the least time."""
        return self.multiply_adds / self.least_ms / 1e6


class Ceiling(nn.Module):
    """Three convolutions that keep an int8 engine as busy as any can."""

    def __init__(self, channels: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()) for _ in range(3))
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        return self.layers(features)


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    **{name: partial(build_student, name) for name in STUDENTS},
    PAPER: partial(MobileUNet, 2),
    PAPER_BILINEAR: partial(MobileUNet, 2, "bilinear"),
    CEILING: Ceiling,
}


def main() -> int:
    parser = argparse.ArgumentParser(description="Time and instructions of the students beside the paper's own.")
    names = [*STUDENTS, PAPER, PAPER_BILINEAR, CEILING]
    parser.add_argument("--network", dest="networks", action="append", choices=names, help="default: all")
    parser.add_argument("--size", default="384x512", help="height x width, multiples of 32 (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=15, help=f"turns of each, of {COUNT} inferences (default: %(default)s)"
    )
    parser.add_argument("--emulated", action="store_true", help="count instructions on emulated cores")
    parser.add_argument("--cores", nargs="+", choices=CORES, default=DEFAULT_CORES, help="of those")
    parser.add_argument("--artifacts", type=Path, default=Path("out/benchmark_cost"), help="where exports are kept")
    parser.add_argument("--json", action="store_true", help="print JSON in place of the table")
    parser.add_argument("--gate", action="store_true", help="exit with 1 where a bound is missed")
    options = parser.parse_args()
    height, width = map(int, options.size.split("x"))
    names = options.networks or names
    with progress_bars() as bar:
        networks = []
        for index, name in enumerate(names):
            networks.append(artifact(name, height, width, options.artifacts))
            bar("export", index + 1, len(names), name)
        costs = measure(networks, options.rounds, lambda done: bar("time", done, options.rounds, ""))
        if options.emulated:
            for index, core in enumerate(options.cores):
                count_instructions(networks, costs, core)
                bar("emulate", index + 1, len(options.cores), core)
    missed = missed_bounds(costs)
    if options.json:
        print(json.dumps({"costs": [asdict(cost) for cost in costs.values()], "missed": missed}, indent=1))
    else:
        console = Console(highlight=False, width=150)
        console.print(table(costs, options.cores if options.emulated else ()))
        for text in missed:
            console.print(text, style="red")
    return int(options.gate and bool(missed))


def artifact(name: str, height: int, width: int, folder: Path) -> Artifact:
    """The int8 artifact of a network, made unless ``folder`` holds it.

    Raises:
        ExportError: it could not be made.
    """
    place = folder / f"{_file_name(name)}-{height}x{width}-{_key(name)}"
    if not (place / NOTE).is_file():
        subject = _subject(name, height, width)
        subject = replace(subject, cases=subject.cases[:1])
        (config,) = plan(["executorch"], ["int8"])
        with atomic_folder(place, marker=NOTE) as made, tempfile.TemporaryDirectory() as scratch:
            done = attempt(subject, config, Path(scratch))
            if done.refused:
                raise ExportError(f"{name}: {done.refused}")
            (file,) = place_of(subject, config, Path(scratch)).glob("*.pte")
            (made / "model.pte").write_bytes(file.read_bytes())
            network = subject.network
            facts = {
                "parameters": sum(parameter.numel() for parameter in network.module.parameters()),
                "multiply_adds": multiply_adds(network),
                "inputs": network.signature.inputs,
                "outputs": network.signature.outputs,
            }
            json_dump(facts, made / NOTE)
    note = json_load(place / NOTE)
    inputs, outputs = (tuple((key, tuple(shape)) for key, shape in note[side]) for side in ("inputs", "outputs"))
    signature = Signature(inputs, outputs)
    return Artifact(name, place / "model.pte", note["parameters"], note["multiply_adds"], signature)


def measure(networks: Sequence[Artifact], rounds: int, progress: Callable[[int], None]) -> dict[str, Cost]:
    """Time all in turn, in the runner on this machine: each in every round, so that all see its good and bad moments."""
    timed = {network.name: Timed() for network in networks}
    costs = {}
    with ExitStack() as stack:
        engines = {
            network.name: stack.enter_context(NativeEngine(network.path, network.signature)) for network in networks
        }
        for turn in range(rounds):
            for network in networks:
                timed[network.name].add(engines[network.name].time(network.inputs(), COUNT))
            progress(turn + 1)
        for network in networks:
            costs[network.name] = Cost(
                network.name,
                network.parameters,
                network.multiply_adds,
                float(np.median(timed[network.name].nanoseconds)) / 1e6,
                min(timed[network.name].nanoseconds) / 1e6,
                engines[network.name].state().peak_memory_bytes,
                {},
            )
    return costs


def count_instructions(networks: Sequence[Artifact], costs: dict[str, Cost], core: str) -> None:
    """Of one inference on an emulated core: the least of three, as an interrupt may add some."""
    with EmulatedDevice(core) as phone:
        for network in networks:
            with NativeEngine(network.path, network.signature, device=phone, time_limit_s=600) as engine:
                costs[network.name].instructions[core] = min(engine.time(network.inputs(), 3).instructions)


def table(costs: dict[str, Cost], cores: Sequence[str]) -> Table:
    """For the console."""
    found = Table(title="ExecuTorch int8, one thread, the C++ runner, all timed in turn")
    found.add_column("network")
    counted = [f"M instr. {core.removeprefix('cortex-')}" for core in cores]
    for column in ("k par.", "M MAC", "p50 ms", "x as fast", "GMAC/s", "% of ceiling", *LEAST, "peak MB", *counted):
        found.add_column(column, justify="right")
    for name, cost in costs.items():
        memory = "" if cost.peak_memory_bytes is None else f"{cost.peak_memory_bytes / 1e6:.0f}"
        found.add_row(
            name,
            f"{cost.parameters / 1e3:.1f}",
            f"{cost.multiply_adds / 1e6:.0f}",
            f"{cost.p50_ms:.2f}",
            f"{costs[PAPER].p50_ms / cost.p50_ms:.1f}" if PAPER in costs else "",
            f"{cost.gmac_per_s:.0f}",
            f"{100 * cost.gmac_per_s / costs[CEILING].gmac_per_s:.0f}" if CEILING in costs else "",
            f"{cost.least_ms:.2f}",
            f"{costs[PAPER].least_ms / cost.least_ms:.1f}" if PAPER in costs else "",
            f"{100 * cost.best_gmac_per_s / costs[CEILING].best_gmac_per_s:.0f}" if CEILING in costs else "",
            memory,
            *(f"{cost.instructions[core] / 1e6:,.1f}" for core in cores),
        )
    return found


def missed_bounds(costs: dict[str, Cost]) -> list[str]:
    """What ``JUDGED`` promises and does not keep, of what was measured."""
    mine = costs.get(JUDGED)
    if mine is None:
        return []
    missed = []
    if PAPER in costs and (ratio := costs[PAPER].p50_ms / mine.p50_ms) < LEAST_SPEED_UP:
        missed.append(f"{JUDGED}: {ratio:.1f} times as fast as the {PAPER}, expected at least {LEAST_SPEED_UP:g}")
    if CEILING in costs and (share := mine.gmac_per_s / costs[CEILING].gmac_per_s) < LEAST_SHARE:
        missed.append(f"{JUDGED}: {share:.0%} of the int8 convolution ceiling, expected at least {LEAST_SHARE:.0%}")
    if (count := mine.instructions.get(JUDGED_CORE, 0)) > MOST_INSTRUCTIONS:
        missed.append(
            f"{JUDGED}: {count / 1e6:.1f} M instructions on {JUDGED_CORE}, expected at most {MOST_INSTRUCTIONS / 1e6:g} M"
        )
    return missed


def _subject(name: str, height: int, width: int) -> Subject:
    """The network, quantised: a shipped student by its own ranges, others calibrated on two pictures."""
    if name in shipped_checkpoints():
        return shipped(name, height, width)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    shape = (256, height // 8, width // 8) if name == CEILING else (2, height, width)
    data = [{INPUT: picture(rng, *shape)} for _ in range(2)]
    return calibrated(settled(BUILDERS[name](), data), {INPUT: (1, *shape)}, data, _file_name(name))


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)


def _key(name: str) -> str:
    """Checksum of what an artifact is made of: weights and ranges, or the source of the network; and the engine's version."""
    folder = shipped_checkpoints().get(name)
    sources = [folder / "config.yaml"] if folder else [Path(str(inspect.getfile(BUILDERS[name]().__class__)))]
    parts = [*(sha256(path) for path in sources), metadata.version("executorch"), metadata.version("torch")]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:12]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        print(f"cost: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
