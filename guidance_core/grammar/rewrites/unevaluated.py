"""``unevaluatedItems`` and ``unevaluatedProperties``."""

from __future__ import annotations

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.schemas import all_of

_APPLICATORS = frozenset(
    {"allOf", "anyOf", "oneOf", "not", "if", "dependencies", "dependentSchemas", "$ref", "$recursiveRef", "$dynamicRef"}
)


def rewrite_unevaluated_items(path: str, schema: Schema, ledger: Ledger) -> None:
    """Replace ``unevaluatedItems`` by the keyword for the items that the schema itself does not describe.

    Like ``unevaluatedProperties`` it depends on what other keywords evaluate (``not`` evaluates nothing, ``if`` does
    even without ``then``), so these must still be as the client wrote them.
    """
    rest = schema.pop("unevaluatedItems")
    if not _has_applicators(schema) and "contains" not in schema:
        items = schema.get("items")
        if "prefixItems" in schema or items is None:
            schema.setdefault("items", rest)
        elif isinstance(items, list):
            schema.setdefault("additionalItems", rest)
        ledger.rewrote(path, "unevaluatedItems", "as the schema of further items")
    else:
        ledger.relaxed(path, "unevaluatedItems", "which items are evaluated depends on the answer")


def rewrite_unevaluated_properties(path: str, schema: Schema, ledger: Ledger, *, draft: int) -> None:
    """Replace ``unevaluatedProperties`` by ``additionalProperties``."""
    rest = schema.pop("unevaluatedProperties")
    if not _has_applicators(schema):
        additional = schema.get("additionalProperties")
        if draft == 2019 and isinstance(additional, dict):
            # To Python's jsonschema these do not evaluate what they describe: both must hold for all to agree.
            schema["additionalProperties"] = all_of(additional, rest)
        schema.setdefault("additionalProperties", rest)
        ledger.rewrote(path, "unevaluatedProperties", "as 'additionalProperties'")
    else:
        ledger.relaxed(path, "unevaluatedProperties", "which properties are evaluated depends on the answer")


def _has_applicators(schema: Schema) -> bool:
    """Whether other schemas apply to the same value."""
    return not _APPLICATORS.isdisjoint(schema)
