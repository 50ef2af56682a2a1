"""Constraints as guides."""

from __future__ import annotations

import json

import pytest
from llguidance import LLMatcher, LLTokenizer
from llguidance.gbnf_to_lark import any_to_lark

from guidance_core.errors import Unsupported
from guidance_core.executors.triton.guides import guide
from guidance_core.generation import Grammar, GrammarKind


def grammar(kind: GrammarKind, definition: str) -> Grammar:
    return Grammar("", kind, definition, "")


@pytest.mark.parametrize(
    ("kind", "definition", "expected"),
    [
        ("json_schema", '{"type": "integer"}', ("json_schema", '{"type": "integer"}')),
        ("json_schema", "{}", ("json", None)),
        ("json_object", '{"type": "object"}', ("json_schema", '{"type": "object"}')),
        ("regex", "a+", ("regex", "a+")),
        ("gbnf", 'root ::= "a" root?', ("ebnf_grammar", 'root ::= "a" root?')),
    ],
)
def test_each_kind_has_its_guide_type(kind: GrammarKind, definition: str, expected: tuple[str, str | None]) -> None:
    assert guide(grammar(kind, definition)) == expected


@pytest.mark.parametrize("options", [["yes", "no"], ['a "quoted" one', "back\\slash", "line\nbreak", "Zoë 🎉", ""]])
def test_a_choice_becomes_a_grammar_of_exactly_its_options(options: list[str], ll_tokenizer: LLTokenizer) -> None:
    guide_type, text = guide(grammar("choice", json.dumps(options)))
    assert guide_type == "ebnf_grammar"
    assert text is not None

    def accepts(answer: str) -> bool:
        matcher = LLMatcher(ll_tokenizer, LLMatcher.grammar_from_lark(any_to_lark(text)), log_level=0)
        tokens = ll_tokenizer.tokenize_str(answer)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    for option in options:
        assert accepts(option), option
    for other in ("maybe", options[0] + options[1], options[0][:-1] + "?"):
        assert not accepts(other), other


@pytest.mark.parametrize("kind", ["lark", "llguidance", "tools"])
def test_what_the_server_cannot_read_is_refused(kind: GrammarKind) -> None:
    with pytest.raises(Unsupported, match="no Lark"):
        guide(grammar(kind, 'start: "a"'))
