"""Regular expressions for all text but some words."""

from __future__ import annotations

from collections.abc import Iterable

_MOST_CHARACTERS = 1000
_ANY = r"(?:.|[\n\r\u2028\u2029])"


def other_than(words: Iterable[str]) -> str | None:
    """An ECMA-262 pattern that matches every text but these; None where it would be too long."""
    return _excluding(words, prefixes=False)


def not_starting_with(words: Iterable[str]) -> str | None:
    """An ECMA-262 pattern that matches every text that starts with none of these; None where it would be too long."""
    return _excluding(words, prefixes=True)


def _excluding(words: Iterable[str], *, prefixes: bool) -> str | None:
    """A text is another one if it ends, or goes on with another character, after the beginning of a word."""
    excluded = set(words)
    if sum(len(word) * (len(word) + 1) // 2 for word in excluded) > _MOST_CHARACTERS:
        return None
    beginnings: dict[str, set[str]] = {word: set() for word in (*excluded, "")}
    for word in excluded:
        for end, character in enumerate(word):
            beginnings.setdefault(word[:end], set()).add(character)
    alternatives = []
    for beginning, following in sorted(beginnings.items()):
        if prefixes and any(beginning.startswith(word) for word in excluded):
            continue
        text = escaped(beginning)
        if beginning not in excluded:
            alternatives.append(text)
        other = f"[^{escaped(''.join(sorted(following)))}]" if following else _ANY
        alternatives.append(f"{text}{other}{_ANY}*")
    return f"^(?:{'|'.join(alternatives)})$" if alternatives else None


def escaped(text: str) -> str:
    """The text as an ECMA-262 pattern that matches only it, also inside of a class."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\u{{{ord(c):X}}}" for c in text)
