"""``edge-dp sensitivity``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from edge_dp.cli.target import add_target, is_network, network_arguments
from edge_dp.errors import InputError

if TYPE_CHECKING:
    from edge_dp.converters.layer_costs import LayerCosts, Progress

SUMMARY = "what the int8 quantisation of each layer costs a checkpoint or any network"
DESCRIPTION = (
    "Quantise one layer at a time, and all but one, and measure how far the outputs move from the float model's: on simulated "
    "captures for a checkpoint, on calibration samples for a network of your own."
)
EPILOG = """examples:
  edge-dp sensitivity dp_disparity_s
  edge-dp sensitivity my.models:build --input left=1x1x384x512 --input right=1x1x384x512 --calibration samples/"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add_target(parser)
    parser.add_argument(
        "--of",
        metavar="OUTPUT",
        help="measure the mean absolute error of this output (default: a checkpoint's disparity; of a network, the error of all "
        "outputs over the size of their values)",
    )
    parser.add_argument(
        "--samples", type=int, metavar="N", help="calibration samples to measure on, the first of them (default: 4)"
    )
    parser.add_argument("--json", action="store_true", help="print as JSON")


def call(options: argparse.Namespace) -> int:
    """Run the verb."""
    import dataclasses
    import json

    from edge_dp.cli.progress import progress_bars

    measure = _network if is_network(options) else _checkpoint
    with progress_bars() as progress:
        costs = measure(options, lambda stage, done, total: progress(stage, done, total, ""))
    if options.json:
        print(json.dumps(dataclasses.asdict(costs), allow_nan=False))
    else:
        _print_table(costs)
    return 0


def _checkpoint(options: argparse.Namespace, progress: Progress) -> LayerCosts:
    from edge_dp.converters.layer_costs import checkpoint_costs

    if options.samples is not None:
        raise InputError(f"{options.model}: --samples is not for a checkpoint")
    return checkpoint_costs(options.model, size=options.size, of=options.of or "disparity", progress=progress)


def _network(options: argparse.Namespace, progress: Progress) -> LayerCosts:
    from edge_dp.converters.layer_costs import network_costs

    if options.calibration is None:
        raise InputError(f"{options.model}: pass samples of what the network will see, as in --calibration samples/")
    samples = 4 if options.samples is None else options.samples
    return network_costs(**network_arguments(options), of=options.of, samples=samples, progress=progress)


def _print_table(costs: LayerCosts) -> None:
    from edge_dp.cli.tables import console, plain_table, printable

    report, unit = costs.report, f" {costs.unit}" if costs.unit else ""
    loss = report.quantised - report.floating
    rows = [
        (
            cost.tensor,
            cost.module or "(input)",
            f"{cost.alone:.3g}",
            f"{cost.spared:.3g}",
            f"{(report.quantised - cost.spared) / loss:.0%}" if loss > 0 else "-",
        )
        for cost in report.layers
    ]
    columns = ("activation", "module", "it alone in int8", "all but it", "it spares")
    title = (
        f"{costs.model}: {costs.measure}, {costs.samples} samples: float {report.floating:.3g}{unit}, "
        f"int8 {report.quantised:.3g}{unit}"
    )
    console().print(plain_table(title, columns, rows, right=columns[2:]))
    for remedy in costs.remedies:
        flags = " ".join(f"--keep-float {path}" for path in remedy.keep_float)
        print(printable(f"with {flags}: {remedy.error:.3g}{unit} instead of {report.quantised:.3g}{unit}"))
