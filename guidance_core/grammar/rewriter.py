r"""Turns one JSON schema, in place, into one that llguidance takes and reads as every validator would.

llguidance compiles a schema or says why it cannot, with few departures from JSON Schema
(https://github.com/guidance-ai/llguidance/blob/main/docs/json_schema.md). Three things happen here:

- Keywords whose values no meta-schema allows are refused everywhere, not only where llguidance looks.
- Keywords that llguidance does not take are rewritten (`rewrites`): into equivalents, or into what allows more.
- What it takes but reads too liberally is mended: bounds of numbers are made safe to enforce digit by digit
  (`bounds`), patterns match only what ECMA-262 and Python both match (`patterns`), dates exist (`formats`), and
  keywords that belong together are put together, because llguidance reads them in order, a group at a time.
"""

from __future__ import annotations

import json
import math
from enum import IntEnum
from fractions import Fraction
from functools import partial
from typing import Any

from guidance_core.grammar.check import CheckError
from guidance_core.grammar.document import Document
from guidance_core.grammar.drafts import draft_of
from guidance_core.grammar.identifiers import as_uri, refuse_reference
from guidance_core.grammar.keywords import COUNTS, KEYWORDS, Schema, malformed, placed_subschemas, resolve
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.arrays import rewrite_contains, rewrite_unique_items
from guidance_core.grammar.rewrites.conditions import rewrite_dependencies, rewrite_if, rewrite_not
from guidance_core.grammar.rewrites.finite import rewrite_finite, values_of
from guidance_core.grammar.rewrites.key_patterns import rewrite_key_patterns
from guidance_core.grammar.rewrites.last_keys import declare_last_keys
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.numbers import modernise_bounds, rewrite_numbers
from guidance_core.grammar.rewrites.one_of import rewrite_one_of
from guidance_core.grammar.rewrites.property_counts import rewrite_property_counts
from guidance_core.grammar.rewrites.property_names import rewrite_property_names
from guidance_core.grammar.rewrites.references import BESIDE_REFERENCES, Copies, rewrite_references
from guidance_core.grammar.rewrites.schemas import replace
from guidance_core.grammar.rewrites.strings import rewrite_strings
from guidance_core.grammar.rewrites.unevaluated import rewrite_unevaluated_items, rewrite_unevaluated_properties

_APPLICATORS = frozenset({"const", "enum", "allOf", "anyOf", "oneOf", "$ref"})
_TOGETHER = (("properties", "patternProperties", "additionalProperties"), ("prefixItems", "items", "additionalItems"))
_GROUPS = {keyword: group for group in _TOGETHER for keyword in group}
_CONSTRAIN_NOTHING: dict[str, tuple[Any, ...]] = {
    "uniqueItems": (False,),
    "propertyNames": (True, {}, {"type": "string"}),
    "additionalProperties": (True, {}),
    "dependencies": ({},),
    "dependentRequired": ({},),
    "dependentSchemas": ({},),
    "unevaluatedItems": (True, {}),
    "unevaluatedProperties": (True, {}),
    "not": (False,),
}
_UNSUPPORTED = frozenset(
    {"not", "if", "then", "else", "dependencies", "dependentRequired", "dependentSchemas", "propertyNames"}
    | {"uniqueItems", "contains", "minContains", "maxContains", "unevaluatedItems", "unevaluatedProperties"}
    | {"$recursiveRef", "$dynamicRef"}
)
"""What llguidance does not take at all."""
_CONDITIONS = frozenset({"not", "if", "dependencies", "dependentRequired", "dependentSchemas"})
_SOMETIMES_SUPPORTED = frozenset({"oneOf", "minProperties", "maxProperties", "$ref", "allOf"})
_ANNOTATIONS = frozenset({"deprecated", "contentSchema", "$vocabulary", "$recursiveAnchor", "$dynamicAnchor"})
_LOOKED_AT = (KEYWORDS - {"type"}) | _ANNOTATIONS
"""A schema that has none of these stays as it is; most are such."""

