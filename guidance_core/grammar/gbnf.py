r"""GBNF, the grammars of llama.cpp, → Lark for llguidance.

Read as llama.cpp reads it (its ``src/llama-grammar.cpp``). llguidance brings a translator, too, but takes the zeros
from escapes (``"\u0041bc"`` becomes the one character U+41BC) and leaves in classes what means something else in
Rust's (``[a&&b]``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar.rust_regex import escaped

_DEFINITION = re.compile(r"^[ \t]*[\w-]+[ \t]*::=", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LAYOUT = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_LAYOUT_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_REPETITION = re.compile(r"([*+?])|\{\s*([0-9]+)\s*(?:(,)\s*([0-9]*)\s*)?\}")
_ESCAPE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrt])|([!-/:-@\[-`{-~])")
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t"}


def is_gbnf(text: str) -> bool:
    """Whether a grammar is GBNF and not Lark: it defines with ``::=``."""
    return _DEFINITION.search(text) is not None


def lark_from_gbnf(text: str) -> str:
    """The same language in Lark; rules that need no recursion become terminals, which are much faster.

    Raises:
        InvalidGrammar: llama.cpp would not take it either; the message names the line.
    """
    try:
        rules = _Reader(text).rules()
        if "root" not in rules:
            raise InvalidGrammar('The GBNF grammar has no rule "root".')
        for name in {reference for rule in rules.values() for reference in rule.references()}:
            if name not in rules:
                raise InvalidGrammar(f"The GBNF grammar has no rule {name!r}, which it refers to.")
        names = _names(rules, _terminals(rules))
        lark = [f"{names[name]}: {rule.lark(names)}" for name, rule in rules.items()]
        return "\n".join([f"start: {names['root']}", *lark, ""])
    except RecursionError:
        raise InvalidGrammar("The GBNF grammar could not be read: its groups are nested too deep.") from None


@dataclass(slots=True)
class _Node:
    """A part of a rule.

    Attributes:
        text: Lark of a literal or a class, the name of a rule that is referred to, or an operator behind the one part.
        kind: which of these, or how the parts belong together.
        parts: of a sequence, of a choice, or what is repeated.
    """

    kind: str
    text: str = ""
    parts: Sequence[_Node] = field(default_factory=tuple)

    def references(self) -> set[str]:
        """The names of the rules in it."""
        if self.kind == "reference":
            return {self.text}
        return {name for part in self.parts for name in part.references()}

    def lark(self, names: dict[str, str], *, inside: bool = False) -> str:
        """Itself, in parentheses where it is ``inside`` of something that binds more tightly."""
        match self.kind:
            case "reference":
                return names[self.text]
            case "repetition":
                text = self.parts[0].lark(names, inside=True) + self.text
            case "sequence":
                text = " ".join(part.lark(names, inside=True) for part in self.parts) or '""'
            case "choice":
                text = " | ".join(part.lark(names) for part in self.parts)
            case _:
                return self.text
        return f"({text})" if inside else text


def _terminals(rules: dict[str, _Node]) -> set[str]:
    """The rules that refer to none but such rules."""
    missing = {name: rule.references() for name, rule in rules.items()}
    users: dict[str, list[str]] = {}
    for name, references in missing.items():
        for reference in references:
            users.setdefault(reference, []).append(name)
    ready = [name for name, references in missing.items() if not references]
    found: set[str] = set()
    while ready:
        found.add(name := ready.pop())
        for user in users.get(name, ()):
            missing[user].discard(name)
            if not missing[user]:
                ready.append(user)
    return found


def _names(rules: dict[str, _Node], terminals: set[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    taken: set[str] = set()
    for number, name in enumerate(rules):
        words = "rule_" + re.sub(r"[^a-z0-9]", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
        # No other rule's name has two underscores and a number behind them.
        new = f"{words}__{number}" if words in taken or "__" in words else words
        taken.add(new)
        names[name] = new.upper() if name in terminals else new
    return names


class _Reader:
    """Reads rules from a text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def rules(self) -> dict[str, _Node]:
        rules: dict[str, _Node] = {}
        self._match(_LAYOUT_AND_LINES)
        while self._position < len(self._text):
            name = self._match(_NAME, "the name of a rule")[0]
            if name in rules:
                self._fail(f"the rule {name!r} a second time")
            self._match(_LAYOUT)
            if not self._take("::="):
                self._fail("no '::=' behind the name of a rule")
            self._match(_LAYOUT_AND_LINES)
            rules[name] = self._choice(_LAYOUT)
            if self._peek() not in ("", "\r", "\n"):
                self._fail(f"{self._peek()!r}, which begins nothing here")
            self._match(_LAYOUT_AND_LINES)
        return rules

    def _choice(self, layout: re.Pattern[str]) -> _Node:
        parts = [self._sequence(layout)]
        while self._take("|"):
            self._match(_LAYOUT_AND_LINES)
            parts.append(self._sequence(layout))
        return parts[0] if len(parts) == 1 else _Node("choice", "", parts)

    def _sequence(self, layout: re.Pattern[str]) -> _Node:
        parts: list[_Node] = []
        while True:
            self._match(layout)
            if (repetition := _REPETITION.match(self._text, self._position)) is not None:
                if not parts:
                    self._fail("a repetition of nothing")
                self._position = repetition.end()
                parts.append(_repeated(parts.pop(), repetition))
            elif self._take('"'):
                parts.append(_Node("literal", _literal(self._literal())))
            elif self._take("["):
                parts.append(_Node("class", self._class()))
            elif self._take("."):
                parts.append(_Node("class", "/(?s:.)/"))
            elif self._take("("):
                self._match(_LAYOUT_AND_LINES)
                parts.append(self._choice(_LAYOUT_AND_LINES))
                if not self._take(")"):
                    self._fail("an unclosed group")
            elif (name := _NAME.match(self._text, self._position)) is not None:
                self._position = name.end()
                parts.append(_Node("reference", name[0]))
            else:
                return parts[0] if len(parts) == 1 else _Node("sequence", "", parts)

    def _literal(self) -> str:
        characters = []
        while not self._take('"'):
            characters.append(self._character())
        return "".join(characters)

    def _class(self) -> str:
        negated = self._take("^")
        items = []
        while not self._take("]"):
            low = self._character()
            if self._peek() == "-" and self._text[self._position + 1 : self._position + 2] != "]":
                self._position += 1
                high = self._character()
                if low > high:
                    self._fail("a range whose ends are swapped")
                items.append(f"{escaped(low)}-{escaped(high)}")
            else:
                items.append(escaped(low))
        if not items:
            self._fail("an empty class")
        return f"/[{'^' if negated else ''}{''.join(items)}]/"

    def _character(self) -> str:
        if self._position >= len(self._text):
            self._fail("a text or a class that does not end")
        if not self._take("\\"):
            self._position += 1
            return self._text[self._position - 1]
        escape = self._match(_ESCAPE, "a known escape")
        if escape[4]:
            return _CONTROLS[escape[4]]
        if escape[5]:
            return escape[5]
        number = int(escape[1] or escape[2] or escape[3], 16)
        if number > 0x10FFFF or 0xD800 <= number < 0xE000:
            self._fail("an escape of what is no character")
        return chr(number)

    def _match(self, pattern: re.Pattern[str], what: str = "") -> re.Match[str]:
        match = pattern.match(self._text, self._position)
        if match is None:
            self._fail(f"{self._peek() or 'the end'!r} instead of {what}")
        self._position = match.end()
        return match

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _take(self, text: str) -> bool:
        if not self._text.startswith(text, self._position):
            return False
        self._position += len(text)
        return True

    def _fail(self, what: str) -> NoReturn:
        line = self._text.count("\n", 0, self._position) + 1
        raise InvalidGrammar(f"The GBNF grammar could not be read: line {line} has {what}.")


def _repeated(part: _Node, repetition: re.Match[str]) -> _Node:
    if repetition[1]:
        return _Node("repetition", repetition[1], [part])
    least = int(repetition[2])
    most = least if not repetition[3] else int(repetition[4]) if repetition[4] else None
    if most == 0:
        return _Node("literal", '""')
    return _Node("repetition", f"{{{least},{'' if most is None else most}}}", [part])


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
