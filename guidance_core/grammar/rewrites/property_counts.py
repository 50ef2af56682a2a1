"""``minProperties`` and ``maxProperties`` where declared properties may be left out."""

from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.schemas import any_of, conjoin

_MOST_CHOICES = 64


def rewrite_property_counts(path: str, schema: Schema, ledger: Ledger, *, relaxed: bool) -> None:
    """Replace both counts by alternatives: one for each choice of declared properties that decides them.

    llguidance counts where every declared property is required, so each alternative requires some and forbids the
    others; undeclared ones make up the rest.

    Args:
        path: of the schema.
        schema: has a count.
        ledger: takes notes.
        relaxed: leave the counts to the check, because other schemas declare more properties of the same object.
    """
    if relaxed:
        kept = [keyword for keyword in ("minProperties", "maxProperties") if schema.pop(keyword, None) is not None]
        ledger.relaxed(path, " and ".join(kept), "other schemas declare more properties")
        return
    required = set(schema.get("required", ()))
    optional = [
        name for name, child in schema.get("properties", {}).items() if name not in required and child is not False
    ]
    if not optional:
        return
    counts = {keyword: int(schema.pop(keyword)) for keyword in ("minProperties", "maxProperties") if keyword in schema}
    least = max(0, counts.get("minProperties", 0) - len(required))
    is_closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    if is_closed and counts.get("maxProperties", 0) >= len(required) + len(optional):
        del counts["maxProperties"]
    most = counts.get("maxProperties")
    # With so many chosen, what else there is does not matter any more.
    enough = least if most is None else None
    largest = least if most is None else min(most - len(required), len(optional))
    smallest = least if is_closed else 0
    sizes = range(smallest, min(largest, len(optional)) + 1)
    if sum(comb(len(optional), size) for size in sizes) > _MOST_CHOICES:
        ledger.relaxed(path, " and ".join(counts), f"{len(optional)} optional properties have too many combinations")
        return
    alternatives: list[Any] = []
    for size in sizes:
        for chosen in combinations(optional, size):
            alternative: Schema = {"required": list(chosen)} if chosen else {}
            if size != enough:
                others = {name: False for name in optional if name not in chosen}
                alternative |= ({"properties": others} if others else {}) | (counts if not is_closed else {})
            alternatives.append(alternative)
    if not counts or enough == 0:
        return
    ledger.rewrote(path, " and ".join(counts), "as alternatives with the properties that are there")
    if "type" not in schema:
        alternatives.append({"type": ["null", "boolean", "number", "string", "array"]})
    conjoin(schema, any_of(alternatives))
