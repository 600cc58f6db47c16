"""What is known of a dual-pixel sensor, as versioned JSON with the source of every number."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from edge_dp.errors import InputError, SchemaError
from edge_dp.files import json_load
from edge_dp.sensors.psf_field import PsfField

SCHEMA = 2
_PROFILES = Path(__file__).resolve().parent / "profiles"


@dataclass(frozen=True, slots=True)
class FieldPolynomial:
    """A number that varies smoothly over the field, such as the left/right shading.

    value(x, y) = sum over j, i of coefficients[j][i] * y**j * x**i, with x and y running from -1 to 1 over the field as it
    lies in the files, from its left edge to its right one and from top to bottom, at pixel centres.
    """

    coefficients: tuple[tuple[float, ...], ...]
    field_px: tuple[int, int]  # (width, height) of the part of the sensor it was fitted on

    def sample(self, height: int, width: int) -> NDArray[np.float32]:
        """(height, width) float32 values for views that show the field, at any resolution. Read-only: they are kept."""
        return _sampled(tuple(map(tuple, self.coefficients)), height, width)


@lru_cache(maxsize=8)  # every capture of a sensor asks for the same
def _sampled(coefficients: tuple[tuple[float, ...], ...], height: int, width: int) -> NDArray[np.float32]:
    x = (2 * np.arange(width) + 1) / width - 1
    y = (2 * np.arange(height) + 1) / height - 1
    value: NDArray[np.float64] = np.polynomial.polynomial.polygrid2d(y, x, np.array(coefficients))
    values = value.astype(np.float32)
    values.flags.writeable = False
    return values


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of one view: variance x / full_well_e + (read_noise_e / full_well_e)^2 at linear light x in [0, 1].

    Source: photon counts follow Poisson's law, and the two half pixels count different photons.
    """

    full_well_e: float  # photo-electrons of a half pixel at the white level
    read_noise_e: float  # standard deviation, photo-electrons


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
    alpha: float | None  # disparity per diameter of the circle of confusion; its mean over the field where it varies
    focal_length_m: float | None
    f_number: float | None
    pitch_um: float | None  # of the samples in the files, which may be several photosites
    right_gain: FieldPolynomial | None  # multiplies the right view before it is compared; None: equally bright
    sources: dict[str, str]  # field -> where its number comes from
    colour_filter: Literal["bayer", "quad_bayer", "none"] | None = None
    dp_plane: Literal["green", "rgb", "grey"] | None = None  # what the files hold of each view
    orientation: Literal[0, 90, 180, 270] | None = None  # degrees counter-clockwise the files are turned from readout
    native_sampling: tuple[float, float] | None = None  # samples of the sensor per sample of the file, along x and y
    noise: Noise | None = None
    focus_m: float | tuple[float, float] | None = None  # of all captures, or their (nearest, farthest)
    alpha_field: FieldPolynomial | None = None  # alpha over the field, relative to ``alpha``; None: the same everywhere
    psf: PsfField | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str) -> SensorProfile:
        """Check ``data`` (the JSON form) and make a profile of it; fields it does not know are left aside.

        Schema 1 had no field after ``sources``; fields that are not there are unknown.

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
        for field, (expected, holds) in {**_REQUIRED, **_OPTIONAL}.items():
            if field in _REQUIRED and field not in data:
                raise SchemaError(f"{where}: {field}: expected {expected}, found nothing. Add the field.")
            if not holds(data.get(field)):
                raise SchemaError(f"{where}: {field}: expected {expected}, found {data[field]!r}. Correct it.")
        _check_levels(data, where)
        for field in NEED_SOURCE:
            if data.get(field) is not None and not data["sources"].get(field):
                raise SchemaError(
                    f"{where}: sources.{field}: expected where the number comes from, found nothing. Name the paper, "
                    "data sheet or measurement."
                )
        values: dict[str, Any] = {field: data.get(field) for field in (*_REQUIRED, *_OPTIONAL)}
        for field, build in _BUILD.items():
            if data.get(field) is not None:
                values[field] = build(data[field])
        _check_strength(values["alpha_field"], where)
        if data.get("psf") is not None:
            values["psf"] = PsfField.from_dict(data["psf"], f"{where}: psf")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, as stored in manifests; ``from_dict`` reads it back."""
        data = asdict(self)
        sources = data.pop("sources")  # last, as texts are long
        return {"schema": SCHEMA, **data, "sources": sources}

    def alpha_over_field(self, height: int, width: int) -> NDArray[np.float32]:
        """(height, width) float32 disparity per diameter of the circle of confusion, for views that show the field.

        Raises:
            InputError: ``alpha`` is unknown.
        """
        if self.alpha is None:
            raise InputError(f"sensor {self.name}: alpha: expected a number, found none. Fit it or pass one.")
        if self.alpha_field is None:
            return np.full((height, width), self.alpha, np.float32)
        return np.float32(self.alpha) * self.alpha_field.sample(height, width)


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


