"""Whether a Lark grammar has terminals that may force text without end; see `forcing`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

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
from guidance_core.grammar.lark_tokens import Token
from guidance_core.grammar.rust_regex import shape

_SEPARATORS = frozenset({"item_separator", "key_separator", "whitespace_pattern"})
"""Regular expressions that a schema can bring in its ``x-guidance`` (llguidance's ``parser/src/json/compiler.rs``)."""

_BRANCHING = """
DIGIT HEXDIGIT INT SIGNED_INT DECIMAL FLOAT SIGNED_FLOAT NUMBER SIGNED_NUMBER
LCASE_LETTER UCASE_LETTER LETTER WORD CNAME WS_INLINE WS
"""
_COMMON = {**dict.fromkeys(_BRANCHING.split(), BRANCHING), "NEWLINE": ENDLESS}
"""Of ``%import common.…`` (its ``parser/src/lark/common.rs``); the others have no repetition that does not branch."""

_LEXEME_OPTIONS = frozenset({"lazy", "stop", "suffix", "max_tokens", "temperature"})
"""Of a rule: its body then is a terminal."""


def may_force_endlessly(tokens: Sequence[Token]) -> bool:
    """True also where the grammar cannot be read here, or llguidance will refuse it."""
    try:
        return _Reader([token for token in tokens if token.kind != "layout"]).is_endless()
    except (ValueError, IndexError, RecursionError):
        return True


def separators_may_force_endlessly(schema: Any) -> bool:
    """Whether what a JSON schema has between its values may."""
    if isinstance(schema, dict):
        return any(
            (name in _SEPARATORS and (not isinstance(value, str) or shape(value).endless))
            or separators_may_force_endlessly(value)
            for name, value in schema.items()
        )
    return isinstance(schema, list) and any(map(separators_may_force_endlessly, schema))


class _Reader:
    """Reads definitions; raises `ValueError` or `IndexError` where there is something else.

    Args:
        tokens: without layout.
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._tokens = [*tokens, Token("newline", "\n")]
        self._position = 0
        self._terminals = dict(_COMMON)
        self._bodies: dict[str, int] = {}

    def is_endless(self) -> bool:
        """Whether any terminal, in a definition of its own or within a rule, may force text without end."""
        bodies: list[tuple[int, bool]] = []
        options: list[Shape] = []
        while self._position < len(self._tokens):
            token = self._next()
            if token.text == "%ignore":
                bodies.append((self._position, True))
                self._skip_line()
            elif token.text == "%import":
                self._import()
            elif token.kind in ("rule", "terminal"):
                is_terminal = self._options(options) or token.kind == "terminal"
                self._bodies[token.text] = self._position
                bodies.append((self._position, is_terminal))
                self._skip_line()
            elif token.kind not in ("newline", "json"):
                raise ValueError("no definition")
        return any(shape.endless for shape in [*options, *(self._body(*body) for body in bodies)])

    def _import(self) -> None:
        """``common.WORD``, with ``-> NAME`` or without, or ``common (WORD, INT)``."""
        names = []
        while (token := self._next()).kind != "newline":
            if token.kind == "terminal":
                names.append(token.text)
        if len(names) > 1 and self._tokens[self._position - 3].text == "->":
            self._terminals[names[1]] = _COMMON.get(names[0], NOTHING_KNOWN)
            return
        for name in names:
            self._terminals.setdefault(name, NOTHING_KNOWN)

    def _options(self, shapes: list[Shape]) -> bool:
        """Up to the colon of a definition; whether they make the rule's body a terminal."""
        is_terminal = False
        while (token := self._next()).text != ":":
            if token.kind == "newline" or token.text == "::":
                raise ValueError("no colon, or parameters")
            is_terminal |= token.text in _LEXEME_OPTIONS
            if token.kind in ("regex", "terminal"):
                self._position -= 1
                shapes.append(self._atom(lexeme=True))
        return is_terminal

    def _body(self, start: int, is_terminal: bool) -> Shape:
        before, self._position = self._position, start
        shape = self._alternatives(is_terminal)
        if self._next().kind != "newline":
            raise ValueError("something behind a definition")
        self._position = before
        return shape

    def _terminal(self, name: str) -> Shape:
        if name not in self._terminals:
            self._terminals[name] = ENDLESS  # while it is read: one that contains itself is refused
            self._terminals[name] = self._body(self._bodies[name], True)
        return self._terminals[name]

    def _alternatives(self, lexeme: bool) -> Shape:
        found = [self._sequence(lexeme)]
        while self._peek().text == "|" or (self._peek().kind == "newline" and self._peek(1).text == "|"):
            self._position += 1 + (self._peek().kind == "newline")
            found.append(self._sequence(lexeme))
        return alternatives(found)

    def _sequence(self, lexeme: bool) -> Shape:
        parts: list[Shape] = []
        while (token := self._peek()).kind != "newline" and token.text not in ("|", ")", "]", "}"):
            if token.text == "->":
                self._position += 2
            else:
                parts.append(self._repeated(lexeme))
        return sequence(parts)

    def _repeated(self, lexeme: bool) -> Shape:
        part = self._atom(lexeme)
        mark = self._peek().text
        if mark in ("*", "+", "?"):
            self._position += 1
            bounds: tuple[int, int | None] = int(mark == "+"), 1 if mark == "?" else None
        elif mark in ("{", "~"):
            self._position += 1
            bounds = self._bounds("," if mark == "{" else "..")
            self._position += mark == "{"
        else:
            return part
        # In rules, each round is a terminal of its own.
        return repeated(part, *bounds) if lexeme else Shape(False, False, endless=part.endless)

    def _bounds(self, separator: str) -> tuple[int, int | None]:
        """``n``, ``n,m``, ``n,`` or ``,m``."""
        least = int(self._next().text) if self._peek().kind == "number" else 0
        if self._peek().text != separator:
            return least, least
        self._position += 1
        return least, int(self._next().text) if self._peek().kind == "number" else None

    def _atom(self, lexeme: bool) -> Shape:
        token = self._next()
        match token.kind:
            case "string":
                return self._string(token)
            case "regex":
                end = token.text.rindex("/")
                return shape(token.text[1:end], token.text[end + 1 :])
            case "terminal":
                return self._terminal(token.text)
            case "rule" if not lexeme and self._peek().text != "::":
                return EMPTY
            case "token" | "grammar":
                return EMPTY
            case "json" if token.text.startswith("%json"):
                schema = json.loads(token.text.removeprefix("%json"))
                return ENDLESS if separators_may_force_endlessly(schema) else EMPTY
            case "json":
                return NOTHING_KNOWN  # %regex: parts of a text, so bounded
        if token.text in ("(", "["):
            inside = self._alternatives(lexeme)
            if self._next().text != {"(": ")", "[": "]"}[token.text]:
                raise ValueError("an unclosed group")
            return repeated(inside, 0, 1) if token.text == "[" else inside
        if token.text == "%lark":
            return ENDLESS if may_force_endlessly(self._braced()) else EMPTY
        raise ValueError("no expression, or one whose texts nothing is certain of: ~, &")

    def _string(self, token: Token) -> Shape:
        if self._peek().text == "..":
            self._position += 1
            return BRANCHING if self._next().text != token.text else NOTHING_KNOWN
        return literal(token.text[1:].removesuffix("i")[:-1])

    def _braced(self) -> Sequence[Token]:
        """What is between this brace and its partner."""
        if self._next().text != "{":
            raise ValueError("no brace")
        start, depth = self._position, 1
        while depth:
            depth += {"{": 1, "}": -1}.get(self._next().text, 0)
        return self._tokens[start : self._position - 1]

    def _skip_line(self) -> None:
        """Up to the end of a definition."""
        depth = 0
        while (token := self._next()).kind != "newline" or depth or self._peek().text == "|":
            depth += {"{": 1, "}": -1}.get(token.text, 0)

    def _next(self) -> Token:
        self._position += 1
        return self._tokens[self._position - 1]

    def _peek(self, ahead: int = 0) -> Token:
        position = self._position + ahead
        return self._tokens[position] if position < len(self._tokens) else Token("newline", "")
