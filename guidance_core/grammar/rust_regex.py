"""Regular expressions in the syntax of Rust's ``regex`` crate, as llguidance's Lark has them between slashes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.forcing import (
    BRANCHING,
    EMPTY,
    ENDLESS,
    NOTHING_KNOWN,
    Shape,
    alternatives,
    literal,
    repeated,
    sequence,
)

_PART = re.compile(r"\\.|\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\\[])*\]|\(\?P?<stop>", re.DOTALL)
_NAMED_STOP = re.compile(r"(?<!\\)\(\?P?<stop>")


def escaped(text: str) -> str:
    """The text as a pattern that matches only it, also inside of a class."""
    return "".join(c if c.isascii() and c.isalnum() else f"\\x{{{ord(c):X}}}" for c in text)


def between_slashes(pattern: str) -> str:
    r"""A pattern as Lark text.

    llguidance's own ``grammar_from_regex`` writes line breaks as ``\n``, which verbose mode (``(?x)``) reads as line
    breaks to be matched instead of as layout, and drops a backslash at the end.

    Raises:
        InvalidGrammar: it ends inside an escape, or has a group called "stop" that cannot be told from a class.
    """
    if len(pattern) - len(pattern.rstrip("\\")) & 1:
        raise InvalidGrammar("The regular expression ends with a backslash that escapes nothing.")
    if not pattern:
        return '""'
    slashed = re.sub(r"\\.|/", lambda c: r"\/" if c[0] == "/" else c[0], without_stop_groups(pattern), flags=re.DOTALL)
    return f"/{slashed}/"


def without_stop_groups(pattern: str) -> str:
    """A pattern without groups that are called "stop", which llguidance takes for look-ahead (derivre's ``syntax.rs``).

    Raises:
        InvalidGrammar: it cannot be told whether one is a group or part of a class.
    """
    if _NAMED_STOP.search(pattern) is None:
        return pattern
    pattern = _PART.sub(lambda part: "(?:" if part[0].startswith("(?") else part[0], pattern)
    if _NAMED_STOP.search(pattern) is not None:
        raise InvalidGrammar('A group of a regular expression is called "stop", which llguidance reads as look-ahead.')
    return pattern


def shape(pattern: str, flags: str = "") -> Shape:
    """What is certain about the texts of a pattern.

    Args:
        pattern: as the crate takes it; of any other, nothing is certain.
        flags: as in ``(?flags)`` before it.
    """
    try:
        parser = _Parser(pattern)
        result = parser.alternatives("x" in flags)
        return result if parser.position == len(pattern) else ENDLESS
    except (IndexError, ValueError, RecursionError):
        return ENDLESS


_QUANTIFIER = re.compile(r"[*+?]|\{\s*([0-9]*)\s*(,?)\s*([0-9]*)\s*\}")
_GROUP = re.compile(r"\?(?:P?<[^>]*>|([a-zA-Z]*)(-[a-zA-Z]+)?([):]))")
_ESCAPE = re.compile(
    r"[xuU]\{([0-9A-Fa-f]+)\}|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|[pP](?:\{([^}]*)\}|(.))|b\{[^}]*\}|."
)
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "a": "\a", "f": "\f", "v": "\v"}
_LARGE_PROPERTIES = frozenset({"L", "Lu", "Ll", "N", "Nd", "P", "S", "M", "Alphabetic", "Latin", "Greek", "Han"})
_CLASS_SIZES = {"d": 1_000, "s": 100, "w": 200_000}
"""More than Unicode has of each, now and for years."""
_MOST_EXCLUDED = 500_000
"""Characters that a negated class may name, of the 1.1 million that there are."""


@dataclass(slots=True)
class _Parser:
    """Reads a pattern that the crate takes; raises `ValueError` or `IndexError` where it takes none."""

    pattern: str
    position: int = 0

    def alternatives(self, verbose: bool) -> Shape:
        """Up to a closing parenthesis or the end."""
        found: list[Shape] = []
        parts: list[Shape] = []
        while self.position < len(self.pattern) and self.pattern[self.position] != ")":
            character = self._next()
            if verbose and self._skipped(character):
                continue
            if character == "|":
                found.append(sequence(parts))
                parts = []
            elif character == "(":
                group = self._match(_GROUP) if self._peek() == "?" else None
                on, off = (group[1] or "", group[2] or "") if group else ("", "")
                inside = (verbose or "x" in on) and "x" not in off
                if group and group[3] == ")":
                    verbose = inside
                    continue
                parts.append(self.alternatives(inside))
                if self._next() != ")":
                    raise ValueError("an unclosed group")
            elif character in "*+?{":
                self.position -= 1
                parts.append(self._quantified(parts.pop()))
            elif character in "^$":
                parts.append(EMPTY)
            elif character == "[":
                parts.append(self._class(verbose))
            else:
                parts.append(
                    BRANCHING if character == "." else self._escape() if character == "\\" else literal(character)
                )
        return alternatives([*found, sequence(parts)])

    def _quantified(self, part: Shape) -> Shape:
        quantifier = self._match(_QUANTIFIER)
        if quantifier[0] in "*+?":
            return repeated(part, int(quantifier[0] == "+"), 1 if quantifier[0] == "?" else None)
        least = int(quantifier[1] or 0)
        return repeated(part, least, int(quantifier[3]) if quantifier[3] else None if quantifier[2] else least)

    def _escape(self) -> Shape:
        escape = self._match(_ESCAPE)
        digits = escape[1] or escape[2] or escape[3] or escape[4]
        if digits:
            return literal(chr(int(digits, 16)))
        letter = escape[0][0]
        if letter in "pP":
            return BRANCHING if (escape[5] or escape[6]) in _LARGE_PROPERTIES else NOTHING_KNOWN
        if letter in "dDwWsS":
            return BRANCHING
        if letter in _CONTROLS:
            return literal(_CONTROLS[letter])
        return EMPTY if letter.isalnum() or letter in "<>" else literal(letter)

    def _class(self, verbose: bool) -> Shape:
        """After its opening bracket."""
        negated = self._take("^")
        characters: set[str] = set()
        large, sure, excluded = False, True, 0
        is_first = True
        while True:
            start = self.position
            character = self._next()
            if character == "]" and not is_first:
                break
            if verbose and (character.isspace() or character == "#"):
                if character == "#":
                    raise ValueError("a comment inside of a class")
                continue
            is_first = is_first and character == "-"
            if self.pattern.startswith(("&&", "--", "~~"), start):
                sure = False
            if character == "[":
                posix = re.compile(r":\^?[a-z]+:\]").match(self.pattern, self.position)
                if posix is not None:
                    self.position = posix.end()
                    large, excluded = True, excluded + (_MOST_EXCLUDED if "^" in posix[0] else 128)
                else:
                    nested = self._class(verbose)
                    large, excluded = large or nested.branches, _MOST_EXCLUDED
                continue
            item = self._escape() if character == "\\" else literal(character)
            if not item.first:
                large = large or item.branches
                excluded += _CLASS_SIZES.get(self.pattern[start + 1], _MOST_EXCLUDED)
                continue
            characters.add(item.first)
            excluded += 1
            if self._peek() == "-" and self.pattern[self.position + 1] not in "]-":
                self.position += 1
                high = self._escape() if self._take("\\") else literal(self._next())
                if not high.first or high.first < item.first or (verbose and high.first.isspace()):
                    raise ValueError("a range without an end")
                excluded += ord(high.first) - ord(item.first)
                characters.add(high.first)
        if not sure:
            return NOTHING_KNOWN
        if negated:
            return BRANCHING if excluded < _MOST_EXCLUDED else NOTHING_KNOWN
        if large or len(characters) > 1:
            return BRANCHING
        return literal(characters.pop()) if characters else NOTHING_KNOWN

    def _skipped(self, character: str) -> bool:
        """Whether verbose mode reads no more than layout or a comment."""
        if character == "#":
            end = self.pattern.find("\n", self.position)
            self.position = len(self.pattern) if end < 0 else end
        return character == "#" or character.isspace()

    def _match(self, what: re.Pattern[str]) -> re.Match[str]:
        match = what.match(self.pattern, self.position)
        if match is None:
            raise ValueError("not a regular expression")
        self.position = match.end()
        return match

    def _next(self) -> str:
        self.position += 1
        return self.pattern[self.position - 1]

    def _peek(self) -> str:
        return self.pattern[self.position : self.position + 1]

    def _take(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self.position += 1
        return True
