"""Validate a bundle: run every artifact on the golden inputs, on every device, compare with the model, time it, write the report.

The host comes first, alone, since devices are compared with it; then all devices at once, a thread each. A finished row is
kept on disk until the whole run is done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from edge_dp.bundle.manifest import Artifact, Bundle
from edge_dp.errors import EdgeDpError, InputError, MissingExtraError
from edge_dp.files import atomic_folder
from edge_dp.runtime.accuracy import Evaluator
from edge_dp.runtime.cell import Cell, signature
from edge_dp.runtime.devices import open_device
from edge_dp.runtime.devices.base import Device
from edge_dp.runtime.engines import EngineEntry, engine_for, engine_named, engines_for, engines_on
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.finished import Finished, Store
from edge_dp.runtime.latency import PRESETS, Preset, time_in_turn
from edge_dp.runtime.plan import Plan
from edge_dp.runtime.report.html import write_page
from edge_dp.runtime.report.model import SCHEMA, Report, write_report
from edge_dp.runtime.report.pictures import PICTURES, SCALES, write_pictures

Progress = Callable[[str, int, int, str], None]
"""Called with what is being done, steps done, steps in all, and with what; from several threads."""

LOCAL = "local"

__all__ = ["Plan", "Progress", "signature", "validate"]


@dataclass
class _Visit:
    """One device and its cells. done: how many have been run."""

    address: str
    cells: list[Cell]
    preset: Preset
    emulated: bool = False
    facts: dict[str, str] = field(default_factory=dict)
    done: int = 0

    def show(self, progress: Progress, text: str) -> None:
        """Tell how many cells have been run."""
        progress(f"compare on {self.address}", self.done, len(self.cells), text)

    def release(self) -> None:
        """Deactivate all engines."""
        for cell in self.cells:
            cell.release()


def validate(bundle: Bundle, plan: Plan | None = None, progress: Progress = lambda *_: None) -> Report:
    """Fill the matrix artifact x engine x device, and write ``report.json``, ``report.html`` and their pictures into the bundle.

    An artifact that cannot run, or a device that is not there or vanishes, makes rows with an error; the others go on.

    Args:
        plan: what is asked for; everything on the host unless given.

    Raises:
        InputError, ChecksumError, SchemaError: the bundle is damaged, or has no such artifact; no such engine or data set.
        DeviceError: an address that is none.
    """
    plan = plan or Plan()
    manifest = bundle.manifest
    if not manifest.golden:
        raise InputError(f"{bundle.folder}: the bundle has no golden vectors to compare with")
    artifacts = [manifest.artifact(name) for name in plan.artifacts] or list(manifest.artifacts)
    for files in [case.files for case in manifest.golden] + [artifact.files for artifact in artifacts]:
        bundle.check_files(files)
    addresses = list(dict.fromkeys(plan.devices))
    devices = [open_device(address) for address in addresses if address != LOCAL]
    scoring = None
    if plan.dataset:
        scoring = Evaluator(bundle, *plan.dataset, plan.samples or None, plan.threads, plan.reference)
    run = _Run(bundle, plan, artifacts, Store(bundle.folder, _settings(bundle, plan)), scoring, progress)
    if not plan.resume:
        run.store.clear()
    visits = [run.on_host()] if LOCAL in addresses else []
    if devices:
        with ThreadPoolExecutor(len(devices)) as pool:
            visits += pool.map(run.on_device, devices)
    progress("report", 0, 1, "")
    report = _report(bundle, plan, visits)
    progress("report", 1, 1, "")
    if all(row.error is None for row in report.rows):
        run.store.clear()
    return report


@dataclass
class _Run:
    """What all devices of one validation share.

    host_outputs: by artifact and engine, then golden case, once they are known; empty where it does not run on the host.
    """

    bundle: Bundle
    plan: Plan
    artifacts: Sequence[Artifact]
    store: Store
    evaluator: Evaluator | None
    progress: Progress
    host_outputs: dict[tuple[str, str], list[Tensors]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def on_host(self) -> _Visit:
        """Everything on this machine."""
        visit = _Visit(LOCAL, _cells(self.artifacts, LOCAL, self.plan), self.plan.preset)
        with contextlib.ExitStack() as stack:
            stack.callback(visit.release)
            self._fill(visit, visit.cells, None)
        count = len(self.bundle.manifest.golden)
        for cell in visit.cells:
            if len(cell.outputs) == count:
                self.host_outputs[cell.artifact.name, cell.engine_name] = cell.outputs
        return visit

    def outputs_on_host(self, cell: Cell) -> list[Tensors] | None:
        """What a device's cell is compared with, by golden case; None where no engine on the host executes its artifact.

        The same engine, since kernels of another round otherwise; for the native runner the first of its format.
        """
        entry = cell.entry
        with self.lock, contextlib.suppress(EdgeDpError):
            if entry is None or not entry.needs_python or entry.why_not() is not None:
                entry = engine_for(cell.artifact.format)
            key = cell.artifact.name, entry.name
            if key not in self.host_outputs:
                mine = Cell(cell.artifact, entry, LOCAL)
                mine.run(self.bundle, None, self.plan, repeat=False)
                mine.release()
                self.host_outputs[key] = mine.outputs
            return self.host_outputs[key] or None
        return None

    def on_device(self, device: Device) -> _Visit:
        """Everything on one device; one that cannot be reached gives a row with the error for each artifact."""
        address = device.address
        preset = PRESETS["counted"] if device.emulated else self.plan.preset
        visit = _Visit(address, [], preset, device.emulated)
        try:
            self.progress(f"open {address}", 0, 1, "")
            with device, contextlib.ExitStack() as stack:
                self.progress(f"open {address}", 1, 1, "")
                visit.facts = _facts(device)
                visit.cells = _cells_on(device, self.artifacts, self.plan)
                stack.callback(visit.release)
                self._share(visit, device, stack)
            words = f"{address}: no engine there executes it"
        except EdgeDpError as error:
            words = str(error)
            for cell in visit.cells:
                if cell.finished is None and not cell.statistics:
                    cell.error = cell.error or words
        visit.cells = visit.cells or [Cell(artifact, None, address, error=words) for artifact in self.artifacts]
        return visit

    def _share(self, visit: _Visit, device: Device, stack: contextlib.ExitStack) -> None:
        """Fill all cells of a device; one that has a twin gives it every second engine, as an inference there takes a second."""
        names = list(dict.fromkeys(cell.engine_name for cell in visit.cells))
        halves = [[cell for cell in visit.cells if cell.engine_name in names[start::2]] for start in (0, 1)]
        twin = device.twin() if halves[1] and (os.cpu_count() or 1) > 1 else None
        with ThreadPoolExecutor(2) as ahead:
            # The host has its say while the device computes.
            ahead.submit(lambda: [self.outputs_on_host(cell) for cell in visit.cells])
            if twin is None:
                self._fill(visit, visit.cells, device)
                return
            beside = ahead.submit(lambda: self._fill(visit, halves[1], stack.enter_context(twin)))
            self._fill(visit, halves[0], device)
            beside.result()

    def _fill(self, visit: _Visit, cells: Sequence[Cell], device: Device | None) -> None:
        """Run, time and judge cells of one device; ``device`` is None for the host."""
        for cell in cells:
            visit.show(self.progress, f"{cell.artifact.name} in {cell.engine_name}")
            earlier = self.store.load(cell.identity) if self.plan.resume else None
            if earlier is not None:
                cell.finished, cell.outputs = earlier.row, [earlier.outputs]
                visit.done += 1
                continue
            cell.run(self.bundle, device, self.plan, repeat=True)
            if device is not None:
                cell.compare_with_host(self.outputs_on_host(cell))
            if cell.timed is not None:  # an emulated device tells with the outputs what they cost
                self._finish(visit, cell, device)
            visit.done += 1
        visit.show(self.progress, "")
        fresh = [cell for cell in cells if cell.engine is not None]
        self._time(visit, fresh)
        for cell in fresh:
            self._finish(visit, cell, device)

    def _finish(self, visit: _Visit, cell: Cell, device: Device | None) -> None:
        """Judge a cell that has been run and timed, keep its row, let go of its engine."""
        self._judge(visit, cell, device)
        if cell.error is None:
            self.store.save(cell.identity, Finished(cell.row(self.plan, visit.preset, visit.emulated), cell.outputs[0]))
        cell.release()

    def _time(self, visit: _Visit, cells: Iterable[Cell]) -> None:
        """Time in turn the engines whose speed means something; a reference evaluator's does not."""
        by_key = {" ".join(cell.key): cell for cell in cells if cell.entry and cell.entry.measures_speed}
        engines = {key: cell.engine for key, cell in by_key.items() if cell.engine}
        if not engines:
            return
        inputs = self.bundle.golden_inputs(self.bundle.manifest.golden[0])
        label = f"time on {visit.address}"
        timed, errors = time_in_turn(
            engines, inputs, visit.preset, lambda share: self.progress(label, round(100 * share), 100, "")
        )
        for key, found in timed.items():
            by_key[key].timed = found
        for key, error in errors.items():
            by_key[key].error = error

    def _judge(self, visit: _Visit, cell: Cell, device: Device | None) -> None:
        """Score a data set and look for the guilty layer, where that was asked for."""
        label = f"{cell.artifact.name} on {visit.address}"
        try:
            if cell.error is None and cell.engine is not None and self.evaluator is not None:
                cell.accuracy, cell.dataset_parity = self.evaluator.judge(
                    cell.engine,
                    cell.artifact,
                    lambda done, total: self.progress(f"data set, {label}", done, total, ""),
                )
            if cell.error is None and self.plan.blame and device is None and cell.artifact.reference == "quantised":
                self.progress(f"blame {label}", 0, 1, "")
                cell.blame = self.plan.blame(self.bundle, cell.artifact.name)
                self.progress(f"blame {label}", 1, 1, "")
        except EdgeDpError as error:
            cell.error = str(error)


