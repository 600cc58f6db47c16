"""Disparity, methods by data sets: our students as exported beside matching and what scores without looking at the views.

    python benchmarks/disparity.py [--data pixel4 ...] [--checkpoint NAME_OR_FOLDER ...] [--scenes]

Every shipped checkpoint is exported to ExecuTorch, fp32 and int8, into the folder of ``--bundles`` once, and gets a row for each.
Pixel 4, Canon and light fields are read from the folder in EDGE_DP_DATA, or ../shared/data beside the checkout; the rendered
scenes are of a seed that nothing is trained on. Where the truth is depth, a second table scores the same disparities corrected
for the field of the sensor, by its calibration: measured kernels of the Pixel 4, two planes for the Canon. "field inside" are
artifacts that are exported for that sensor and correct for its field themselves (``edge-dp export --correct-field``).

Time is the processor's for one capture of the first data set, one thread, all methods after each other on every capture, from
the views to a disparity at their size; the ratio is to the first row of a student. ``--gate`` exits with 1 where a bound of the
table of bounds is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from disparity_bounds import CONTROLS, PRECISION, judge
from disparity_methods import BAR, Method, controls, students
from intervals import interval_of_mean, interval_of_ratio
from rich.console import Console
from rich.table import Table
from scene_sets import CORRECTED, SETS, Map, SceneSet, line_of, matched_points

from edge_dp.cli.progress import progress_bars
from edge_dp.errors import EdgeDpError, InputError
from edge_dp.models.checkpoint import shipped_checkpoints

WIDTH = 260
Report = dict[str, Any]
"""Plain values, ready for JSON: ``methods`` by name, ``data`` by set, with ``scores`` by method and scene, and ``bounds``."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Score disparity: methods by data sets.")
    parser.add_argument("--data", nargs="+", choices=list(SETS), default=list(SETS), help="data sets (default: all)")
    parser.add_argument(
        "--checkpoint", dest="checkpoints", action="append", help="shipped name or folder (default: all shipped)"
    )
    parser.add_argument("--method", dest="methods", action="append", help="only methods whose name contains this")
    parser.add_argument("--bundles", type=Path, default=Path("out/benchmark_bundles"), help="where exports are kept")
    parser.add_argument(
        "--size", help="height x width to export at, no larger than the captures (default: each data set's own)"
    )
    parser.add_argument("--limit", type=int, help="only so many scenes of each data set")
    parser.add_argument("--scenes", action="store_true", help="a table per data set with a row per scene")
    parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
    parser.add_argument("--gate", action="store_true", help="exit with 1 where a bound is missed")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # as the engines
    checkpoints = options.checkpoints or list(shipped_checkpoints())

    size = None if options.size is None else _size(options.size)

    def wanted(name: str) -> bool:
        return not options.methods or any(part in name for part in options.methods)

    with students(checkpoints, options.bundles, wanted, size) as ours, progress_bars() as bar:
        methods = [*filter(lambda method: wanted(method.name), controls()), *ours]
        if not methods:
            raise InputError(f"--method: expected part of a method's name, found {', '.join(options.methods)}")
        report: Report = {"methods": {method.name: described(method) for method in methods}, "data": {}}
        for name in options.data:
            captures = SETS[name]()
            if size is not None:
                captures = replace(captures, network_size=size)
            report["data"][name] = evaluate(methods, captures, options.limit, lambda *done, n=name: bar(n, *done))
    report["bounds"] = judge(report)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        show(report, options.scenes)
    return int(options.gate and any(not bound["passed"] for bound in report["bounds"]))


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise InputError(f"--size: expected HEIGHTxWIDTH such as 384x512, found {text}")
    return int(height), int(width)


def described(method: Method) -> Report:
    """What the table says of a method beside its scores."""
    return {
        "student": method.student,
        "precision": method.precision,
        "parameters": method.parameters,
        "multiply_adds": method.multiply_adds,
        "corrects_field": method.corrects_field,
    }


