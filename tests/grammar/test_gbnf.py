from __future__ import annotations

import re

import pytest
from llguidance import LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar import constraint
from guidance_core.grammar.gbnf import is_gbnf, lark_from_gbnf
from tests.grammar.test_constraint import accepts


@pytest.mark.parametrize(
    ("grammar", "texts", "others"),
    [
        (r'root ::= "\u0041bc" [\u0042CD]', ["AbcB", "AbcD"], ["䆼B", "䆼CD"]),
        (r"root ::= [a&&b] [+--] [a\-z]", ["&,-", "a+z"], ["a.b", "b,m"]),
        (r'root ::= "[\"\\" .', ['["\\\n', '["\\é'], ['["\\']),
        ('root ::= ("a"+)* # "c"\n', ["", "aaa"], ["c"]),
        ('root ::= start-rule |\n  "c"{0}\nstart-rule ::= (\n"a"\n| "b" )', ["a", "b", ""], ["c", "ab"]),
        ('root ::= "(" root ")" | x\nx ::= [0-9]{2,3}', ["((12))", "123"], ["(1)", "(12"]),
        ('root ::= aB "-" a-b\naB ::= "1"\na-b ::= "2"', ["1-2"], ["1-1", "2-1"]),
    ],
)
def test_gbnf_is_read_as_llama_cpp_does(
    grammar: str, texts: list[str], others: list[str], ll_tokenizer: LLTokenizer
) -> None:
    for text in texts:
        assert accepts(ll_tokenizer, constraint.ebnf(grammar), text), text
    for text in others:
        assert not accepts(ll_tokenizer, constraint.ebnf(grammar), text), text


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        ('rule ::= "a"', 'no rule "root"'),
        ("root ::= other", "'other'"),
        ('root ::= "a"\nroot ::= "b"', "line 2 has the rule 'root' a second time"),
        ('root ::= "a', "does not end"),
        ("root ::= [z-a]", "swapped"),
        ("root ::= []", "empty class"),
        ("root ::= +", "repetition of nothing"),
        ('root ::= "a" !', "'!'"),
        (r'root ::= "\ud800"', "no character"),
        ("root ::= " + "(" * 5000, "too deep"),
    ],
)
def test_what_is_no_gbnf_is_refused(grammar: str, why: str) -> None:
    with pytest.raises(InvalidGrammar, match=re.escape(why)):
        lark_from_gbnf(grammar)


def test_many_rules_and_names_that_differ_little_are_told_apart_in_no_time() -> None:
    rules = [f'a{i} ::= a{i + 1} "{i}"' for i in range(5000)] + ["a-b ::= a--b", "a--b ::= a_-b", 'a_-b ::= "x"']
    lark = lark_from_gbnf("\n".join(['root ::= a0 a-b\na5000 ::= "y"', *rules]))
    defined = [line.split(":")[0] for line in lark.splitlines()]
    assert len(set(defined)) == len(defined) == 5006


def test_rules_are_terminals_unless_they_contain_themselves() -> None:
    assert lark_from_gbnf("root ::= .* word\nword ::= [a-z]+") == (
        "start: RULE_ROOT\nRULE_ROOT: (/(?s:.)/*) RULE_WORD\nRULE_WORD: /[a-z]/+\n"
    )
    assert lark_from_gbnf('root ::= word | "(" root ")"\nword ::= [a-z]+') == (
        'start: rule_root\nrule_root: RULE_WORD | "(" rule_root ")"\nRULE_WORD: /[a-z]/+\n'
    )


@pytest.mark.parametrize("text", ["\n" * 200_000, "a" * 200_000, "a \n" * 100_000, " " * 200_000 + "a"])
def test_long_texts_are_told_from_gbnf_in_no_time(text: str) -> None:
    assert not is_gbnf(text)  # in quadratic time that would take minutes


def test_lark_is_told_from_gbnf_by_how_it_defines() -> None:
    assert is_gbnf('# start: x\nroot\t::= "a"')
    assert not is_gbnf('?start: "root ::= x"\n  | a\na: "::="')
