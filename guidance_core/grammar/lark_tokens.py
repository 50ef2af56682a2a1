"""Lark text → its tokens, as llguidance's ``parser/src/lark/lexer.rs`` has them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

_RULE = r"[!?_]*[a-z][_a-z0-9\-]*"
_PATTERN = rf"""(?P<layout>(?:\#|//)[^\n]*|[ \t]+)|(?P<newline>(?:\r?\n)+[ \t]*)
    |(?P<string>"(?:\\.|[^"\\\n])*"i?)|(?P<regex>/(?:\\.|[^/\\])+/[imslux]*)
    |(?P<json>%(?:json|llguidance|regex)\b)|(?P<keyword>%[a-z]+)
    |(?P<rule>{_RULE})|(?P<terminal>_?[A-Z][_A-Z0-9\-]*)
    |(?P<token><[^<>\s]+>)|(?P<grammar>@[a-zA-Z0-9_\-]+)|(?P<number>[0-9]+)
    |(?P<mark>->|\.\.|::|[\[\](){{}}:,.~|&=+*?_-])"""
_TOKEN = re.compile(_PATTERN, re.VERBOSE)
_TOKEN_BUT_RULES = re.compile(_PATTERN.replace(_RULE, "(?!)"), re.VERBOSE)
_SPACE = re.compile(r"\s*")
_BEFORE_A_RULE = re.compile(r"[!?_]*")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of Lark text.

    Attributes:
        kind: the group of the pattern that it matches; ``unknown`` from where none matches to the end.
        text: as written; of ``json`` with the value behind it.
    """

    kind: str
    text: str


def tokens(lark: str) -> Iterator[Token]:
    """All of a text, whether it is Lark or not: the tokens' texts add up to it."""
    position = letter = 0
    while position < len(lark):
        if position >= letter and (before := _BEFORE_A_RULE.match(lark, position)) is not None:
            letter = before.end()
        # Where no rule's name follows a run of them, the run is read once, and not once from each.
        is_rule = "a" <= lark[letter : letter + 1] <= "z"
        match = (_TOKEN if is_rule or position == letter else _TOKEN_BUT_RULES).match(lark, position)
        end = match.end() if match else len(lark)
        kind = (match.lastgroup if match else None) or "unknown"
        if kind == "json":
            value = _SPACE.match(lark, end)
            try:
                _, end = json.JSONDecoder().raw_decode(lark, value.end() if value else end)
            except (ValueError, RecursionError):
                kind, end = "unknown", len(lark)
        yield Token(kind, lark[position:end])
        position = end
