"""Limits on the fields of dataclasses, as JSON Schema keywords: written once, checked on reading, published as a JSON Schema.

A field says what it allows in its type: ``Annotated[int, Limit("a whole number above 0", {"minimum": 1})]``.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from edge_dp.errors import SchemaError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_VALUES = 2**31 - 1
"""Of one tensor; engines count them in 32 bits."""
MAX_DEPTH = 64
"""Of JSON within JSON; no honest manifest comes near."""


@dataclass(frozen=True, slots=True, eq=False)
class Limit:
    """What a field allows: in words, as messages have it, and as keywords of JSON Schema."""

    title: str
    keywords: dict[str, Any]


def one_of(*words: str) -> Limit:
    """Limit of a text field to some words."""
    return Limit(" or ".join(words), {"enum": list(words)})


Name = Annotated[
    str,
    Limit("a name without control characters", {"pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028\\u2029]+$"}),
]
RelativePath = Annotated[
    str,
    Limit(
        "a path that stays inside the bundle, with forward slashes",
        {"pattern": "^(?!/)(?!([^/]*/)*\\.\\.(/|$))[^\\\\\\u0000-\\u001f]+$"},
    ),
]
Sha256 = Annotated[str, Limit("a sha256 of 64 lower-case hexadecimal digits", {"pattern": "^[0-9a-f]{64}$"})]
Count = Annotated[int, Limit("a whole number from 0 to 2^63 - 1", {"minimum": 0, "maximum": 2**63 - 1})]
Share = Annotated[float, Limit("a share from 0 to 1", {"minimum": 0, "maximum": 1})]
Positive = Annotated[float, Limit("a number above 0", {"exclusiveMinimum": 0})]
Int8 = Annotated[int, Limit("a whole number from -128 to 127", {"minimum": -128, "maximum": 127})]
Size = Annotated[int, Limit("a whole number above 0", {"minimum": 1, "maximum": MAX_VALUES})]
Shape = Annotated[tuple[Size, ...], Limit("at most 8 sizes", {"maxItems": 8})]

_HOLDS: dict[str, Callable[[Any, Any], bool]] = {
    "enum": lambda value, allowed: value in allowed,
    "pattern": lambda value, pattern: re.fullmatch(pattern, value) is not None,
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "minItems": lambda value, least: len(value) >= least,
    "maxItems": lambda value, most: len(value) <= most,
}
_NO_LIMIT = Limit("anything", {})
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean"}


def check_limits(value: Any, where: str) -> None:
    """Compare every field of a dataclass, and of those within it, with the limits in its type.

    Raises:
        SchemaError: the first that does not hold, with its place.
    """
    hints = get_type_hints(type(value), include_extras=True)
    for field in dataclasses.fields(value):
        _check(hints[field.name], getattr(value, field.name), f"{where}: {field.name}")


def check_plain(value: Any, where: str) -> None:
    """Refuse what JSON readers let through and nobody can write back: NaN, infinity, half characters, endless nesting.

    Raises:
        SchemaError: names the place.
    """
    pending = [(value, "", 0)]
    while pending:
        item, place, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise SchemaError(f"{where}: {place[:80]}: expected at most {MAX_DEPTH} levels of nesting, found more")
        if isinstance(item, dict):
            for key, entry in item.items():
                if not str(key).isprintable():
                    raise SchemaError(f"{where}: {place}: expected names of printable characters, found {key!r:.80}")
                pending.append((entry, f"{place}.{key}".lstrip("."), depth + 1))
        elif isinstance(item, list | tuple):
            pending += [(entry, f"{place}[{index}]", depth + 1) for index, entry in enumerate(item)]
        elif isinstance(item, float) and not math.isfinite(item):
            raise SchemaError(f"{where}: {place}: expected a finite number, found {item}")
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError:
                raise SchemaError(
                    f"{where}: {place}: expected text, found half a character (a lone surrogate)"
                ) from None


def json_schema(cls: type, title: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a dataclass and those within it. Fields it does not name are allowed everywhere."""
    definitions: dict[str, Any] = {}
    _schema_of(cls, definitions)
    return {"$schema": DIALECT, "title": title, "$ref": f"#/$defs/{cls.__name__}", "$defs": definitions}


def _check(hint: Any, value: Any, where: str) -> None:
    hint, limit = _split(hint)
    for keyword, bound in limit.keywords.items():
        if not _HOLDS[keyword](value, bound):
            raise SchemaError(f"{where}: expected {limit.title}, found {_short(value)}")
    if value is None or hint is Any:
        return
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        _check(next(a for a in arguments if a is not type(None)), value, where)
    elif origin is tuple:
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else arguments
        for index, (kind, item) in enumerate(zip(kinds, value, strict=True)):
            _check(kind, item, f"{where}[{index}]")
    elif origin is dict:
        for key, item in value.items():
            _check(arguments[0], key, f"{where}: a name in it")
            _check(arguments[1], item, f"{where}.{key}")
    elif dataclasses.is_dataclass(value):
        check_limits(value, where)


def _schema_of(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    hint, limit = _split(hint)
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        schema: dict[str, Any] = {}
    elif origin in (Union, types.UnionType):
        schema = {"anyOf": [_schema_of(a, definitions) for a in arguments if a is not type(None)] + [{"type": "null"}]}
    elif origin is tuple and arguments[-1] is Ellipsis:
        schema = {"type": "array", "items": _schema_of(arguments[0], definitions)}
    elif origin is tuple:
        items = [_schema_of(argument, definitions) for argument in arguments]
        schema = {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    elif origin is dict:
        schema = {"type": "object"}
        if values := _schema_of(arguments[1], definitions):
            schema["additionalProperties"] = values
        if names := _split(arguments[0])[1].keywords:
            schema["propertyNames"] = names
    elif isinstance(hint, type) and dataclasses.is_dataclass(hint):
        schema = {"$ref": f"#/$defs/{hint.__name__}"}
        if hint.__name__ not in definitions:
            _define(hint, definitions)
    else:
        schema = {"type": _TYPES[hint]}
    return schema | limit.keywords


def _define(cls: Any, definitions: dict[str, Any]) -> None:
    definition = definitions[cls.__name__] = {"description": inspect.getdoc(cls), "type": "object"}
    hints = get_type_hints(cls, include_extras=True)
    stored = [field for field in dataclasses.fields(cls) if is_stored(field)]
    definition["required"] = [
        f.name for f in stored if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    definition["properties"] = {field.name: _schema_of(hints[field.name], definitions) for field in stored}


def is_stored(field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a dataclass has a place in its JSON; one with ``metadata={"stored": False}`` has none."""
    return bool(field.metadata.get("stored", True))


def _split(hint: Any) -> tuple[Any, Limit]:
    """A type and its limit."""
    if get_origin(hint) is not Annotated:
        return hint, _NO_LIMIT
    base, limit = get_args(hint)
    return base, limit


def _short(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."
