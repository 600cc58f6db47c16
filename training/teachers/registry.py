"""The teachers. A new one is added here and is used, listed and tested by existing. Nothing here imports torch or an engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast

from edge_dp.config import from_mapping
from edge_dp.errors import InputError, MissingExtraError
from edge_dp.extras import needs
from edge_dp.training.teachers.base import Licence, Teacher


@dataclass(frozen=True, slots=True)
class TeacherEntry:
    """One teacher.

    target: its class, a frozen dataclass whose fields are its options; importing it needs numpy and OpenCV alone.
    licence: None where it depends on the file that the options name, and so is a required option.
    extra: what brings its dependencies.
    why_not: None where it can run here, else the reason, in words.
    """

    name: str
    target: str
    summary: str
    licence: Licence | None
    extra: str | None
    why_not: Callable[[], str | None]

    @property
    def options(self) -> type[Any]:
        """The dataclass that a recipe's options are read into; an instance is the teacher."""
        module, attribute = self.target.split(":")
        return cast(type[Any], getattr(import_module(module), attribute))


TEACHERS: dict[str, TeacherEntry] = {
    entry.name: entry
    for entry in (
        TeacherEntry(
            name="sgm",
            target="edge_dp.training.teachers.sgm:SgmTeacher",
            summary="OpenCV semi-global matching both ways; no weights",
            licence=Licence("Apache-2.0 (OpenCV)", "none: no weights", commercial=True),
            extra=None,
            why_not=needs("cv2"),
        ),
        TeacherEntry(
            name="stereo_net",
            target="edge_dp.training.teachers.stereo_net:StereoNetTeacher",
            summary="edge_dp's stereo network, a probability over disparities; trained on rendered rigs",
            licence=Licence("Apache-2.0", "Apache-2.0", commercial=True),
            extra="train",
            why_not=needs("torch"),
        ),
        TeacherEntry(
            name="onnx",
            target="edge_dp.training.teachers.adapters:OnnxTeacher",
            summary="any stereo network in an ONNX file, by onnxruntime",
            licence=None,
            extra="onnx",
            why_not=needs("onnxruntime"),
        ),
        TeacherEntry(
            name="torchscript",
            target="edge_dp.training.teachers.adapters:TorchScriptTeacher",
            summary="any stereo network in a TorchScript file",
            licence=None,
            extra="train",
            why_not=needs("torch"),
        ),
        TeacherEntry(
            name="exported_program",
            target="edge_dp.training.teachers.adapters:ExportedProgramTeacher",
            summary="any stereo network in a .pt2 file written by torch.export.save",
            licence=None,
            extra="train",
            why_not=needs("torch"),
        ),
    )
}


def teacher_entry(name: str) -> TeacherEntry:
    """The entry called ``name``.

    Raises:
        InputError: there is none; the message lists what there is.
    """
    if name not in TEACHERS:
        raise InputError(f"{name}: no such teacher; known are {', '.join(TEACHERS)}")
    return TEACHERS[name]


def build_teacher(name: str, options: Mapping[str, Any] | None = None) -> Teacher:
    """A teacher with these options, the others as they are by default.

    Raises:
        InputError: no such teacher, or its files are not what they should be.
        SchemaError: an option is unknown, missing or of the wrong type; the message names it.
        MissingExtraError: what it needs is not installed; the message names the extra.
    """
    entry = teacher_entry(name)
    if reason := entry.why_not():
        remedy = f": pip install 'edge-dp[{entry.extra}]'" if entry.extra else ""
        raise MissingExtraError(f"teacher {name}: {reason}{remedy}")
    teacher: Teacher = from_mapping(entry.options, options or {}, f"teacher {name}")
    return teacher
