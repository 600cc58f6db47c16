"""The report's page: one HTML file that stands alone, for eyes. It loads nothing, runs no script and may be mailed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from edge_dp.files import atomic_write
from edge_dp.runtime.report import chain, chart, histogram, words
from edge_dp.runtime.report.figures import Figure, row_figure, shared_figure
from edge_dp.runtime.report.matrix import Entry, Repeat, make_entry, make_matrix, speed_in_words
from edge_dp.runtime.report.model import PAGE, Report
from edge_dp.runtime.report.pictures import COLOURINGS, Scale, colour_stops, read_scales

_TRAINING = {
    "data": "Data",
    "data_licence": "Licence of the data",
    "teacher": "Teacher",
    "teacher_licence": "Licence of the teacher",
    "ground_truth_used": "Trained on ground truth",
    "minutes": "Minutes of training",
    "held_out_epe_px_float": "End-point error on held-out scenes, float model, px",
    "held_out_epe_px_quantised": "End-point error on held-out scenes, quantised model, px",
    "held_out_epe_px_teacher": "End-point error on held-out scenes, teacher, px",
}


def write_page(report: Report, folder: Path, path: Path | None = None) -> Path:
    """Write the page, atomically: self-contained, with the pictures inside.

    Args:
        report: what to show; its pictures' paths are relative to ``folder``.
        folder: the bundle, or the folder of a run.
        path: the file to write, in ``folder`` unless given.

    Returns:
        The page's path.

    Raises:
        SchemaError: a picture's path leaves the folder, or is no PNG.
        InputError: a picture is missing, or the page cannot be written.
    """
    scales = read_scales(folder)
    entries = _entries(report, folder, scales)
    matrix = make_matrix(entries)
    page = (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            entries=entries,
            matrix=matrix,
            charts=_charts(entries, matrix.devices),
            accuracies=_accuracies(entries),
            devices=_devices(report),
            figures=[shared_figure(name, path, report, folder, scales) for name, path in report.pictures.items()],
            training=_training(report.training),
            ramps={what: ", ".join(colour_stops(what)) for what in COLOURINGS},
        )
    )
    path = path or folder / PAGE
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": words.number, "ms": words.milliseconds, "size": words.size, "share": words.share}
    environment.filters |= {"moment": words.moment, "count": words.count, "sentence": words.sentence}
    environment.filters |= {
        "plural": words.plural,
        "tick": words.tick,
        "speed": speed_in_words,
        "chain": chain.make_chain,
    }
    environment.globals |= {
        name: {"width": module.WIDTH, "height": module.HEIGHT}
        for name, module in (("bars", histogram), ("links", chain), ("plot", chart))
    }
    return environment


def _template(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _entries(report: Report, folder: Path, scales: Mapping[str, Scale]) -> list[Entry]:
    """The rows, those of one artifact together. Pictures that an earlier row of the artifact shows are not shown again."""

    def look(figures: Sequence[Figure]) -> list[tuple[str, tuple[str, ...]]]:
        return [(figure.uri, figure.ends) for figure in figures]

    entries: list[Entry] = []
    artifacts = list(dict.fromkeys(row.artifact for row in report.rows))
    for row in sorted(report.rows, key=lambda row: artifacts.index(row.artifact)):
        anchor = f"row-{len(entries)}"
        figures = tuple(row_figure(name, path, row, report, folder, scales) for name, path in row.pictures.items())
        repeated = None
        for earlier in entries:
            if figures and earlier.row.artifact == row.artifact and look(earlier.figures) == look(figures):
                figures, repeated = (), Repeat(earlier.anchor, earlier.where)
        entries.append(make_entry(anchor, row, report, figures, repeated))
    return entries


def _charts(entries: Sequence[Entry], devices: Sequence[str]) -> list[chart.Chart]:
    """One for each device on which something was timed."""
    charts = []
    for device in devices:
        timed = [
            (entry.anchor, f"{entry.row.artifact} in {entry.row.engine}", entry.row.latency)
            for entry in entries
            if entry.row.device == device and entry.row.latency
        ]
        if timed:
            charts.append(chart.latency_chart(device, timed))
    return charts


@dataclass(frozen=True, slots=True)
class _JudgedOn:
    """The entries whose accuracy was measured on the same samples of a data set."""

    dataset: str
    samples: int
    entries: list[Entry] = field(default_factory=list)


def _accuracies(entries: Sequence[Entry]) -> list[_JudgedOn]:
    found: dict[tuple[str, int], _JudgedOn] = {}
    for entry in entries:
        if accuracy := entry.row.accuracy:
            key = accuracy.dataset, accuracy.samples
            found.setdefault(key, _JudgedOn(*key)).entries.append(entry)
    return list(found.values())


def _devices(report: Report) -> dict[str, dict[str, str]]:
    """Facts by address; those of the host belong to ``local``."""
    found = {"local": {**report.host, **report.devices.get("local", {})}}
    addresses = itertools.chain((row.device for row in report.rows), report.devices)
    return found | {address: report.devices.get(address, {}) for address in addresses if address != "local"}


def _training(training: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells of the training: facts in words, metrics among them, and the rest as it is."""
    metrics = training.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    known = {**training, **metrics}
    shown = dict.fromkeys([*(key for key in _TRAINING if key in known), *metrics])
    rest = {key: value for key, value in training.items() if key not in shown and value is not metrics}
    return {
        "facts": {_TRAINING.get(key) or words.sentence(key): words.plain(known[key]) for key in shown},
        "rest": json.dumps(rest, indent=2, ensure_ascii=False, default=str) if rest else "",
    }
