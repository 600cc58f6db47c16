"""One cell of the matrix artifact x engine x device, while it is being filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_dp.bundle.manifest import Artifact, Bundle
from edge_dp.errors import EdgeDpError
from edge_dp.runtime.accuracy import Accuracy
from edge_dp.runtime.blame import Blame
from edge_dp.runtime.budgets import missed
from edge_dp.runtime.dataset_parity import DatasetParity
from edge_dp.runtime.devices.base import Device
from edge_dp.runtime.engines import EngineEntry, make_engine
from edge_dp.runtime.engines.base import Engine, Signature, Tensors
from edge_dp.runtime.latency import Preset, Timed, summarise
from edge_dp.runtime.parity import ErrorStatistics, compare, identical
from edge_dp.runtime.plan import Plan
from edge_dp.runtime.report.model import Row


@dataclass
class Cell:
    """What is known of one artifact in one engine on one device.

    entry: None where no engine there executes it.
    version: of the engine, as it tells.
    outputs: by golden case, in order; of the first alone where the row was taken from an earlier run.
    finished: the row of an earlier run.
    """

    artifact: Artifact
    entry: EngineEntry | None
    address: str
    engine: Engine | None = None
    version: str | None = None
    outputs: list[Tensors] = field(default_factory=list)
    statistics: dict[str, ErrorStatistics] = field(default_factory=dict)
    repeats_agree: bool | None = None
    differs_from_host: dict[str, int] = field(default_factory=dict)
    first_ms: float = 0.0
    timed: Timed | None = None
    accuracy: Accuracy | None = None
    dataset_parity: DatasetParity | None = None
    blame: Blame | None = None
    error: str | None = None
    finished: Row | None = None

    @property
    def engine_name(self) -> str:
        """Of its engine, or ``none``."""
        return self.entry.name if self.entry else "none"

    @property
    def key(self) -> tuple[str, str, str]:
        """Artifact, engine and device."""
        return self.artifact.name, self.engine_name, self.address

    @property
    def identity(self) -> tuple[object, ...]:
        """The key and the very bytes of the artifact."""
        return (*self.key, sorted(self.artifact.files.items()))

    def run(self, bundle: Bundle, device: Device | None, plan: Plan, *, repeat: bool) -> None:
        """Load the artifact and run every golden case, or twice; leaves ``engine`` active, or ``error`` set."""
        if self.entry is None or self.error is not None:
            return
        cases = [bundle.golden_inputs(case) for case in bundle.manifest.golden]
        try:
            self.engine = make_engine(
                self.entry,
                bundle.path(self.artifact.path),
                signature(bundle),
                plan.threads,
                device=device,
                isolated=plan.isolated,
                limits=plan.limits,
            )
            self.engine.activate()
            self.version = self.engine.state().version
            if device is not None and device.emulated:
                self._run_once(cases, repeat)
            else:
                self.first_ms = self.engine.time(cases[0], 1).nanoseconds[0] / 1e6
                self.outputs = self.engine.infer_all(cases)
                if repeat:
                    self._compare_with_again(self.engine.infer_all(cases))
        except EdgeDpError as error:
            self.error = str(error)
            self.release()
            return
        self.statistics = _statistics(bundle, self.artifact, self.outputs)

    def _run_once(self, cases: list[Tensors], repeat: bool) -> None:
        """On an emulated device, where an inference takes a second: the first case alone again, and what all of them cost."""
        assert self.engine is not None
        outputs = self.engine.infer_all([*cases, *cases[:1]] if repeat else cases)
        self.outputs = outputs[: len(cases)]
        if repeat:
            self._compare_with_again(outputs[len(cases) :])
        ran, state = self.engine.last_run, self.engine.state()
        if ran.nanoseconds:
            self.first_ms = ran.nanoseconds[0] / 1e6
            self.timed = Timed(list(ran.nanoseconds[1:]), list(ran.instructions[1:]), state, state)

    def _compare_with_again(self, again: Sequence[Tensors]) -> None:
        self.repeats_agree = not any(identical(self.outputs[: len(again)], again).values())

    def compare_with_host(self, host: Sequence[Tensors] | None) -> None:
        """Count the values that differ from what the same artifact gave on the host; nothing where it did not run there."""
        if host and self.outputs:
            self.differs_from_host = identical(self.outputs, host)

    def release(self) -> None:
        """Deactivate the engine, whatever state its device is in."""
        if self.engine is not None:
            try:
                self.engine.deactivate()
            except EdgeDpError as error:  # the row stands; a device that has gone needs no farewell
                self.error = self.error or str(error)
            self.engine = None

    def row(self, plan: Plan, preset: Preset, emulated: bool) -> Row:
        """For the report, pictures left out."""
        if self.finished is not None:
            return self.finished
        latency = None
        if self.timed and self.timed.nanoseconds:
            latency = summarise(self.timed, preset, threads=plan.threads, first_ms=self.first_ms, emulated=emulated)
        return Row(
            artifact=self.artifact.name,
            format=self.artifact.format,
            precision=self.artifact.precision,
            engine=self.engine_name,
            device=self.address,
            size_bytes=self.artifact.size_bytes,
            reference=self.artifact.reference,
            error=self.error,
            statistics=self.statistics,
            pictures={},
            kernels_integer=self.artifact.kernels.integer,
            kernels_floating=self.artifact.kernels.floating,
            repeats_agree=self.repeats_agree,
            differs_from_host=self.differs_from_host,
            latency=latency,
            missed_budgets=missed(plan.budgets, latency) if latency else (),
            accuracy=self.accuracy,
            dataset_parity=self.dataset_parity,
            blame=self.blame,
        )


def signature(bundle: Bundle) -> Signature:
    """Names and shapes at the border of the bundle's artifacts."""
    manifest = bundle.manifest
    return Signature(
        inputs=tuple((spec.name, spec.shape) for spec in manifest.inputs),
        outputs=tuple((spec.name, spec.shape) for spec in manifest.outputs),
    )


def _statistics(bundle: Bundle, artifact: Artifact, outputs: Sequence[Tensors]) -> dict[str, ErrorStatistics]:
    references = [bundle.golden_outputs(case, artifact.reference) for case in bundle.manifest.golden]
    return {
        spec.name: compare([o[spec.name] for o in outputs], [r[spec.name] for r in references], spec.scale or 1.0)
        for spec in bundle.manifest.outputs
    }
