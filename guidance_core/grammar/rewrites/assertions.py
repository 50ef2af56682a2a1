"""Look-ahead at the beginning of a pattern, as patterns of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guidance_core.grammar.rewrites.words import not_starting_with, other_than

_WORDS = re.compile(r"(?:[A-Za-z0-9 _@#%&=<>,;:'\"~`!/-]|\\[.$^*+?()[\]{}|\\/-])*")
_ASSERTION = re.compile(r"\(\?([=!])")


def leading_assertions(pattern: str) -> list[str] | None:
    r"""Patterns that together match what a pattern with look-ahead right after its ``^`` matches.

    ``^(?=.*\d)(?!admin$).{8,}$`` is ``^(?:.*\d)`` and not "admin" and ``^.{8,}$``. What must not follow has to be a
    choice of words, perhaps with an end.

    Returns:
        None where the pattern is another one.
    """
    if not pattern.startswith("^"):
        return None
    found: list[str] = []
    rest = pattern[1:]
    while (start := _ASSERTION.match(rest)) is not None:
        end = _closing(rest)
        if end is None:
            return None
        inner = rest[start.end() : end]
        demand = f"^(?:{inner})" if start.group(1) == "=" else _excluded(inner)
        if demand is None:
            return None
        found.append(demand)
        rest = rest[end + 1 :]
    if not found or rest[:1] in ("*", "+", "?", "{") or _has_alternatives(rest):
        return None
    return [*found, f"^{rest}"]


def _excluded(inner: str) -> str | None:
    at_end = inner.endswith("$") and not inner.endswith("\\$")
    body = inner[:-1] if at_end else inner
    if (group := re.fullmatch(r"\((?:\?:)?([^()]*)\)", body)) is not None:
        body = group.group(1)
    elif at_end and "|" in body:
        return None
    words = body.split("|")
    if not all(_WORDS.fullmatch(word) for word in words):
        return None
    plain = [re.sub(r"\\(.)", r"\1", word) for word in words]
    return other_than(plain) if at_end else not_starting_with(plain)


def _closing(text: str) -> int | None:
    """Where the group closes that the text begins with."""
    return next((position for position, character, depth in _syntax(text) if character == ")" and depth == 0), None)


def _has_alternatives(text: str) -> bool:
    """Whether there is a ``|`` outside of groups."""
    return any(character == "|" and depth == 0 for _, character, depth in _syntax(text))


def _syntax(text: str) -> Iterator[tuple[int, str, int]]:
    """What is neither escaped nor in a bracket expression: where, what, and how many groups are open after it."""
    depth, in_class = 0, False
    for match in re.finditer(r"\\.|.", text, flags=re.DOTALL):
        character = match.group()
        if in_class:
            in_class = character != "]"
        elif character == "[":
            in_class = True
        else:
            depth += (character == "(") - (character == ")")
            yield match.start(), character, depth
