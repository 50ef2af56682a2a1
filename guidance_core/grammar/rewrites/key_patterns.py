"""``patternProperties``, in a reading that holds whichever reading the validator has."""

from __future__ import annotations

from typing import Any

from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.patterns import (
    PatternError,
    common_regex,
    only_before_newline,
    widest_regex,
    without_assertions,
)
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewrites.ledger import Ledger
from guidance_core.grammar.rewrites.schemas import all_of, any_of


def rewrite_key_patterns(path: str, schema: Schema, ledger: Ledger, *, relaxed: bool) -> None:
    """Translate the patterns of keys.

    A key that only some readings match must satisfy the pattern's schema *and* ``additionalProperties``. With the
    former alone it does where the latter forbids nothing; where the latter forbids everything no such key is allowed;
    anything between is left to the check, as are patterns that llguidance does not take.

    Args:
        path: of the schema.
        schema: has the keyword.
        ledger: takes notes.
        relaxed: llguidance cannot take several patterns, which may match the same key.
    """
    patterns, additional = schema["patternProperties"], schema.get("additionalProperties", True)
    rewritten: dict[str, Any] = {}
    uncertain: list[Any] = []
    for pattern, child in patterns.items():
        where = f"{path}/patternProperties/{pattern}"
        try:
            narrow, wide = common_regex(pattern), widest_regex(pattern)
        except PatternError as error:
            wider = _without_assertions(where, pattern, error)
            ledger.relaxed(path, "patternProperties", str(error))
            if additional is False:
                rewritten[wider] = _both(rewritten.get(wider), child)
            else:
                uncertain.append(child)
            continue
        chosen = wide if additional in (True, {}) else narrow
        rewritten[chosen] = _both(rewritten.get(chosen), child)
        if chosen == wide or additional is False:
            continue
        disputed = only_before_newline(pattern)
        if disputed is None:
            ledger.relaxed(path, "patternProperties", f"regex dialects differ in what {pattern!r} matches")
        else:
            # llguidance cannot always put both together; nobody misses a key that ends with a line feed.
            both = False if relaxed else all_of(child, additional)
            rewritten[disputed] = _both(rewritten.get(disputed), both)
    if uncertain:
        schema["additionalProperties"] = any_of([*uncertain, additional])
    if relaxed and len(patterns) > 1:
        ledger.relaxed(path, "patternProperties", "its patterns may match the same key")
        rewritten = {"|".join(f"(?:{pattern})" for pattern in rewritten): any_of(list(rewritten.values()))}
    if rewritten:
        schema["patternProperties"] = rewritten
    else:
        del schema["patternProperties"]


def _both(first: Any, second: Any) -> Any:
    return second if first is None else all_of(first, second)


def _without_assertions(where: str, pattern: str, error: PatternError) -> str:
    try:
        return without_assertions(pattern)
    except PatternError:
        refuse(where, str(error))
