"""The students. A new one is added here and is trained, exported and tested by existing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING

from edge_dp.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from edge_dp.models.dp_disparity import DpDisparity


@dataclass(frozen=True, slots=True)
class StudentEntry:
    """One student. Nothing here imports torch."""

    name: str
    target: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    parameters: int  # upper bound
    summary: str
    size: tuple[int, int] = (384, 512)  # height and width it is exported at unless told otherwise
    monocular: bool = False  # sees one of the two views
    companion: str | None = None  # student whose network it has beside its own, their outputs averaged


_DP_DISPARITY = "edge_dp.models.dp_disparity:DpDisparity"

_S = StudentEntry(
    name="dp_disparity_s",
    target=_DP_DISPARITY,
    widths=(16, 32, 32, 48, 32),
    depths=(0, 2, 1, 1, 1),
    parameters=150_000,
    summary="dual-pixel disparity with confidence, for phones",
)

STUDENTS: dict[str, StudentEntry] = {
    entry.name: entry
    for entry in (
        StudentEntry(
            name="dp_disparity_xs",
            target=_DP_DISPARITY,
            widths=(16, 16, 16, 24, 32),
            depths=(0, 2, 1, 1, 0),
            parameters=40_000,
            summary="dual-pixel disparity with confidence, the smallest",
        ),
        _S,
        StudentEntry(
            name="dp_disparity_m",
            target=_DP_DISPARITY,
            widths=(16, 48, 64, 96, 128),
            depths=(0, 2, 2, 2, 1),
            parameters=1_000_000,
            summary="dual-pixel disparity with confidence, the most accurate",
            companion=_S.name,
        ),
        replace(_S, name="mono_disparity_s", summary="the control: dp_disparity_s with one eye shut", monocular=True),
    )
}


def student_entry(name: str) -> StudentEntry:
    """The entry called ``name``.

    Raises:
        InputError: there is none; the message lists what there is.
    """
    if name not in STUDENTS:
        raise InputError(f"{name}: no such student; known are {', '.join(sorted(STUDENTS))}")
    return STUDENTS[name]


def build_student(name: str) -> DpDisparity:
    """A student with random weights, in training mode.

    Raises:
        InputError: no such student.
        MissingExtraError: torch is not installed.
    """
    entry = student_entry(name)
    module, attribute = entry.target.split(":")
    try:
        cls = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{name} needs {error.name}: pip install 'edge-dp[train]'") from error
    student: DpDisparity = cls(entry.widths, entry.depths, entry.monocular)
    if entry.companion is not None:
        student.companion = build_student(entry.companion)
    return student
