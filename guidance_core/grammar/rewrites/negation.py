"""The complement of a JSON schema, as far as schemas that llguidance takes can express it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.schemas import ALL_TYPES, all_of, any_of
from guidance_core.grammar.rewrites.words import other_than

Resolve = Callable[[str], Any]
"""From a reference to the schema that it leads to; None where it leads nowhere."""

_MOST_NUMBERS = 16
_MOST_REFERENCES = 8
_MOST_STEPS = 5_000
"""Schemas negated or copied for one document: nested conditions double with each level."""
_OPPOSITE_BOUNDS = {
    "minimum": "exclusiveMaximum",
    "maximum": "exclusiveMinimum",
    "exclusiveMinimum": "maximum",
    "exclusiveMaximum": "minimum",
}
_COUNTS = {
    "minLength": ("string", "maxLength"),
    "maxLength": ("string", "minLength"),
    "minItems": ("array", "maxItems"),
    "maxItems": ("array", "minItems"),
    "minProperties": ("object", "maxProperties"),
    "maxProperties": ("object", "minProperties"),
}
_ONLY_ITS_TYPE: dict[str, Schema] = {
    "pattern": {"type": "string"},
    "format": {"type": "string"},
    "multipleOf": {"type": "number"},
    "uniqueItems": {"type": "array", "minItems": 2},
    "prefixItems": {"type": "array", "minItems": 1},
    "patternProperties": {"type": "object", "minProperties": 1},
    "additionalProperties": {"type": "object", "minProperties": 1},
    "propertyNames": {"type": "object", "minProperties": 1},
}
"""What is at least true of a value that a keyword forbids."""
_UNKNOWN = frozenset({"oneOf", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef"})


class Negation:
    """Negates schemas of one document."""

    def __init__(self, resolve: Resolve, *, means_nothing: Callable[[str], bool], references_stand_alone: bool) -> None:
        """Keep how to follow references.

        Args:
            resolve: leads to schemas as the client wrote them.
            means_nothing: whether the document's draft does not have a keyword.
            references_stand_alone: keywords beside ``$ref`` mean nothing (up to draft 7).
        """
        self._resolve = resolve
        self._means_nothing = means_nothing
        self._references_stand_alone = references_stand_alone
        self._exact = True
        self._following: list[str] = []
        self._steps = 0

    def of(self, schema: Any) -> tuple[Any, bool]:
        """A schema for what another one forbids, and whether it is exact; else it allows more."""
        self._exact, self._following = True, []
        return self._negate(schema), self._exact

    def _negate(self, schema: Any) -> Any:
        if isinstance(schema, bool):
            return not schema
        self._steps += 1
        if self._steps > _MOST_STEPS:
            return self._anything()
        if "$ref" in schema and self._references_stand_alone:
            return any_of(list(self._reference(schema["$ref"])))
        return any_of(
            [
                option
                for keyword, value in schema.items()
                if not self._means_nothing(keyword)
                for option in self._options(keyword, value, schema)
            ]
        )

    def _anything(self) -> bool:
        self._exact = False
        return True

    def _copy(self, schema: Any) -> Any:
        self._steps += str(schema).count("{")
        return copy.deepcopy(schema) if self._steps <= _MOST_STEPS else self._anything()

    def _more(self, schema: Any) -> Iterator[Any]:
        self._exact = False
        yield schema

    def _options(self, keyword: str, value: Any, schema: Schema) -> Iterator[Any]:
        match keyword:
            case "type":
                yield from self._other_types(value)
            case "const":
                yield from self._other_values([value])
            case "enum":
                yield from self._other_values(value)
            case "not":
                yield self._copy(value)
            case "allOf":
                yield from map(self._negate, value)
            case "anyOf":
                yield all_of(*map(self._negate, value))
            case "$ref":
                yield from self._reference(value)
            case "if":
                yield all_of(self._copy(value), self._negate(schema.get("then", True)))
                yield all_of(self._negate(value), self._negate(schema.get("else", True)))
            case "required":
                for name in value:
                    yield {"type": "object", "properties": {name: False}}
            case "properties":
                for name, child in value.items():
                    if (other := self._negate(child)) is not False:
                        yield {"type": "object", "properties": {name: other}, "required": [name]}
            case "dependencies" if not self._means_nothing("dependentSchemas"):
                pass  # validators differ in whether it means anything from 2019-09 on: nothing is sure to violate it
            case "dependencies" | "dependentRequired" | "dependentSchemas":
                for name, needed in value.items():
                    needed = {"required": needed} if isinstance(needed, list) else needed
                    yield all_of({"type": "object", "required": [name]}, self._negate(needed))
            case "propertyNames" if value is False:
                yield {"type": "object", "minProperties": 1}
            case "items":
                yield from self._items(value, schema)
            case "contains":
                if schema.get("minContains", 1) == 1 and "maxContains" not in schema:
                    yield all_of({"type": "array"}, {"items": self._negate(value)})
                else:
                    yield from self._more({"type": "array"})
            case _ if keyword in _OPPOSITE_BOUNDS:
                yield {"type": "number", _OPPOSITE_BOUNDS[keyword]: value}
            case _ if keyword in _COUNTS:
                yield from _other_counts(keyword, value)
            case _ if keyword in _ONLY_ITS_TYPE:
                yield from self._more(dict(_ONLY_ITS_TYPE[keyword]))
            case _ if keyword in _UNKNOWN:
                yield from self._more(True)

    def _reference(self, reference: str) -> Iterator[Any]:
        target = self._resolve(reference)
        if target is None or reference in self._following or len(self._following) == _MOST_REFERENCES:
            yield from self._more(True)
            return
        self._following.append(reference)
        yield self._negate(target)
        self._following.pop()

    def _items(self, items: Any, schema: Schema) -> Iterator[Any]:
        if isinstance(items, list) or "prefixItems" in schema:
            yield from self._more({"type": "array", "minItems": 1})
        else:
            other = self._negate(items)
            if other is not False:
                yield {"type": "array", "contains": other}

    def _other_types(self, types: str | list[str]) -> Iterator[Any]:
        named = {types} if isinstance(types, str) else set(types)
        others = [name for name in ALL_TYPES if name not in named]
        if "integer" in named and "number" in others:
            self._exact = False  # no schema is for numbers that are not whole
        if others:
            yield {"type": others}

    def _other_values(self, values: list[Any]) -> Iterator[Any]:
        by_type: dict[str, list[Any]] = {}
        for value in values:
            by_type.setdefault(_type_of(value), []).append(value)
        others = [name for name in ALL_TYPES if name not in by_type]
        if others:
            yield {"type": others}
        if len(set(by_type.get("boolean", ()))) == 1:
            yield {"enum": [not by_type["boolean"][0]]}  # draft 4 has no `const`
        if "string" in by_type:
            pattern = other_than(by_type["string"])
            yield from (self._more({"type": "string"}) if pattern is None else [{"type": "string", "pattern": pattern}])
        if "number" in by_type:
            yield from self._other_numbers(sorted(set(by_type["number"])))
        for name, least in (("array", "minItems"), ("object", "minProperties")):
            if name in by_type:
                self._exact &= not any(by_type[name])
                yield {"type": name, least: 1} if not all(by_type[name]) else {"type": name}

    def _other_numbers(self, numbers: list[Any]) -> Iterator[Any]:
        if len(numbers) > _MOST_NUMBERS:
            yield from self._more({"type": "number"})
            return
        for low, high in zip([None, *numbers], [*numbers, None], strict=True):
            bounds = {"exclusiveMinimum": low, "exclusiveMaximum": high}
            yield {"type": "number"} | {keyword: bound for keyword, bound in bounds.items() if bound is not None}


def _other_counts(keyword: str, count: int) -> Iterator[Any]:
    kind, opposite = _COUNTS[keyword]
    if keyword.startswith("max"):
        yield {"type": kind, opposite: int(count) + 1}
    elif count > 0:
        yield {"type": kind, opposite: int(count) - 1}


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, (int, float)):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"