_MEET = _UNSUPPORTED | {"allOf", "anyOf", "oneOf", "$ref", "patternProperties"}
"""Keywords that may bring several steps to one value."""
_MOST_COMMON_UNITS = 1_000_000
"""Several steps in units of the common decimal, where each is another value's."""
_MOST_COMMON_UNITS_OF_A_VALUE = 100_000
"""Remainders that llguidance 1.9 tries for the steps of one value together, in 0.7 s."""


class Effort(IntEnum):
    """How much is rewritten: no more than llguidance needs."""

    LEAST = 0
    """Only what llguidance never takes."""
    MORE = 1
    """Also what it takes in some schemas, but not in this one."""
    MOST = 2
    """Also what it cannot merge: that is left to the check."""
    ALL = 3
    """Also whatever says something about other keywords: what is left is small enough for it, and loose."""


class Rewriter:
    """Rewrites all schemas of one document, in place."""

    def __init__(self, text: str, root: Schema, effort: Effort) -> None:
        """Take the document.

        Args:
            text: as the client wrote it.
            root: the same, parsed; it will be rewritten.
            effort: how much to rewrite.
        """
        self.ledger = Ledger()
        self.keys_can_collide = False
        self._text = text
        self._root = root
        self._effort = effort
        self._draft = draft_of(root)
        self._seen: set[int] = set()
        self._targets: dict[str, Any] = {}
        self._referring: list[Schema] = []
        self._pending: list[str] = []
        self._steps: list[float] = []
        self._steps_may_meet = False
        self._rewrites = effort > Effort.LEAST

    def rewrite(self) -> None:
        """Check everything, then rewrite what the keywords lead to, then what references lead to.

        Raises:
            InvalidGrammar: the schema is malformed, or needs what cannot be promised; the message names the place.
        """
        self._survey_all()
        if self._rewrites:
            self._document = Document(self._text, json.loads(json.dumps(self._root)))
            self._copies = Copies(self._root)
        self._seen.clear()
        self._walk("", self._root)
        while self._pending:
            reference = self._pending.pop()
            if reference in self._targets:
                self._walk(reference[1:], self._targets[reference])
        self._relocate()
        self._check_steps()

    def _survey_all(self) -> None:
        """Check every schema's shape, and find what references lead to."""
        pending: list[tuple[str, Any]] = [("", self._root)]
        while pending:
            path, schema = pending.pop()
            if isinstance(schema, bool) or id(schema) in self._seen:
                continue
            if not isinstance(schema, dict):
                refuse(path, "a schema must be an object or true or false")
            self._seen.add(id(schema))
            if self._draft == 4:
                modernise_bounds(path, schema)
            problem = malformed(schema)
            if problem is not None:
                refuse(path, problem)
            if _LOOKED_AT.isdisjoint(schema):
                continue
            self._rewrites |= not _UNSUPPORTED.isdisjoint(schema)
            self._steps_may_meet |= not _MEET.isdisjoint(schema)
            pending.extend((f"{path}/{relative}", child) for relative, child in placed_subschemas(schema))
            if "$ref" in schema:
                written, schema["$ref"] = schema["$ref"], as_uri(schema["$ref"])
                if schema["$ref"] not in self._targets:
                    target = resolve(self._root, written)
                    if target is None:
                        refuse_reference(path, written)
                    self._targets[schema["$ref"]] = target
                    pending.append((schema["$ref"][1:], target))
            for keyword in COUNTS.intersection(schema):
                schema[keyword] = int(schema[keyword])

    def _walk(self, path: str, schema: Any) -> None:
        if isinstance(schema, bool) or id(schema) in self._seen:
            return
        self._seen.add(id(schema))
        if _LOOKED_AT.isdisjoint(schema):
            return
        if "$ref" in schema and self._draft <= 7:
            self._drop_siblings(path, schema)
        if not isinstance(schema.get("items"), list):
            schema.pop("additionalItems", None)  # it means nothing, but llguidance would ignore `prefixItems`
        if not _CONSTRAIN_NOTHING.keys().isdisjoint(schema):
            for keyword in _CONSTRAIN_NOTHING.keys() & schema:
                values = _CONSTRAIN_NOTHING[keyword]
                if keyword == "additionalProperties" and "unevaluatedProperties" in schema:
                    continue  # which leaves nothing unevaluated
                if any(type(schema[keyword]) is type(value) and schema[keyword] == value for value in values):
                    del schema[keyword]
        for keyword in _ANNOTATIONS.intersection(schema):
            del schema[keyword]
        if self._rewrites:
            self._cover(path, schema)
        for relative, child in list(placed_subschemas(schema)):
            self._walk(f"{path}/{relative}", child)
        self._mend(path, schema)

    def _drop_siblings(self, path: str, schema: Schema) -> None:
        """Up to draft 7, keywords beside a reference mean nothing; to llguidance they would."""
        siblings = schema.keys() - BESIDE_REFERENCES
        for keyword in siblings:
            del schema[keyword]
        if siblings:
            self.ledger.rewrote(path, "$ref", "what stands beside it means nothing in this draft")

    def _cover(self, path: str, schema: Schema) -> None:
        """Rewrite what llguidance does not take. Its parts are still as the client wrote them."""
        document, ledger = self._document, self.ledger
        unsupported = _UNSUPPORTED if self._effort is Effort.LEAST else _UNSUPPORTED | _SOMETIMES_SUPPORTED
        for keyword in _UNSUPPORTED.intersection(schema):
            if document.means_nothing(keyword):
                del schema[keyword]
        values = values_of(schema)
        if values is not None and _contains_any(schema, unsupported - {"allOf", "$ref"}):
            try:
                rewrite_finite(path, schema, values, partial(document.is_valid, schema=dict(schema)), ledger)
            except CheckError as error:
                refuse(path, str(error))
        if unsupported.isdisjoint(schema):
            return
        if "unevaluatedProperties" in schema:
            rewrite_unevaluated_properties(path, schema, ledger, draft=self._draft)
        if "unevaluatedItems" in schema:
            rewrite_unevaluated_items(path, schema, ledger)
        if self._effort is Effort.ALL:
            self._leave_to_check(path, schema)
        self._cover_references(path, schema)
        if "if" in schema:
            rewrite_if(path, schema, document.negation, ledger)
        schema.pop("then", None)
        schema.pop("else", None)
        if "not" in schema:
            rewrite_not(path, schema, document.negation, ledger)
        if "dependencies" in schema and self._draft > 7 and '"oneOf"' in self._text:
            ledger.relaxed(path, "dependencies", "validators differ in whether it tells options apart in this draft")
        rewrite_dependencies(path, schema, ledger)
        if "propertyNames" in schema:
            rewrite_property_names(path, schema, document, ledger, relaxed=self._effort >= Effort.MOST)
        if "uniqueItems" in schema:
            rewrite_unique_items(path, schema, document.prover, ledger)
        if "contains" in schema:
            rewrite_contains(path, schema, ledger)
        for keyword in ("minContains", "maxContains"):
            schema.pop(keyword, None)
        if self._effort is Effort.LEAST:
            return
        if "oneOf" in schema:
            rewrite_one_of(path, schema, document.prover, document.negation, ledger)
        if not schema.keys().isdisjoint(("minProperties", "maxProperties")):
            rewrite_property_counts(path, schema, ledger, relaxed=self._effort >= Effort.MOST)

    def _leave_to_check(self, path: str, schema: Schema) -> None:
        for keyword in _CONDITIONS.intersection(schema):
            del schema[keyword]
            self.ledger.relaxed(path, keyword, "llguidance cannot take the whole of the schema")
        if "oneOf" in schema:
            replace(schema, "oneOf", {"anyOf": schema["oneOf"]})
            self.ledger.relaxed(path, "oneOf", "llguidance cannot take the whole of the schema")

    def _cover_references(self, path: str, schema: Schema) -> None:
        for keyword in ("$recursiveRef", "$dynamicRef"):
            if schema.pop(keyword, None) is not None:
                self.ledger.relaxed(path, keyword, "where it leads depends on the way to it")
        if self._effort > Effort.LEAST:
            relaxed = self._effort >= Effort.MOST
            rewrite_references(path, schema, self._document, self._copies, self.ledger, relaxed=relaxed)
            self._targets |= self._copies.added

    def _mend(self, path: str, schema: Schema) -> None:
        if "$ref" in schema:
            self._referring.append(schema)
            self._pending.append(schema["$ref"])
        rewrite_strings(path, schema, self.ledger, relaxed=self._effort >= Effort.MOST)
        self._steps += rewrite_numbers(path, schema, self.ledger)
        self._mend_objects(path, schema)
        _group(schema)

    def _mend_objects(self, path: str, schema: Schema) -> None:
        patterns = schema.get("patternProperties")
        is_open = schema.get("additionalProperties", True) is not False or bool(patterns)
        self.keys_can_collide |= is_open and bool(schema.get("properties") or schema.get("required") or patterns)
        undeclared = schema.get("minProperties", 0) - len(set(schema.get("required", ())))
        if is_open and undeclared > 1:
            self.ledger.relaxed(path, "minProperties", f"an answer could repeat one of {undeclared} undeclared keys")
        if patterns:
            rewrite_key_patterns(path, schema, self.ledger, relaxed=self._effort >= Effort.MOST)
            if "patternProperties" in schema:
                declare_last_keys(schema)

    def _relocate(self) -> None:
        """Give targets of references that were moved a place of their own."""
        moved: dict[str, str] = {}
        for reference in dict.fromkeys(schema["$ref"] for schema in self._referring):
            target = self._targets.get(reference)
            if target is None or resolve(self._root, reference) is target:
                continue
            definitions = self._root.setdefault("$defs", {})
            name = next(str(n) for n in range(len(definitions) + 1) if str(n) not in definitions)
            definitions[name] = target
            moved[reference] = f"#/$defs/{name}"
        if moved:
            for schema in self._referring:
                schema["$ref"] = moved.get(schema["$ref"], schema["$ref"])

    def _check_steps(self) -> None:
        """Llguidance 1.9 multiplies the steps of schemas that it merges as 32-bit numbers, and tries all remainders."""
        steps = [Fraction(str(step)) for step in self._steps]
        if len(steps) < 2:
            return
        largest, common = max(steps), 1
        most = _MOST_COMMON_UNITS_OF_A_VALUE if self._steps_may_meet else _MOST_COMMON_UNITS
        for step in steps:
            common = math.lcm(common, math.ceil(step * 10**6))
            if largest * common >= 2**32 * 10**6 or _units(common) > most:
                refuse("", "the values of 'multipleOf' have too large a common multiple; use smaller ones")


def _units(millionths: int) -> int:
    """The numerator of a number of millionths."""
    return millionths // math.gcd(millionths, 10**6)


def _contains_any(schema: Any, keywords: frozenset[str]) -> bool:
    """Whether the schema, or one in its ``allOf``, has one of the keywords."""
    return isinstance(schema, dict) and (
        not keywords.isdisjoint(schema) or any(_contains_any(part, keywords) for part in schema.get("allOf", ()))
    )


def _group(schema: Schema) -> None:
    """Put keywords that only mean something together side by side, at the place of the first of them."""
    if _APPLICATORS.isdisjoint(schema) or _GROUPS.keys().isdisjoint(schema):
        return
    items = dict(schema)
    schema.clear()
    for keyword in items:
        if keyword not in schema:
            schema.update({member: items[member] for member in _GROUPS.get(keyword, (keyword,)) if member in items})
