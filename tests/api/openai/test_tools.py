"""Tools on the wire, over the real application and OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from guidance_core.api.served_model import LoadedModel
from guidance_core.prompt.tools import ToolUse
from guidance_core.tool_format import FORMATS
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather now",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "get_time"}}
ASK: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "How is the weather in Rome?"}],
    "tools": [WEATHER, TIME],
}
CALLS = (
    '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Rome"}}, {"name": "get_time", "arguments": {}}]}'
)


@pytest.fixture
def says(executor: ScriptedExecutor, loaded: LoadedModel) -> Any:
    """Makes the executor answer a text."""

    def say(text: str, **options: Any) -> None:
        executor.script = answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids, **options)

    return say


async def test_calls_are_answered_as_calls(openai: AsyncOpenAI, says: Any) -> None:
    says(CALLS)
    completion = await openai.chat.completions.create(**ASK)
    [choice] = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    calls = choice.message.tool_calls
    assert calls is not None
    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == [
        ("get_weather", {"city": "Rome"}),
        ("get_time", {}),
    ]
    assert len({call.id for call in calls}) == 2
    assert all(call.type == "function" and call.id.startswith("call_") for call in calls)


async def test_calls_are_streamed_as_they_are_written(openai: AsyncOpenAI, says: Any) -> None:
    says(CALLS)
    chunks = [chunk async for chunk in await openai.chat.completions.create(**ASK, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert all(not delta.content for delta in deltas)
    calls = [call for delta in deltas for call in delta.tool_calls or ()]
    begun = [call for call in calls if call.id is not None]
    assert [(call.index, call.function and call.function.name) for call in begun] == [
        (0, "get_weather"),
        (1, "get_time"),
    ]
    arguments = ["".join(c.function.arguments or "" for c in calls if c.index == i and c.function) for i in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"city": "Rome"}, {}]
    assert len([call for call in calls if call.index == 0]) > 2  # piece by piece
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_the_clients_own_accumulator_puts_streams_together(openai: AsyncOpenAI, says: Any) -> None:
    says(CALLS)
    async with openai.chat.completions.stream(**ASK) as stream:
        completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]


async def test_text_stays_text(openai: AsyncOpenAI, says: Any) -> None:
    says("It is sunny.")
    for stream in (False, True):
        if stream:
            chunks = [chunk async for chunk in await openai.chat.completions.create(**ASK, stream=True)]
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            reason = chunks[-1].choices[0].finish_reason
        else:
            [choice] = (await openai.chat.completions.create(**ASK)).choices
            text, reason = choice.message.content or "", choice.finish_reason
            assert choice.message.tool_calls is None
        assert (text, reason) == ("It is sunny.", "stop")


async def test_a_call_that_is_cut_off_is_no_finished_call(openai: AsyncOpenAI, says: Any) -> None:
    says(CALLS[:60], finish_reason="length")
    [choice] = (await openai.chat.completions.create(**ASK)).choices
    assert choice.finish_reason == "length"
    calls = choice.message.tool_calls
    assert calls is not None
    assert '{"city"'.startswith(calls[0].function.arguments)


async def test_the_grammar_holds_what_is_asked_for(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    def accepts(text: str) -> bool:
        grammar = executor.requests[-1].grammar
        assert grammar is not None
        return loaded.grammars.accepts(grammar, text.encode())

    one = '{"tool_calls": [{"name": "get_time", "arguments": {}}]}'
    for options, accepted in [
        ({}, {"text": True, one: True, CALLS: True}),
        ({"tool_choice": "required"}, {"text": False, one: True, CALLS: True}),
        ({"parallel_tool_calls": False}, {"text": True, one: True, CALLS: False}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "get_time"}}},
            {"text": False, one: True, CALLS: False},
        ),
        (
            {
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {
                        "mode": "auto",
                        "tools": [{"type": "function", "function": {"name": "get_time"}}],
                    },
                }
            },
            {"text": True, one: True, CALLS: False},
        ),
        ({"response_format": {"type": "json_object"}}, {"text": False, one: True, '{"a": 1}': True}),
    ]:
        response = await client.post("/v1/chat/completions", json={**ASK, **options})
        assert response.status_code == 200, response.text
        assert {text: accepts(text) for text in accepted} == accepted


async def test_the_choice_none_asks_for_text_and_tells_nothing_of_tools(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, "tool_choice": "none"})
    assert response.status_code == 200
    assert executor.requests[-1].grammar is None
    assert "get_weather" not in loaded.prompts.tokenizer.decode(executor.requests[-1].prompt_ids)
    await client.post("/v1/chat/completions", json=ASK)
    assert "get_weather" in loaded.prompts.tokenizer.decode(executor.requests[-1].prompt_ids)


async def test_an_answer_goes_back_with_its_results(
    openai: AsyncOpenAI, says: Any, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    says(CALLS)
    message = (await openai.chat.completions.create(**ASK)).choices[0].message
    assert message.tool_calls is not None
    says("Sunny.")
    results = [{"role": "tool", "tool_call_id": call.id, "content": "25 degrees"} for call in message.tool_calls]
    await openai.chat.completions.create(
        **{**ASK, "messages": [*ASK["messages"], message.model_dump(), *results]}  # with every null that it has
    )
    prompt = loaded.prompts.tokenizer.decode(executor.requests[-1].prompt_ids)
    assert '{"name": "get_weather", "arguments": {"city": "Rome"}}' in prompt
    assert prompt.count("25 degrees") == 2


async def test_log_probabilities_come_with_calls_too(openai: AsyncOpenAI, says: Any, loaded: LoadedModel) -> None:
    says(CALLS)
    tokens = len(loaded.prompts.tokenizer.encode(CALLS, add_special_tokens=False).ids)
    [choice] = (await openai.chat.completions.create(**ASK, logprobs=True)).choices
    assert choice.logprobs is not None
    assert len(choice.logprobs.content or ()) == tokens
    chunks = [chunk async for chunk in await openai.chat.completions.create(**ASK, logprobs=True, stream=True)]
    streamed = [entry for c in chunks if c.choices[0].logprobs for entry in c.choices[0].logprobs.content or ()]
    assert [entry.token for entry in streamed] == [entry.token for entry in choice.logprobs.content or ()]


async def test_a_model_trained_for_tools_is_asked_in_its_own_way(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, says: Any
) -> None:
    object.__setattr__(loaded, "tool_use", ToolUse(loaded.prompts, FORMATS["hermes"]))  # frozen for all but this test
    says('Wait.\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>')
    response = (await client.post("/v1/chat/completions", json=ASK)).json()
    [choice] = response["choices"]
    assert choice["message"]["content"] == "Wait."
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "get_time", "arguments": "{}"}
    assert "<tool_call>" in loaded.prompts.tokenizer.decode(executor.requests[-1].prompt_ids)


def with_messages(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [*ASK["messages"], *messages]}


CALL = {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": [{**WEATHER, "type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "function": {"name": "no spaces"}}]}, "tools[0].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "f", "paramters": {}}}]}, "tools[0].function.paramters"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}]},
            "tools[0].function.parameters",
        ),
        (
            {
                "tools": [
                    WEATHER,
                    {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": 1}}}}},
                ]
            },
            "tools[1].function.parameters",
        ),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice.function.name"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"parallel_tool_calls": "yes"}, "parallel_tool_calls"),
        (with_messages({"role": "tool", "tool_call_id": "call_2", "content": "x"}), "messages[1].tool_call_id"),
        (with_messages({"role": "user", "content": "x", "tool_calls": [CALL]}), "messages[1].tool_calls"),
        (with_messages({"role": "user", "content": "x", "tool_call_id": "call_1"}), "messages[1].tool_call_id"),
        (with_messages({"role": "assistant"}), "messages[1].content"),
        *(
            (
                with_messages(
                    {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": arguments}}]}
                ),
                "messages[1].tool_calls[0].function.arguments",
            )
            for arguments in ("[]", "{", '{"a": NaN}', '{"a": ' + "[" * 5000 + "]" * 5000 + "}")
        ),
    ],
)
async def test_what_is_wrong_is_refused_by_its_path(
    client: httpx.AsyncClient, change: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


async def test_swagger_knows_of_tools(client: httpx.AsyncClient) -> None:
    schemas = (await client.get("/docs.json")).json()["components"]["schemas"]
    assert {"tools", "tool_choice", "parallel_tool_calls"} <= schemas["ChatBody"]["properties"].keys()
