"""References that lead back to themselves past other keywords, which llguidance does not follow."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from guidance_core.grammar.keywords import Schema, subschemas
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.negation import Resolve

if TYPE_CHECKING:
    from guidance_core.grammar.document import Document

BESIDE_REFERENCES = frozenset(
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
                pending.extend(subschemas(schema))
            self._reached[reference] = found
        return self._reached[reference]


class Copies:
    """New definitions for what a circular reference and the keywords beside it say together, one for each such pair."""

    def __init__(self, root: Schema) -> None:
        """Take the document that is being rewritten."""
        self._root = root
        self._known: dict[str, str] = {}
        self.added: dict[str, Schema] = {}
        """From references to the definitions that were made for them."""

    def move(self, schema: Schema) -> Schema | None:
        """Turn a schema into a reference; returns its content as a new definition, or None where there is one."""
        content = json.dumps(schema, sort_keys=True)
        known = self._known.get(content)
        moved = None
        if known is None:
            definitions = self._root.setdefault("$defs", {})
            name = next(str(n) for n in range(len(definitions) + 1) if str(n) not in definitions)
            known = self._known[content] = f"#/$defs/{name}"
            moved = definitions[name] = self.added[known] = dict(schema)
        schema.clear()
        schema["$ref"] = known
        return moved


def rewrite_references(
    path: str, schema: Schema, document: Document, copies: Copies, ledger: Ledger, *, relaxed: bool
) -> None:
    """Replace references to nothing by false, and circular ones beside other keywords by a copy of their target.

    Args:
        path: of the schema; "" for the root, which stays where it is.
        schema: has a reference, or one in ``allOf``.
        document: where references lead.
        copies: of the document.
        ledger: takes notes.
        relaxed: what the copies' own members refer to is left to the check.
    """
    reference, parts = schema.get("$ref"), schema.get("allOf", [])
    if reference is not None and document.prover.leads_to_nothing(reference):
        del schema["$ref"]
        schema["allOf"] = [*parts, False]
        ledger.rewrote(path, "$ref", "no value satisfies what it leads to")
        return
    beside = schema.keys() - BESIDE_REFERENCES
    circular = [part for part in parts if _is_circular(part, document.references)]
    if _is_circular(schema, document.references) and beside:
        keyword = "$ref"
    elif circular and (beside - {"allOf"} or len(parts) > 1):
        keyword = "allOf"
    else:
        return
    content = copies.move(schema) if path else schema
    if content is not None:
        if keyword == "$ref":
            parts = [{"$ref": content.pop("$ref")}, *parts]
        content["allOf"] = [
            _copy(path, document.resolve(part["$ref"]), document.references, ledger, relaxed=relaxed)
            if _is_circular(part, document.references)
            else part
            for part in parts
        ]
    ledger.rewrote(path, keyword, "with a copy of what its reference leads to")


def _is_circular(schema: Any, references: References) -> bool:
    return isinstance(schema, dict) and isinstance(schema.get("$ref"), str) and references.is_circular(schema["$ref"])


def _copy(path: str, target: Any, references: References, ledger: Ledger, *, relaxed: bool) -> Any:
    copied = copy.deepcopy(target)
    pending = [copied] if relaxed else []
    while pending:
        value = pending.pop()
        children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, child in children:
            if name in ("const", "enum"):
                continue
            if value is not copied and _is_circular(child, references):
                child.clear()
                ledger.relaxed(path, "$ref", f"{name!r} refers back to what is merged here")
            else:
                pending.append(child)
    return copied
