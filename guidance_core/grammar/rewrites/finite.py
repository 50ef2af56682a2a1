"""Schemas that name their values: whatever else they demand is decided by trying each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.ledger import Ledger

_MOST_VALUES = 1000


def values_of(schema: Schema) -> list[Any] | None:
    """The values that a schema names, in itself or in ``allOf``."""
    found = [schema["const"]] if "const" in schema else schema.get("enum")
    if found is None:
        found = next((part_values for part in schema.get("allOf", ()) if (part_values := _named(part))), None)
    return found if found is not None and len(found) <= _MOST_VALUES else None


def rewrite_finite(
    path: str, schema: Schema, values: list[Any], is_valid: Callable[[Any], bool], ledger: Ledger
) -> None:
    """Keep those of the values that are valid, and nothing else of the schema but its definitions."""
    kept = [value for value in values if is_valid(value)]
    for keyword in [keyword for keyword in schema if not keyword.startswith("$") and keyword != "definitions"]:
        del schema[keyword]
    schema.pop("$ref", None)
    schema |= {"enum": kept} if kept else {"allOf": [False]}
    ledger.rewrote(path, "enum", "as those of its values that satisfy the rest of the schema")


def _named(schema: Any) -> list[Any] | None:
    return values_of(schema) if isinstance(schema, dict) else None
