"""How fast captures are simulated, and how fast a large data set opens.

    python benchmarks/simulation.py

One core: OpenCV, numpy and torch are held to one thread, and processor time is measured, so that other work on the machine
does not count. Captures are 384x512, one channel, drawn as the default configuration draws them. A lens pool of four stands
for a long run, in which kernels are cached; they are before the clock starts. Where there is a CUDA device, the same captures
are rendered there, by the clock on the wall.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sized
from multiprocessing import get_context
from pathlib import Path

# Read when numpy is imported: its idle threads spin, which would count as processor time.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from edge_dp.data.registry import DATASETS, open_dataset
from edge_dp.data.simulated import SimulatedDataset
from edge_dp.errors import EdgeDpError
from edge_dp.simulation.capture import (
    CaptureDraw,
    SimulationConfig,
    draw_capture,
    simulate_views,
    simulate_with_rig,
)
from edge_dp.simulation.dataset import write_dataset
from edge_dp.simulation.lens import LensConfig
from edge_dp.simulation.render import render_disparity, render_views
from edge_dp.simulation.scenes import SceneConfig
from edge_dp.simulation.sensor import sense

LENSES = {
    "half disc": (LensConfig({"half_disc": 1.0}, pool=4), 8.0),
    "kernel field of pixel4": (LensConfig({"sensor:pixel4": 1.0}, pool=4), 3.0),
}
"""Lens, and captures per second and core that it is to reach."""
GPU_TARGET = 500.0
OPEN_SECONDS, OPEN_MB = 2.0, 200.0
SEED = 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the simulator and the opening of large data sets.")
    parser.add_argument("--count", type=int, default=40, help="captures per row on one core (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="captures at once on a GPU (default: %(default)s)")
    parser.add_argument("--files", type=int, default=100_000, help="files of the sets to open (default: %(default)s)")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    console = Console(highlight=False, width=110)
    console.print(one_core(options.count))
    console.print(by_torch(options.count, options.batch))
    console.print(opening(options.files))
    return 0


def configuration(lens: LensConfig) -> SimulationConfig:
    return SimulationConfig(SceneConfig(height=384, width=512), lens)


def per_step(step: Callable[[int], object], count: int, clock: Callable[[], float] = time.process_time) -> float:
    """Seconds per step: the mean of ``step(0)`` to ``step(count - 1)``, after a first round that fills the caches."""
    for index in range(count):
        step(index)
    start = clock()
    for index in range(count):
        step(index)
    return (clock() - start) / count


def one_core(count: int) -> Table:
    table = Table(title=f"One core, OpenCV, 384x512, mean of {count} captures")
    for column in (
        "lens",
        "captures/s",
        "target",
        "scene ms",
        "views ms",
        "sensor ms",
        "truth ms",
        "with rig: captures/s",
    ):
        table.add_column(column, justify="left" if column == "lens" else "right")
    for name, (lens, target) in LENSES.items():
        *parts, whole, rig = seconds(configuration(lens), count)
        milliseconds = (f"{1000 * part:.1f}" for part in parts)
        table.add_row(name, f"{1 / whole:.1f}", f"{target:.0f}", *milliseconds, f"{1 / rig:.1f}")
    return table


def seconds(config: SimulationConfig, count: int) -> list[float]:
    """Per capture: of the scene, the views, the sensor and the truth; of all that; and with the rig."""
    margin = config.scene.margin
    draws = [draw_capture(SEED, index, config) for index in range(count)]
    views = [render(draw, margin) for draw in draws]
    steps: list[Callable[[int], object]] = [
        lambda i: draw_capture(SEED, i, config),
        lambda i: render(draws[i], margin),
        lambda i: sense(views[i], draws[i].sensor),
        lambda i: render_disparity(draws[i].scene, margin),
        lambda i: simulate_views(SEED, [i], config),
        lambda i: simulate_with_rig(SEED, i, config),
    ]
    return [per_step(step, count) for step in steps]


def render(draw: CaptureDraw, margin: int) -> np.ndarray:
    return render_views(draw.scene, draw.psf, margin, draw.window)


def by_torch(count: int, batch: int) -> Table:
    """Rendering and sensing of scenes that lie on the device, and everything from drawing the scenes on one core."""
    import torch

    torch.set_num_threads(1)
    table = Table(title="torch, 384x512")
    for column in ("device", "lens", "batch", "render + sense: captures/s", "target", "with drawing and upload"):
        table.add_column(column, justify="left" if column in ("device", "lens") else "right")
    devices = [("cpu", 4, max(1, count // 8))]
    if torch.cuda.is_available():
        devices.append(("cuda", batch, 20))
    for device, size, rounds in devices:
        label = torch.cuda.get_device_name() if device == "cuda" else "CPU, one core"
        for name, (lens, _) in LENSES.items():
            rendered, drawn = torch_rates(configuration(lens), device, size, rounds)
            target = f"{GPU_TARGET:.0f}" if device == "cuda" else "-"
            table.add_row(label, name, str(size), f"{rendered:.1f}", target, f"{drawn:.1f}")
    if len(devices) == 1:
        table.caption = "no CUDA device here"
    return table


def torch_rates(config: SimulationConfig, device: str, batch: int, rounds: int) -> tuple[float, float]:
    """Captures per second: from scenes on the device; from nothing."""
    import torch

    from edge_dp.simulation.render_torch import SceneBatch, TorchRenderer

    renderer = TorchRenderer(config.scene.margin)
    held = min(rounds, 4)  # different batches, so that the device does not see one again and again
    draws = [[draw_capture(SEED, batch * k + i, config) for i in range(batch)] for k in range(held)]
    scenes = [SceneBatch.of([draw.scene for draw in part], device) for part in draws]

    def sensed(index: int) -> None:
        part = draws[index % held]
        clean = renderer(scenes[index % held], [draw.psf for draw in part], [draw.window for draw in part])
        for views, draw in zip(clean, part, strict=True):
            sense(views, draw.sensor, torch)
        if device == "cuda":
            torch.cuda.synchronize()

    def everything(index: int) -> None:
        numbers = range(batch * (index % held), batch * (index % held + 1))
        simulate_views(SEED, numbers, config, renderer, device)
        if device == "cuda":
            torch.cuda.synchronize()

    clock = time.perf_counter if device == "cuda" else time.process_time
    return batch / per_step(sensed, rounds, clock), batch / per_step(everything, held, clock)


def opening(files: int) -> Table:
    files += -files % WHOLE
    table = Table(title=f"Opening a data set of {files:,} files, in a process of its own")
    for column in ("data set", "samples", "seconds", "target", "Python objects MB", "process grows by MB", "target"):
        table.add_column(column, justify="left" if column == "data set" else "right")
    with tempfile.TemporaryDirectory() as name:
        folders = {kind: Path(name) / kind for kind in (*LAYOUTS, SIMULATED)}
        for kind, layout in LAYOUTS.items():
            for path in itertools.islice(layout(), files):
                (folders[kind] / path).parent.mkdir(parents=True, exist_ok=True)
                (folders[kind] / path).touch()
        fill_simulated(folders[SIMULATED], files)
        for kind, folder in folders.items():
            with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
                seconds, grown, samples = pool.apply(open_once, (kind, folder))
                allocated = pool.apply(open_traced, (kind, folder))
            row = [f"{seconds:.2f}", f"{OPEN_SECONDS:.0f}", f"{allocated:.0f}", f"{grown:.0f}", f"{OPEN_MB:.0f}"]
            table.add_row(kind, f"{samples:,}", *row)
    return table


def xin2021() -> Iterator[str]:
    """Paths of scenes, few folders."""
    for scene in itertools.count():
        yield from (f"views/{scene:06d}_{view}.png" for view in ("left", "right"))
        yield f"defocus_map/{scene:06d}_gt.png"


def google2019() -> Iterator[str]:
    """Paths of captures, many folders."""
    parts = {"left_pd/{}/result_leftPd": "png", "right_pd/{}/result_rightPd": "png"}
    parts |= {"merged_depth/{}/result_merged_depth": "png", "merged_conf/{}/result_merged_conf": "npy"}
    for capture in itertools.count():
        for view in ("center", "left", "right", "top", "bottom"):
            yield from (f"test/{part.format(f'{capture:06d}')}_{view}.{suffix}" for part, suffix in parts.items())


LAYOUTS = {"xin2021": xin2021, "google2019": google2019}
SIMULATED = "simulated"
WHOLE = 60
"""Files that make whole samples in each layout."""


def fill_simulated(folder: Path, files: int) -> None:
    """A tiny data set that is said to be large, with empty shards."""
    config = SimulationConfig(SceneConfig(height=8, width=8, margin=0))
    write_dataset(folder, 1, SEED, config, workers=1)
    note = folder / "dataset.json"
    note.write_text(note.read_text().replace('"count": 1,', f'"count": {64 * files},'))
    for shard in range(1, files):
        (folder / f"shard_{shard:05d}.npz").touch()


def open_set(kind: str, folder: Path) -> Sized:
    return SimulatedDataset(folder) if kind == SIMULATED else open_dataset(kind, folder)


def open_once(kind: str, folder: Path) -> tuple[float, float, int]:
    """Seconds, growth of the process's peak memory in MB, samples; the reader's import is not counted."""
    if kind in DATASETS:
        DATASETS[kind].reader()
    before, start = peak_mb(), time.perf_counter()
    samples = open_set(kind, folder)
    return time.perf_counter() - start, peak_mb() - before, len(samples)


def open_traced(kind: str, folder: Path) -> float:
    """Peak of what Python allocates, MB."""
    tracemalloc.start()
    open_set(kind, folder)
    return tracemalloc.get_traced_memory()[1] / 1e6


def peak_mb() -> float:
    """Greatest resident size of this process so far, MB; NaN where the system does not say."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    sizes = [float(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM:")]
    return sizes[0] if sizes else float("nan")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        sys.exit(f"simulation: {error}")