def evaluate(
    methods: Sequence[Method], captures: SceneSet, limit: int | None, progress: Callable[[int, int, str], None]
) -> Report:
    """Scores of every method on every scene of a set; methods after each other on each capture, so that times compare.

    Raises:
        InputError: none of the methods suits the set.
    """
    names = captures.names[:limit]
    first = captures.read(names[0])
    used = [method for method in methods if method.suits(captures, first)]
    if not used:
        wanted = ", ".join(method.name for method in methods)
        raise InputError(
            f"{captures.name}: expected a method that suits it, found {wanted}. Leave the set out of --data."
        )
    scores: dict[str, dict[str, dict[str, float]]] = {method.name: {} for method in used}
    seconds: dict[str, list[float]] = {method.name: [] for method in used}
    points: dict[str, list[Any]] = {method.name: [] for method in used}
    distances: dict[str, list[float]] = {}
    for done, name in enumerate(names):
        sample = captures.read(name)
        maps: dict[str, Map] = {}
        for method in used:
            if not done:
                method.predict(sample, captures)  # warm: fits, caches, the engine's first run
            start = time.process_time()
            maps[method.name] = method.predict(sample, captures)
            seconds[method.name].append(time.process_time() - start)
            score = captures.score if method.corrects_field else captures.scores
            scores[method.name][name] = score(maps[method.name], sample)
            if captures.points is not None:
                points[method.name].append(captures.points(maps[method.name], sample))
        for method in used:
            if method.name.endswith(" int8") and (reference := f"{method.student} fp32") in maps:
                distance = np.abs(maps[method.name] - maps[reference]).mean()
                scale = captures.network_size[1] / sample.left.shape[2]
                distances.setdefault(method.name, []).append(float(distance) * scale)
        progress(done + 1, len(names), name)
    summary = {}
    for method in used:
        rows = list(scores[method.name].values())
        summary[method.name] = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        summary[method.name]["CPU ms"] = 1e3 * float(np.median(seconds[method.name]))
        if method.name in distances:
            summary[method.name]["px from fp32"] = float(np.mean(distances[method.name]))
        if points[method.name]:
            slope, offset = line_of(np.concatenate(points[method.name]))
            summary[method.name] |= {"slope px m": slope, "offset px": offset}
    report: Report = {"title": captures.title, "scores": scores, "summary": summary}
    if captures.points is not None:
        report["measured"] = dict(zip(("slope px m", "offset px"), line_of(matched_points(captures)), strict=True))
    return report


CELLS: dict[str, tuple[str, ...]] = {
    "pixel4": ("AI(1)", "AI(2)", "1-|rho|", "sign"),
    "canon": ("AI(1)", "AI(2)", "1-|rho|", "sign", "slope px m"),
    "planes": ("|bias| px",),
    "antinous": ("EPE px", "AI(2)", "1-|rho|", "sign"),
    "lytro": ("EPE px", "1-|rho|", "sign"),
    "rendered": ("EPE px", "AI(2)", "1-|rho|"),
}
"""What the wide table shows of each set."""


def show(report: Report, scenes: bool) -> None:
    """Print tables."""
    console = Console(highlight=False, width=WIDTH)
    console.print(wide_table(report))
    if cells := corrected_cells(report):
        title = "disparity corrected for the sensor's field, by its calibration; otherwise as above"
        console.print(wide_table(report, title, cells))
    for name, found in report["data"].items():
        if measured := found.get("measured"):
            console.print(
                f"{name}: matching measures {measured['slope px m']:+.3f} / Z {measured['offset px']:+.3f} px where it is certain"
            )
        for line in beside_one_view(found):
            console.print(f"{name}: {line}")
        if scenes:
            console.print(scene_table(found))
        console.print(interval_table(found))
        if name in cells:
            console.print(interval_table(found, CORRECTED))
    if report["bounds"]:
        table = Table(title="bounds")
        for column in ("method", "data", "what", "value", "at most", ""):
            table.add_column(column, justify="right" if column in ("value", "at most") else "left")
        for bound in report["bounds"]:
            verdict = "pass" if bound["passed"] else "MISSED"
            row = (bound["method"], bound["data"], bound["what"], f"{bound['value']:.3f}", f"{bound['limit']:g}")
            table.add_row(*row, verdict, style=None if bound["passed"] else "red")
        console.print(table)


def corrected_cells(report: Report) -> dict[str, tuple[str, ...]]:
    """As ``CELLS``, of the sets whose disparities are corrected for their sensor's field too."""
    cells: dict[str, tuple[str, ...]] = {}
    for name, found in report["data"].items():
        known = {cell for scores in found["summary"].values() for cell in scores}
        if shown := tuple(cell + CORRECTED for cell in CELLS[name] if cell + CORRECTED in known and cell != "sign"):
            cells[name] = shown
    return cells


