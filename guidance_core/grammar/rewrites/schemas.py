"""How rewrites put schemas together."""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import Schema

ALL_TYPES = ("null", "boolean", "number", "string", "array", "object")
MOST_OPTIONS = 256
"""Alternatives that llguidance may have to multiply out in one schema."""


def replace(schema: Schema, keyword: str, replacement: Schema) -> None:
    """Put keywords in the place of one: their order decides the order of properties in answers."""
    items = list(schema.items())
    schema.clear()
    for name, value in items:
        if name != keyword:
            conjoin(schema, {name: value})
        else:
            conjoin(schema, replacement)


def conjoin(schema: Schema, other: Any) -> None:
    """Add what another schema demands, into ``allOf`` where the keywords are taken."""
    if other is True or other == {}:
        return
    if isinstance(other, dict) and schema.keys().isdisjoint(other):
        schema.update(other)
    elif isinstance(other, dict) and list(other) == ["allOf"]:
        schema["allOf"] = [*schema["allOf"], *other["allOf"]]
    else:
        schema["allOf"] = [*schema.get("allOf", ()), other]


def all_of(*schemas: Any) -> Any:
    """A schema that demands what all of them do."""
    if False in [schema for schema in schemas if isinstance(schema, bool)]:
        return False
    demanding = [schema for schema in schemas if schema is not True and schema != {}]
    if not demanding:
        return {}
    return demanding[0] if len(demanding) == 1 else {"allOf": demanding}


def any_of(schemas: list[Any]) -> Any:
    """A schema that demands what one of them does."""
    possible = [schema for schema in schemas if schema is not False]
    if any(schema is True or schema == {} for schema in possible):
        return True
    if not possible:
        return False
    return possible[0] if len(possible) == 1 else {"anyOf": possible}


def options(schema: Any) -> int:
    """How many alternatives llguidance has to multiply out for a schema."""
    if not isinstance(schema, dict):
        return 1
    product = max(1, sum(options(option) for keyword in ("anyOf", "oneOf") for option in schema.get(keyword, ())))
    for part in schema.get("allOf", ()):
        product *= options(part)
    return product
