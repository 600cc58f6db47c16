"""What is known of a dual-pixel sensor, as versioned JSON with the source of every number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, SchemaError
from edge_dp.files import json_load

SCHEMA = 1
_PROFILES = Path(__file__).resolve().parent / "profiles"


@dataclass(frozen=True, slots=True)
class RightGain:
    """Left/right shading: what to multiply the right view by before comparing it with the left one.

    gain(x, y) = sum over j, i of coefficients[j][i] * y**j * x**i, with x and y running from -1 to 1 over the field,
    from its left edge to its right one and from top to bottom, at pixel centres.
    """

    coefficients: tuple[tuple[float, ...], ...]
    field_px: tuple[int, int]  # (width, height) of the part of the sensor it was fitted on

    def sample(self, height: int, width: int) -> NDArray[np.float32]:
        """(height, width) float32 gains of views that show the field, at any resolution."""
        x = (2 * np.arange(width) + 1) / width - 1
        y = (2 * np.arange(height) + 1) / height - 1
        gain: NDArray[np.float64] = np.polynomial.polynomial.polygrid2d(y, x, np.array(self.coefficients))
        return gain.astype(np.float32)


@dataclass(frozen=True, slots=True)
class SensorProfile:
    """How the files of one dual-pixel sensor are to be read, and what its optics are. None means unknown."""

    name: str
    description: str
    dtype: Literal["uint8", "uint16"]  # of the files
    bit_depth: int  # of the data in them
    black_level: float
    white_level: float
    transfer: Literal["linear", "srgb"]  # srgb: gamma-encoded, linearised on reading (IEC 61966-2-1)
    dp_axis: Literal["x", "y"]  # of the files: along which image axis the views differ
    swap_views: bool  # True where the file called left holds the right view
    alpha: float | None  # disparity per diameter of the circle of confusion
    focal_length_m: float | None
    f_number: float | None
    pitch_um: float | None  # of the samples in the files, which may be several photosites
    right_gain: RightGain | None  # None: the views are taken as equally bright
    sources: dict[str, str]  # field -> where its number comes from

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str) -> SensorProfile:
        """Check ``data`` (the JSON form) and make a profile of it; fields it does not know are left aside.

        Args:
            data: as returned by ``to_dict``.
            where: the file, for the messages.

        Raises:
            SchemaError: a newer schema, a field that is missing or malformed, or a number without its source.
        """
        schema = data.get("schema")
        if type(schema) is not int or schema < 1:
            raise SchemaError(f"{where}: schema: expected {SCHEMA}, found {schema!r}. Is this a sensor profile?")
        if schema > SCHEMA:
            raise SchemaError(
                f"{where}: schema: expected at most {SCHEMA}, found {schema}. Upgrade edge_dp to read it."
            )
        for field, (expected, holds) in _FIELDS.items():
            if field not in data:
                raise SchemaError(f"{where}: {field}: expected {expected}, found nothing. Add the field.")
            if not holds(data[field]):
                raise SchemaError(f"{where}: {field}: expected {expected}, found {data[field]!r}. Correct it.")
        _check_levels(data, where)
        for field in _NEED_SOURCE:
            if data[field] is not None and not data["sources"].get(field):
                raise SchemaError(
                    f"{where}: sources.{field}: expected where the number comes from, found nothing. Name the paper, "
                    "data sheet or measurement."
                )
        gain = data["right_gain"]
        if gain is not None:
            gain = RightGain(tuple(tuple(row) for row in gain["coefficients"]), tuple(gain["field_px"]))
        return cls(**{**{field: data[field] for field in _FIELDS}, "right_gain": gain})

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as stored in manifests; ``from_dict`` reads it back."""
        return {"schema": SCHEMA, **asdict(self)}


def list_sensors() -> tuple[str, ...]:
    """Names of the profiles that come with edge_dp, sorted."""
    return tuple(sorted(path.stem for path in _PROFILES.glob("*.json")))


def load_sensor(name_or_path: str | Path) -> SensorProfile:
    """Read a profile that comes with edge_dp, by name, or one of your own, by path (ending in ``.json``).

    Raises:
        InputError: an unknown name (the known ones are listed), or a file that is not there.
        SchemaError: the file is not a valid profile; file and field are named.
    """
    path = Path(name_or_path)
    if path.suffix != ".json":
        if str(name_or_path) not in list_sensors():
            known = ", ".join(list_sensors())
            raise InputError(
                f"sensor {str(name_or_path)!r}: expected one of {known}, found none of them. Correct the name or pass "
                "the path of a profile (.json)."
            )
        path = _PROFILES / f"{name_or_path}.json"
    return SensorProfile.from_dict(json_load(path), str(path))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_positive_or_null(value: object) -> bool:
    return value is None or (_is_number(value) and value > 0)


def _is_right_gain(value: object) -> bool:
    if value is None:
        return True
    if not isinstance(value, dict):
        return False
    size, rows = value.get("field_px"), value.get("coefficients")
    return (
        isinstance(size, list | tuple)
        and len(size) == 2
        and all(type(side) is int and side > 0 for side in size)
        and isinstance(rows, list | tuple)
        and len(rows) > 0
        and all(isinstance(row, list | tuple) and len(row) == len(rows[0]) > 0 for row in rows)
        and all(_is_number(number) for row in rows for number in row)
    )


def _check_levels(data: dict[str, Any], where: str) -> None:
    black, white, highest = data["black_level"], data["white_level"], np.iinfo(data["dtype"]).max
    if not black < white <= highest:
        raise SchemaError(
            f"{where}: white_level: expected above black_level {black} and at most {highest} ({data['dtype']}), found "
            f"{white}. Correct it."
        )


_OPTIONAL_NUMBER = "a number above 0, or null where unknown"
_FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "name": (
        "letters, digits, '_' and '-'",
        lambda value: isinstance(value, str) and re.fullmatch(r"[\w-]+", value) is not None,
    ),
    "description": ("a text", lambda value: isinstance(value, str)),
    "dtype": ("uint8 or uint16", lambda value: value in ("uint8", "uint16")),
    "bit_depth": ("a whole number from 1 to 16", lambda value: type(value) is int and 1 <= value <= 16),
    "black_level": ("a number, 0 or above", lambda value: _is_number(value) and value >= 0),
    "white_level": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "transfer": ("linear or srgb", lambda value: value in ("linear", "srgb")),
    "dp_axis": ("x or y", lambda value: value in ("x", "y")),
    "swap_views": ("true or false", lambda value: isinstance(value, bool)),
    "alpha": (_OPTIONAL_NUMBER, _is_positive_or_null),
    "focal_length_m": (_OPTIONAL_NUMBER, _is_positive_or_null),
    "f_number": (_OPTIONAL_NUMBER, _is_positive_or_null),
    "pitch_um": (_OPTIONAL_NUMBER, _is_positive_or_null),
    "right_gain": (
        "null or an object with field_px [width, height] and coefficients, rows of equal length of finite numbers",
        _is_right_gain,
    ),
    "sources": (
        "an object of texts",
        lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
    ),
}
_NEED_SOURCE = ("black_level", "white_level", "alpha", "focal_length_m", "f_number", "pitch_um", "right_gain")
