"""What an export costs: time and memory beside the toolchains' own calls, and the sizes of the files.

    python benchmarks/export.py

The whole export is ``export_checkpoint`` of a shipped student: four formats, int8 and float, each artifact proved, golden
vectors, manifest. The bare calls hand the same graphs to each toolchain once and read nothing back. Each runs in a process of
its own, in turn; what it imports counts. On a machine that does other work, look at the processor's time.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

STUDENT = "dp_disparity_s"
OVERHEAD, SECONDS, MEMORY_GB = 0.15, 90.0, 4.0
SIZE_RATIO = 0.45
MILLION = (48, 72, 96, 120, 144)
"""Widths of a student of a million parameters."""
SETUP = ("network_of_checkpoint", "quantise_checkpoint", "checkpoint_cases", "describe_checkpoint")
RESULTS = ("expected_outputs", "write_golden", "measure_stages", "write_stages", "write_manifest", "read_bundle")
"""Functions that the export calls before and after the converters."""
INTEGER = {"executorch": "int8", "tflite": "int8", "coreml": "w8a8", "onnx": "int8"}


def bare(out: Path, height: int, width: int) -> dict[str, float]:
    """Each toolchain's own calls on the shipped student. Seconds of the processor by what was done."""
    import torch

    from edge_dp.converters.source import network_of_checkpoint, quantise_checkpoint
    from edge_dp.models.checkpoint import read_checkpoint
    from edge_dp.quiet import quiet

    start = time.process_time()
    checkpoint = read_checkpoint(STUDENT)
    network = network_of_checkpoint(checkpoint, height, width)
    graphs = quantise_checkpoint(network, checkpoint)
    seconds = {"quantised graphs": time.process_time() - start}
    calls: dict[str, tuple[Callable[..., None], Any]] = {
        "executorch int8": (bare_executorch, graphs.folded),
        "executorch fp32": (bare_executorch, network.module),
        "tflite int8": (functools.partial(bare_tflite, integer=True), graphs.unfolded),
        "tflite fp32": (functools.partial(bare_tflite, integer=False), network.module),
        "coreml w8a8": (bare_coreml, graphs.folded),
        "coreml fp16": (bare_coreml, network.module),
        "onnx int8": (bare_onnx, graphs.folded),
        "onnx fp32": (bare_onnx, network.module),
    }
    for name, (call, module) in calls.items():
        start = time.process_time()
        with quiet(), torch.no_grad():
            call(module, network.example, out / name.replace(" ", "-"))
        seconds[name] = time.process_time() - start
    return seconds


