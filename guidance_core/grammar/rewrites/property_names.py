"""``propertyNames`` as a pattern of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from guidance_core.grammar.check import CheckError
from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.words import escaped, other_than

if TYPE_CHECKING:
    from guidance_core.grammar.document import Document

_ANY = r"(?:.|[\n\r\u2028\u2029])"
_ANNOTATIONS = frozenset({"type", "title", "description", "$comment", "examples", "default"})


def rewrite_property_names(path: str, schema: Schema, document: Document, ledger: Ledger, *, relaxed: bool) -> None:
    """Replace ``propertyNames``.

    Args:
        path: of the schema.
        schema: has the keyword.
        document: decides which names are allowed.
        ledger: takes notes.
        relaxed: leave the keyword to the check, because llguidance cannot merge its pattern with others.
    """
    names = schema.pop("propertyNames")
    if document.prover.is_empty(names, {"type": "string"}):
        ledger.rewrote(path, "propertyNames", "no property is allowed")
        schema.pop("patternProperties", None)
        schema |= {"properties": dict.fromkeys(schema.get("properties", ()), False), "additionalProperties": False}
        return
    declared: Schema = schema.get("properties", {})
    for name in declared:
        if not _is_allowed(name, names, document):
            declared[name] = False
    pattern = None if relaxed else _pattern_of(names, document)
    additional = schema.get("additionalProperties", True)
    if additional is False and not schema.get("patternProperties"):
        ledger.rewrote(path, "propertyNames", "only the declared properties that it allows are allowed")
    elif pattern is None or schema.get("patternProperties"):
        ledger.relaxed(path, "propertyNames", "no single pattern of keys expresses it")
    else:
        ledger.rewrote(path, "propertyNames", "as a pattern of keys")
        schema["patternProperties"] = {pattern: additional}
        schema["additionalProperties"] = False


def _is_allowed(name: str, names: Any, document: Document) -> bool:
    """Whether a key is allowed in every reading."""
    try:
        return document.is_valid(name, names)
    except CheckError:
        return False


def _pattern_of(names: Any, document: Document) -> str | None:
    """An ECMA-262 pattern of exactly the strings that a schema allows."""
    if not isinstance(names, dict):
        return None
    values = document.prover.values(names)
    if values is not None:
        allowed = [value for value in values if isinstance(value, str) and _is_allowed(value, names, document)]
        return f"^(?:{'|'.join(map(escaped, allowed))})$"
    constraints = {keyword: value for keyword, value in names.items() if keyword not in _ANNOTATIONS}
    match constraints:
        case {"pattern": str(pattern), **others} if not others:
            return pattern
        case {"not": {"const": str(word), **others}} if len(constraints) == 1 and set(others) <= _ANNOTATIONS:
            return other_than([word])
        case {"not": {"enum": list(words), **others}} if len(constraints) == 1 and set(others) <= _ANNOTATIONS:
            return other_than([word for word in words if isinstance(word, str)])
    if constraints and constraints.keys() <= {"minLength", "maxLength"}:
        return f"^{_ANY}{{{int(constraints.get('minLength', 0))},{int(constraints.get('maxLength', -1))}}}$".replace(
            ",-1", ","
        )
    return None
