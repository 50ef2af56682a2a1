"""Random constraints of clients' own languages, each with a judge that has nothing to do with llguidance."""

from __future__ import annotations

import random
import re

import lark
import regex
from hypothesis import reject

from guidance_core.grammar import constraint
from tests.grammar.random_grammars import Judge, Judged, parses

_CHARACTERS = [*"abcAB01 ._-\n#", "é", "日", "😀"]
_LAYOUT = ["", "", " ", "\n  ", " # see (a|b)/\n"]


def random_regex(draw: random.Random) -> Judged:
    """In the syntax that Rust and Python share, with verbose layout, groups of any name, and scoped flags."""
    rust, python = _alternatives(draw, 3, frozenset())
    return Judged(constraint.regex(rust), _matches(python))


def _matches(pattern: str) -> Judge:
    compiled = regex.compile(pattern)

    def matches(text: str) -> bool:
        try:
            return compiled.fullmatch(text, timeout=2) is not None
        except TimeoutError:  # it goes back and forth, for minutes where repetitions are nested
            reject()

    return matches


def _alternatives(draw: random.Random, depth: int, flags: frozenset[str]) -> tuple[str, str]:
    found = [_sequence(draw, depth, flags) for _ in range(draw.choice([1, 1, 2]))]
    return "|".join(rust for rust, _ in found), "|".join(python for _, python in found)


def _sequence(draw: random.Random, depth: int, flags: frozenset[str]) -> tuple[str, str]:
    parts = [_repeated(draw, depth, flags) for _ in range(draw.randint(1, 3))]
    return "".join(rust + _layout(draw, flags) for rust, _ in parts), "".join(python for _, python in parts)


def _layout(draw: random.Random, flags: frozenset[str]) -> str:
    return draw.choice(_LAYOUT) if "x" in flags else ""


def _repeated(draw: random.Random, depth: int, flags: frozenset[str]) -> tuple[str, str]:
    rust, python = _atom(draw, depth, flags)
    if draw.random() < 0.6:
        return rust, python
    quantifier = draw.choice(["*", "+", "?", "{2}", "{1,3}", "{0,2}", "{1,}"])
    return rust + _layout(draw, flags) + quantifier + draw.choice(["", "?"]), f"(?:{python}){quantifier}"


def _atom(draw: random.Random, depth: int, flags: frozenset[str]) -> tuple[str, str]:
    kind = draw.choice(["character", "character", "class", "dot", "group", "group", "flags"])
    if kind == "character" or depth == 0:
        character = draw.choice(_CHARACTERS)
        escaped = "\\n" if character == "\n" else re.escape(character) if ord(character) < 128 else character
        return draw.choice([f"\\x{{{ord(character):x}}}", escaped]), re.escape(character)
    if kind == "class":
        inside = draw.choice(["a-f", "0-9_", "^a-c", "/", "(?P<n>", "é-ü", "^\\n\\]"])
        return f"[{inside}]", f"[{inside}]"
    if kind == "dot":
        return ".", "(?s:.)" if "s" in flags else "[^\\n]"
    if kind == "group":
        rust, python = _alternatives(draw, depth - 1, flags)
        return f"{draw.choice(['(', '(?:', '(?P<stop>'])}{rust})", f"(?:{python})"
    more = frozenset(draw.choice(["i", "s", "x", "sx"]))
    rust, python = _alternatives(draw, depth - 1, flags | more)
    on = "".join(sorted(more))
    return draw.choice([f"(?{on}:{rust})", f"((?{on}){rust})"]), f"(?i:{python})" if "i" in more else f"(?:{python})"


def random_lark(draw: random.Random) -> Judged:
    """Rules with recursion, optional and repeated parts, imports, and what is ignored between terminals."""
    while True:
        grammar = _lark(draw)
        try:
            return Judged(constraint.lark(grammar), parses(grammar))
        except lark.exceptions.GrammarError:
            pass  # optional parts made two alternatives alike, which llguidance takes and Lark does not


def _lark(draw: random.Random) -> str:
    symbols = ['"x"', '"yes "', '"ab"i', "WORD", "NUMBER", "INT", '"["', "/[a-c]+;/", "r1", "r1", "r2", "r2"]
    lines = ["start: r0"]
    for name in ("r0", "r1", "r2"):
        alternatives = [_lark_parts(draw, symbols) for _ in range(draw.randint(1, 3))]
        # A way out of recursion.
        lines.append(f"{name}: {' | '.join([*alternatives, draw.choice(symbols[:8])])}")
    lines += ['WORD: /[a-c]+/ (";" | /é+!/)', 'NUMBER: "0".."9" "."', "%import common.INT"]
    if draw.random() < 0.4:
        ignored = draw.choice(['" "', r"/[ \n]+/", '"x"'])
        lines.append(f"%ignore {ignored}")
    draw.shuffle(lines)
    return "\n".join(lines)


