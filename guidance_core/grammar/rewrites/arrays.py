"""``uniqueItems`` and ``contains``."""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.facts import Prover
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.schemas import conjoin

_MOST_PLACES = 8


def rewrite_unique_items(path: str, schema: Schema, prover: Prover, ledger: Ledger) -> None:
    """Drop ``uniqueItems``, which only the check can enforce; items of few values bound the length."""
    del schema["uniqueItems"]
    if schema.get("maxItems", 2) < 2:
        ledger.rewrote(path, "uniqueItems", "there is one item at most")
        return
    items = schema.get("items")
    values = prover.values(items) if isinstance(items, dict) and "prefixItems" not in schema else None
    if values is not None:
        schema["maxItems"] = min(len(values), schema.get("maxItems", len(values)))
        if len(values) < 2:
            ledger.rewrote(path, "uniqueItems", "there is one item at most")
            return
    ledger.relaxed(path, "uniqueItems", "a grammar does not compare items")


def rewrite_contains(path: str, schema: Schema, ledger: Ledger) -> None:
    """Replace ``contains`` by the places where the item can be, or by the number of items that it takes."""
    wanted = schema.pop("contains")
    least, most = int(schema.pop("minContains", 1)), schema.pop("maxContains", None)
    if least == 0 and most is None:
        ledger.rewrote(path, "contains", "it may be contained no times")
        return
    longest = schema.get("maxItems", _MOST_PLACES + 1)
    if least == 1 and most is None and longest <= _MOST_PLACES:
        places: list[Any] = [
            {"items": [*[True] * place, wanted], "minItems": place + 1} for place in range(int(longest))
        ]
        if schema.get("type") not in ("array", ["array"]):
            places.append({"type": ["null", "boolean", "number", "string", "object"]})
        ledger.rewrote(path, "contains", "as alternatives for its place")
        conjoin(schema, {"anyOf": places} if places else False)
        return
    ledger.relaxed(path, "contains", "an array of any length can have it anywhere")
    if least > schema.get("minItems", 0):
        schema["minItems"] = least
