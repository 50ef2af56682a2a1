from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar import constraint
from guidance_core.grammar.lark_text import enforceable, enforceable_grammars
from guidance_core.grammar.lark_tokens import tokens
from tests.grammar.test_constraint import accepts


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        ('start: A "!"\nA: "x"~1..3 "y"~2', ["xyy!", "xxxyy!"], ["xxxxyy!", "xy!"]),
        ('start: A\nA: ~"a"', ["", "b", "aa", "é"], ["a"]),
        ('start: ~("a" | ~/[ab]+/)', ["b", "ab"], ["a", "c"]),
        ('start: A\nA: "é" ~"a".."c" "x"', ["édx", "éabx"], ["éax"]),
        ('start: A\nA: /a(?P<stop>b)?/ "c"', ["ac", "abc"], ["a"]),
        ("start: /a(?P<stop>b*)b/", ["ab", "abb"], ["a"]),
        ('start: "~2" // ~"a"\n  | /~1/', ["~2", "~1"], ["22"]),
    ],
)
def test_lark_means_what_it_says(grammar: str, texts: list[str], others: list[str], ll_tokenizer: LLTokenizer) -> None:
    for text in texts:
        assert accepts(ll_tokenizer, constraint.lark(grammar), text), text
    for text in others:
        assert not accepts(ll_tokenizer, constraint.lark(grammar), text), text


def test_what_a_terminal_does_not_match_is_text_and_no_special_token(ll_tokenizer: LLTokenizer) -> None:
    end, user = 0, 1
    [half] = ll_tokenizer.tokenize_bytes(b"\xe9")
    [letter] = ll_tokenizer.tokenize_bytes(b"q")
    matcher = LLMatcher(ll_tokenizer, enforceable('start: A "."\nA: ~"a"'), log_level=0)
    assert matcher.try_consume_tokens([letter]) == 1
    assert matcher.validate_tokens([end]) == matcher.validate_tokens([user]) == 0
    assert matcher.validate_tokens([half, letter]) == 1  # no half of a character is followed by another one


@pytest.mark.parametrize(
    "grammar",
    [
        'start: A "ab"\nA: "a"+',
        'start: a "x"\na[lazy]: /x*/',
        "start: NL NL\n%import common.NEWLINE -> NL",
        'start: "b" "bc"\n%ignore /b+/',
        'start: %lark {\nstart: A\nA: "a"+\n}',
        "start: A\nA: /[ab]*/ & /a*/",
        'start: %json {"x-guidance": {"item_separator": "t+"}}',
        "start: (",
    ],
)
def test_nothing_is_forced_where_that_might_not_end(grammar: str) -> None:
    assert "no_forcing" in enforceable(grammar)


@pytest.mark.parametrize(
    "grammar",
    [
        '?start: expr\n!expr: expr "+" NUMBER -> sum\n  | NUMBER\n%import common (NUMBER, WS)\n%ignore WS',
        'start: "a"* x @other <|user|>\nx[stop="a", max_tokens=9, temperature=0.5]: /[a-z]*/ // "a"+',
        'start: %json {"type": "string", "pattern": "^a+$"} [T] %lark {\nstart: /[0-9]+/\n}\nT: "a".."z" "b"?',
    ],
)
def test_other_grammars_stay_as_they_are(grammar: str) -> None:
    assert enforceable(grammar) == grammar
    assert "".join(token.text for token in tokens(grammar)) == grammar


def test_what_is_no_lark_is_read_in_no_time() -> None:
    for part in ("~(", "\\/", '"', "/[", "%json ", "%lark {", "(", "~"):
        assert "no_forcing" in enforceable("start: " + part * 20_001)


def test_serialised_grammars_are_treated_alike() -> None:
    top = {"grammars": [{"lark_grammar": 'start: @x A "a"\nA: /a+/'}, {"name": "x", "json_schema": {"type": "null"}}]}
    first, second = json.loads(enforceable_grammars(json.dumps(top)))["grammars"]
    assert "no_forcing" in first["lark_grammar"]
    assert second == top["grammars"][1]
    separated = {"grammars": [{"json_schema": {"items": {"x-guidance": {"whitespace_pattern": " *"}}}}]}
    with pytest.raises(InvalidGrammar, match="upper bound"):
        enforceable_grammars(json.dumps(separated))
