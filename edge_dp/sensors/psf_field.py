"""Point-spread functions over the field of a sensor as numbers: a low-order fit of measured kernels, kept in its profile."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import SchemaError

Coefficients = tuple[float, ...]


def polynomial_terms(
    x: NDArray[np.float64] | float, y: NDArray[np.float64] | float, degree: int
) -> NDArray[np.float64]:
    """(terms, ...) powers 1; x, y; x^2, xy, y^2; ... of total degree 0 to ``degree``, in this order, for x and y of one shape."""
    return np.stack([x ** (total - j) * y**j for total in range(degree + 1) for j in range(total + 1)])


def term_count(degree: int) -> int:
    """How many terms ``polynomial_terms`` gives."""
    return (degree + 1) * (degree + 2) // 2


class LocalPsf(NamedTuple):
    """What ``PsfField`` says of one place in the field."""

    softness: float
    stretch: Coefficients  # (a, b)
    shared: Coefficients  # of u; v; u^2; uv; v^2; ...
    split: Coefficients


@dataclass(frozen=True, slots=True)
class PsfField:
    """What each view of a dual pixel makes of a point out of focus, anywhere in the field.

    The lens blurs a point to an ellipse with a soft rim; over it the light of the views varies as

        right = exp(shared(u, v) + split(u, v)),   left = exp(shared(u, v) - split(u, v)),

    with u, v in the unit disc of the aperture, u along the dual-pixel axis and v downwards: ``shared`` is how the lens spreads
    the light, ``split`` how the two photodiodes share it (a logistic ramp where it is linear in u). Both are polynomials in
    u and v without a constant, as each kernel sums to 1. A point (u, v) falls on radius * exp([[a, b], [b, -a]]) (u, v) px,
    with (a, b) the ``stretch``; the radius is what makes the two centroids ``disparity`` px apart along x.

    Every entry is a list of coefficients of a polynomial over the field position x, y, from -1 to 1 from the left edge
    to the right one and from top to bottom: 1; x, y; x^2, xy, y^2; ... up to some total degree. The terms of ``shared`` and
    ``split`` are in the same order, from u on.
    """

    field_px: tuple[int, int]  # (width, height) of the part of the sensor it was fitted on
    blur_px: float  # sigma of what blurs in focus too (lens, pixel); 0 for kernels relative to a focused image
    disparity_px: Coefficients  # distance of the centroids, over the field, of the plane that was measured
    softness: Coefficients  # sigma of the rim per radius
    stretch: tuple[Coefficients, Coefficients]
    shared: tuple[Coefficients, ...]
    split: tuple[Coefficients, ...]

    @classmethod
    def from_dict(cls, data: Any, where: str) -> PsfField:
        """Check ``data`` (the JSON form, as of ``dataclasses.asdict``) and make a field of it.

        Args:
            data: the object read from JSON; fields it does not know are left aside.
            where: file and field, for the messages.

        Raises:
            SchemaError: no object, or a field that is missing or malformed.
        """
        if not isinstance(data, dict):
            raise SchemaError(f"{where}: expected an object, found {type(data).__name__}. Correct it.")
        for field, (expected, holds) in _FIELDS.items():
            if field not in data:
                raise SchemaError(f"{where}.{field}: expected {expected}, found nothing. Add the field.")
            if not holds(data[field]):
                raise SchemaError(f"{where}.{field}: expected {expected}, found {_short(data[field])}. Correct it.")
        if len(data["shared"]) != len(data["split"]):
            raise SchemaError(
                f"{where}.split: expected {len(data['shared'])} terms as in shared, found {len(data['split'])}. Correct it."
            )
        width, height = data["field_px"]
        one, other = data["stretch"]
        return cls(
            field_px=(width, height),
            blur_px=data["blur_px"],
            disparity_px=tuple(data["disparity_px"]),
            softness=tuple(data["softness"]),
            stretch=(tuple(one), tuple(other)),
            shared=tuple(tuple(row) for row in data["shared"]),
            split=tuple(tuple(row) for row in data["split"]),
        )

    def plane_disparity(self, x: float, y: float) -> float:
        """Distance in px of the centroids, right minus left along x, of the plane that was measured, at a place in the field."""
        return _evaluate((self.disparity_px,), x, y)[0]

    def at(self, x: float, y: float) -> LocalPsf:
        """The numbers at a place in the field, -1..1 from left to right and from top to bottom; outside as at the edge."""
        softness = _evaluate((self.softness,), x, y)[0]
        stretch, shared, split = (_evaluate(rows, x, y) for rows in (self.stretch, self.shared, self.split))
        return LocalPsf(max(softness, 0.0), stretch, shared, split)


def degree_of(terms: int) -> int:
    """The total degree of a polynomial with this many terms; it is exact where ``term_count`` gives ``terms`` back."""
    return (math.isqrt(8 * terms + 1) - 3) // 2


def _evaluate(rows: tuple[Coefficients, ...], x: float, y: float) -> Coefficients:
    x, y = np.clip([x, y], -1.0, 1.0)
    return tuple(float(np.dot(row, polynomial_terms(x, y, degree_of(len(row))))) for row in rows)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_polynomial(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and term_count(degree_of(len(value))) == len(value)
        and all(_is_number(number) for number in value)
    )


def _is_aperture(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) > 0
        and term_count(degree_of(len(value) + 1)) == len(value) + 1
        and all(_is_polynomial(row) for row in value)
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


_POLYNOMIAL = "1, 3, 6, 10, ... finite numbers"
_APERTURE = f"2, 5, 9, 14, ... lists of {_POLYNOMIAL}"
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "field_px": (
        "[width, height], whole numbers above 0",
        lambda value: (
            isinstance(value, list | tuple) and len(value) == 2 and all(type(n) is int and n > 0 for n in value)
        ),
    ),
    "blur_px": ("a number, 0 or above", lambda value: _is_number(value) and value >= 0),
    "disparity_px": (_POLYNOMIAL, _is_polynomial),
    "softness": (_POLYNOMIAL, _is_polynomial),
    "stretch": (
        f"two lists of {_POLYNOMIAL}",
        lambda value: isinstance(value, list | tuple) and len(value) == 2 and all(_is_polynomial(row) for row in value),
    ),
    "shared": (_APERTURE, _is_aperture),
    "split": (_APERTURE, _is_aperture),
}
