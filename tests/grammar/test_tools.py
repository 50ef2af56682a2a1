"""What a message with tools may be, walked at random and read by the parser that clients get."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from llguidance import LLMatcher, LLTokenizer

from guidance_core.api.checking import satisfies
from guidance_core.errors import InvalidGrammar
from guidance_core.generation import Grammar, MessageCheck
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
    return accepts_source(tokenizer, source(what), text)


def accepts_source(tokenizer: LLTokenizer, grammar: str, text: str) -> bool:
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
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
    # Spelled by ordinary tokens, it would be read as the special one.
    spelled = ll_tokenizer.tokenize_bytes(b"[TOOL_CALLS] is no text")
    matcher.reset()
    assert matcher.try_consume_tokens(spelled) < len(spelled)


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


UNIQUE = {"type": "object", "properties": {"ids": {"type": "array", "uniqueItems": True}}}


def test_refusals_name_the_field_and_the_place_in_it() -> None:
    for tool_format in (HERMES, LLAMA3_JSON):
        exact = Function("pick", UNIQUE, exact=True, param="tools[1].function.parameters")
        with pytest.raises(InvalidGrammar, match=r"The parameters of 'pick'.*'uniqueItems' at #/properties/ids") as no:
            source(tools(tool_format, (GET, exact), answer=constraint.json_schema(ANSWER)))
        assert no.value.param == "tools[1].function.parameters"
        answer = constraint.json_schema(UNIQUE, exact=True)
        with pytest.raises(InvalidGrammar, match="'uniqueItems' at #/properties/ids") as no:
            source(tools(tool_format, answer=answer, answer_param="response_format.json_schema.schema"))
        assert no.value.param == "response_format.json_schema.schema"


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
def test_what_no_grammar_holds_is_left_to_the_check_of_the_whole_message(tool_format: ToolFormat) -> None:
    [translation] = tools(tool_format, (GET, Function("pick", UNIQUE))).translations()
    assert translation.route == "checked"
    assert isinstance(translation.check, MessageCheck)
    assert dict(translation.check.functions).keys() == {"get", "pick"}
    assert dict(translation.check.functions)["get"] is None
    assert translation.check.answer is None
    assert any("The parameters of 'pick': 'uniqueItems' at #/properties/ids" in note for note in translation.notes)
    [translation] = tools(tool_format, answer=constraint.json_schema(UNIQUE)).translations()
    assert isinstance(translation.check, MessageCheck)
    assert json.loads(str(translation.check.answer)) == UNIQUE


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
CALLED = {"type": "object", "properties": {"tool_calls": {"type": "array"}}, "required": ["tool_calls"]}
LIKE_CALLS: dict[str, tuple[Constraint, Any]] = {
    "object": (constraint.json_object(), {"type": "object"}),
    "person": (constraint.json_schema(PERSON), PERSON),
    "called": (constraint.json_schema(CALLED), CALLED),
    "anything": (constraint.json_schema({}), {}),
    "draft 7": (
        constraint.json_schema({**PERSON, "$schema": "http://json-schema.org/draft-07/schema#", "minProperties": 1}),
        PERSON,
    ),
    "checked": (constraint.json_schema({**PERSON, "properties": UNIQUE["properties"]}), PERSON | UNIQUE),
    "regex": (constraint.regex(r"(?s:[<{\[].*)"), None),
    "lark": (constraint.lark(r'start: "no" | /(?s:[<{\[].*)/'), None),
}


@pytest.mark.parametrize("answer", LIKE_CALLS)
@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS)
def test_an_answer_that_resembles_a_call_is_read_as_what_it_was_checked_as(
    tool_format: ToolFormat, answer: str, ll_tokenizer: LLTokenizer
) -> None:
    given, schema = LIKE_CALLS[answer]
    [translation] = tools(tool_format, answer=given).translations()
    grammar = Grammar(translation.source, "tools", "", "", translation.route, translation.check)
    texts = {
        call: written(tool_format, *calls)
        for call, calls in {
            "good": (GOOD,), "bad": (BAD,), "unknown": (("fly", {}),), "two": (("get", {"id": 7}), GOOD),
            "then bad": (GOOD, BAD), "number": (("get", 7),),
        }.items()
    }  # fmt: skip
    answers = [
        '{"name": "Ada"}', '{"name": "get"}', '{"name": "get", "parameters": 1}', '{"name": "<tool_call>"}',
        '{"name": "[TOOL_CALLS]"}', '{"name": "Ada", "tool_calls": [{"name": "get"}]}', '{"tool_calls": []}',
        '{"tool_calls": [{"name": "get", "arguments": {"id": "x"}}]}', texts["good"] + " and more", texts["good"][:-1],
    ]  # fmt: skip
    validators = {function.name: Draft202012Validator(function.parameters) for function in BOTH}
    answered = 0
    for text in (*texts.values(), *answers):
        if not accepts_source(ll_tokenizer, translation.source, text) or satisfies(grammar, text) is not None:
            assert text != texts["good"]
            continue
        deltas = [*(parser := ToolCallParser(tool_format, functions=validators)).push(text), *parser.finish()]
        assert parser.complete
        found = [delta for delta in deltas if isinstance(delta, CallDelta)]
        for index in range(parser.calls):
            [name] = [delta.name for delta in found if delta.index == index and delta.name is not None]
            arguments = json.loads("".join(delta.arguments for delta in found if delta.index == index))
            assert validators[name].is_valid(arguments), text
            assert isinstance(arguments, dict), text
        if not parser.calls:
            assert "".join(delta.text for delta in deltas if isinstance(delta, ContentDelta)) == text
            assert schema is None or Draft202012Validator(schema).is_valid(json.loads(text)), text
            answered += 1
    assert answered


def test_a_stream_beside_tools_is_held_back_only_where_nothing_else_helps() -> None:
    for tool_format in FORMATS.values():
        [plain] = tools(tool_format, answer=constraint.json_object()).translations()
        assert plain.route != "checked"
        [resembling] = tools(tool_format, answer=LIKE_CALLS["regex"][0]).translations()
        assert resembling.route == "checked"
    with pytest.raises(InvalidGrammar, match="begin as a call"):
        source(tools(JSON, answer=constraint.json_schema(CALLED, exact=True)))


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
