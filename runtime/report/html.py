"""The report's page: one HTML file that stands alone, for eyes. It loads nothing, runs no script and may be mailed."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from edge_dp.errors import InputError, SchemaError
from edge_dp.files import atomic_write
from edge_dp.runtime.engines import ENGINES
from edge_dp.runtime.report.chart import latency_chart
from edge_dp.runtime.report.model import PAGE, Report, Row
from edge_dp.runtime.report.pictures import COLOURINGS, Scale, colour_stops, read_scales

_PNG = b"\x89PNG\r\n\x1a\n"
_NEAR_FAR = "Red is near, blue is far; above zero lies behind the focus plane."
_SHARED = {
    "left": ("Left view", "What the left half of the lens sees, gamma-encoded for the screen."),
    "right": ("Right view", "What the right half of the lens sees."),
    "disparity_float": ("Disparity, float model", _NEAR_FAR),
    "disparity_quantised": ("Disparity, quantised graph", "The same colours; what integer artifacts must reproduce."),
    "confidence_float": ("Confidence, float model", "Brighter is surer; the manifest says by how much."),
}
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


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with what a reader needs to read it. ends: the numbers at the low, middle and high end of its colours."""

    title: str
    text: str
    alt: str
    uri: str
    colours: str | None = None
    ends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One artifact as the page shows it. speed: whether its engine's speed means anything; note: what its engine is."""

    anchor: str
    row: Row
    missed: list[str]
    speed: bool
    note: str
    figures: list[Figure]

    @property
    def verdict(self) -> str:
        """``pass``, ``fail``, or ``error`` where it could not run."""
        if self.row.error is not None:
            return "error"
        return "fail" if self.missed else "pass"


def write_page(report: Report, folder: Path) -> Path:
    """Write ``report.html`` into ``folder``, atomically: self-contained, with the pictures inside.

    Args:
        report: what to show; its pictures' paths are relative to ``folder``.
        folder: the bundle.

    Returns:
        The page's path.

    Raises:
        SchemaError: a picture's path leaves the folder, or is no PNG.
        InputError: a picture is missing, or the page cannot be written.
    """
    scales = read_scales(folder)
    text = _environment().from_string((resources.files(__package__) / "page.html").read_text(encoding="utf-8"))
    page = text.render(
        report=report,
        entries=[_entry(f"artifact-{index}", row, report, folder, scales) for index, row in enumerate(report.rows)],
        figures=[_shared(name, path, report, folder, scales) for name, path in report.pictures.items()],
        chart=latency_chart([(row.artifact, row.latency) for row in report.rows if row.latency]),
        training=_training(report.training),
        ramps={what: ", ".join(colour_stops(what)) for what in COLOURINGS},
    )
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return folder / PAGE


def number(value: float | None, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits; a dash for None, a power of ten where zeros would hide the digits."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{digits}g}" if abs(value) < 10**digits else _count(round(value))
        return text.replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.rstrip('0').rstrip('.').replace('-', '−')}×10{power}"


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "ms": _ms, "size": _size, "moment": _moment, "share": _share}
    environment.filters |= {"count": _count, "sentence": _sentence}
    return environment


def _entry(anchor: str, row: Row, report: Report, folder: Path, scales: Mapping[str, Scale]) -> Entry:
    engine = ENGINES.get(row.engine)
    figures = [_of_artifact(name, path, row, report, folder, scales) for name, path in row.pictures.items()]
    note = engine.note if engine else ""
    return Entry(anchor, row, report.missed(row), engine is None or engine.measures_speed, note, figures)


def _shared(name: str, path: str, report: Report, folder: Path, scales: Mapping[str, Scale]) -> Figure:
    title, text = _SHARED.get(name, (name, ""))
    scale, colours = scales.get(path), name.partition("_")[0]
    if colours == "disparity":
        text = f"In {_main_unit(report)}. {text}"
    ends = (number(scale.low), number(scale.high)) if scale else ()
    return Figure(title, text, f"{title}, first golden case", _data_uri(folder, path), colours, ends)


def _of_artifact(name: str, path: str, row: Row, report: Report, folder: Path, scales: Mapping[str, Scale]) -> Figure:
    uri, scale = _data_uri(folder, path), scales.get(path)
    if name != "error":
        ends = (number(scale.low), number(scale.high)) if scale else ()
        text = f"In {_main_unit(report)}, colours as above."
        return Figure(name.capitalize(), text, f"{name.capitalize()} found by {row.artifact}", uri, name, ends)
    title, alt = "Error", f"Error of {row.artifact} against the {row.reference} reference"
    if scale is None:
        return Figure(title, "Blue is too small, white is right, red is too large.", alt, uri)
    if scale.high == 0:
        return Figure(title, f"White all over: equal to the {row.reference} reference.", alt, uri)
    end = limit = f"{number(scale.high)} {_main_unit(report)}"
    if output := next(iter(row.statistics.values()), None):
        steps = f"{number(scale.high / output.step)} steps"
        limit = f"{limit}, or {steps}"
        end = steps if row.reference == "quantised" else number(scale.high)
    text = f"Blue is too small, white is right, red is too large; full colour is {limit}."
    return Figure(title, text, alt, uri, "error", (f"−{end}", "0", f"+{end}"))


def _main_unit(report: Report) -> str:
    """The unit of the first output, which is the one that the pictures show."""
    return next(iter(report.units.values()), "the output's unit")


def _data_uri(folder: Path, relative: str) -> str:
    try:
        path = (folder / relative).resolve()
        inside = path.is_relative_to(folder.resolve())
    except ValueError:  # a null byte
        inside = False
    if not inside:
        raise SchemaError(f"{folder}: picture {relative!r} leaves the folder. Validate the bundle again.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a picture, found: {error.strerror}. Validate the bundle again.") from error
    if not content.startswith(_PNG):
        raise SchemaError(f"{path}: expected a PNG picture, found something else. Validate the bundle again.")
    return f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}"


def _training(training: Mapping[str, Any]) -> dict[str, Any]:
    """What the page tells of the training: facts in words, metrics among them, and the rest as it is."""
    metrics = training.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    known = {**training, **metrics}
    shown = dict.fromkeys([*(key for key in _TRAINING if key in known), *metrics])
    rest = {key: value for key, value in training.items() if key not in shown and value is not metrics}
    return {
        "facts": {_TRAINING.get(key) or _sentence(key): _words(known[key]) for key in shown},
        "rest": json.dumps(rest, indent=2, ensure_ascii=False, default=str) if rest else "",
    }


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, 4) if isinstance(value, int | float) else str(value)


def _sentence(name: object) -> str:
    words = str(name).replace("_", " ")
    return words[:1].upper() + words[1:]


def _count(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def _ms(value: float) -> str:
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def _moment(text: str) -> str:
    try:
        return f"{datetime.fromisoformat(text).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return text


def _share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in percent, without the sign."""
    return number(100 * part / whole) if whole else "–"
