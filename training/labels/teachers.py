"""How the label factory gets its teacher: by name in any process, and with a note of what it was for the labels' provenance."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_dp.config import from_mapping
from edge_dp.errors import InputError
from edge_dp.training.teachers.base import Estimate, Licence, Teacher, View
from edge_dp.training.teachers.sgm import SgmTeacher

_SIGMA_PX = 0.2
"""Of semi-global matching where it is right: quarter pixels are its fixed points, as pixel locking draws them."""


@dataclass(frozen=True, slots=True)
class TeacherChoice:
    """A teacher by name, to be made in each process that needs it.

    Args:
        name: in the registry.
        options: its settings as JSON, "{}" for the defaults.
        accept_non_commercial: consent to a licence that forbids commercial use.
    """

    name: str
    options: str = "{}"
    accept_non_commercial: bool = False


@dataclass(frozen=True, slots=True)
class SgmViews:
    """Semi-global matching as a teacher of the contract."""

    matcher: SgmTeacher = dataclasses.field(default_factory=SgmTeacher)
    name = "sgm"
    licence = Licence("Apache-2.0", "none: no weights", commercial=True)
    views = 2

    def estimate(self, views: Sequence[View]) -> Estimate:
        """As ``Teacher.estimate``, of two views beside or above each other."""
        if len(views) != 2:
            raise InputError(f"teacher sgm: expected two views, found {len(views)}")
        right, down, _ = views[1].camera.position - views[0].camera.position
        if (abs(right) > 1e-6) == (abs(down) > 1e-6):
            raise InputError(
                f"teacher sgm: expected cameras beside or above each other, found them ({right:g}, {down:g}) apart"
            )
        axes, backwards = ((0, 1), right < 0) if abs(right) > 1e-6 else ((1, 0), down < 0)

        def along(image: NDArray[Any]) -> NDArray[Any]:
            """The second camera is then on the right; its own inverse."""
            turned = image[:, ::-1] if backwards and axes == (0, 1) else image[::-1] if backwards else image
            return np.ascontiguousarray(turned.transpose(axes))

        grey = (np.round(255 * view.image.mean(axis=0)).astype(np.uint8) for view in views)
        disparity, valid = self.matcher(*(along(image) for image in grey))
        back = disparity.transpose(axes), valid.transpose(axes)
        if backwards:
            back = tuple(plane[:, ::-1] if axes == (0, 1) else plane[::-1] for plane in back)
        return Estimate(np.ascontiguousarray(back[0]), np.full_like(back[0], _SIGMA_PX), np.ascontiguousarray(back[1]))


def resolve(teacher: Teacher | TeacherChoice | SgmTeacher) -> Teacher:
    """The teacher itself; one made by name is kept for the process.

    Raises:
        InputError: there is none of that name, or its licence was not accepted.
        SchemaError: an option it does not have.
    """
    if isinstance(teacher, TeacherChoice):
        return _open(teacher)
    return SgmViews(teacher) if isinstance(teacher, SgmTeacher) else teacher


def teacher_note(teacher: Teacher) -> dict[str, Any]:
    """Name, options and licence, as JSON values: what labels say of who made them."""
    options = teacher.matcher if isinstance(teacher, SgmViews) else teacher
    fields = dataclasses.asdict(options) if dataclasses.is_dataclass(options) and not isinstance(options, type) else {}
    options_of = {name: value for name, value in fields.items() if name not in ("name", "licence", "views")}
    return {"name": teacher.name, "options": options_of, "licence": dataclasses.asdict(teacher.licence)}


@cache
def _open(choice: TeacherChoice) -> Teacher:
    if choice.name != "sgm":
        raise InputError(f"teacher {choice.name!r}: expected one of sgm. Correct the name.")
    return SgmViews(from_mapping(SgmTeacher, json.loads(choice.options), "teacher sgm"))
