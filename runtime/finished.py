"""Finished rows of a validation, kept on disk until the whole run is done, so that one that was broken off can go on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge_dp.config import from_mapping
from edge_dp.errors import EdgeDpError
from edge_dp.files import atomic_write, json_dump, json_load
from edge_dp.runtime.engines.base import Tensors
from edge_dp.runtime.report.model import Row

FOLDER = "report_rows"


@dataclass(frozen=True, slots=True)
class Finished:
    """One row, and what its artifact gave for the first golden case."""

    row: Row
    outputs: Tensors


class Store:
    """The finished rows of one bundle.

    Args:
        folder: the bundle.
        settings: whatever a row depends on besides its artifact, engine and device; rows of other settings are not found.
    """

    def __init__(self, folder: Path, settings: Any) -> None:
        self._folder = folder / FOLDER
        self._settings = json.dumps(settings, sort_keys=True, default=str)

    def load(self, cell: tuple[Any, ...]) -> Finished | None:
        """The row of a cell; None where it is not finished, or what is kept of it cannot be read."""
        place = self._place(cell)
        try:
            row = from_mapping(Row, json_load(place.with_suffix(".json")), str(place))
            with np.load(place.with_suffix(".npz"), allow_pickle=False) as arrays:
                return Finished(row, dict(arrays))
        except (EdgeDpError, OSError, ValueError):  # half a row is none: it is measured again
            return None

    def save(self, cell: tuple[Any, ...], finished: Finished) -> None:
        """Keep a row; the arrays first, so that a row never lacks them."""
        self._folder.mkdir(exist_ok=True)
        place = self._place(cell)
        with atomic_write(place.with_suffix(".npz")) as temporary, temporary.open("wb") as file:
            np.savez(file, **finished.outputs)  # type: ignore[arg-type]  # its stub takes the arrays for the flag
        json_dump(dataclasses.asdict(finished.row), place.with_suffix(".json"))

    def clear(self) -> None:
        """Forget all rows."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _place(self, cell: tuple[Any, ...]) -> Path:
        digest = hashlib.sha256(json.dumps([self._settings, *cell], default=str).encode()).hexdigest()
        return self._folder / digest[:32]