def _settings(bundle: Bundle, plan: Plan) -> dict[str, object]:
    """What a row depends on besides its artifact, engine and device."""
    return {
        "threads": plan.threads,
        "preset": dataclasses.asdict(plan.preset),
        "budgets": [budget.text for budget in plan.budgets],
        "dataset": plan.dataset,
        "samples": plan.samples,
        "reference": plan.reference is not None,
        "blame": plan.blame is not None,
        "isolated": plan.isolated,
        "golden": [case.files for case in bundle.manifest.golden],
    }


def _cells(artifacts: Sequence[Artifact], address: str, plan: Plan) -> list[Cell]:
    """Of the host: the engines asked for, or the first that executes each artifact."""
    chosen = [engine_named(name) for name in plan.engines]
    cells = []
    for artifact in artifacts:
        entries = [entry for entry in chosen if artifact.format in entry.formats]
        if not chosen:
            try:
                entries = [engine_for(artifact.format)]
            except (InputError, MissingExtraError) as error:
                cells.append(Cell(artifact, None, address, error=str(error)))
        cells += [Cell(artifact, entry, address, error=_missing(entry)) for entry in entries]
    if not cells:
        raise InputError(f"engines {', '.join(plan.engines)}: none executes {', '.join(a.name for a in artifacts)}")
    return cells


