"""Thoughts are counted in tokens, and what follows them is constrained."""

from __future__ import annotations

import pytest
from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from guidance_core.grammar.reasoning import Thoughts
from guidance_core.grammar.tools import Function
from guidance_core.tool_format import HERMES

# The small tokenizer has two special tokens; an ordinary one can end thoughts as well.
BEGIN, END = 1, 10
INTEGER = constraint.json_schema({"type": "integer"})


def matcher(tokenizer: LLTokenizer, what: Constraint) -> LLMatcher:
    [translation] = what.translations()
    return LLMatcher(tokenizer, translation.source, log_level=0)


def thoughts(begin_id: int | None, least: int, most: int | None) -> Thoughts:
    return Thoughts(begin_id, END, (0,), least, most)


def accepts(tokenizer: LLTokenizer, what: Constraint, tokens: list[int], text: str) -> bool:
    started = matcher(tokenizer, what)
    tokens = [*tokens, *tokenizer.tokenize_bytes(text.encode())]
    return started.try_consume_tokens(tokens) == len(tokens) and started.is_accepting()


@pytest.mark.parametrize("answer", [INTEGER, constraint.regex("[0-9]+"), constraint.lark('start: "12"'), None])
def test_the_number_of_tokens_is_exact(ll_tokenizer: LLTokenizer, answer: Constraint | None) -> None:
    what = constraint.reasoned(thoughts(None, 2, 5), answer)
    for count in range(8):
        allowed = accepts(ll_tokenizer, what, [20 + count] * count + [END], "12")
        assert allowed is (2 <= count <= 5)


def test_without_bounds_a_model_may_think_or_not(ll_tokenizer: LLTokenizer) -> None:
    what = constraint.reasoned(thoughts(BEGIN, 0, None), INTEGER)
    assert accepts(ll_tokenizer, what, [], "12")
    assert accepts(ll_tokenizer, what, [BEGIN, *[30] * 400, END], "\n\n12")
    assert not accepts(ll_tokenizer, what, [BEGIN, 30, END], "x")
    assert not accepts(ll_tokenizer, what, [30, END], "12")
    assert not accepts(ll_tokenizer, what, [BEGIN, BEGIN, END], "12")
    assert not accepts(ll_tokenizer, what, [BEGIN, 0, END], "12")


@pytest.mark.parametrize(
    "answer",
    [constraint.regex(r"\s*12"), constraint.lark(r'start: "\n"* "12"'), constraint.lark("start: <[5]>? /12/")],
)
def test_line_breaks_are_the_answers_where_it_may_begin_with_them(
    ll_tokenizer: LLTokenizer, answer: Constraint
) -> None:
    [translation] = constraint.reasoned(thoughts(None, 0, 3), answer).translations()
    assert not translation.gap_after_thoughts
    assert "{0,2}" not in translation.source


@pytest.mark.parametrize("answer", [INTEGER, constraint.regex("[0-9]+"), constraint.choice(["12", "a\nb"])])
def test_line_breaks_between_thoughts_and_other_answers_are_no_part_of_them(
    ll_tokenizer: LLTokenizer, answer: Constraint
) -> None:
    what = constraint.reasoned(thoughts(BEGIN, 0, None), answer)
    [translation] = what.translations()
    assert translation.gap_after_thoughts
    assert accepts(ll_tokenizer, what, [BEGIN, 30, END], "\n\n12")
    assert not accepts(ll_tokenizer, what, [], "\n12")


def test_a_least_number_makes_the_model_think(ll_tokenizer: LLTokenizer) -> None:
    what = constraint.reasoned(thoughts(BEGIN, 1, None), INTEGER)
    assert not accepts(ll_tokenizer, what, [], "12")
    assert not accepts(ll_tokenizer, what, [BEGIN, END], "12")
    assert accepts(ll_tokenizer, what, [BEGIN, 30, END], "12")


def test_no_thoughts_at_all_end_at_once(ll_tokenizer: LLTokenizer) -> None:
    what = constraint.reasoned(thoughts(None, 0, 0), INTEGER)
    assert matcher(ll_tokenizer, what).compute_ff_tokens()[:1] == [END]


async def test_tools_and_supersets_follow_thoughts_too(ll_tokenizer: LLTokenizer, compiler: GrammarCompiler) -> None:
    function = Function("get", {"type": "object", "properties": {}, "additionalProperties": False})
    called = constraint.tools(HERMES, [function], required=True, parallel=False, answer=None, token_ids={})
    what = constraint.reasoned(thoughts(None, 0, 3), called)
    text = HERMES.opener + "get" + HERMES.middle + "{}" + HERMES.closer
    assert accepts(ll_tokenizer, what, [30, END], text)
    assert not accepts(ll_tokenizer, what, [30, END], "no call")

    unique = constraint.json_schema({"type": "array", "items": {"type": "integer"}, "uniqueItems": True})
    grammar = (await compiler.compile(constraint.reasoned(thoughts(None, 0, None), unique))).grammar
    assert grammar.kind == "reasoning"
    assert grammar.route == "checked"
    assert grammar.check is not None


def test_tools_with_an_answer_of_its_own_follow_thoughts(ll_tokenizer: LLTokenizer) -> None:
    function = Function("get", {"type": "object", "properties": {}, "additionalProperties": False})
    called = constraint.tools(HERMES, [function], required=False, parallel=False, answer=INTEGER, token_ids={})
    what = constraint.reasoned(thoughts(None, 0, 3), called)
    assert accepts(ll_tokenizer, what, [30, END], "12")
    assert accepts(ll_tokenizer, what, [30, END], HERMES.opener + "get" + HERMES.middle + "{}" + HERMES.closer)
    assert not accepts(ll_tokenizer, what, [30, END], "twelve")
