"""Where a JSON schema's subschemas are, and what its keywords may hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
_RESTRICTED = _STRINGS | COUNTS | _SCHEMAS | _NAMED_SCHEMAS | {*BOUNDS, "type", "const", "enum", "multipleOf"}
_RESTRICTED |= {"required", "uniqueItems", "dependencies", "dependentRequired"}
"""Keywords whose values `malformed` looks at."""
_CONSTRAINING = (_RESTRICTED | _HOLD_SCHEMAS) - {"$id", "$schema", "$anchor", "$defs", "definitions"}
_LARGEST_COUNT = 2**31 - 1
_LARGEST_INTEGER = 2**53
_MOST_DIGITS = 15


def subschemas(schema: Schema) -> Iterator[tuple[str, Any]]:
    """Each place where the schema's keywords hold a schema, as (relative JSON pointer, what is there)."""
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
        if keyword not in _RESTRICTED:
            continue
        expected = _expected(keyword, value)
        if expected is not None:
            return f"'{keyword}' must be {expected}, not {_shown(value)}"
        problem = _rounded(keyword, value)
        if problem is not None:
            return f"'{keyword}' holds {problem}"
    return None


def _expected(keyword: str, value: Any) -> str | None:
    """What the keyword's value must be, where it is something else."""
    if keyword == "type":
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name in TYPES for name in names):
            return f"one of {', '.join(sorted(TYPES))}, or a list of them"
    elif keyword in _STRINGS:
        return None if isinstance(value, str) else "a string"
    elif keyword in COUNTS:
        if not _is_number(value) or value != int(value) or not 0 <= value <= _LARGEST_COUNT:
            return f"a whole number from 0 to {_LARGEST_COUNT}"
    elif keyword in BOUNDS:
        return None if _is_number(value) and math.isfinite(value) else "a finite number"
    elif keyword == "multipleOf":
        return None if _is_number(value) and value > 0 else "a number above 0"
    elif keyword == "enum":
        return None if isinstance(value, list) and value else "a list of at least one value"
    elif keyword == "required":
        return None if _is_names(value) else "a list of property names"
    elif keyword in ("dependentRequired", "dependencies"):
        lists = value.values() if isinstance(value, dict) else [None]
        if not all(_is_names(item) or (keyword == "dependencies" and isinstance(item, (dict, bool))) for item in lists):
            return "an object whose values are lists of property names" + " or schemas" * (keyword == "dependencies")
    elif keyword == "uniqueItems":
        return None if isinstance(value, bool) else "true or false"
    elif keyword in _SCHEMAS:
        return None if isinstance(value, list) and value else "a list of at least one schema"
    elif keyword in _NAMED_SCHEMAS:
        return None if isinstance(value, dict) else "an object whose values are schemas"
    return None


def _rounded(keyword: str, value: Any) -> str | None:
    """A number in the keyword's value that llguidance, which reads numbers as doubles, would change."""
    if keyword in ("const", "enum"):
        pending = [value]
        while pending:
            item = pending.pop()
            if isinstance(item, (list, dict)):
                pending.extend(item if isinstance(item, list) else item.values())
            elif _is_number(item) and (problem := _imprecise(item)) is not None:
                return problem
        return None
    return _imprecise(value) if keyword == "multipleOf" else None


def _imprecise(number: float) -> str | None:
    if not math.isfinite(number):
        return "a number that is not finite"
    if number == int(number):
        if abs(number) > _LARGEST_INTEGER:
            return f"{number!r}, which is beyond ±2**53 and would be rounded"
    elif len(repr(number).split("e")[0].strip("-").replace(".", "").strip("0")) > _MOST_DIGITS or abs(number) < 1e-15:
        return f"{number!r}, which needs more than {_MOST_DIGITS} digits and would be rounded"
    return None


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "…"
