"""``oneOf`` as ``anyOf`` of options that exclude each other."""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.facts import Prover
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.negation import Negation
from guidance_core.grammar.rewrites.schemas import MOST_OPTIONS, all_of, any_of, options, replace

_MOST_PAIRS = 400


def rewrite_one_of(path: str, schema: Schema, prover: Prover, negation: Negation, ledger: Ledger) -> None:
    """Replace ``oneOf``; exact where every two options are disjoint or the one can be kept out of the other."""
    branches = schema["oneOf"]
    others = {keyword: value for keyword, value in schema.items() if keyword != "oneOf"}
    if len(branches) * len(branches) > _MOST_PAIRS:
        ledger.relaxed(path, "oneOf", f"its {len(branches)} options are too many to be kept apart")
        replace(schema, "oneOf", {"anyOf": branches})
        return
    exclusive, exact = [], True
    for index, branch in enumerate(branches):
        if prover.is_empty(branch, others):
            continue
        additions: list[Any] = []
        for other_index, other in enumerate(branches):
            if index == other_index or prover.is_empty(branch, other, others):
                continue
            if prover.only_empty_arrays(branch, other, others):
                additions.append({"minItems": 1})
                continue
            complement, complete = negation.of(other)
            if options(complement) * max(1, options({"allOf": additions})) > MOST_OPTIONS // len(branches):
                exact = False
            else:
                additions.append(complement)
                exact &= complete
        exclusive.append(all_of(branch, *additions) if additions else branch)
    replacement = any_of(exclusive)
    replace(schema, "oneOf", replacement if isinstance(replacement, dict) else {"anyOf": [replacement]})
    if exact:
        ledger.rewrote(path, "oneOf", "as an 'anyOf' whose options exclude each other")
    else:
        ledger.relaxed(path, "oneOf", "its options can hold at once")
