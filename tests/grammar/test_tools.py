"""What a message with tools may be, walked at random and read by the parser that clients get."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

from guidance_core.errors import InvalidGrammar
from guidance_core.grammar import constraint
from guidance_core.grammar.compiler import GrammarCompiler
from guidance_core.grammar.constraint import Constraint
from guidance_core.grammar.tools import Function
from guidance_core.output.tool_calls import CallDelta, ContentDelta, ToolCallParser
from guidance_core.tool_format import FORMATS, HERMES, JSON, LLAMA3_JSON, MISTRAL, ToolFormat, after_token
from tests.grammar.walks import Walker

WEATHER = Function(
    "get_weather",
    {
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/city"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
        "additionalProperties": False,
        "$defs": {"city": {"type": "string", "maxLength": 6}},
    },
)
GET = Function("get", {"type": "object", "properties": {"id": {"type": "integer"}}, "additionalProperties": False})
BOTH = (WEATHER, GET)
ANSWER = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}


def tools(tool_format: ToolFormat, functions: tuple[Function, ...] = BOTH, **options: Any) -> Constraint:
    defaults = {"required": False, "parallel": True, "answer": None, "token_ids": {}}
    return constraint.tools(tool_format, functions, **defaults | options)


def source(what: Constraint) -> str:
    [translation] = what.translations()
    return translation.source


def accepts(tokenizer: LLTokenizer, what: Constraint, text: str) -> bool:
    matcher = LLMatcher(tokenizer, source(what), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = tokenizer.tokenize_bytes(text.encode())
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


def written(tool_format: ToolFormat, *calls: tuple[str, Any]) -> str:
    each = [
        tool_format.opener + name + tool_format.middle + json.dumps(arguments) + tool_format.closer
        for name, arguments in calls
    ]
    return tool_format.begin + tool_format.between.join(each) + tool_format.end


GOOD = ("get_weather", {"city": "Rome"})
BAD = ("get_weather", {"town": "Rome"})


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
def test_calls_are_complete_calls_of_known_functions(tool_format: ToolFormat, ll_tokenizer: LLTokenizer) -> None:
    for required in (True, False):
        what = tools(tool_format, required=required)
        assert accepts(ll_tokenizer, what, written(tool_format, GOOD))
        assert accepts(ll_tokenizer, what, written(tool_format, GOOD, ("get", {"id": 7}), GOOD))
        assert not accepts(ll_tokenizer, what, written(tool_format, BAD))
        assert not accepts(ll_tokenizer, what, written(tool_format, ("get_wea", {})))
        assert not accepts(ll_tokenizer, what, written(tool_format, GOOD)[:-3])
        assert accepts(ll_tokenizer, what, "It is sunny.") is not required


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
def test_without_parallel_calls_there_is_one(tool_format: ToolFormat, ll_tokenizer: LLTokenizer) -> None:
    what = tools(tool_format, parallel=False)
    assert accepts(ll_tokenizer, what, written(tool_format, GOOD))
    assert not accepts(ll_tokenizer, what, written(tool_format, GOOD, GOOD))


def test_text_may_come_before_a_call_where_the_format_has_it(ll_tokenizer: LLTokenizer) -> None:
    assert accepts(ll_tokenizer, tools(HERMES), "Let me see.\n" + written(HERMES, GOOD))
    assert accepts(ll_tokenizer, tools(HERMES), "a < b, <tool_bar>")
    assert not accepts(ll_tokenizer, tools(HERMES), "see <tool_call>")
    # Llama 3's calls are whole messages: within text, braces are only text.
    assert accepts(ll_tokenizer, tools(LLAMA3_JSON), "Let me see.\n" + written(LLAMA3_JSON, BAD))
    assert accepts(ll_tokenizer, tools(JSON), '{"tool_cells": 1} is no call')


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
def test_an_answer_may_have_a_form_of_its_own(tool_format: ToolFormat, ll_tokenizer: LLTokenizer) -> None:
    what = tools(tool_format, answer=constraint.json_schema(ANSWER))
    assert accepts(ll_tokenizer, what, '{"ok": true}')
    assert accepts(ll_tokenizer, what, written(tool_format, GOOD))
    assert not accepts(ll_tokenizer, what, '{"ok": 1}')
    assert not accepts(ll_tokenizer, what, "It is sunny.")
    assert not accepts(ll_tokenizer, what, written(tool_format, BAD))
    assert not accepts(
        ll_tokenizer, tools(tool_format, required=True, answer=constraint.json_schema(ANSWER)), '{"ok": true}'
    )


def test_an_answer_may_be_a_regex_or_a_grammar(ll_tokenizer: LLTokenizer) -> None:
    for answer in (constraint.regex("[a-z]+!"), constraint.lark('start: "yes!" | "no!"'), constraint.choice(["yes!"])):
        what = tools(HERMES, answer=answer)
        assert accepts(ll_tokenizer, what, "yes!")
        assert accepts(ll_tokenizer, what, written(HERMES, GOOD))
        assert not accepts(ll_tokenizer, what, "yes?")


def test_special_tokens_begin_calls_where_the_model_has_them(ll_tokenizer: LLTokenizer) -> None:
    special = {"[TOOL_CALLS]": 1}  # <|user|> in this tokenizer
    matcher = LLMatcher(ll_tokenizer, source(tools(MISTRAL, token_ids=special)), log_level=0)
    after = ll_tokenizer.tokenize_bytes(written(MISTRAL, GOOD).removeprefix("[TOOL_CALLS]").encode())
    text = ll_tokenizer.tokenize_bytes(b"Well. ")
    assert matcher.consume_tokens([*text, 1, *after])
    assert matcher.is_accepting()
    spelled = ll_tokenizer.tokenize_bytes(b"[TOOL_CALLS] is only text here")
    matcher.reset()
    assert matcher.consume_tokens(spelled)
    assert matcher.is_accepting()


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("with_answer", [False, True])
async def test_whatever_is_generated_is_read_as_valid_calls(
    tool_format: ToolFormat, with_answer: bool, ll_tokenizer: LLTokenizer, compiler: GrammarCompiler
) -> None:
    schemas = {function.name: Draft202012Validator(function.parameters) for function in BOTH}
    answer = constraint.json_schema(ANSWER) if with_answer else None
    grammar = (await compiler.compile(tools(tool_format, required=not with_answer, answer=answer))).grammar
    walker = Walker(ll_tokenizer, seed=1)
    draw = random.Random(2)
    called = 0
    for _ in range(40):
        generated = walker.walk(grammar.source)
        if generated is None:
            continue
        text = generated.decode()
        middle = draw.randint(0, len(text))
        parser = ToolCallParser(tool_format)
        deltas = [*parser.push(text[:middle]), *parser.push(text[middle:]), *parser.finish()]
        content = "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta))
        if not parser.calls:
            assert Draft202012Validator(ANSWER).is_valid(json.loads(content))
            continue
        called += parser.calls
        names = {delta.index: delta.name for delta in deltas if isinstance(delta, CallDelta) and delta.name}
        for index in range(parser.calls):
            arguments = "".join(d.arguments for d in deltas if isinstance(d, CallDelta) and d.index == index)
            schemas[names[index]].validate(json.loads(arguments))
    assert called


def test_arguments_are_an_object_and_names_differ() -> None:
    with pytest.raises(InvalidGrammar, match=r"'get'.*must be \"object\""):
        source(tools(HERMES, (Function("get", {"type": "array"}),)))
    with pytest.raises(InvalidGrammar, match="same name"):
        tools(HERMES, (GET, GET))
    with pytest.raises(InvalidGrammar, match=r"The parameters of 'get'.*example\.com"):
        source(tools(HERMES, (Function("get", {"properties": {"a": {"$ref": "https://example.com/a"}}}),)))
    with pytest.raises(InvalidGrammar, match="The parameters of 'get'"):
        source(tools(HERMES, (Function("get", {"properties": {"a": {"type": "array", "uniqueItems": True}}}),)))


@pytest.mark.parametrize("tool_format", [LLAMA3_JSON, JSON])
@pytest.mark.parametrize("answer", [None, ANSWER])
def test_after_a_json_start_token_comes_a_call_and_without_it_none(
    tool_format: ToolFormat, answer: Any, ll_tokenizer: LLTokenizer
) -> None:
    marked = after_token(tool_format, "<|user|>")
    given = None if answer is None else constraint.json_schema(answer)
    what = tools(marked, (GET,), answer=given, token_ids={"<|user|>": 1})
    call = written(tool_format, ("get", {"id": 7})).encode()
    for first, accepted in (([1], True), ([], False)):
        matcher = LLMatcher(ll_tokenizer, source(what), log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        tokens = first + ll_tokenizer.tokenize_bytes(call)
        assert (matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()) is accepted
    assert accepts(ll_tokenizer, what, '{"ok":true}' if answer else "Hello")
