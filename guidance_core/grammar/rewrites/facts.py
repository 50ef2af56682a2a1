"""What is certain about every value that satisfies a schema, and whether two schemas can share a value.

Everything here errs towards "not certain": a fact that is missing only costs an exact rewrite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from guidance_core.grammar.keywords import TYPES, Schema, is_certain
from guidance_core.grammar.patterns import PatternError, widest_regex
from guidance_core.grammar.rewrites.negation import Resolve

_DEPTH = 6
_MOST_STEPS = 5_000
"""Questions answered for one document."""
_ENDS = {
    "minimum": ("", True),
    "maximum": ("", False),
    "minLength": ("Length", True),
    "maxLength": ("Length", False),
    "minItems": ("Items", True),
    "maxItems": ("Items", False),
    "minProperties": ("Properties", True),
    "maxProperties": ("Properties", False),
    "exclusiveMinimum": ("", True),
    "exclusiveMaximum": ("", False),
}
"""Keyword → the range that it is an end of, and whether of the lower one."""
_JSON_TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}

Accepts = Callable[[Any, Any], bool]
"""Whether a value satisfies a schema in some reading of it."""


@dataclass(slots=True)
class Facts:
    """What is certain about a value.

    Attributes:
        types: its type is one of these ("number" includes "integer").
        values: it is one of these, or unknown.
        required: keys that it has, if it is an object.
        properties: what a key's value must satisfy, if it is there.
        closed: for each schema that allows no undeclared keys: the keys that it declares.
        items: what every item must satisfy, if it is an array.
        patterns: what it matches, if it is a string.
        ranges: bounds of its value, or of its length, items or properties, by the keyword's stem.
        excluded: bounds that it does not reach.
    """

    types: set[str] = field(default_factory=lambda: set(TYPES))
    values: list[Any] | None = None
    required: set[str] = field(default_factory=set)
    properties: dict[str, list[Any]] = field(default_factory=dict)
    closed: list[set[str]] = field(default_factory=list)
    items: list[Any] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    excluded: set[float] = field(default_factory=set)

    def property(self, name: str) -> list[Any]:
        """What the value of a key must satisfy; contains False where the key is forbidden."""
        forbidden = any(name not in declared for declared in self.closed)
        return [*self.properties.get(name, ()), *([False] if forbidden else ())]


class Prover:
    """Answers questions about the schemas of one document, as the client wrote them."""

    def __init__(
        self,
        resolve: Resolve,
        accepts: Accepts,
        *,
        means_nothing: Callable[[str], bool],
        references_stand_alone: bool,
    ) -> None:
        """Keep how to follow references and how to try values.

        Args:
            resolve: leads to schemas as the client wrote them.
            accepts: tries a value.
            means_nothing: whether the document's draft does not have a keyword.
            references_stand_alone: keywords beside ``$ref`` mean nothing (up to draft 7).
        """
        self._resolve = resolve
        self._accepts = accepts
        self._const = "const" if not means_nothing("const") else None
        self._references_stand_alone = references_stand_alone
        self._steps = 0
        self._empty_targets: dict[str, bool] = {}

    def leads_to_nothing(self, reference: str) -> bool:
        """Whether certainly no value satisfies what a reference leads to; asked once for each."""
        if reference not in self._empty_targets:
            self._empty_targets[reference] = self.is_empty({"$ref": reference})
        return self._empty_targets[reference]

    def is_empty(self, *schemas: Any) -> bool:
        """Whether certainly no value satisfies all of the schemas."""
        return self._is_empty(schemas, _DEPTH)

    def only_empty_arrays(self, *schemas: Any) -> bool:
        """Whether ``[]`` is the only value that can satisfy all of the schemas."""
        facts = self._facts(schemas, _DEPTH)
        return facts is not None and facts.types == {"array"} and self._is_empty(facts.items, _DEPTH - 1)

    def values(self, *schemas: Any) -> list[Any] | None:
        """The values that can satisfy all of the schemas, if they are few and known."""
        facts = self._facts(schemas, _DEPTH)
        return [] if facts is None else facts.values

    def _is_empty(self, schemas: Iterable[Any], depth: int) -> bool:
        schemas = tuple(schemas)
        self._steps += 1
        if depth == 0 or self._steps > _MOST_STEPS:
            return False
        facts = self._facts(schemas, depth)
        if facts is None or not facts.types:
            return True
        if facts.values is not None:
            return not any(all(self._accepts(value, schema) for schema in schemas) for value in facts.values)
        alternatives = self._first_alternatives(schemas)
        if alternatives is not None:
            options, others = alternatives
            return all(self._is_empty((option, *others), depth - 1) for option in options)
        impossible = {name for name in facts.types if self._is_impossible(name, facts, depth)}
        return facts.types == impossible

    def _is_impossible(self, name: str, facts: Facts, depth: int) -> bool:
        match name:
            case "number" | "integer":
                low, high = facts.ranges.get("", (-math.inf, math.inf))
                return low > high or (low == high and low in facts.excluded)
            case "string":
                low, high = facts.ranges.get("Length", (0, math.inf))
                return low > high or (len(facts.patterns) > 1 and _never_match_together(tuple(facts.patterns)))
            case "array":
                low, high = facts.ranges.get("Items", (0, math.inf))
                return low > high or (low > 0 and self._is_empty(facts.items, depth - 1))
            case "object":
                low, high = facts.ranges.get("Properties", (0, math.inf))
                return (
                    low > high
                    or len(facts.required) > high
                    or any(self._is_empty(facts.property(key), depth - 1) for key in facts.required)
                )
        return False

    def _first_alternatives(self, schemas: tuple[Any, ...]) -> tuple[list[Any], list[Any]] | None:
        """The options of one ``anyOf`` or ``oneOf``, and everything else that is demanded."""
        for index, schema in enumerate(schemas):
            if not isinstance(schema, dict):
                continue
            for keyword in ("anyOf", "oneOf"):
                if keyword in schema and not ("$ref" in schema and self._references_stand_alone):
                    rest = {name: value for name, value in schema.items() if name != keyword}
                    return schema[keyword], [*schemas[:index], rest, *schemas[index + 1 :]]
            if "$ref" in schema and (target := self._resolve(schema["$ref"])) is not None:
                inner = self._first_alternatives((target,))
                if inner is not None:
                    rest = {} if self._references_stand_alone else {k: v for k, v in schema.items() if k != "$ref"}
                    return inner[0], [*schemas[:index], rest, *inner[1], *schemas[index + 1 :]]
        return None

    def _facts(self, schemas: Iterable[Any], depth: int) -> Facts | None:
        """None where a schema is false."""
        facts = Facts()
        for schema in schemas:
            if not self._add(facts, schema, depth):
                return None
        return facts

    def _add(self, facts: Facts, schema: Any, depth: int) -> bool:
        if isinstance(schema, bool):
            return schema
        if "$ref" in schema:
            target = self._resolve(schema["$ref"])
            if depth > 0 and target is not None and not self._add(facts, target, depth - 1):
                return False
            if self._references_stand_alone:
                return True
        if "not" in schema and is_certain(schema["not"]):
            return False
        _add_own(facts, schema, self._const)
        return all(self._add(facts, part, depth) for part in schema.get("allOf", ()))


def _add_own(facts: Facts, schema: Schema, const: str | None) -> None:
    types = schema.get("type")
    if types is not None:
        named = {types} if isinstance(types, str) else set(types)
        facts.types &= named | ({"integer"} if "number" in named else set())
    if const in schema or "enum" in schema:
        values = [schema[const]] if const in schema else schema["enum"]
        if facts.values is None or len(values) < len(facts.values):
            facts.values = list(values)
        kinds = {_JSON_TYPES.get(type(value), "array" if isinstance(value, list) else "object") for value in values}
        facts.types &= kinds | ({"integer", "number"} if kinds & {"integer", "number"} else set())
    facts.required |= set(schema.get("required", ()))
    for name, child in schema.get("properties", {}).items():
        facts.properties.setdefault(name, []).append(child)
    if schema.get("additionalProperties") is False and not schema.get("patternProperties"):
        facts.closed.append(set(schema.get("properties", {})))
    items = schema.get("items")
    if isinstance(items, (dict, bool)) and "prefixItems" not in schema:
        facts.items.append(items)
    if "pattern" in schema:
        facts.patterns.append(schema["pattern"])
    _add_ranges(facts, schema)


def _add_ranges(facts: Facts, schema: Schema) -> None:
    for keyword, (stem, is_lower) in _ENDS.items():
        if keyword not in schema or isinstance(schema[keyword], bool):  # draft 4's exclusive bounds
            continue
        bound = schema[keyword]
        low, high = facts.ranges.get(stem, (-math.inf, math.inf))
        facts.ranges[stem] = (max(low, bound), high) if is_lower else (low, min(high, bound))
        if keyword.startswith("exclusive"):
            facts.excluded.add(bound)


@lru_cache(maxsize=1024)
def _never_match_together(patterns: tuple[str, ...]) -> bool:
    """Whether no string matches all of the patterns, in their widest reading; llguidance intersects them."""
    try:
        parts = [{"pattern": widest_regex(pattern)} for pattern in patterns]
    except PatternError:
        return False
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "allOf": parts})
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return bool(is_error) and any("Regex is empty" in message for message in messages)
