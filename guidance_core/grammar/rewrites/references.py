"""References that lead back to themselves past other keywords, which llguidance does not follow."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from guidance_core.grammar.keywords import Schema, subschemas
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.negation import Resolve

if TYPE_CHECKING:
    from guidance_core.grammar.document import Document

_BESIDE = frozenset(
    {"$ref", "$defs", "definitions", "$id", "id", "$schema", "$anchor", "$comment", "title", "description"}
    | {"default", "examples", "readOnly", "writeOnly"}
)


class References:
    """Answers where the references of one document lead."""

    def __init__(self, resolve: Resolve) -> None:
        """Keep how to follow references."""
        self._resolve = resolve
        self._reached: dict[str, set[str]] = {}

    def is_circular(self, reference: str) -> bool:
        """Whether a reference can be met again inside of what it leads to."""
        return reference in self._from(reference)

    def _from(self, reference: str) -> set[str]:
        if reference not in self._reached:
            found: set[str] = set()
            pending: list[Any] = [self._resolve(reference)]
            seen: set[int] = set()
            while pending:
                schema = pending.pop()
                if not isinstance(schema, dict) or id(schema) in seen:
                    continue
                seen.add(id(schema))
                if isinstance(schema.get("$ref"), str) and schema["$ref"] not in found:
                    found.add(schema["$ref"])
                    pending.append(self._resolve(schema["$ref"]))
                pending.extend(child for _, child in subschemas(schema))
            self._reached[reference] = found
        return self._reached[reference]


def rewrite_references(path: str, schema: Schema, document: Document, ledger: Ledger, *, relaxed: bool) -> None:
    """Replace references to nothing by false, and circular ones beside other keywords by a copy of their target.

    Args:
        path: of the schema.
        schema: has a reference, or one in ``allOf``.
        document: where references lead.
        ledger: takes notes.
        relaxed: what the copies' own members refer to is left to the check.
    """
    if "$ref" in schema and document.prover.is_empty({"$ref": schema["$ref"]}):
        del schema["$ref"]
        schema["allOf"] = [*schema.get("allOf", ()), False]
        ledger.rewrote(path, "$ref", "no value satisfies what it leads to")
        return
    beside = schema.keys() - _BESIDE
    if "$ref" in schema and beside and document.references.is_circular(schema["$ref"]):
        if document.references_stand_alone:
            for keyword in beside:
                del schema[keyword]
            ledger.rewrote(path, "$ref", "what stands beside it means nothing in this draft")
        else:
            target = document.resolve(schema.pop("$ref"))
            schema["allOf"] = [*schema.get("allOf", ()), _copy(path, target, ledger, relaxed=relaxed)]
            ledger.rewrote(path, "$ref", "by a copy of what it leads to")
    elif schema.keys() - _BESIDE - {"allOf"} or len(schema.get("allOf", ())) > 1:
        schema_parts = list(schema.get("allOf", ()))
        for index, part in _circular(schema_parts, document.references):
            schema_parts[index] = _copy(path, document.resolve(part["$ref"]), ledger, relaxed=relaxed)
            schema["allOf"] = schema_parts
            ledger.rewrote(path, "allOf", "with a copy of what its reference leads to")


def _circular(parts: list[Any], references: References) -> Iterable[tuple[int, Schema]]:
    for index, part in enumerate(parts):
        if isinstance(part, dict) and "$ref" in part and references.is_circular(part["$ref"]):
            yield index, part


def _copy(path: str, target: Any, ledger: Ledger, *, relaxed: bool) -> Any:
    copied = copy.deepcopy(target)
    if relaxed and isinstance(copied, dict):
        for keyword in ("properties", "patternProperties"):
            for name, child in copied.get(keyword, {}).items():
                if isinstance(child, dict) and "$ref" in child:
                    copied[keyword][name] = {}
                    ledger.relaxed(path, "$ref", f"{name!r} refers back to what is merged here")
        for keyword in ("items", "additionalProperties"):
            if isinstance(copied.get(keyword), dict) and "$ref" in copied[keyword]:
                copied[keyword] = {}
                ledger.relaxed(path, "$ref", f"{keyword!r} refers back to what is merged here")
    return copied
