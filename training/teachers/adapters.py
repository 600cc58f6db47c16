"""Other people's stereo networks as teachers: a file in a format that runs by itself, and the conventions it was trained with.

A checkpoint of weights alone (``.pth``, ``.ckpt``) is not one: it is a pickle, which can run anything when it is read, and needs
the code of its network besides. Export it there to ONNX, TorchScript or an ExportedProgram. Those hold programs too: onnxruntime
and torch run theirs with the rights of this process, so take such files from whom you trust.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np

from edge_dp.errors import InputError, MissingExtraError, SchemaError, TrainingError
from edge_dp.training.teachers.base import Array, Estimate, Licence, View
from edge_dp.training.teachers.pairs import Pair, checked_estimate

Network = Callable[[Array, Array], Array]
"""Two views (1, C, H, W) as the network wants them to what it answers, as it answers it."""
_FLOOR = 0.3  # px: what both directions get wrong alike; such networks state no spread
_PICKLES = (".pth", ".ckpt", ".pkl", ".pickle", ".tar", ".bin")


@dataclass(frozen=True, slots=True)
class Conventions:
    """What a family of networks expects and answers.

    Args:
        white: the value of a white pixel.
        mean, std: of each channel, subtracted and divided by after that.
        multiple: what height and width must be multiples of; smaller views are padded.
        centred: pads both sides alike; otherwise above and to the right.
        sign: of the answer for a point that the right camera sees farther left: 1 for disparity, -1 for flow along x.
        source: where that is written.
    """

    white: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int
    centred: bool
    sign: int
    source: str


_PLAIN = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PRESETS: dict[str, Conventions] = {
    "raft_stereo": Conventions(
        255.0, *_PLAIN, 32, True, -1, "RAFT-Stereo, demo.py: flow along x, so negative disparity"
    ),
    "unimatch": Conventions(1.0, *_IMAGENET, 32, True, 1, "UniMatch GMStereo, evaluate_stereo.py: flow_preds[-1]"),
    "igev": Conventions(255.0, *_PLAIN, 32, True, 1, "IGEV-Stereo, demo_imgs.py: disparity"),
    "psmnet": Conventions(1.0, *_IMAGENET, 16, False, 1, "PSMNet, Test_img.py: padded above and to the right"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileTeacher(ABC):
    """A stereo network in a file.

    Args:
        path: of the file.
        code_licence, weights_licence: SPDX identifiers, or words; of the network's code and of its weights. Every label and
            checkpoint made from it carries them.
        commercial: whether both allow commercial use.
        accept_non_commercial: consent to a teacher, and so to labels and students, that may not be used commercially.
        preset: conventions by name; one of ``PRESETS``.
        sign: 1 or -1, instead of the preset's.
        size: height and width that the network runs at, for a file with a fixed size or to save time; views are resized to it
            and the disparity back, times the ratio of widths. The size of the views unless given.
        agreement: largest difference between the two directions, px.

    Raises:
        InputError: there is no such file, or it is a pickle.
        SchemaError: a contradictory or unknown option.
        TrainingError: the licence forbids commercial use and nobody accepted that.
    """

    path: str
    code_licence: str
    weights_licence: str
    commercial: bool
    accept_non_commercial: bool = False
    preset: str = "raft_stereo"
    sign: int | None = None
    size: tuple[int, int] | None = None
    agreement: float = 1.0

    name: ClassVar[str]
    views: ClassVar[int | None] = 2
    suffixes: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SchemaError(f"preset: expected one of {', '.join(PRESETS)}, found {self.preset!r}")
        if self.sign not in (None, 1, -1):
            raise SchemaError(f"sign: expected 1 or -1, found {self.sign}")
        if not self.code_licence.strip() or not self.weights_licence.strip():
            raise SchemaError("code_licence and weights_licence: expected the licence of each in words, found nothing")
        multiple = PRESETS[self.preset].multiple
        if self.size is not None and any(side < 1 or side % multiple for side in self.size):
            raise SchemaError(f"size: expected multiples of {multiple} for {self.preset}, found {self.size}")
        if not self.commercial and not self.accept_non_commercial:
            raise TrainingError(
                f"{self.path}: {self.code_licence} (code) and {self.weights_licence} (weights) forbid commercial use, of labels "
                "and students made from it too. Set accept_non_commercial if that is meant."
            )
        suffix = Path(self.path).suffix.lower()
        if suffix in _PICKLES:
            raise InputError(
                f"{self.path}: expected a network that runs by itself ({', '.join(self.suffixes)}), found a checkpoint, which "
                "is a pickle and never read here. Export it, with its own code, to one of those."
            )
        if suffix not in self.suffixes:
            raise InputError(f"{self.path}: expected a file ending in {' or '.join(self.suffixes)} for {self.name}")
        if not Path(self.path).is_file():
            raise InputError(f"{self.path}: no such file")

    @property
    def weights_file(self) -> Path:
        """As ``Teacher``."""
        return Path(self.path)

    @property
    def licence(self) -> Licence:
        """What was stated of the file."""
        return Licence(self.code_licence, self.weights_licence, self.commercial)

    def estimate(self, views: Sequence[View]) -> Estimate:
        """As ``Teacher``; sigma from how far the two directions differ, as such networks state none."""
        pair = Pair.of(views, self.name)
        network = self._opened()
        # Of a mirrored pair, mirrored back: what the right view says.
        from_left, from_right = (
            self._disparity(network, pair.left, pair.right),
            self._disparity(network, *pair.swapped()),
        )
        return checked_estimate(self.name, pair, from_left, from_right[:, ::-1], self.agreement, _FLOOR)

    def _disparity(self, network: Network, left: Array, right: Array) -> Array:
        """(H, W) px of the left view of (C, H, W); positive, where the network is what it was said to be."""
        conventions = PRESETS[self.preset]
        _, height, width = left.shape
        used = self.size or (height, width)
        padding = _padding(used, conventions)
        answer = network(*(_prepared(view, used, padding, conventions) for view in (left, right)))
        disparity = _plane(self.name, answer, tuple(side + sum(pad) for side, pad in zip(used, padding, strict=True)))
        (top, _), (before, _) = padding
        disparity = disparity[top : top + used[0], before : before + used[1]] * (self.sign or conventions.sign)
        if used != (height, width):
            disparity = cv2.resize(disparity, (width, height), interpolation=cv2.INTER_LINEAR) * (width / used[1])
        return np.ascontiguousarray(disparity, np.float32)

    @abstractmethod
    def _opened(self) -> Network:
        """The network, ready to run; opened once."""


class OnnxTeacher(FileTeacher):
    """A stereo network in an ONNX file with two inputs, left and right; its last output is taken."""

    name: ClassVar[str] = "onnx"
    suffixes: ClassVar[tuple[str, ...]] = (".onnx",)

    def _opened(self) -> Network:
        return _onnx(self.path)


class TorchScriptTeacher(FileTeacher):
    """A stereo network saved by ``torch.jit.save``; the last of its outputs is taken."""

    name: ClassVar[str] = "torchscript"
    suffixes: ClassVar[tuple[str, ...]] = (".pt", ".ts", ".torchscript")

    def _opened(self) -> Network:
        return _torchscript(self.path)


class ExportedProgramTeacher(FileTeacher):
    """A stereo network saved by ``torch.export.save``; the last of its outputs is taken."""

    name: ClassVar[str] = "exported_program"
    suffixes: ClassVar[tuple[str, ...]] = (".pt2",)

    def _opened(self) -> Network:
        return _exported(self.path)


def _padding(size: tuple[int, int], conventions: Conventions) -> tuple[tuple[int, int], tuple[int, int]]:
    """Px (above, below) and (left, right)."""
    high, wide = (-side % conventions.multiple for side in size)
    if conventions.centred:
        return (high // 2, high - high // 2), (wide // 2, wide - wide // 2)
    return (high, 0), (0, wide)


def _prepared(
    view: Array, size: tuple[int, int], padding: tuple[tuple[int, int], tuple[int, int]], conventions: Conventions
) -> Array:
    """A view (C, H, W) in [0, 1] as the network wants it, (1, 3, h, w)."""
    picture = np.repeat(view, 3, axis=0) if len(view) == 1 else view
    if picture.shape[1:] != size:
        smaller = size[1] < view.shape[2]
        how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        picture = np.stack([cv2.resize(plane, size[::-1], interpolation=how) for plane in picture])
    mean, std = (np.asarray(values, np.float32)[:, None, None] for values in (conventions.mean, conventions.std))
    picture = np.pad((picture * np.float32(conventions.white) - mean) / std, ((0, 0), *padding), mode="edge")
    return np.ascontiguousarray(picture[None], np.float32)


def _plane(name: str, answer: Any, size: tuple[int, ...]) -> Array:
    """(h, w) of an answer (h, w), (1, h, w), (1, 1, h, w), or flow (1, 2, h, w)."""
    plane = np.asarray(answer, np.float32)
    while plane.ndim > 2 and (plane.shape[0] == 1 or plane.ndim == 3):
        plane = plane[0]
    if plane.shape != size:
        raise TrainingError(
            f"{name}: expected disparity of {size[0]} x {size[1]} as the last output, found shape {np.shape(answer)}. Export "
            "the network with its full-size disparity last."
        )
    return plane


@lru_cache(maxsize=2)
def _onnx(path: str) -> Network:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("teacher onnx needs onnxruntime: pip install 'edge-dp[onnx]'") from error
    try:
        session = onnxruntime.InferenceSession(path, providers=onnxruntime.get_available_providers())
    except Exception as error:  # its exceptions have no common base
        raise InputError(f"{path}: expected an ONNX model, found: {_first_line(error)}") from error
    names = [entry.name for entry in session.get_inputs()]
    if len(names) != 2:
        raise InputError(f"{path}: expected two inputs, left and right view, found {names}")

    def run(left: Array, right: Array) -> Array:
        try:
            return session.run(None, {names[0]: left, names[1]: right})[-1]
        except Exception as error:
            raise _failed("onnx", path, left, error) from error

    return run


@lru_cache(maxsize=2)
def _torchscript(path: str) -> Network:
    torch = _torch("torchscript")
    try:
        module = torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: expected TorchScript, as torch.jit.save writes it, found: {_first_line(error)}"
        ) from error
    return _torch_network("torchscript", path, module)


@lru_cache(maxsize=2)
def _exported(path: str) -> Network:
    torch = _torch("exported_program")
    try:
        module = torch.export.load(path).module()
    except Exception as error:  # a foreign archive fails in many ways
        raise InputError(
            f"{path}: expected an ExportedProgram, as torch.export.save writes it, found: {_first_line(error)}"
        ) from error
    return _torch_network("exported_program", path, module)


def _torch_network(name: str, path: str, module: Callable[..., Any]) -> Network:
    import torch

    def run(left: Array, right: Array) -> Array:
        try:
            with torch.no_grad():
                answer = module(torch.from_numpy(left), torch.from_numpy(right))
        except RuntimeError as error:
            raise _failed(name, path, left, error) from error
        while isinstance(answer, tuple | list | dict):
            answer = list(answer.values() if isinstance(answer, dict) else answer)[-1]
        return np.asarray(answer.float())

    return run


def _torch(name: str) -> Any:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"teacher {name} needs {error.name}: pip install 'edge-dp[train]'") from error
    return torch


def _failed(name: str, path: str, left: Array, error: Exception) -> InputError:
    return InputError(
        f"{path}: {name} could not run it on views of {left.shape[2]} x {left.shape[3]}: {_first_line(error)}. If it was "
        "exported for one size, set size to that."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
