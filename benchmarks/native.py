"""What the native runner costs beside a bare C++ loop, and what an inference costs on emulated phones.

    python benchmarks/native.py BUNDLE [--emulated]

The bare loop is compiled here: it loads the program with ExecuTorch's own classes, copies the input, runs and reads the clock.
Runner and loop are processes that take turns, A B B A, so that the ratio holds on a noisy machine; the target is a median within
2 %. With ``--emulated`` the shipped artifacts run on each emulated core, started twice: user instructions of one inference, which
must be equal in both. Interrupts add a few now and then, so the smallest of three counts.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from edge_dp.bundle.manifest import Bundle, read_bundle
from edge_dp.errors import EdgeDpError, GateError
from edge_dp.runtime.devices.emulated import EmulatedDevice
from edge_dp.runtime.emulator import CORES
from edge_dp.runtime.engines.native import NativeEngine
from edge_dp.runtime.native.build import build
from edge_dp.runtime.validate import signature

ARTIFACTS = ("executorch-int8", "executorch-fp32")
TARGET = 1.02
WARMUP = 5
BARE = r"""
// argv: model, raw input, count. One input; prints nanoseconds of each inference.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>
#include <executorch/extension/data_loader/mmap_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>
using namespace executorch::runtime;
int main(int, char** words) {
  runtime_init();
  executorch::extension::threadpool::NoThreadPoolGuard alone;
  auto loader = executorch::extension::MmapDataLoader::from(words[1]);
  auto program = Program::load(&loader.get());
  auto meta = program->method_meta("forward");
  std::vector<std::vector<uint8_t>> buffers;
  std::vector<Span<uint8_t>> spans;
  for (size_t i = 0; i < meta->num_memory_planned_buffers(); ++i) buffers.emplace_back(meta->memory_planned_buffer_size(i).get());
  for (auto& buffer : buffers) spans.push_back({buffer.data(), buffer.size()});
  HierarchicalAllocator planned({spans.data(), spans.size()});
  executorch::extension::MallocMemoryAllocator load, temporary;
  MemoryManager memory(&load, &planned, &temporary);
  auto method = program->load_method("forward", &memory);
  auto sizes = meta->input_tensor_meta(0)->sizes();
  auto order = meta->input_tensor_meta(0)->dim_order();
  std::vector<int32_t> shape(sizes.begin(), sizes.end());
  std::vector<uint8_t> dims(order.begin(), order.end());
  std::vector<float> values(meta->input_tensor_meta(0)->nbytes() / 4);
  std::FILE* file = std::fopen(words[2], "rb");
  if (!file || std::fread(values.data(), 4, values.size(), file) != values.size()) return 1;
  etensor::TensorImpl tensor(etensor::ScalarType::Float, shape.size(), shape.data(), values.data(), dims.data());
  for (int left = std::atoi(words[3]); left-- > 0;) {
    if (method->set_input(EValue(etensor::Tensor(&tensor)), 0) != Error::Ok) return 1;
    auto start = std::chrono::steady_clock::now();
    if (method->execute() != Error::Ok) return 1;
    std::printf("%lld\n", (long long)std::chrono::nanoseconds(std::chrono::steady_clock::now() - start).count());
  }
}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description="Cost of the native runner, and of an inference on emulated phones.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--emulated", action="store_true", help="count instructions on every emulated core")
    parser.add_argument("--cores", nargs="+", default=CORES, help="of those (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="turns of runner and loop (default: %(default)s)")
    parser.add_argument("--count", type=int, default=25, help="inferences of each turn (default: %(default)s)")
    options = parser.parse_args()
    bundle = read_bundle(options.bundle)
    missed = (
        emulated(bundle, options.cores) if options.emulated else beside_bare_loop(bundle, options.rounds, options.count)
    )
    if missed:
        raise GateError("; ".join(missed))
    return 0


def beside_bare_loop(bundle: Bundle, rounds: int, count: int) -> list[str]:
    """Print medians of runner and loop, in turn; what misses the target."""
    table = Table(
        "artifact", "bare loop p50", "runner p50", "ratio", title=f"{rounds} x {count} inferences each, 1 thread"
    )
    missed = []
    with tempfile.TemporaryDirectory() as scratch:
        source, views = Path(scratch, "bare.cpp"), Path(scratch, "views.f32")
        source.write_text(BARE)
        inputs = bundle.golden_inputs(bundle.manifest.golden[0])
        views.write_bytes(inputs["views"].tobytes())
        bare = build(source) / source.stem
        for name in ARTIFACTS:
            path = bundle.path(bundle.manifest.artifact(name).path)
            times: dict[str, list[int]] = defaultdict(list)
            with NativeEngine(path, signature(bundle)) as engine:
                for turn in range(2 * rounds):
                    # Both warm up as long: the runner by itself once, so once less on top.
                    if turn % 4 in (0, 3):
                        times["runner"] += engine.time(inputs, count + WARMUP - 1).nanoseconds[WARMUP - 1 :]
                    else:
                        times["bare"] += _run(bare, path, views, count + WARMUP)[WARMUP:]
            medians = {who: statistics.median(values) / 1e6 for who, values in times.items()}
            ratio = medians["runner"] / medians["bare"]
            table.add_row(name, f"{medians['bare']:.3f} ms", f"{medians['runner']:.3f} ms", f"{ratio:.4f}")
            if ratio > TARGET:
                missed.append(f"{name}: runner {ratio:.4f} x the bare loop, expected at most {TARGET}")
    Console().print(table)
    return missed


def emulated(bundle: Bundle, cores: Sequence[str]) -> list[str]:
    """Print user instructions of one inference on every core, in two boots; cores on which they differ."""
    table = Table("core", *ARTIFACTS, "two boots", title="user instructions of one inference")
    inputs = bundle.golden_inputs(bundle.manifest.golden[0])
    missed = []
    for core in cores:
        boots = []
        for _ in range(2):
            counts = []
            with EmulatedDevice(core) as phone:
                for name in ARTIFACTS:
                    path = bundle.path(bundle.manifest.artifact(name).path)
                    with NativeEngine(path, signature(bundle), device=phone, time_limit_s=300) as engine:
                        counts.append(min(engine.time(inputs, 3).instructions))
            boots.append(counts)
        equal = boots[0] == boots[1]
        table.add_row(core, *(f"{value:,}" for value in boots[0]), "equal" if equal else f"differ: {boots[1]}")
        if not equal:
            missed.append(f"{core}: instructions differ from boot to boot")
    Console().print(table)
    return missed


def _run(program: Path, *arguments: object) -> list[int]:
    done = subprocess.run([str(program), *map(str, arguments)], capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        print(f"native: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
