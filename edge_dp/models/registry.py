"""The students. A new one is added here and is trained, exported and tested by existing."""

from __future__ import annotations

from dataclasses import dataclass
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
    parameters: int  # upper bound
    size: tuple[int, int]  # height and width it is exported at unless told otherwise
    summary: str


STUDENTS: dict[str, StudentEntry] = {
    entry.name: entry
    for entry in (
        StudentEntry(
            name="dp_disparity_s",
            target="edge_dp.models.dp_disparity:DpDisparity",
            widths=(16, 24, 32, 40, 48),
            parameters=150_000,
            size=(384, 512),
            summary="dual-pixel disparity with confidence, for phones",
        ),
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
    student: DpDisparity = cls(entry.widths)
    return student
