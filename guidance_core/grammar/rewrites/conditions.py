"""``not``, ``if``/``then``/``else`` and the three spellings of dependencies, as alternatives."""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.negation import Negation
from guidance_core.grammar.rewrites.schemas import MOST_OPTIONS, all_of, any_of, conjoin, options

_DEPENDENCIES = ("dependencies", "dependentRequired", "dependentSchemas")


def rewrite_not(path: str, schema: Schema, negation: Negation, ledger: Ledger) -> None:
    """Replace ``not`` by what remains."""
    complement, exact = negation.of(schema.pop("not"))
    if exact:
        ledger.rewrote(path, "not", "by what remains")
    else:
        ledger.relaxed(path, "not", "no grammar excludes all of it")
    _demand(path, "not", schema, complement, ledger)


def rewrite_if(path: str, schema: Schema, negation: Negation, ledger: Ledger) -> None:
    """Replace ``if``/``then``/``else`` by its two cases."""
    condition = schema.pop("if")
    then, otherwise = schema.pop("then", True), schema.pop("else", True)
    complement, exact = negation.of(condition)
    if then is True and otherwise is True:
        return
    cases = any_of([all_of(condition, then), all_of(complement, otherwise)])
    if exact:
        ledger.rewrote(path, "if", "as two alternatives")
    else:
        ledger.relaxed(path, "if", "no grammar tells its two cases apart")
    _demand(path, "if", schema, cases, ledger)


def rewrite_dependencies(path: str, schema: Schema, ledger: Ledger) -> None:
    """Replace each dependency by two alternatives: without the key, or with all that it needs."""
    for keyword in _DEPENDENCIES:
        for name, needed in schema.pop(keyword, {}).items():
            demand: Any = {"required": [name, *needed]} if isinstance(needed, list) else needed
            if demand is True or demand == {}:
                continue
            without = {"properties": {name: False}}
            present = demand if isinstance(needed, list) else all_of({"required": [name]}, demand)
            ledger.rewrote(path, keyword, "as two alternatives")
            _demand(path, keyword, schema, any_of([without, present]), ledger)


def _demand(path: str, keyword: str, schema: Schema, demand: Any, ledger: Ledger) -> None:
    if options(schema) * options(demand) > MOST_OPTIONS:
        ledger.relaxed(path, keyword, "it has too many alternatives")
    else:
        conjoin(schema, demand)
