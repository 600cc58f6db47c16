"""Strict reading of dataclasses from YAML or JSON: an unknown key, a missing one or a wrong type is an error naming its place."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edge_dp.errors import SchemaError

T = TypeVar("T")


def from_mapping(cls: type[T], data: Any, where: str, *, strict: bool = True) -> T:
    """Build the dataclass ``cls`` from nested mappings.

    Args:
        where: what the messages call the place, such as ``recipe.yaml: qat``.
        strict: refuse unknown keys; otherwise pass over them, as readers of a newer minor version must.

    Raises:
        SchemaError: the data does not fit, with the path of the field.
    """
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where}: expected a mapping with the fields of {cls.__name__}, found {_kind(data)}")
    hints = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]  # T is a dataclass
    if strict and (unknown := sorted(str(key) for key in data if key not in fields)):
        raise SchemaError(f"{where}: unknown field {unknown[0]!r}; known are {', '.join(fields)}")
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], f"{where}: {name}", strict)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SchemaError(f"{where}: field {name!r} is missing")
    try:
        return cls(**values)
    except SchemaError as error:  # of __post_init__, which knows the numbers but not their place
        raise SchemaError(f"{where}: {error}") from error


def _convert(hint: Any, value: Any, where: str, strict: bool) -> Any:  # noqa: PLR0911  # one return per kind of type
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(next(a for a in arguments if a is not type(None)), value, where, strict)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_mapping(hint, value, where, strict=strict)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise SchemaError(f"{where}: expected a list, found {_kind(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise SchemaError(f"{where}: expected {len(kinds)} values, found {len(value)}")
        return tuple(
            _convert(kind, item, f"{where}[{i}]", strict)
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, Mapping):
            raise SchemaError(f"{where}: expected a mapping, found {_kind(value)}")
        return {str(key): _convert(arguments[1], item, f"{where}.{key}", strict) for key, item in value.items()}
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise SchemaError(f"{where}: expected a finite number, found {number}")
        return number
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise SchemaError(f"{where}: expected {hint.__name__}, found {_kind(value)}")


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {value!r}"[:80]
