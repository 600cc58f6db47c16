"""Accuracy on the device: the task's metric on a data set, through the artifact and through the model itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """One metric over a data set. drop: how much worse the artifact is, relative to the model; negative where better."""

    metric: str
    model: float
    artifact: float
    drop: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What a data set says of one artifact. samples: how many were run."""

    dataset: str
    samples: int
    scores: tuple[Score, ...]
