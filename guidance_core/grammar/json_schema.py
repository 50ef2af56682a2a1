r"""A JSON schema as llguidance gets it, so that every complete answer validates.

llguidance takes most schemas as they are, save for what `rewriter` mends. What it refuses is rewritten, with more and
more effort, until it takes it: first into equivalents, then into something that allows more, whose answers must be
checked as a whole (`check`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from guidance_core.generation import GrammarRoute, MessageCheck
from guidance_core.grammar.check import CheckError, readings
from guidance_core.grammar.compatibility import understands
from guidance_core.grammar.identifiers import pointers_only
from guidance_core.grammar.keywords import Schema
from guidance_core.grammar.refusals import refuse
from guidance_core.grammar.rewriter import Effort, Rewriter
from guidance_core.grammar.satisfiable import endless_reference, has_finite_instance
from guidance_core.grammar.spellable import needs_escapes, only_spellable
from guidance_core.grammar.threads import is_long

WHITESPACE = r"[ ]|\n[ ]{0,64}"
"""Between two tokens of JSON: nothing, one space, or one line break with indentation.

That covers every usual layout. llguidance's default allows any amount, on which a model can spend all of its answer.
"""

_MAX_DEPTH = 96
"""Deepest nesting. llguidance's own JSON reader stops at 128 levels, and our rewriting adds a few."""

_MOST_GROWTH = 8
"""How many times as long as the schema its grammar may become while there is a shorter one."""

_UNIQUE_SPELLING = 'nrbtf\\"'
r"""llguidance's ``json_allowed_escapes`` without ``u``: every string then has exactly one spelling.

Keys that are not declared may otherwise be spelled with ``\u`` escapes: ``"\u0061"`` would dodge what the schema says
about ``"a"``. Where an object has both declared and undeclared keys, ``\u`` escapes are not allowed.

They could be kept in values, with undeclared keys as ``patternProperties``; that makes masks 3.5 times as slow on
average (74 schemas from the wild, 27,746 masks: 73 µs instead of 21).
"""


@dataclass(frozen=True, slots=True)
class Translation:
    """A constraint in llguidance's words.

    Attributes:
        source: as `Grammar.source`.
        route: as `Grammar.route`.
        check: as `Grammar.check`.
        notes: as `Grammar.notes`.
        gap_after_thoughts: as `Grammar.gap_after_thoughts`.
    """

    source: str
    route: GrammarRoute = "exact"
    check: str | MessageCheck | None = None
    notes: tuple[str, ...] = ()
    gap_after_thoughts: bool = True

    def named(self, name: str) -> list[dict[str, Any]]:
        """The entries of llguidance's ``grammars``, to be referred to as ``@name`` in another grammar."""
        if not self.source.lstrip().startswith("{"):
            return [{"name": name, "lark_grammar": self.source}]
        first, *others = json.loads(self.source)["grammars"]
        return [{**first, "name": name}, *others]


def translations(text: str, *, exact: bool = False) -> Iterator[Translation]:
    """Grammars for a schema, each allowing what the schema does, or more; use the first that llguidance takes.

    Args:
        text: the schema, an object, as JSON.
        exact: refuse what would have to be checked.

    Raises:
        InvalidGrammar: the schema is malformed, or needs what cannot be promised; the message names the place.
    """
    root = json.loads(text)
    _check_depth(root)
    pointed = pointers_only(root, text)
    has_references = '"$ref"' in pointed
    if has_references and (reference := endless_reference(root)) is not None:
        refuse("", f"the reference {reference!r} leads back to itself without ever looking inside of a value")
    # Where what a reference leads to depends on the way to it, identifiers matter.
    checked = text if '"$dynamicRef"' in pointed or '"$recursiveRef"' in pointed else pointed
    sources: set[str] = set()
    for effort in Effort:
        # Rewriting works in place; the text is parsed again only where llguidance refused.
        if effort > Effort.LEAST:
            root = json.loads(pointed)
        translation = _translate(checked, root, effort, exact=exact, has_references=has_references)
        if effort < Effort.ALL and is_long(translation.source) and len(translation.source) > _MOST_GROWTH * len(text):
            continue  # llguidance would refuse it, after seconds
        if translation.source not in sources:
            sources.add(translation.source)
            yield translation


def _translate(text: str, root: Schema, effort: Effort, *, exact: bool, has_references: bool) -> Translation:
    options = {"whitespace_pattern": WHITESPACE} | _checked_options(root.pop("x-guidance", {}))
    rewriter = Rewriter(text, root, effort)
    rewriter.rewrite()
    for identifier in ("$id", "id"):
        # llguidance refuses some, and looks into the meta-schema itself where one has its identifier.
        root.pop(identifier, None)
    if has_references and not has_finite_instance(root):
        refuse("", "no finite value satisfies it: something is required inside of itself without end")
    if rewriter.keys_can_collide:
        if not understands("json_allowed_escapes"):
            refuse(
                "",
                "this version of llguidance cannot keep undeclared keys apart from declared ones; "
                "set 'additionalProperties' to false wherever keys are declared, or update llguidance",
            )
        options["json_allowed_escapes"] = _UNIQUE_SPELLING
    elif understands("json_allow_general_unicode_escapes"):
        options = {"json_allow_general_unicode_escapes": True} | options
    result = json.dumps(root | {"x-guidance": options}, ensure_ascii=False)
    if "u" not in options.get("json_allowed_escapes", "u") and needs_escapes(result):
        only_spellable(root)
        result = json.dumps(root | {"x-guidance": options}, ensure_ascii=False)
    source = LLMatcher.grammar_from_json_schema(result)
    ledger = rewriter.ledger
    notes = tuple(ledger.rewritten + ledger.left_to_check)
    if not ledger.left_to_check:
        return Translation(source, "rewritten" if notes else "exact", None, notes)
    if exact:
        refuse("", f"an exact grammar is asked for (strict is 'exact'), but {ledger.left_to_check[0]}")
    try:
        readings(text)
    except CheckError as error:
        refuse("", f"it cannot be checked: {error}")
    return Translation(source, "checked", text, notes)


def _checked_options(options: Any) -> dict[str, Any]:
    if not isinstance(options, dict):
        refuse("x-guidance", "must be an object")
    for option in ("lenient", "coerce_one_of"):
        if options.get(option):
            refuse(f"x-guidance/{option}", "would accept answers that do not validate; leave it out")
    if "whitespace_flexible" in options and "whitespace_pattern" not in options:
        return {"whitespace_pattern": None} | options
    return options


def _check_depth(schema: Any) -> None:
    level = [schema]
    for _ in range(_MAX_DEPTH - 1):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if child and isinstance(child, (dict, list))
        ]
        if not level:
            return
    refuse("", f"it is nested more than {_MAX_DEPTH} levels deep")