def _lark_parts(draw: random.Random, symbols: list[str]) -> str:
    parts = []
    for symbol in draw.choices(symbols, k=draw.randint(1, 3)):
        written = draw.choice(["{}", "{}", "{}", "[{}]", "{}?", "({})*", "{}+", "{}~2", "{}~1..2"])
        parts.append(written.format(symbol))
    return " ".join(parts)


def random_gbnf(draw: random.Random) -> Judged:
    """Rules without recursion, whose texts have every escape and whose classes have what Rust reads otherwise."""
    names = [f"rule-{i}" for i in range(3)]
    lines, patterns = [], dict[str, str]()
    for i, name in reversed(list(enumerate(names))):
        gbnf, patterns[name] = _gbnf_alternatives(draw, {n: patterns[n] for n in names[i + 1 :]}, 1)
        lines.append(f"{name} ::= {gbnf}  # {name}\n")
    gbnf, pattern = _gbnf_alternatives(draw, patterns, 2)
    lines.append(f"root ::= {gbnf}\n")
    return Judged(constraint.ebnf("".join(lines)), _matches(f"(?s:{pattern})"))


def _gbnf_alternatives(draw: random.Random, rules: dict[str, str], depth: int) -> tuple[str, str]:
    found = []
    for _ in range(draw.randint(1, 2)):
        parts = [_gbnf_part(draw, rules, depth) for _ in range(draw.randint(1, 3))]
        found.append((" ".join(gbnf for gbnf, _ in parts), "".join(pattern for _, pattern in parts)))
    return " |\n ".join(gbnf for gbnf, _ in found), f"(?:{'|'.join(pattern for _, pattern in found)})"


def _gbnf_part(draw: random.Random, rules: dict[str, str], depth: int) -> tuple[str, str]:
    kind = draw.choice(["text", "class", "rule", "any", "group"])
    if kind == "rule" and rules:
        gbnf = draw.choice(list(rules))
        pattern = rules[gbnf]
    elif kind == "class":
        gbnf, pattern = draw.choice(
            [
                ("[a&&b]", "[&ab]"),
                ("[+--]", "[+,\\-]"),
                ("[~~a]", "[~a]"),
                ("[\\u0041BC]", "[ABC]"),
                ("[^\\]a-z\\n]", "[^\\]a-z\\n]"),
            ]
        )
    elif kind == "any":
        gbnf = pattern = "."
    elif kind == "group" and depth:
        gbnf, pattern = _gbnf_alternatives(draw, rules, depth - 1)
        gbnf = f"({gbnf})"
    else:
        text = "".join(draw.choices(_CHARACTERS, k=draw.randint(1, 3)))
        gbnf, pattern = f'"{"".join(_gbnf_character(draw, c) for c in text)}"', re.escape(text)
    operator = draw.choice(["", "", "", "*", "+", "?", "{2}", "{1,2}"])
    return gbnf + operator, f"(?:{pattern}){operator}"


def _gbnf_character(draw: random.Random, character: str) -> str:
    code = ord(character)
    forms = [character, f"\\U{code:08x}"] + [f"\\u{code:04X}"] * (code < 2**16) + [f"\\x{code:02x}"] * (code < 2**8)
    return draw.choice(forms)


def random_serialised(draw: random.Random) -> Judged:
    """Several grammars that refer to each other: Lark inside of Lark, and a schema."""
    inner = random_lark(draw)
    top = 'start: "<" @inner ">" | "=" @choice'
    grammars = [
        {"lark_grammar": top},
        {"name": "inner", "lark_grammar": inner.constraint.definition},
        {"name": "choice", "json_schema": {"enum": ["a", 1, None]}},
    ]

    def satisfied_by(text: str) -> bool:
        if text.startswith("="):
            return text[1:].strip(" \t\r\n") in ('"a"', "1", "null")
        return text.startswith("<") and text.endswith(">") and inner.satisfied_by(text[1:-1])

    return Judged(constraint.llguidance({"grammars": grammars}), satisfied_by)
