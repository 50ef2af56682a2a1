"""Random constraints, each with a judge that has nothing to do with llguidance."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lark
from jsonschema import Draft202012Validator

from guidance_core.grammar import constraint
from guidance_core.grammar.constraint import Constraint

LETTERS = "abcdefghij"

Judge = Callable[[str], bool]
"""Whether a whole answer satisfies a constraint."""


@dataclass(frozen=True)
class Judged:
    """A constraint and whether a whole answer satisfies it."""

    constraint: Constraint
    satisfied_by: Judge


def random_constraint(draw: random.Random) -> Judged:
    """A JSON schema, a regex, choices, or a Lark grammar."""
    return draw.choice([_schema, _schema, _regex, _choice, _lark])(draw)


def _schema(draw: random.Random) -> Judged:
    schema = random_schema(draw, depth=3)
    validator = Draft202012Validator(schema)
    return Judged(constraint.json_schema(schema), lambda text: validator.is_valid(json.loads(text)))


def random_schema(draw: random.Random, depth: int) -> dict[str, Any]:
    """A JSON schema of keywords that llguidance enforces, nested ``depth`` times at most."""
    leaves = [_string, _integer, _number, _enum, lambda _: {"type": "boolean"}, lambda _: {"type": "null"}]
    if depth == 0:
        return draw.choice(leaves)(draw)
    kind = draw.choice(["leaf", "array", "object", "object", "anyOf"])
    if kind == "array":
        least = draw.randint(0, 2)
        return {
            "type": "array",
            "items": random_schema(draw, depth - 1),
            "minItems": least,
            "maxItems": least + draw.randint(0, 2),
        }
    if kind == "object":
        # Long names: the grammar forces most of their tokens.
        names = draw.sample(["orderName", "price", "a", "bornInTheYear", "items"], draw.randint(1, 3))
        return {
            "type": "object",
            "properties": {name: random_schema(draw, depth - 1) for name in names},
            "required": draw.sample(names, draw.randint(0, len(names))),
            "additionalProperties": False,
        }
    if kind == "anyOf":
        return {"anyOf": [random_schema(draw, depth - 1) for _ in range(2)]}
    return draw.choice(leaves)(draw)


def _string(draw: random.Random) -> dict[str, Any]:
    if draw.random() < 0.4:
        return {"type": "string", "pattern": f"^{_pattern(draw, 2)}$"}
    least = draw.randint(0, 4)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(0, 5)}


def _integer(draw: random.Random) -> dict[str, Any]:
    least = draw.randint(-200, 200)
    return {"type": "integer", "minimum": least, "maximum": least + draw.randint(0, 300)}


def _number(draw: random.Random) -> dict[str, Any]:
    return {"type": "number", "exclusiveMinimum": draw.randint(-9, 9), "maximum": draw.randint(10, 20)}


def _enum(draw: random.Random) -> dict[str, Any]:
    return {"enum": draw.sample(["red", "green", "greenish", 1, 2.5, None, [1, "x"], {"k": True}], draw.randint(1, 4))}


def _regex(draw: random.Random) -> Judged:
    pattern = _pattern(draw, 3)
    return Judged(constraint.regex(pattern), lambda text: re.fullmatch(pattern, text) is not None)


def _pattern(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.2:
        return draw.choice([draw.choice(LETTERS), "[a-f]", "[à-ö]", "[0-9]", "item", "[A-Z]{2}"])
    kind = draw.choice(["then", "or", "many"])
    first = _pattern(draw, depth - 1)
    if kind == "then":
        return first + _pattern(draw, depth - 1)
    if kind == "or":
        return f"({first}|{_pattern(draw, depth - 1)})"
    return f"({first}){draw.choice(['?', '*', '+', '{2}', '{1,3}'])}"


def _choice(draw: random.Random) -> Judged:
    options = ["".join(draw.choices(LETTERS, k=draw.randint(0, 6))) for _ in range(draw.randint(1, 5))]
    # One that goes on where another ends, letters that Unicode can write in two ways, and what spells a special token.
    options += draw.sample([options[0] + "a", "é", "e\u0301", "<|end|>", options[0] + "<|user|>"], draw.randint(0, 2))
    return Judged(constraint.choice(options), lambda text: text in options)


def _lark(draw: random.Random) -> Judged:
    rules = draw.randint(2, 4)
    lines = []
    for number in range(rules):
        alternatives = [" ".join(_symbols(draw, number, rules)) for _ in range(draw.randint(1, 3))]
        if number and draw.random() < 0.5:
            # Recursion, behind a way out that the other alternatives give.
            alternatives.append(f'"(" r{draw.randint(0, number)} ")"')
        lines.append(f"r{number}: {' | '.join(alternatives)}")
    grammar = "\n".join(["start: r0", *lines, "WORD: /[a-c]+;/", 'NUMBER: /[0-9]{1,3}/ "."'])
    return Judged(constraint.lark(grammar), parses(grammar))


def parses(grammar: str) -> Judge:
    """Whether Python's Lark takes a text."""
    parser = lark.Lark(grammar, parser="earley", lexer="dynamic_complete")

    def judge(text: str) -> bool:
        try:
            parser.parse(text)
        except lark.exceptions.LarkError:
            return False
        return True

    return judge


def _symbols(draw: random.Random, number: int, rules: int) -> list[str]:
    """What follows each other in an alternative; rules refer to later ones, so that all come to an end."""
    ends = ['"x"', '"yes "', "WORD", "NUMBER", '"["']
    later = [f"r{i}" for i in range(number + 1, rules)]
    symbols = [draw.choice(ends + later * 2) for _ in range(draw.randint(1, 3))]
    # A rule that nothing leads to would not be tried.
    return [*symbols, f"r{number + 1}"] if number + 1 < rules else symbols
