"""What a run writes down on its way: numbers as JSON lines, numbers and pictures for TensorBoard, seconds of its parts."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError
from edge_dp.files import atomic_write, json_dump, json_load
from edge_dp.training.labels import Samples

NO_TENSORBOARD = (
    "no TensorBoard logs: tensorboard is not installed (pip install tensorboard); log.jsonl has the numbers"
)


class Record:
    """The records of one run.

    Args:
        folder: of the run: ``log.jsonl``, ``pictures/`` and ``tensorboard/`` are written there.
        low, high: limits of the colours of disparity, px.
    """

    def __init__(self, folder: Path, low: float, high: float) -> None:
        self.folder, self._limits = folder, (low, high)
        self._lines = folder / "log.jsonl"
        self._writer: Any = None

    def begin(self, stage: str, step: int) -> None:
        """Go on with a stage after ``step`` steps: what a killed run noted beyond them is forgotten."""
        if self._lines.is_file():
            kept = [
                line for line in self._lines.read_text(encoding="utf-8").splitlines() if _is_before(line, stage, step)
            ]
            with atomic_write(self._lines) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            print(NO_TENSORBOARD, file=sys.stderr)
            return
        with self._writing():
            self._writer = SummaryWriter(str(self.folder / "tensorboard" / stage), purge_step=step + 1)

    def numbers(self, stage: str, step: int, values: dict[str, float]) -> None:
        """Note numbers of a step."""
        line = json.dumps(
            {"stage": stage, "step": step, **{name: float(f"{value:.9g}") for name, value in values.items()}}
        )
        with self._writing():
            with self._lines.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            if self._writer is not None:
                for name, value in values.items():
                    self._writer.add_scalar(name, value, step)

    def pictures(
        self, stage: str, step: int, samples: Samples, disparity: NDArray[np.float32], confidence: NDArray[np.float32]
    ) -> None:
        """Keep a picture: a row for each capture, with left view, label, prediction and confidence.

        Args:
            samples: B captures.
            disparity, confidence: (B, H/2, W/2) what the student says of them; px, code.
        """
        label, mask, views = (
            samples.label.astype(np.float32),
            samples.mask,
            samples.views[:, 0, ::2, ::2].astype(np.float32),
        )
        low, high = self._limits
        light = np.clip(views / max(float(views.max()), 1e-6), 0.0, 1.0) ** (1 / 2.2)
        grey = [np.repeat(maps[..., None], 3, axis=-1) for maps in (light, np.clip(confidence, 0.0, 1.0))]
        labels, predictions = (_coloured((maps - low) / (high - low)) for maps in (label, disparity))
        labels[~mask] = 0
        columns = [(255 * grey[0]).astype(np.uint8), labels, predictions, (255 * grey[1]).astype(np.uint8)]
        picture = np.concatenate([np.concatenate(list(column)) for column in columns], axis=1)
        with atomic_write(self.folder / "pictures" / f"{stage}_{step:06d}.png") as temporary:
            temporary.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        if self._writer is not None:
            with self._writing():
                self._writer.add_image(
                    "view, label, prediction, confidence", picture[..., ::-1], step, dataformats="HWC"
                )

    def end(self) -> None:
        """Close the stage's TensorBoard file; what a full disk does not take of it is lost."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
            self._writer = None

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.folder}: records cannot be written: {error.strerror or error}. Free space, then go on with --resume."
            ) from error


class Clock:
    """Seconds spent in each part of a run, over all sessions that worked on it.

    Args:
        path: where they are kept; None keeps none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.seconds: dict[str, float] = json_load(path) if path is not None and path.is_file() else {}
        self._running: tuple[str, float] | None = None

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Count the seconds of the block to ``part``."""
        self._running = (part, time.monotonic())
        try:
            yield
        except BaseException:
            with contextlib.suppress(InputError):  # what went wrong says more than that this cannot be written either
                self.save()
            raise
        self.save()
        self._running = None

    def add(self, part: str, seconds: float) -> None:
        """Count ``seconds`` to ``part``."""
        self.seconds[part] = self.seconds.get(part, 0.0) + seconds

    def save(self) -> None:
        """Keep the seconds so far: a kill loses those since."""
        if self._running is not None:
            part, start = self._running
            now = time.monotonic()
            self.add(part, now - start)
            self._running = (part, now)
        if self._path is not None:
            json_dump({part: round(seconds, 3) for part, seconds in self.seconds.items()}, self._path)


def _is_before(line: str, stage: str, step: int) -> bool:
    try:
        entry = json.loads(line)
        return bool(entry["stage"] != stage or entry["step"] <= step)
    except (ValueError, KeyError, TypeError):  # cut by a kill
        return False


def _coloured(maps: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(B, H, W) in [0, 1] to (B, H, W, 3) blue, green, red."""
    grey = (255 * np.clip(np.nan_to_num(maps), 0.0, 1.0)).astype(np.uint8)
    return np.stack([np.asarray(cv2.applyColorMap(one, cv2.COLORMAP_TURBO), np.uint8) for one in grey])
