r"""Regular expressions of JSON schemas, rewritten so that every reading of them agrees.

JSON Schema says ECMA-262; llguidance reads Rust's ``regex`` syntax; clients validate with whatever their language has.
They differ in what ``\d``, ``\w``, ``\s``, ``.`` and ``$`` match, in identity escapes, and in what a bracket expression
may hold (``[a&&b]`` is an intersection in Rust, ``[[:alpha:]]`` a POSIX class). Here ECMA-262 syntax is parsed and
written as Rust syntax that matches what ECMA-262 *and* Python's ``re`` match (`common_regex`), or what either of them
matches (`widest_regex`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from guidance_core.grammar.rust_regex import escaped

# For each class: what all readings put in it, and what any of them does.
_SPACE_COMMON = r"\t\n\x0B\x0C\r \xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_SPACE_ANY = _SPACE_COMMON + r"\x1C-\x1F\x85\x{FEFF}"
_CLASSES = {
    "d": ("0-9", r"\p{Nd}"),
    "w": ("0-9A-Za-z_", r"0-9A-Za-z_\p{L}\p{N}"),
    "s": (_SPACE_COMMON, _SPACE_ANY),
}
_DOT = (r"[^\n\r\x{2028}\x{2029}]", r"[^\n]")
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_QUANTIFIER = re.compile(r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}")
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_=]+\}")


class PatternError(ValueError):
    """The pattern is not valid ECMA-262, or has no equivalent that can be enforced."""


def common_regex(pattern: str) -> str:
    """Rewrite an ECMA-262 pattern as a Rust regex that matches no more than any usual reading of the pattern.

    Raises:
        PatternError: look-around, word boundaries, back-references, inline flags, or syntax that ECMA-262 does not
            have or that Python reads in another way.
    """
    return _Parser(pattern, wide=False).parse()


def widest_regex(pattern: str) -> str:
    """As `common_regex`, but a Rust regex that matches no less than any usual reading of the pattern."""
    return _Parser(pattern, wide=True, end=r"\x{A}?$").parse()


def only_before_newline(pattern: str) -> str | None:
    """What Python's ``$``, which also matches before a newline at the end, adds to `common_regex`.

    Returns:
        A Rust regex of texts that end in a newline after the pattern, or None where readings differ in more than ``$``.
    """
    if _Parser(pattern, wide=True).parse() != common_regex(pattern):
        return None
    return _Parser(pattern, wide=False, end=r"\x{A}$").parse()


def without_assertions(pattern: str) -> str:
    """As `common_regex`, but what llguidance does not support in a pattern is left out, so that it matches more.

    Look-around and word boundaries match everywhere, back-references match anything.

    Raises:
        PatternError: inline flags, or syntax that ECMA-262 does not have or that Python reads in another way.
    """
    return _Parser(pattern, wide=False, lenient=True).parse()


@dataclass(slots=True)
class _Parser:
    pattern: str
    wide: bool
    lenient: bool = False
    end: str = "$"
    position: int = 0
    depth: int = 0

    def parse(self) -> str:
        result = self._disjunction()
        if self.position < len(self.pattern):
            self._fail("an unmatched ')'")
        return result

    def _disjunction(self) -> str:
        self.depth += 1
        if self.depth > 64:
            self._fail("groups nested more than 64 deep")
        alternatives = [self._alternative()]
        while self._take("|"):
            alternatives.append(self._alternative())
        self.depth -= 1
        return "|".join(alternatives)

    def _alternative(self) -> str:
        parts: list[str] = []
        while self.position < len(self.pattern) and self.pattern[self.position] not in "|)":
            parts.append(self._term())
        return "".join(parts)

    def _term(self) -> str:
        character = self._next()
        if character in "^$":
            atom = self.end if character == "$" else "^"
        elif character == ".":
            atom = _DOT[self.wide]
        elif character == "(":
            atom = self._group()
        elif character == "[":
            atom = self._bracket()
        elif character == "\\":
            atom = self._escape()
        elif character in "*+?" or (character == "{" and _QUANTIFIER.match(self.pattern, self.position - 1)):
            self._fail("a quantifier with nothing to repeat")
        elif character == "{" and re.compile(r",[0-9]+\}").match(self.pattern, self.position):
            self._fail("'{,n}', which only some read as a quantifier: write {0,n}")
        else:
            atom = _literal(ord(character))
        quantifier = _QUANTIFIER.match(self.pattern, self.position)
        if quantifier is None:
            return atom
        if character in "^$":
            self._fail("a repeated anchor")
        self.position = quantifier.end()
        self._take("?")  # laziness changes what is captured, never what matches
        if self._peek() in ("*", "+", "?"):
            self._fail("a possessive or doubled quantifier")
        return atom + quantifier.group()

    def _group(self) -> str:
        if self._take("?"):
            if self._take(":"):
                pass
            elif (name := re.compile(r"P?<[A-Za-z_$][\w$]*>").match(self.pattern, self.position)) is not None:
                self.position = name.end()
            elif (assertion := re.compile(r"<?[=!]").match(self.pattern, self.position)) is not None:
                if not self.lenient:
                    self._fail("look-around, which llguidance does not support")
                self.position = assertion.end()
                self._disjunction()
                if not self._take(")"):
                    self._fail("an unclosed group")
                return "(?:)"
            else:
                self._fail("an inline flag or an extension that ECMA-262 does not have")
        inner = self._disjunction()
        if not self._take(")"):
            self._fail("an unclosed group")
        return f"(?:{inner})"

    def _escape(self) -> str:
        character = self._next()
        if character in "dwsDWS":
            return f"[{_class(character, wide=self.wide)}]"
        if character in "bB":
            if not self.lenient:
                self._fail("a word boundary, which llguidance does not support")
            return "(?:)"
        if character in "123456789k":
            if not self.lenient:
                self._fail("a back-reference, which no grammar can express")
            if (named := re.compile(r"[0-9]+|<[A-Za-z_$][\w$]*>").match(self.pattern, self.position)) is not None:
                self.position = named.end()
            return "(?s:.*)"
        if (unicode_property := _PROPERTY.match(self.pattern, self.position - 1)) is not None:
            self.position = unicode_property.end()
            return "\\" + unicode_property.group()
        return _literal(self._character_escape(character))

    def _bracket(self) -> str:
        negated = self._take("^")
        if self._peek() == "]":
            self._fail("an empty bracket expression")
        items: list[str] = []
        while not self._take("]"):
            low = self._bracket_item(negated)
            if self._peek() == "-" and self.pattern[self.position + 1 : self.position + 2] not in ("", "]"):
                start = self.position
                self.position += 1
                high = self._bracket_item(negated)
                if isinstance(low, int) and isinstance(high, int):
                    if low > high:
                        self._fail("a range whose ends are swapped")
                    items.append(f"{_literal(low)}-{_literal(high)}")
                    continue
                self.position = start + 1
                items.append(_literal(ord("-")))  # [\w-.]: a hyphen beside a class is a hyphen
            items.append(_literal(low) if isinstance(low, int) else low)
        return f"[{'^' if negated else ''}{''.join(items)}]"

    def _bracket_item(self, negated: bool) -> int | str:
        """One character as its code point, or a class as the text of a Rust class."""
        character = self._next("an unclosed bracket expression")
        if character != "\\":
            return ord(character)
        character = self._next()
        if character in "dwsDWS":
            return _class(character, wide=self.wide != negated)
        if character == "b":
            return 0x08
        if (unicode_property := _PROPERTY.match(self.pattern, self.position - 1)) is not None:
            self.position = unicode_property.end()
            return "\\" + unicode_property.group()
        return self._character_escape(character)

    def _character_escape(self, character: str) -> int:
        if character == "0" and self._peek().isdigit():
            self._fail("an octal escape")
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character == "c" and re.match(r"[A-Za-z]", self._peek()):
            return ord(self._next()) % 32
        if character == "x":
            return self._hex(r"([0-9A-Fa-f]{2})")
        if character == "u":
            if self._peek() == "{":
                return self._hex(r"\{([0-9A-Fa-f]{1,6})\}")
            unit = self._hex(r"([0-9A-Fa-f]{4})")
            if 0xD800 <= unit < 0xDC00 and self.pattern.startswith("\\u", self.position):
                self.position += 2
                low = self._hex(r"([Dd][C-Fc-f][0-9A-Fa-f]{2})")
                unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
            return unit
        if character.isascii() and (character.isalnum() or character == "_"):
            self._fail(f"the escape \\{character}, which ECMA-262 does not have")
        return ord(character)

    def _hex(self, digits: str) -> int:
        match = re.compile(digits).match(self.pattern, self.position)
        value = int(match.group(1), 16) if match is not None else -1
        if match is None or value > 0x10FFFF:
            self._fail("a malformed escape")
        self.position = match.end()
        return value

    def _next(self, otherwise: str = "a trailing backslash") -> str:
        if self.position >= len(self.pattern):
            self._fail(otherwise)
        self.position += 1
        return self.pattern[self.position - 1]

    def _peek(self) -> str:
        return self.pattern[self.position : self.position + 1]

    def _take(self, character: str) -> bool:
        if self._peek() != character:
            return False
        self.position += 1
        return True

    def _fail(self, what: str) -> NoReturn:
        shown = self.pattern if len(self.pattern) <= 200 else self.pattern[:200] + "…"
        raise PatternError(f"the pattern {shown!r} has {what} (near character {self.position})")


def _class(letter: str, *, wide: bool) -> str:
    """A class escape as the inside of a bracket expression: what all readings put in it, or what any of them does.

    Inside a negated bracket expression the two change places.
    """
    common, widest = _CLASSES[letter.lower()]
    if letter.islower():
        return widest if wide else common
    return f"[^{common if wide else widest}]"


def _literal(code_point: int) -> str:
    if 0xD800 <= code_point < 0xE000:
        raise PatternError("the pattern names half of a surrogate pair, which no text can contain")
    return escaped(chr(code_point))