def _is_positive(value: object) -> TypeGuard[float]:
    return _is_number(value) and value > 0


def _is_positive_or_null(value: object) -> bool:
    return value is None or _is_positive(value)


def _is_positive_pair(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(_is_positive(number) for number in value)


def _is_noise(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    read_noise = value.get("read_noise_e")
    return _is_positive(value.get("full_well_e")) and _is_number(read_noise) and read_noise >= 0


def _is_focus(value: Any) -> bool:
    return _is_positive_or_null(value) or (_is_positive_pair(value) and value[0] <= value[1])


def _is_field_polynomial(value: object) -> bool:
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


def _field_polynomial(value: dict[str, Any]) -> FieldPolynomial:
    width, height = value["field_px"]
    return FieldPolynomial(tuple(tuple(row) for row in value["coefficients"]), (width, height))


def _check_levels(data: dict[str, Any], where: str) -> None:
    black, white, highest = data["black_level"], data["white_level"], np.iinfo(data["dtype"]).max
    if not black < white <= highest:
        raise SchemaError(
            f"{where}: white_level: expected above black_level {black} and at most {highest} ({data['dtype']}), found "
            f"{white}. Correct it."
        )


def _check_strength(field: FieldPolynomial | None, where: str) -> None:
    if field is None or (lowest := float(field.sample(64, 64).min())) > 0:
        return
    raise SchemaError(
        f"{where}: alpha_field: expected above 0 all over the field, found {lowest:.3g}: the views would not differ there, or "
        "change places. Correct it."
    )


_Check = tuple[str, Callable[[Any], bool]]
_OPTIONAL_NUMBER = "a number above 0, or null where unknown"
_POLYNOMIAL: _Check = (
    "null or an object with field_px [width, height] and coefficients, rows of equal length of finite numbers",
    _is_field_polynomial,
)
_REQUIRED: dict[str, _Check] = {
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
    "right_gain": _POLYNOMIAL,
    "sources": (
        "an object of texts",
        lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
    ),
}
_OPTIONAL: dict[str, _Check] = {
    "colour_filter": (
        "bayer, quad_bayer, none, or null where unknown",
        lambda value: value in ("bayer", "quad_bayer", "none", None),
    ),
    "dp_plane": ("green, rgb, grey, or null where unknown", lambda value: value in ("green", "rgb", "grey", None)),
    "orientation": (
        "0, 90, 180, 270, or null where unknown",
        lambda value: value is None or (type(value) is int and value in (0, 90, 180, 270)),
    ),
    "native_sampling": (
        "[along x, along y], numbers above 0, or null where unknown",
        lambda value: value is None or _is_positive_pair(value),
    ),
    "noise": (
        "null or an object with full_well_e above 0 and read_noise_e of at least 0",
        lambda value: value is None or _is_noise(value),
    ),
    "focus_m": ("a number above 0, [nearest, farthest], or null where unknown", _is_focus),
    "alpha_field": _POLYNOMIAL,
    "psf": ("an object or null", lambda value: value is None or isinstance(value, dict)),
}
_BUILD: dict[str, Callable[[Any], Any]] = {
    "right_gain": _field_polynomial,
    "alpha_field": _field_polynomial,
    "native_sampling": tuple,
    "noise": lambda value: Noise(value["full_well_e"], value["read_noise_e"]),
    "focus_m": lambda value: tuple(value) if isinstance(value, list | tuple) else value,
}
NEED_SOURCE = (
    "black_level", "white_level", "alpha", "focal_length_m", "f_number", "pitch_um", "right_gain", "colour_filter",
    "dp_plane", "orientation", "native_sampling", "noise", "focus_m", "alpha_field", "psf",
)  # fmt: skip
"""Fields whose value, where it is known, must say where it comes from."""
