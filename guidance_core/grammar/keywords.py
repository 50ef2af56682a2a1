"""Where a JSON schema's subschemas are, and what its keywords may hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

Schema = dict[str, Any]

TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_SCHEMA = frozenset(
    {"additionalProperties", "additionalItems", "not", "if", "then", "else", "contains", "propertyNames"}
    | {"unevaluatedItems", "unevaluatedProperties"}
)
_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_STRINGS = frozenset({"$ref", "$recursiveRef", "$dynamicRef", "$id", "$schema", "$anchor", "pattern", "format"})
COUNTS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minContains", "maxContains"}
)
_HOLD_SCHEMAS = _SCHEMA | _SCHEMAS | _NAMED_SCHEMAS | {"items", "dependencies"}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
_EXACT = frozenset({"const", "enum", "multipleOf"})
"""Keywords whose numbers must not be rounded."""
_LARGEST_COUNT = 2**31 - 1
_LARGEST_INTEGER = 2**53
_MOST_DIGITS = 15


def subschemas(schema: Schema) -> list[Any]:
    """What is at each place where the schema's keywords hold a schema."""
    found: list[Any] = []
    for keyword, value in schema.items():
        if keyword not in _HOLD_SCHEMAS:
            continue
        if keyword in _SCHEMA or (keyword == "items" and not isinstance(value, list)):
            found.append(value)
        elif isinstance(value, list) and (keyword in _SCHEMAS or keyword == "items"):
            found.extend(value)
        elif isinstance(value, dict) and keyword == "dependencies":
            found.extend(item for item in value.values() if not isinstance(item, list))
        elif isinstance(value, dict) and keyword in _NAMED_SCHEMAS:
            found.extend(value.values())
    return found


def placed_subschemas(schema: Schema) -> Iterator[tuple[str, Any]]:
    """As `subschemas`, but each as (relative JSON pointer, what is there), which takes three times as long."""
    for keyword, value in schema.items():
        if keyword not in _HOLD_SCHEMAS:
            continue
        if keyword in _SCHEMA or (keyword == "items" and not isinstance(value, list)):
            yield keyword, value
        elif (keyword in _SCHEMAS or keyword == "items") and isinstance(value, list):
            for index, item in enumerate(value):
                yield f"{keyword}/{index}", item
        elif (keyword in _NAMED_SCHEMAS or keyword == "dependencies") and isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, list) and keyword == "dependencies":
                    continue
                yield f"{keyword}/{name.replace('~', '~0').replace('/', '~1')}", item


def is_certain(schema: Any) -> bool:
    """Whether a schema has no keyword that could constrain anything, so that every value satisfies it."""
    return schema is True or (isinstance(schema, dict) and _CONSTRAINING.isdisjoint(schema))


def resolve(root: Schema, reference: str) -> Any:
    """What a JSON pointer (``#/$defs/name``) leads to; None where it leads nowhere or is another kind of reference."""
    if reference != "#" and not reference.startswith("#/"):
        return None
    found: Any = root
    for part in unquote(reference).split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        elif isinstance(found, dict) and part in found:
            found = found[part]
        else:
            return None
    return found


def malformed(schema: Schema) -> str | None:
    """What no meta-schema allows in this schema's own keywords (not in its subschemas), as a sentence, or None."""
    for keyword, value in schema.items():
        if keyword not in _ALLOWED:
            continue
        is_allowed, expected = _ALLOWED[keyword]
        if not is_allowed(value):
            return f"'{keyword}' must be {expected}, not {_shown(value)}"
        if keyword in _EXACT and (problem := _rounded(value)) is not None:
            return f"'{keyword}' holds {problem}"
    return None


def _rounded(value: Any) -> str | None:
    """A number in a value that llguidance, which reads numbers as doubles, would change."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, (list, dict)):
            pending.extend(item if isinstance(item, list) else item.values())
        elif _is_number(item) and (problem := _imprecise(item)) is not None:
            return problem
    return None


def _imprecise(number: float) -> str | None:
    if not math.isfinite(number):
        return "a number that is not finite"
    if number == int(number):
        if abs(number) > _LARGEST_INTEGER:
            return f"{number!r}, which is beyond ±2**53 and would be rounded"
    elif len(repr(number).split("e")[0].strip("-").replace(".", "").strip("0")) > _MOST_DIGITS or abs(number) < 1e-15:
        return f"{number!r}, which needs more than {_MOST_DIGITS} digits and would be rounded"
    return None


def _is_type(value: Any) -> bool:
    if isinstance(value, str):
        return value in TYPES
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) and name in TYPES for name in value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and value == int(value) and 0 <= value <= _LARGEST_COUNT


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _is_step(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_filled_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_dependent_names(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_names, value.values()))


def _is_dependencies(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, (dict, bool)) or _is_names(item) for item in value.values())


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_anything(_: Any) -> bool:
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"


_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "type": (_is_type, f"one of {', '.join(sorted(TYPES))}, or a list of them"),
    **dict.fromkeys(_STRINGS, (_is_string, "a string")),
    **dict.fromkeys(COUNTS, (_is_count, f"a whole number from 0 to {_LARGEST_COUNT}")),
    **dict.fromkeys(BOUNDS, (_is_finite, "a finite number")),
    "multipleOf": (_is_step, "a number above 0"),
    "const": (_is_anything, "anything"),
    "enum": (_is_filled_list, "a list of at least one value"),
    "required": (_is_names, "a list of property names"),
    "dependentRequired": (_is_dependent_names, "an object whose values are lists of property names"),
    "dependencies": (_is_dependencies, "an object whose values are lists of property names or schemas"),
    "uniqueItems": (_is_boolean, "true or false"),
    **dict.fromkeys(_SCHEMAS, (_is_filled_list, "a list of at least one schema")),
    **dict.fromkeys(_NAMED_SCHEMAS, (_is_object, "an object whose values are schemas")),
}
"""What `malformed` demands: keyword → (whether a value is allowed, what is)."""
KEYWORDS = frozenset(_ALLOWED) | _HOLD_SCHEMAS
"""Keywords that mean something to anything here."""
_CONSTRAINING = KEYWORDS - {"$id", "$schema", "$anchor", "$defs", "definitions"}