def _missing(entry: EngineEntry) -> str | None:
    reason = entry.why_not()
    return f"{entry.name}: {reason}: pip install 'edge-dp[{entry.extra}]'" if reason else None


def _cells_on(device: Device, artifacts: Sequence[Artifact], plan: Plan) -> list[Cell]:
    """Of a device: the engines asked for, or the first that executes each artifact there.

    What none executes is left out, unless it was asked for: a phone without ONNX Runtime has not failed.
    """
    reasons = engines_on(device)
    cells = []
    for artifact in artifacts:
        entries = [entry for entry in engines_for(artifact.format) if not plan.engines or entry.name in plan.engines]
        able = [entry for entry in entries if reasons[entry.name] is None]
        cells += [Cell(artifact, entry, device.address) for entry in (able if plan.engines else able[:1])]
        if plan.engines or (plan.artifacts and not able):
            cells += [
                Cell(artifact, entry, device.address, error=f"{entry.name} on {device.address}: {reasons[entry.name]}")
                for entry in entries
                if reasons[entry.name] is not None
            ]
    return cells


def _report(bundle: Bundle, plan: Plan, visits: Sequence[_Visit]) -> Report:
    manifest = bundle.manifest
    rows = [(cell, cell.row(plan, visit.preset, visit.emulated)) for visit in visits for cell in visit.cells]
    drawn = {row.key: (cell.artifact, cell.outputs[0]) for cell, row in rows if row.error is None and cell.outputs}
    with atomic_folder(bundle.folder / PICTURES, marker=SCALES) as folder:
        shared, by_row = write_pictures(bundle, drawn, folder)
    host = next((_versions(visit) for visit in visits if visit.address == LOCAL), {})
    report = Report(
        schema=SCHEMA,
        model=manifest.model,
        parameters=manifest.parameters,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=_host(plan.threads) | host,
        versions=manifest.versions,
        units={spec.name: spec.unit for spec in manifest.outputs},
        thresholds=dict(plan.thresholds),
        rows=tuple(dataclasses.replace(row, pictures=by_row.get(row.key, {})) for _, row in rows),
        pictures=shared,
        training=manifest.training,
        devices={visit.address: visit.facts | _versions(visit) for visit in visits if visit.facts},
        budgets=tuple(budget.text for budget in plan.budgets),
    )
    write_report(report, bundle.folder)
    write_page(report, bundle.folder)
    return report


def _facts(device: Device) -> dict[str, str]:
    facts = device.facts()
    return {
        "machine": facts.machine,
        "system": facts.system,
        "processor": facts.processor,
        "cores": str(facts.cores),
        "memory": f"{facts.memory_bytes / 2**20:.0f} MB" if facts.memory_bytes else "",
        "features": " ".join(facts.features),
    }


def _versions(visit: _Visit) -> dict[str, str]:
    return {cell.engine_name: cell.version for cell in visit.cells if cell.version}


def _host(threads: int) -> dict[str, str]:
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "threads": str(threads),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
