"""How rewrites put schemas together."""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import BOUNDS, Schema

ALL_TYPES = ("null", "boolean", "number", "string", "array", "object")
MOST_OPTIONS = 256
"""Alternatives that llguidance may have to multiply out in one schema."""


_INDEPENDENT = frozenset(
    {*BOUNDS, "type", "const", "enum", "required", "multipleOf", "pattern", "minLength", "maxLength", "anyOf", "oneOf"}
    | {"minItems", "maxItems", "uniqueItems", "minProperties", "maxProperties", "propertyNames"}
)
"""Keywords that mean the same whatever stands beside them."""
_GROUPS = (
    frozenset({"properties", "patternProperties", "additionalProperties"}),
    frozenset({"prefixItems", "items", "additionalItems"}),
    frozenset({"contains", "minContains", "maxContains"}),
)
"""Keywords that mean something else beside one another."""


def replace(schema: Schema, keyword: str, replacement: Schema) -> None:
    """Put keywords in the place of one: their order decides the order of properties in answers."""
    others = {name: value for name, value in schema.items() if name != keyword}
    if not _fits(others, replacement):
        replacement = {"allOf": [*schema.get("allOf", ()), replacement]}
    items = list(schema.items())
    schema.clear()
    for name, value in items:
        if name == keyword:
            schema |= replacement
        else:
            schema.setdefault(name, value)


def conjoin(schema: Schema, other: Any) -> None:
    """Add what another schema demands, into ``allOf`` where its keywords cannot stand beside the schema's."""
    if other is True or other == {}:
        return
    if isinstance(other, dict) and _fits(schema, other):
        schema.update(other)
    elif isinstance(other, dict) and list(other) == ["allOf"]:
        schema["allOf"] = [*schema.get("allOf", ()), *other["allOf"]]
    else:
        schema["allOf"] = [*schema.get("allOf", ()), other]


def _fits(schema: Schema, other: Schema) -> bool:
    """Whether the keywords of two schemas, put together, demand what both do."""
    return schema.keys().isdisjoint(other) and all(
        keyword in _INDEPENDENT or any(keyword in group and group.isdisjoint(schema) for group in _GROUPS)
        for keyword in other
    )


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
