"""A report with pictures, made by hand: three artifacts that ran on the host and one that did not; and one of several devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edge_dp.bundle.manifest import Artifact, Bundle, GoldenCase, Kernels, Manifest, Preprocessing, TensorSpec
from edge_dp.preprocessing import ExposureNormalisation
from edge_dp.runtime.accuracy import Accuracy, Score
from edge_dp.runtime.blame import Blame, Layer
from edge_dp.runtime.dataset_parity import DatasetParity
from edge_dp.runtime.engines.base import EngineState
from edge_dp.runtime.latency import PRESETS, Latency, Timed, summarise
from edge_dp.runtime.parity import THRESHOLDS, compare
from edge_dp.runtime.report.html import write_page
from edge_dp.runtime.report.model import SCHEMA, Report, Row
from edge_dp.runtime.report.pictures import PICTURES, write_pictures

STEP = 0.01
VIEWS, OUTPUT = (1, 2, 48, 64), (1, 1, 24, 32)
# name, format, precision, reference, engine
ARTIFACTS = (
    ("tflite-int8", "tflite", "int8", "quantised", "litert"),
    ("onnx-fp32", "onnx", "fp32", "float", "onnxruntime"),
    ("coreml-w8a8", "coreml", "w8a8", "quantised", "coreml-reference"),
    ("executorch-fp32", "executorch", "fp32", "float", "none"),
)
PHONE, EMULATED, BOARD = "adb://SERIAL", "emulated://cortex-a76", "ssh://pi@board"


@dataclass(frozen=True)
class Made:
    """A bundle with pictures, and the report on it."""

    bundle: Bundle
    report: Report

    def page(self, **changes) -> str:
        return write_page(replace(self.report, **changes), self.bundle.folder).read_text(encoding="utf-8")

    def picture(self, row: int, what: str) -> np.ndarray:
        """(H, W, 3), red first."""
        return cv2.imread(str(self.bundle.folder / self.report.rows[row].pictures[what]))[..., ::-1]


def timed(milliseconds, *, instructions=(), emulated=False, preset="brief", **state) -> Latency:
    """The latency of one engine, as the runtime summarises it."""
    nanoseconds = [round(value * 1e6) for value in milliseconds]
    before, after = EngineState(load_ns=30_000_000, temperature_c=31.5), EngineState(temperature_c=38.25, **state)
    found = Timed(nanoseconds, list(instructions), before, after)
    return summarise(found, PRESETS[preset], threads=1, first_ms=9.0, emulated=emulated)


def make_report(folder: Path) -> Made:
    """Three artifacts that ran on the host, and one that did not."""
    rng = np.random.default_rng(0)
    views = rng.uniform(0, 1, VIEWS).astype(np.float32)
    views[0, :, 0, 0] = 0.5
    floats = {
        "disparity": np.linspace(-2, 3, 768, dtype=np.float32).reshape(OUTPUT),
        "confidence": rng.uniform(0, 1, OUTPUT).astype(np.float32),
    }
    quantised = {name: np.rint(values / STEP).astype(np.float32) * np.float32(STEP) for name, values in floats.items()}
    found = {
        "tflite-int8": {name: values.copy() for name, values in quantised.items()},
        "onnx-fp32": {name: values.copy() for name, values in floats.items()},
        "coreml-w8a8": quantised,
    }
    found["tflite-int8"]["disparity"][0, 0, 0, :6] += np.float32(STEP) * np.array([1, 2, 4, 40, -4, -40], np.float32)
    found["onnx-fp32"]["disparity"][0, 0, 0, 0] += np.float32(3e-6)
    bundle = small_bundle(folder, views, {"float": floats, "quantised": quantised})
    (folder / PICTURES).mkdir()
    drawn = {(name, "", ""): (bundle.manifest.artifact(name), outputs) for name, outputs in found.items()}
    shared, by_row = write_pictures(bundle, drawn, folder / PICTURES)
    references = {"float": floats, "quantised": quantised}
    rows = tuple(
        Row(
            artifact=name,
            format=form,
            precision=precision,
            engine=engine,
            device="local",
            size_bytes=150_000,
            reference=reference,
            error=None if name in found else f"{form}: torch not installed: pip install 'edge-dp[{form}]'",
            statistics={
                output: compare([values], [references[reference][output]], STEP)
                for output, values in found.get(name, {}).items()
            },
            latency=timed(rng.gamma(4, size=50) + 5) if name in tuple(found)[:2] else None,
            pictures=by_row.get((name, "", ""), {}),
            kernels_integer={"CONV_2D": 20} if reference == "quantised" else {},
            kernels_floating={"CONV_2D": 20} if reference == "float" else {},
        )
        for name, form, precision, reference, engine in ARTIFACTS
    )
    report = Report(
        schema=SCHEMA,
        model="dp_small",
        parameters=128098,
        created="2026-01-02T03:04:05+00:00",
        host={"machine": "x86_64", "processor": "Some CPU", "threads": "1"},
        versions={"edge-dp": "0.1.0"},
        units={"disparity": "px of the input", "confidence": "code"},
        thresholds=THRESHOLDS,
        rows=rows,
        pictures=shared,
        training={"data": "scenes", "data_licence": "CC0", "teacher": "sgbm", "metrics": {"epe_px": 0.25}, "seed": 7},
    )
    return Made(bundle, report)


def on_devices(made: Made) -> Made:
    """The same artifacts on four devices and in a second engine; with accuracy, blame, budgets and what can go wrong."""
    int8, fp32, *_ = made.report.rows
    rng = np.random.default_rng(1)
    slower = timed(
        np.linspace(5, 6, 1024) + rng.gamma(1, 0.1, 1024),
        preset="normal",
        peak_memory_bytes=61_000_000,
        affinity=(4, 7),
    )
    counted = timed([56.32] * 3, instructions=(28_160_000, 28_160_007, 28_160_000), emulated=True, preset="counted")
    scores = (Score("epe_px", 0.3624, 0.3646, 0.00607), Score("bad_1", 0.071, 0.0709, -0.00141))
    layers = tuple(
        Layer(
            f"encoder.{index}", "conv2d", float(index >= 14) * 40 + 1, 0.5, f"tensor_{index}", 39.0 * (index == 14), 8.0
        )
        for index in range(30)
    )
    rows = (
        *(replace(row, repeats_agree=True, accuracy=Accuracy("held-out", 200, scores)) for row in made.report.rows[:3]),
        made.report.rows[3],
        replace(int8, engine="litert-builtin", repeats_agree=False),
        replace(
            int8,
            device=PHONE,
            repeats_agree=True,
            differs_from_host={"disparity": 37, "confidence": 4},
            latency=slower,
            missed_budgets=("p90 is 6.1 ms, allowed 5 ms",),
            accuracy=Accuracy("held-out", 200, scores),
            blame=Blame(layers[14], 1.0, layers),
            dataset_parity=DatasetParity("held-out", 200, int8.statistics),
        ),
        replace(
            fp32,
            device=PHONE,
            differs_from_host={"disparity": 512, "confidence": 0},
            latency=slower,
            dataset_parity=DatasetParity("held-out", 0, missing="the model that it was exported from is needed"),
        ),
        replace(
            int8,
            device=EMULATED,
            repeats_agree=True,
            differs_from_host={"disparity": 0, "confidence": 0},
            latency=counted,
            blame=Blame(None, 0.0, layers[:3]),
        ),
        replace(
            int8, engine="none", device=BOARD, error="the connection was lost", statistics={}, latency=None, pictures={}
        ),
    )
    report = replace(
        made.report,
        rows=rows,
        devices={PHONE: {"machine": "aarch64", "features": "asimd fphp"}, EMULATED: {"processor": "cortex-a76"}},
        budgets=("p90=5ms", "instructions=80M"),
    )
    return Made(made.bundle, report)


def small_bundle(folder: Path, views: np.ndarray, references: dict[str, dict[str, np.ndarray]]) -> Bundle:
    """A bundle of golden arrays without artifacts' files."""
    (folder / "golden").mkdir(parents=True)
    np.save(folder / "golden" / "views.npy", views)
    for kind, outputs in references.items():
        for name, values in outputs.items():
            np.save(folder / "golden" / f"{name}.{kind}.npy", values)
    files = {kind: {name: f"golden/{name}.{kind}.npy" for name in outputs} for kind, outputs in references.items()}
    kernels = Kernels({}, {})
    return Bundle(
        folder,
        Manifest(
            schema=1,
            model="dp_small",
            created="2026-01-02T03:04:05+00:00",
            parameters=128098,
            multiply_adds=574000000,
            inputs=(TensorSpec("views", VIEWS, "NCHW", "linear light, [0, 1]", ("left", "right")),),
            outputs=(
                TensorSpec("disparity", OUTPUT, "NCHW", "px of the input", ("disparity",), STEP, 0),
                TensorSpec("confidence", OUTPUT, "NCHW", "code", ("confidence",), STEP, 0),
            ),
            preprocessing=Preprocessing(ExposureNormalisation()),
            artifacts=tuple(
                Artifact(name, form, precision, reference, f"{name}.bin", 0, {}, kernels)
                for name, form, precision, reference, _ in ARTIFACTS
            ),
            golden=(GoldenCase("typical_0", {"views": "golden/views.npy"}, files, {}),),
            quantization=(),
            training={},
            versions={},
        ),
    )
