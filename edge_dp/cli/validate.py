"""``edge-dp validate``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_dp.bundle.manifest import Bundle
    from edge_dp.runtime.blame import Blame
    from edge_dp.runtime.dataset_parity import Reference
    from edge_dp.runtime.plan import Plan
    from edge_dp.runtime.report.model import Report

SUMMARY = "run every artifact of a bundle on every device, compare it with the model, time it, write the report"
DESCRIPTION = (
    "Run each artifact on the bundle's golden inputs, compare its outputs with the model's, time the engines in turn, print "
    "one table and write report.json and report.html into the bundle. Exit code 1 where a threshold or a budget is missed."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.add_argument("bundle", type=Path, help="folder written by edge-dp export")
    where = parser.add_argument_group("what runs where")
    where.add_argument(
        "--artifact", dest="artifacts", action="append", default=[], help="only this one; may be repeated"
    )
    where.add_argument(
        "--device",
        dest="devices",
        action="append",
        metavar="ADDRESS",
        help="local, ssh://user@host, adb://SERIAL or emulated://cortex-a76; may be repeated (default: local)",
    )
    where.add_argument(
        "--engine",
        dest="engines",
        action="append",
        default=[],
        help="only this one; may be repeated ('edge-dp doctor')",
    )
    where.add_argument("--threads", type=int, default=1, help="CPU threads per inference (default: %(default)s)")
    where.add_argument(
        "--in-process", action="store_true", help="no worker processes: faster, but a crash ends the run"
    )
    where.add_argument(
        "--timeout", type=float, default=120.0, metavar="S", help="per request to an engine (default: %(default)s)"
    )
    where.add_argument(
        "--memory", type=int, default=4096, metavar="MB", help="that a worker may take (default: %(default)s)"
    )
    where.add_argument("--resume", action="store_true", help="go on with a run that was broken off")
    parity = parser.add_argument_group("parity and accuracy")
    parity.add_argument(
        "--thresholds", type=Path, metavar="FILE", help="JSON by precision instead of the built-in table"
    )
    parity.add_argument(
        "--blame", action="store_true", help="find the first layer at which an integer artifact leaves the model"
    )
    parity.add_argument(
        "--model",
        help="the network to blame and to compare a data set's outputs against: checkpoint or its folder, or "
        "package.module:factory (default: the manifest's)",
    )
    parity.add_argument(
        "--dataset",
        nargs=2,
        metavar=("NAME", "ROOT"),
        help="also run a data set, score it and compare every output with the model's ('edge-dp data list')",
    )
    parity.add_argument("--samples", type=int, default=0, help="at most so many of the data set (default: all)")
    latency = parser.add_argument_group("latency")
    latency.add_argument(
        "--preset",
        default="brief",
        help="brief; MLPerf Mobile's rapid, quick, normal; sustained for ten minutes (default: %(default)s)",
    )
    latency.add_argument("--rounds", type=int, help="timed inferences per artifact, instead of the preset's")
    latency.add_argument("--warm-up", type=int, help="inferences before them, instead of the preset's")
    latency.add_argument(
        "--budget",
        dest="budgets",
        action="append",
        default=[],
        metavar="QUANTITY=LIMIT",
        help="such as p90=16ms or instructions=80M; missing it fails the run; may be repeated",
    )
    latency.add_argument(
        "--profile",
        action="store_true",
        help="also show where each artifact spends its time on the host, by operation, as its engine tells (not Core ML)",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import dataclasses
    import json

    from edge_dp.bundle.manifest import read_bundle
    from edge_dp.cli.blame_table import blame_table
    from edge_dp.cli.progress import progress_bars
    from edge_dp.cli.tables import dataset_table, report_table
    from edge_dp.runtime.report.model import PAGE
    from edge_dp.runtime.validate import validate

    plan = _plan(options)
    bundle = read_bundle(options.bundle)
    with progress_bars() as progress:
        report = validate(bundle, plan, progress)
    if options.json:
        print(json.dumps(dataclasses.asdict(report), allow_nan=False))
    else:
        report_table(report)
        dataset_table(report)
        for row in report.rows:
            if row.blame is not None:
                blame_table(row.blame, row.artifact)
        if options.profile:
            _profiles(bundle, report, options.threads)
        print(f"Report: {(bundle.folder / PAGE).resolve()}")
    return 0 if report.passed else 1


def _plan(options: argparse.Namespace) -> Plan:
    from dataclasses import replace

    from edge_dp.errors import InputError
    from edge_dp.runtime.budgets import parse_budget
    from edge_dp.runtime.engines.limits import Limits
    from edge_dp.runtime.latency import preset_named
    from edge_dp.runtime.plan import Plan
    from edge_dp.runtime.thresholds import THRESHOLDS, read_thresholds

    least = {"threads": 1, "rounds": 1, "warm_up": 0, "memory": 1, "samples": 0}
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            raise InputError(f"--{name.replace('_', '-')}: expected at least {smallest}, found {value}")
    if not options.timeout > 0:
        raise InputError(f"--timeout: expected seconds above 0, found {options.timeout}")
    preset = preset_named(options.preset)
    if options.rounds is not None:
        preset = replace(preset, queries=options.rounds, seconds=0.0)
    if options.warm_up is not None:
        preset = replace(preset, warm_up=options.warm_up)
    return Plan(
        artifacts=tuple(options.artifacts),
        devices=tuple(options.devices or ("local",)),
        engines=tuple(options.engines),
        threads=options.threads,
        preset=preset,
        budgets=tuple(parse_budget(text) for text in options.budgets),
        thresholds=read_thresholds(options.thresholds) if options.thresholds else THRESHOLDS,
        dataset=(options.dataset[0], Path(options.dataset[1])) if options.dataset else None,
        samples=options.samples,
        reference=_reference(options.model) if options.dataset else None,
        blame=_blame(options.model, not options.in_process) if options.blame else None,
        isolated=not options.in_process,
        limits=Limits(options.timeout, options.memory << 20),
        resume=options.resume,
    )


def _profiles(bundle: Bundle, report: Report, threads: int) -> None:
    """Where each artifact that ran on the host spends its time; what an engine does not tell is said."""
    from edge_dp.cli.tables import console, plain_table
    from edge_dp.errors import EdgeDpError
    from edge_dp.runtime.profile import profile

    inputs = bundle.golden_inputs(bundle.manifest.golden[0])
    names = dict.fromkeys(row.artifact for row in report.rows if row.device == "local" and row.error is None)
    for name in names:
        try:
            operations = profile(bundle, name, inputs, threads=threads)
        except EdgeDpError as error:
            print(f"{name}: no profile: {error}")
            continue
        rows = [(op.name, f"{op.milliseconds:.3f}", f"{100 * op.share:.1f}") for op in operations]
        console().print(plain_table(f"{name}: time by operation", ("operation", "ms", "%"), rows, right=("ms", "%")))


def _reference(model: str | None) -> Callable[[Bundle], Reference]:
    from edge_dp.cli.target import named_model
    from edge_dp.converters.bundle_model import reference_of_bundle

    network = named_model(model)
    return lambda bundle: reference_of_bundle(bundle, network)


def _blame(model: str | None, isolated: bool) -> Callable[[Bundle, str], Blame]:
    from edge_dp.cli.target import named_model
    from edge_dp.converters.blame import blame

    network = named_model(model)
    return lambda bundle, artifact: blame(bundle, artifact, model=network, isolated=isolated)
