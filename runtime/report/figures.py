"""The report's pictures on its page: inside the file, each with its title, its colours' meaning and words in its place."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_dp.errors import InputError, SchemaError
from edge_dp.runtime.report.model import Report, Row
from edge_dp.runtime.report.pictures import Scale
from edge_dp.runtime.report.words import number

_PNG = b"\x89PNG\r\n\x1a\n"
_NEAR_FAR = "Red is near, blue is far; above zero lies behind the focus plane."
_SHARED = {
    "left": ("Left view", "What the left half of the lens sees, gamma-encoded for the screen."),
    "right": ("Right view", "What the right half of the lens sees."),
    "disparity_float": ("Disparity, float model", _NEAR_FAR),
    "disparity_quantised": ("Disparity, quantised graph", "The same colours; what integer artifacts must reproduce."),
    "confidence_float": ("Confidence, float model", "Brighter is surer; the manifest says by how much."),
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


def shared_figure(name: str, path: str, report: Report, folder: Path, scales: Mapping[str, Scale]) -> Figure:
    """A picture of the example itself; errors as of ``write_page``."""
    title, text = _SHARED.get(name, (name, ""))
    scale, colours = scales.get(path), name.partition("_")[0]
    if colours == "disparity":
        text = f"In {_main_unit(report)}. {text}"
    ends = (number(scale.low), number(scale.high)) if scale else ()
    return Figure(title, text, f"{title}, first golden case", _data_uri(folder, path), colours, ends)


def row_figure(name: str, path: str, row: Row, report: Report, folder: Path, scales: Mapping[str, Scale]) -> Figure:
    """A picture of what an artifact made of the example; errors as of ``write_page``."""
    uri, scale = _data_uri(folder, path), scales.get(path)
    where = f"{row.artifact} in {row.engine} on {row.device}"
    if name != "error":
        ends = (number(scale.low), number(scale.high)) if scale else ()
        text = f"In {_main_unit(report)}, colours as in the example."
        return Figure(name.capitalize(), text, f"{name.capitalize()} found by {where}", uri, name, ends)
    title, alt = "Error", f"Error of {where} against the {row.reference} reference"
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
