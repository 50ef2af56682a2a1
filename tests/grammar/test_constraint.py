from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint


def accepts(tokenizer: LLTokenizer, what: Constraint, text: str) -> bool:
    matcher = LLMatcher(tokenizer, next(what.translations()).source, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


GBNF = 'root ::= answer "!"\nanswer ::= "yes" | "no"\n'
LARK = 'start: ANSWER "!"\nANSWER: "yes" | "no"\n'


@pytest.mark.parametrize(
    ("what", "texts", "others"),
    [
        (constraint.json_object(), ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1", "{} "]),
        (constraint.json_schema(True), ["1", "null", '"a"'], ["", "nul"]),
        (constraint.regex(r"\d+|x"), ["12", "x"], ["x1", "", "12 "]),
        (constraint.regex(""), [""], ["a"]),
        (constraint.lark(LARK), ["yes!", "no!"], ["yes", "maybe!"]),
        (constraint.ebnf(LARK), ["yes!"], ["yes"]),
        (constraint.ebnf(GBNF), ["yes!", "no!"], ["yes", "maybe!"]),
        (constraint.llguidance(LARK), ["yes!"], ["yes"]),
        (constraint.llguidance({"grammars": [{"lark_grammar": LARK}]}), ["yes!"], ["yes"]),
        (constraint.llguidance('{"grammars": [{"json_schema": {"type": "null"}}]}'), ["null"], ["1"]),
    ],
)
def test_each_kind_accepts_its_language(
    ll_tokenizer: LLTokenizer, what: Constraint, texts: list[str], others: list[str]
) -> None:
    for text in texts:
        assert accepts(ll_tokenizer, what, text), text
    for text in others:
        assert not accepts(ll_tokenizer, what, text), text


def test_a_choice_is_exactly_one_option_whatever_its_characters(ll_tokenizer: LLTokenizer) -> None:
    options = ["a", "ab", 'quo"te\\', "line\nbreak", "[x]|.*", "é😀", "\x00", "/slash/", ""]
    what = constraint.choice(options)
    for option in options:
        assert accepts(ll_tokenizer, what, option), option
    for other in ["b", "aa", "abc", "[x]", "x", "é", '"a"', "linebreak"]:
        assert not accepts(ll_tokenizer, what, other), other


def test_equal_definitions_are_equal_constraints() -> None:
    assert constraint.json_schema({"type": "null"}) == constraint.json_schema({"type": "null"})
    assert constraint.json_schema({"type": "null"}) != constraint.llguidance({"grammars": [{"type": "null"}]})


def test_a_regular_expression_without_any_match_is_refused() -> None:
    with pytest.raises(InvalidGrammar, match="matches no text"):
        list(constraint.regex("x[a&&b]").translations())
    assert list(constraint.regex("x?[a&&b]*").translations())


@pytest.mark.parametrize(
    ("make", "value", "named"),
    [
        (constraint.json_schema, False, "no value satisfies it"),
        (constraint.json_schema, "text", "must be an object or true, not str"),
        (constraint.json_schema, {"const": float("nan")}, "not a JSON value"),
        (constraint.json_schema, {"const": "\ud800"}, "surrogate"),
        (constraint.regex, 3, "must be a string, not int"),
        (constraint.lark, " ", "empty"),
        (constraint.lark, '{"grammars": []}', "serialised llguidance grammar"),
        (constraint.choice, [], "at least one string"),
        (constraint.choice, "abc", "at least one string"),
        (constraint.choice, ["a", 1], "Every option"),
        (constraint.ebnf, ["root"], "must be a string"),
        (constraint.llguidance, "{", "not valid JSON"),
        (constraint.llguidance, {"grammar": 1}, '"grammars"'),
        (constraint.llguidance, {"grammars": [], "max_tokens": 5}, '"max_tokens"'),
    ],
)
def test_what_is_no_constraint_is_refused(make: Callable[[Any], Constraint], value: Any, named: str) -> None:
    with pytest.raises(InvalidGrammar, match=re.escape(named)):
        make(value)


def test_gbnf_is_read_when_it_is_compiled() -> None:
    unreadable = constraint.ebnf("root ::= (")
    assert unreadable.kind == "gbnf"
    with pytest.raises(InvalidGrammar, match="could not be read"):
        list(unreadable.translations())


@pytest.mark.parametrize(
    ("grammar", "text", "taken"),
    [
        ("start: A\nA: /a|ab/", "ab", True),
        ('start: A "b"\nA: /a+?/', "aaab", True),
        ("start: A A\nA: /^a$/", "aa", True),
        ('start: "é"', "e\u0301", False),
        ('start: "a" "b"\n%ignore " "', "a  b", True),
        ('start: "a" "b"\n%ignore " "', " ab", False),
        ('start: "a" "b"\n%ignore " "', "ab ", False),
        ('start: "a" "b"*\n%ignore " "', "ab ", True),
        ('start: A "ab"\nA: /a*/', "aab", False),
        ("start: A\nA: /(?x) a\n b/", "ab", True),
        ("start: A\nA: /./", "\n", False),
        ('start: A\nA: ~"a"', "\n", True),
        ('start: x\nx[stop="b"]: /a*/', "aab", True),
        ('start: %json {"type": "null"}+', "null null", True),
    ],
)
def test_lark_is_read_as_documented(grammar: str, text: str, taken: bool, ll_tokenizer: LLTokenizer) -> None:
    assert accepts(ll_tokenizer, constraint.lark(grammar), text) == taken


@pytest.mark.parametrize("grammar", ["start: A\nA.2: /a/", "start: A\nA: /(a$|b)c/", "start: A\nA: /\\ba/"])
async def test_what_lark_cannot_promise_is_refused(grammar: str, compiler: GrammarCompiler) -> None:
    with pytest.raises(InvalidGrammar, match="not supported"):
        await compiler.compile(constraint.lark(grammar))