def bare_executorch(module: Any, example: Any, path: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(module, example, strict=True)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.with_suffix(".pte").write_bytes(lowered.to_executorch().buffer)


def bare_tflite(module: Any, example: Any, path: Path, *, integer: bool) -> None:
    import litert_torch
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    scheme = None
    if integer:
        quantizer = PT2EQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        scheme = QuantConfig(pt2e_quantizer=quantizer)
    litert_torch.convert(module, example, quant_config=scheme).export(str(path.with_suffix(".tflite")))


def bare_coreml(module: Any, example: Any, path: Path) -> None:
    import coremltools as ct
    import torch

    program = torch.export.export(module, example, strict=False).run_decompositions({})
    model = ct.convert(program, minimum_deployment_target=ct.target.iOS17, skip_model_load=True)
    model.save(str(path.with_suffix(".mlpackage")))


def bare_onnx(module: Any, example: Any, path: Path) -> None:
    import torch

    program = torch.onnx.export(module, example, dynamo=True, verbose=False)
    assert program is not None
    program.save(str(path.with_suffix(".onnx")))


def whole(out: Path, height: int, width: int) -> dict[str, float]:
    """The export. Seconds of the processor by its parts; what is in none of them is imports and small."""
    from edge_dp.converters import export
    from edge_dp.converters.registry import CONVERTERS, make_converter
    from edge_dp.runtime.engines.base import Engine

    seconds: defaultdict[str, float] = defaultdict(float)

    def timed(owner: Any, name: str, label: str) -> None:
        function = getattr(owner, name)

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[label] += time.process_time() - start

        setattr(owner, name, wrapper)

    for name in CONVERTERS:
        converter = type(make_converter(name))
        timed(converter, "_convert", f"{name}: convert")
        timed(converter, "_kernels", f"{name}: read kernels")
        timed(converter, "_activations", f"{name}: read quantisation")
    for name in ("activate", "infer"):
        timed(Engine, name, f"engines: {name}")
    for name in (*SETUP, *RESULTS):
        timed(export, name, name.replace("_", " "))
    export.export_checkpoint(STUDENT, out / "bundle", size=(height, width))
    return dict(seconds)


def sizes(out: Path, height: int, width: int) -> dict[str, float]:
    """Bytes of each int8 and fp32 artifact of a student of a million parameters."""
    import numpy as np
    import torch
    from networks import SEED, picture, settled

    import edge_dp
    from edge_dp.models.dp_disparity import DpDisparity

    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    samples = [{"views": picture(rng, 2, height, width)} for _ in range(4)]
    module = settled(DpDisparity(MILLION, (1,) * len(MILLION)), samples)
    bundle = edge_dp.export(
        module,
        {"views": (1, 2, height, width)},
        out / "bundle",
        precision=sorted({*INTEGER.values(), "fp32"}),
        calibration=samples,
    )
    found = {artifact.name: float(artifact.size_bytes) for artifact in bundle.manifest.artifacts}
    return found | {"parameters": float(bundle.manifest.parameters)}


PARTS = {"bare": bare, "whole": whole, "sizes": sizes}


def child(part: str, size: str) -> dict[str, Any]:
    """Run a part in a process of its own: what it returns, seconds on the wall and of the processor, peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--size", size, "--part", part, "--out", folder]
        start = time.perf_counter()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"export: {part}: {result.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return found | {"wall": seconds, "processor": processor}


def report(rounds: int, size: str, console: Console) -> None:
    """Time and memory, and where both go."""
    runs: dict[str, list[dict[str, Any]]] = {"bare": [], "whole": []}
    for _ in range(rounds):
        for part, done in runs.items():
            done.append(child(part, size))
    best = {
        part: {key: min(run[key] for run in done) for key in ("wall", "processor", "gigabytes")}
        for part, done in runs.items()
    }
    table = Table(title=f"{STUDENT} at {size}: four formats, int8 and float; best of {rounds}")
    for column in ("", "bare calls", "whole export", "overhead", "target"):
        table.add_column(column, justify="right" if column else "left")
    for key, label in (("wall", "seconds"), ("processor", "processor's seconds")):
        one, two = best["bare"][key], best["whole"][key]
        table.add_row(label, f"{one:.1f}", f"{two:.1f}", f"{two / one - 1:+.0%}", f"{OVERHEAD:+.0%}, {SECONDS:.0f} s")
    one, two = (best[part]["gigabytes"] for part in ("bare", "whole"))
    table.add_row("peak memory GB", f"{one:.2f}", f"{two:.2f}", f"{two / one - 1:+.0%}", f"{MEMORY_GB:.0f} GB")
    console.print(table)
    for part, title in (("bare", "Bare calls"), ("whole", "Whole export")):
        run = min(runs[part], key=lambda run: run["processor"])
        stages = Table(title=f"{title}, {run['processor']:.1f} s of the processor; first uses import", width=60)
        stages.add_column("part")
        stages.add_column("s", justify="right")
        for name, seconds in sorted(run["found"].items(), key=lambda item: -item[1]):
            stages.add_row(name, f"{seconds:.2f}")
        stages.add_row("the rest", f"{run['processor'] - sum(run['found'].values()):.2f}")
        console.print(stages)


def report_sizes(console: Console) -> None:
    found = child("sizes", "96x128")["found"]
    table = Table(title=f"Files of a student of {found['parameters'] / 1e6:.2f} M parameters")
    for column in ("format", "int8 KB", "fp32 KB", "ratio", "target"):
        table.add_column(column, justify="left" if column == "format" else "right")
    for name, precision in INTEGER.items():
        integer, floating = found[f"{name}-{precision}"], found[f"{name}-fp32"]
        cells = (f"{integer / 1000:.0f}", f"{floating / 1000:.0f}", f"{integer / floating:.3f}", f"{SIZE_RATIO}")
        table.add_row(name, *cells)
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the whole export beside the toolchains' own calls.")
    parser.add_argument("--rounds", type=int, default=1, help="of both, in turn (default: %(default)s)")
    parser.add_argument("--size", default="384x512", help="height x width of the student (default: %(default)s)")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        height, width = map(int, options.size.split("x"))
        found = PARTS[options.part](options.out, height, width)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 * (1.024 if sys.platform == "linux" else 1e-3)
        print(json.dumps({"found": found, "gigabytes": peak}))
        return 0
    console = Console(highlight=False, width=110)
    report(options.rounds, options.size, console)
    report_sizes(console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
