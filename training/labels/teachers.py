"""How labels get their teacher: by name in any process, and with a note of what it was for their provenance."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from edge_dp.files import sha256
from edge_dp.training.teachers.base import Teacher
from edge_dp.training.teachers.registry import build_teacher


@dataclass(frozen=True, slots=True)
class TeacherChoice:
    """A teacher by name, to be made in each process that needs it."""

    name: str = "sgm"
    """In ``edge_dp.training.teachers.registry``."""
    options: dict[str, object] = field(default_factory=dict)
    """Its settings, where they are not the defaults."""


def resolve(teacher: Teacher | TeacherChoice) -> Teacher:
    """The teacher itself; one made by name is kept for the process.

    Raises:
        EdgeDpError: as ``build_teacher``.
    """
    if isinstance(teacher, TeacherChoice):
        return _open(teacher.name, json.dumps(teacher.options, sort_keys=True))
    return teacher


def teacher_note(teacher: Teacher) -> dict[str, Any]:
    """Name, options, licence and the SHA-256 of its weights, as JSON values: what labels say of who made them.

    Raises:
        InputError: its weights cannot be read.
    """
    given: Any = teacher  # a protocol's instance may be a dataclass or not
    options = dataclasses.asdict(given) if dataclasses.is_dataclass(given) and not isinstance(given, type) else {}
    note = {"name": teacher.name, "options": options, "licence": dataclasses.asdict(teacher.licence)}
    return note if teacher.weights_file is None else {**note, "weights_sha256": sha256(teacher.weights_file)}


@cache
def _open(name: str, options: str) -> Teacher:
    return build_teacher(name, json.loads(options))
