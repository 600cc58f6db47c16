"""A value axis that holds everything it is given: linear from zero, logarithmic where the values are far apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

LOGARITHMIC_FROM = 8.0
"""Largest over smallest value from which an axis is logarithmic; below, it is linear and begins at zero."""
_LEAST = 1e-4
_MARGIN = 0.02  # so that a mark at either end is seen whole


@dataclass(frozen=True, slots=True)
class Axis:
    """From ``low`` to ``high``, both positive; ``place`` runs from 0 to 1."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Axis:
        """The axis that holds ``values``, of which there is at least one; values below 0.0001 sit at its low end."""
        values = list(values)
        return cls(max(min(values), _LEAST), max(*values, 2 * _LEAST))

    @property
    def logarithmic(self) -> bool:
        """Whether equal ratios are equally far apart."""
        return self.high / self.low >= LOGARITHMIC_FROM

    def place(self, value: float) -> float:
        """Where ``value`` lies."""
        if not self.logarithmic:
            return (1 - _MARGIN) * value / self.high
        share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        return _MARGIN + (1 - 2 * _MARGIN) * share

    def ticks(self, most: int = 8) -> list[tuple[float, str]]:
        """Place and label of up to ``most`` round values."""
        values = self._decades(most) if self.logarithmic else self._even()
        while len(values) > most:
            values = values[::2]
        return [(self.place(value), f"{value:g}") for value in values]

    def _even(self) -> list[float]:
        """Four to seven even ticks from zero."""
        power = 10.0 ** math.floor(math.log10(self.high))
        step = next(factor * power for factor in (2, 1, 0.5, 0.2, 0.1) if self.high / (factor * power) >= 3)
        return [round(index * step, 9) for index in range(math.floor(self.high / step) + 1)]

    def _decades(self, most: int) -> list[float]:
        """1, 2 and 5 times powers of ten; powers of ten alone where those would be too many."""
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        fine = [round(factor * 10.0**power, 9) for power in powers for factor in (1, 2, 5)]
        fine = [value for value in fine if self.low <= value <= self.high]
        return fine if len(fine) <= most else [value for value in fine if f"{value:e}".startswith("1.")]
