"""The card: what an artifact says of itself when it is found without its bundle, as one line of JSON in its metadata."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from edge_dp.bundle.manifest import SCHEMA, SCHEMAS, Manifest, Preprocessing, TensorSpec, check_border
from edge_dp.bundle.schema import Limit, Name, check_limits, check_plain
from edge_dp.config import from_mapping
from edge_dp.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Card:
    """The part of the manifest that an app needs to feed an artifact and read it, as the manifest has it."""

    model: Name
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: Preprocessing | None = None
    schema: Annotated[int, Limit(" or ".join(map(str, SCHEMAS)), {"enum": list(SCHEMAS)})] = SCHEMA

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """The card that the artifacts of a bundle must carry."""
        return cls(manifest.model, manifest.inputs, manifest.outputs, manifest.preprocessing)

    def text(self) -> str:
        """ASCII JSON on one line; what is unknown is left out."""
        return json.dumps(_known(dataclasses.asdict(self)), separators=(",", ":"), allow_nan=False)


def read_card(text: str, where: str) -> Card:
    """Read what an artifact carries. Unknown fields are passed over.

    Args:
        where: the artifact, for the messages.

    Raises:
        SchemaError: not a card, a field is missing or wrong, or a newer edge_dp wrote it.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"{where}: card: expected JSON, found something else ({error})") from error
    if not isinstance(data, Mapping):
        raise SchemaError(f"{where}: card: expected a JSON object, found {type(data).__name__}")
    schema = data.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise SchemaError(
            f"{where}: card: schema {schema} is newer than this edge_dp reads ({SCHEMA}); upgrade edge-dp"
        )
    check_plain(data, f"{where}: card")
    card = from_mapping(Card, data, f"{where}: card", strict=False)
    check_limits(card, f"{where}: card")
    check_border(card.inputs, card.outputs, card.preprocessing, f"{where}: card")
    return card


def card_differences(found: Card, expected: Card) -> list[str]:
    """The fields in which two cards differ, each in words; empty where they say the same."""
    return [
        f"{name}: expected {getattr(expected, name)!r:.200}, found {getattr(found, name)!r:.200}"
        for name in (field.name for field in dataclasses.fields(Card))
        if getattr(found, name) != getattr(expected, name)
    ]


def _known(value: Any) -> Any:
    """JSON without the fields that say nothing; lists stay, as an empty one says something."""
    if isinstance(value, dict):
        return {key: _known(entry) for key, entry in value.items() if entry not in (None, "")}
    return [_known(entry) for entry in value] if isinstance(value, list | tuple) else value