def wide_table(
    report: Report,
    title: str = "mean over scenes, lower is better; sign: +1 where all grow with distance",
    cells: Mapping[str, tuple[str, ...]] = CELLS,
) -> Table:
    """Methods by data sets, those in ``cells``."""
    data = {name: found for name, found in report["data"].items() if name in cells}
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    for column in ("k par.", "M MAC", "CPU ms", "ratio"):
        table.add_column(column, justify="right")
    for name in data:
        for cell in cells[name]:
            table.add_column(f"{name}\n{cell}", justify="right")
    first = next(iter(report["data"].values()))["summary"]
    students_ms = [
        first[name]["CPU ms"] for name, told in report["methods"].items() if told["student"] and name in first
    ]
    reference = students_ms[0] if students_ms else next(iter(first.values()))["CPU ms"]
    for name, method in report["methods"].items():
        if not any(set(cells[key]) & found["summary"].get(name, {}).keys() for key, found in data.items()):
            continue  # it has no score of this kind
        row = [
            f"{method['parameters'] / 1e3:.1f}" if method["parameters"] else "",
            f"{method['multiply_adds'] / 1e6:.0f}" if method["multiply_adds"] else "",
            f"{first[name]['CPU ms']:.1f}" if name in first else "",
            f"{first[name]['CPU ms'] / reference:.2f}" if name in first else "",
        ]
        for key, found in data.items():
            values = found["summary"].get(name, {})
            row += [f"{values[cell]:.3f}" if cell in values else "" for cell in cells[key]]
        table.add_row(name, *row, style="bold" if method["student"] else None)
    return table


def scene_table(found: Report) -> Table:
    """Every method on every scene of one set."""
    by_method = found["scores"]
    columns = list(
        dict.fromkeys(column for rows in by_method.values() for scores in rows.values() for column in scores)
    )
    table = Table(title=f"{found['title']}, per scene")
    table.add_column("method")
    table.add_column("scene")
    for column in columns:
        table.add_column(column, justify="right")
    for method, rows in by_method.items():
        for scene, values in rows.items():
            table.add_row(method, scene, *(f"{values[column]:.3f}" if column in values else "" for column in columns))
        table.add_section()
    return table


def beside_one_view(found: Report) -> Iterator[str]:
    """1-|rho| of each student over that of its control, with the 95 % interval over scenes."""
    for pair in CONTROLS.items():
        both = [found["scores"].get(f"{name} {PRECISION}") for name in pair]
        if not all(both):
            continue
        two, one = ([scores["1-|rho|"] for scores in rows.values() if "1-|rho|" in scores] for rows in both)
        if len(two) > 1:
            low, high = interval_of_ratio(two, one)
            yield f"1-|rho| of {pair[0]} {np.mean(two) / np.mean(one):.2f} [{low:.2f}, {high:.2f}] x that of {pair[1]}"


def interval_table(found: Report, kind: str = "") -> Table:
    """95 % intervals of the means over scenes, and of their ratio to the bar's on the same scenes.

    Args:
        kind: ``CORRECTED`` for the scores of corrected disparities.
    """
    by_method = found["scores"]
    by_method = {name: rows for name, rows in by_method.items() if not kind or _has(rows, kind)}
    known = next(iter(next(iter(by_method.values())).values()))
    metrics = [
        metric + kind for metric in ("EPE px", "AI(1)", "AI(2)", "1-|rho|", "|bias| px") if metric + kind in known
    ]
    columns = {
        method: {metric: [row[metric] for row in rows.values()] for metric in metrics}
        for method, rows in by_method.items()
    }
    bar = columns.get(BAR)
    many = len(next(iter(by_method.values())))
    table = Table(title=f"{found['title']}, {many} scenes: mean [95 % interval]; x times {BAR}, paired")
    table.add_column("method")
    for metric in metrics:
        table.add_column(metric)
    for method, values in columns.items():
        cells = []
        for metric in metrics:
            text = f"{np.mean(values[metric]):.3f}"
            if many > 1:
                low, high = interval_of_mean(values[metric])
                text += f" [{low:.3f}, {high:.3f}]"
            if bar is not None and method != BAR:
                text += f"; x {np.mean(values[metric]) / np.mean(bar[metric]):.2f}"
                if many > 1:
                    low, high = interval_of_ratio(values[metric], bar[metric])
                    text += f" [{low:.2f}, {high:.2f}]"
            cells.append(text)
        table.add_row(method, *cells)
    return table


def _has(rows: Mapping[str, Mapping[str, float]], kind: str) -> bool:
    """Whether a method has scores of that kind: what its artifact has corrected is not corrected again."""
    return any(metric.endswith(kind) for scores in rows.values() for metric in scores)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except EdgeDpError as error:
        print(f"disparity: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
