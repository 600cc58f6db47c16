"""What a process that runs engines may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a worker process; the one in which the SDK itself runs has none.

    seconds: for one request: loading, one inference, a slice of a timing run.
    memory_bytes: of data, the engine's own included; null for as much as there is.
    """

    seconds: float = 120.0
    memory_bytes: int | None = 4 << 30
