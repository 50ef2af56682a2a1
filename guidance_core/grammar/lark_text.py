"""Lark as clients write it → Lark that llguidance enforces as it is meant, and that cannot hold it up for ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.lark_forcing import may_force_endlessly, separators_may_force_endlessly
from guidance_core.grammar.lark_tokens import Token, tokens
from guidance_core.grammar.rust_regex import without_stop_groups

_NOT_FORCED = '\n%llguidance {"no_forcing": true}\n'


def enforceable(lark: str) -> str:
    """The same grammar, where need be in other words.

    - ``~X`` is all bytes that ``X`` does not match, special tokens and halves of characters too; here, all such texts.
    - A group of a regular expression that is called "stop" would be look-ahead.
    - ``x~1..3``, which llguidance has but cannot read (``1.`` is a number to it), is written ``x{1,3}``.
    - Where a terminal may force text without end (see `forcing`), nothing is forced: slower, but not for ever.

    Raises:
        InvalidGrammar: see `rust_regex.without_stop_groups`.
    """
    pieces = list(tokens(lark))
    text = "".join(_rewritten(pieces))
    return text + _NOT_FORCED if may_force_endlessly(pieces) else text


def enforceable_grammars(serialised: str) -> str:
    """The same for llguidance's serialised form, ``{"grammars": […]}``.

    Raises:
        InvalidGrammar: as above; also where a JSON schema brings separators that may force text without end.
    """
    top: dict[str, Any] = json.loads(serialised)
    for grammar in top["grammars"]:
        if not isinstance(grammar, dict):
            continue
        if isinstance(grammar.get("lark_grammar"), str):
            grammar["lark_grammar"] = enforceable(grammar["lark_grammar"])
        if separators_may_force_endlessly(grammar.get("json_schema")):
            raise InvalidGrammar(
                "A separator in the JSON schema's x-guidance repeats one character without an upper bound: give it one."
            )
    return json.dumps(top, ensure_ascii=False)


def _rewritten(pieces: Sequence[Token]) -> list[str]:
    texts = [piece.text for piece in pieces]
    solid = [i for i, piece in enumerate(pieces) if piece.kind != "layout"]
    partners = _partners(texts, solid)
    for place, i in enumerate(solid):
        if pieces[i].kind == "regex":
            texts[i] = without_stop_groups(texts[i])
        elif place + 1 == len(solid):
            break
        elif texts[i] == "~" and pieces[solid[place + 1]].kind == "number":
            _write_range(texts, solid[place : place + 4])
        elif texts[i] == "~":
            end = partners.get(place + 1, place + 1)
            if solid[end + 1 : end + 2] and pieces[solid[end + 1]].text == "..":
                end = min(end + 2, len(solid) - 1)
            texts[i] = "~("
            texts[solid[end]] += " | ~/(?s:.*)/)"
    return texts


def _write_range(texts: list[str], places: Sequence[int]) -> None:
    """``~2`` as ``{2}``, ``~1..3`` as ``{1,3}``."""
    if len(places) == 4 and texts[places[2]] == "..":
        texts[places[2]], last = ",", places[3]
    else:
        last = places[1]
    texts[places[0]] = "{"
    texts[last] += "}"


def _partners(texts: Sequence[str], solid: Sequence[int]) -> dict[int, int]:
    """Where each opening bracket's partner is, by places in ``solid``."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for place, i in enumerate(solid):
        if texts[i] in ("(", "["):
            opened.append(place)
        elif texts[i] in (")", "]") and opened:
            partners[opened.pop()] = place
    return partners
