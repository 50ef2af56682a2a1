"""A shortest text that a regular expression matches, in the part of Rust's syntax that grammars are written in."""

from __future__ import annotations

import re
from collections.abc import Callable

_PREFERRED = "0a-A_ .x/:@1bz+,;=#%&!?~()<>{}[]|$^*'`éÀ中🙂\n\t"
"""Which character to take of a class: the first of these that is in it."""

_LONGEST = 10_000
"""Characters; no answer is so long, and repetitions of repetitions multiply."""

_COUNT = re.compile(r"\{([0-9]+)(?:,[0-9]*)?\}")
_CODE_POINT = re.compile(r"x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})")
_PROPERTY = re.compile(r"([pP])\{([A-Za-z_=]+)\}")
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_LETTERS: dict[str, Callable[[str], bool]] = {
    "d": lambda c: c in "0123456789",
    "w": lambda c: c.isascii() and (c.isalnum() or c == "_"),
    "s": lambda c: c in " \t\n\r\f\v",
}
_PROPERTIES: dict[str, Callable[[str], bool]] = {
    "L": str.isalpha,
    "Letter": str.isalpha,
    "Lu": str.isupper,
    "Ll": str.islower,
    "N": str.isnumeric,
    "Nd": str.isdecimal,
}

_Member = Callable[[str], bool]


def shortest_match(pattern: str) -> str | None:
    """A text with the fewest characters that the pattern matches, as far as it is understood; else None.

    Flags, intersections (``[a&&b]``), rare Unicode properties and word boundaries are not. Whether the text really
    matches is for the caller to verify: anchors inside of the pattern, for one, are ignored.
    """
    try:
        reader = _Reader(pattern)
        text = reader.disjunction()
    except (_NotUnderstood, IndexError, RecursionError):
        return None
    return text if reader.position == len(pattern) else None


class _NotUnderstood(Exception):
    pass


class _Reader:
    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.position = 0

    def disjunction(self) -> str:
        options = [self._alternative()]
        while self._take("|"):
            options.append(self._alternative())
        return min(options, key=len)

    def _alternative(self) -> str:
        parts: list[str] = []
        while self.position < len(self.pattern) and self.pattern[self.position] not in "|)":
            atom, count = self._atom(), self._least_count()
            if len(atom) * count > _LONGEST:
                raise _NotUnderstood
            parts.append(atom * count)
        return "".join(parts)

    def _least_count(self) -> int:
        least = 1
        while self.position < len(self.pattern):
            count = _COUNT.match(self.pattern, self.position)
            if count is not None:
                least *= int(count.group(1))
                self.position = count.end()
            elif self._take("*") or self._take("?"):
                least = 0
            elif not self._take("+"):
                break
        return least

    def _atom(self) -> str:
        character = self._next()
        if character in "^$":
            return ""
        if character == "(":
            if self._take("?") and not self._take(":"):
                name = re.compile(r"P?<[A-Za-z_]\w*>").match(self.pattern, self.position)
                if name is None:
                    raise _NotUnderstood
                self.position = name.end()
            inner = self.disjunction()
            if not self._take(")"):
                raise _NotUnderstood
            return inner
        if character == "[":
            return _pick(self._bracket())
        if character == ".":
            return _PREFERRED[0]
        if character == "\\":
            escape = self._escape()
            return escape if isinstance(escape, str) else _pick(escape)
        return character

    def _bracket(self) -> _Member:
        negated = self._take("^")
        members: list[_Member] = []
        first = True
        while first or not self._take("]"):
            first = False
            item = self._bracket_item()
            if isinstance(item, str) and self.pattern[self.position] == "-" and self.pattern[self.position + 1] != "]":
                self.position += 1
                high = self._bracket_item()
                if not isinstance(high, str):
                    raise _NotUnderstood
                members.append(lambda c, low=item, high=high: low <= c <= high)  # type: ignore[misc]
            elif isinstance(item, str):
                members.append(lambda c, only=item: c == only)  # type: ignore[misc]
            else:
                members.append(item)
        return lambda c: any(member(c) for member in members) != negated

    def _bracket_item(self) -> str | _Member:
        character = self._next()
        if character == "[":
            return self._bracket()
        if character == "\\":
            return self._escape()
        if character in "&~-" and self.pattern[self.position] == character:
            raise _NotUnderstood
        return character

    def _escape(self) -> str | _Member:
        code = _CODE_POINT.match(self.pattern, self.position)
        if code is not None:
            self.position = code.end()
            return chr(int(code.group(1) or code.group(2) or code.group(3), 16))
        unicode_property = _PROPERTY.match(self.pattern, self.position)
        if unicode_property is not None:
            self.position = unicode_property.end()
            sign, name = unicode_property.groups()
            member = _PROPERTIES.get(name)
        else:
            letter = self._next()
            sign, member = letter, _LETTERS.get(letter.lower())
            if member is None:
                if letter in _CONTROLS:
                    return _CONTROLS[letter]
                if letter.isalnum():
                    raise _NotUnderstood
                return letter
        if member is None:
            raise _NotUnderstood
        return member if sign.islower() else lambda c, inside=member: not inside(c)  # type: ignore[misc]

    def _next(self) -> str:
        self.position += 1
        return self.pattern[self.position - 1]

    def _take(self, character: str) -> bool:
        if self.pattern[self.position : self.position + 1] != character:
            return False
        self.position += 1
        return True


def _pick(member: _Member) -> str:
    for characters in (_PREFERRED, map(chr, range(32, 0x3000))):
        for character in characters:
            if member(character):
                return character
    raise _NotUnderstood
