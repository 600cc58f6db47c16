"""Validate a bundle: run every artifact on the golden inputs, compare with the model, time it, write the report."""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from edge_dp.bundle.manifest import Artifact, Bundle, GoldenCase
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.files import atomic_folder
from edge_dp.runtime.engines import EngineEntry, engine_for, make_engine
from edge_dp.runtime.engines.base import Engine, Signature, Tensors
from edge_dp.runtime.latency import Latency, summarise, time_in_turn
from edge_dp.runtime.parity import THRESHOLDS, ErrorStatistics, compare
from edge_dp.runtime.report.html import write_page
from edge_dp.runtime.report.model import SCHEMA, Report, Row, write_report
from edge_dp.runtime.report.pictures import PICTURES, SCALES, write_pictures

Progress = Callable[[str, int, int], None]
"""Called with what is being done, steps done and steps in all."""


@dataclass
class _Run:
    """What is known of one artifact while the validation goes on."""

    artifact: Artifact
    entry: EngineEntry | None = None
    engine: Engine | None = None
    outputs: dict[str, Tensors] = field(default_factory=dict)
    statistics: dict[str, ErrorStatistics] = field(default_factory=dict)
    load_ms: float = 0.0
    first_ms: float = 0.0
    times: list[float] = field(default_factory=list)
    error: str | None = None


def signature(bundle: Bundle) -> Signature:
    """Names and shapes at the border of the bundle's artifacts."""
    manifest = bundle.manifest
    return Signature(
        inputs=tuple((spec.name, spec.shape) for spec in manifest.inputs),
        outputs=tuple((spec.name, spec.shape) for spec in manifest.outputs),
    )


def validate(
    bundle: Bundle,
    *,
    artifacts: Sequence[str] = (),
    threads: int = 1,
    rounds: int = 50,
    warm_up: int = 5,
    progress: Progress = lambda *_: None,
) -> Report:
    """Run, compare and time artifacts, and write ``report.json``, ``report.html`` and their pictures into the bundle.

    An artifact that cannot run makes a row with its error; the others go on.

    Args:
        artifacts: names; all unless given.
        threads: CPU threads per inference.
        rounds: timed inferences per artifact; engines take turns.
        warm_up: rounds before them.

    Raises:
        InputError, ChecksumError, SchemaError: the bundle is damaged, or has no such artifact.
    """
    manifest = bundle.manifest
    if not manifest.golden:
        raise InputError(f"{bundle.folder}: the bundle has no golden vectors to compare with")
    chosen = [manifest.artifact(name) for name in artifacts] or list(manifest.artifacts)
    for case in manifest.golden:
        bundle.check_files(case.files)
    for artifact in chosen:
        bundle.check_files(artifact.files)
    runs = [_Run(artifact) for artifact in chosen]
    with contextlib.ExitStack() as stack:
        for index, run in enumerate(runs):
            progress(f"compare {run.artifact.name}", index, len(runs))
            _compare(bundle, run, threads)
            if run.engine is not None:
                stack.callback(run.engine.deactivate)
        _time(bundle, runs, rounds, warm_up, progress)
    progress("report", 0, 1)
    with atomic_folder(bundle.folder / PICTURES, marker=SCALES) as folder:
        first = manifest.golden[0].name
        shared, by_row = write_pictures(
            bundle, {r.artifact.name: r.outputs[first] for r in runs if not r.error}, folder
        )
    report = Report(
        schema=SCHEMA,
        model=manifest.model,
        parameters=manifest.parameters,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=_host(threads, {run.entry for run in runs if run.entry}),
        versions=manifest.versions,
        units={spec.name: spec.unit for spec in manifest.outputs},
        thresholds=THRESHOLDS,
        rows=tuple(_row(run, threads, by_row.get(run.artifact.name, {})) for run in runs),
        pictures=shared,
        training=manifest.training,
    )
    write_report(report, bundle.folder)
    write_page(report, bundle.folder)
    return report


def _compare(bundle: Bundle, run: _Run, threads: int) -> None:
    cases = bundle.manifest.golden
    try:
        run.entry = engine_for(run.artifact.format)
        engine = make_engine(run.entry, bundle.path(run.artifact.path), signature(bundle), threads)
        start = time.perf_counter()
        engine.activate()
        run.engine, run.load_ms = engine, (time.perf_counter() - start) * 1e3
        for case in cases:
            start = time.perf_counter()
            run.outputs[case.name] = engine.infer(bundle.golden_inputs(case))
            run.first_ms = run.first_ms or (time.perf_counter() - start) * 1e3
    except EdgeDpError as error:
        run.error = str(error)
        return
    run.statistics = _statistics(bundle, run, cases)


def _statistics(bundle: Bundle, run: _Run, cases: Sequence[GoldenCase]) -> dict[str, ErrorStatistics]:
    references = [bundle.golden_outputs(case, run.artifact.reference) for case in cases]
    outputs = [run.outputs[case.name] for case in cases]
    return {
        spec.name: compare([o[spec.name] for o in outputs], [r[spec.name] for r in references], spec.scale or 1.0)
        for spec in bundle.manifest.outputs
    }


def _time(bundle: Bundle, runs: list[_Run], rounds: int, warm_up: int, progress: Progress) -> None:
    """Time the engines whose speed means something; a reference evaluator's does not."""
    sound = [run for run in runs if run.engine and not run.error]
    by_name = {run.artifact.name: run for run in sound if run.entry and run.entry.measures_speed}
    engines = {name: run.engine for name, run in by_name.items() if run.engine}
    inputs = bundle.golden_inputs(bundle.manifest.golden[0])
    total = rounds + warm_up
    times, errors = time_in_turn(engines, inputs, rounds, warm_up, lambda done: progress("time in turn", done, total))
    for name, values in times.items():
        by_name[name].times = values
    for name, error in errors.items():
        by_name[name].error = error


def _row(run: _Run, threads: int, pictures: dict[str, str]) -> Row:
    latency: Latency | None = None
    if run.times:
        latency = summarise(threads, run.load_ms, run.first_ms, run.times)
    return Row(
        artifact=run.artifact.name,
        format=run.artifact.format,
        precision=run.artifact.precision,
        engine=run.entry.name if run.entry else "none",
        device="local",
        size_bytes=run.artifact.size_bytes,
        reference=run.artifact.reference,
        error=run.error,
        statistics=run.statistics,
        latency=latency,
        pictures=pictures,
        kernels_integer=run.artifact.kernels.integer,
        kernels_floating=run.artifact.kernels.floating,
    )


def _host(threads: int, entries: Iterable[EngineEntry]) -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
        **{entry.name: f"{entry.distribution} {version(entry.distribution)}" for entry in entries},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
