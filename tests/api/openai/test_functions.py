"""Functions, as clients write them that are older than tools."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from guidance_core.api.served_model import LoadedModel
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTIONS: Any = [{"name": "get_weather", "description": "Weather now", "parameters": CITY}, {"name": "get_time"}]
USER: dict[str, Any] = {"role": "user", "content": "How is the weather in Rome?"}
ASK: dict[str, Any] = {"model": MODEL, "messages": [USER], "functions": FUNCTIONS}
CALL = '{"tool_calls": [{"name": "get_weather", "arguments": {"city": "Rome"}}]}'


def say(executor: ScriptedExecutor, loaded: LoadedModel, text: str) -> None:
    executor.script = answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids)


async def test_a_call_is_answered_as_a_function_call(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    say(executor, loaded, CALL)
    [choice] = (await openai.chat.completions.create(**ASK)).choices

    assert (choice.finish_reason, choice.message.content, choice.message.tool_calls) == ("function_call", None, None)
    assert choice.message.function_call is not None
    assert choice.message.function_call.name == "get_weather"
    assert json.loads(choice.message.function_call.arguments) == {"city": "Rome"}


async def test_a_call_is_streamed_as_a_function_call(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    say(executor, loaded, CALL)
    chunks = [chunk async for chunk in await openai.chat.completions.create(**ASK, stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    calls = [delta.function_call for delta in deltas if delta.function_call is not None]

    assert [call.name for call in calls if call.name is not None] == ["get_weather"]
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"city": "Rome"}
    assert not any(delta.tool_calls for delta in deltas)
    assert chunks[-1].choices[0].finish_reason == "function_call"


async def test_text_stays_text(openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel) -> None:
    say(executor, loaded, "It is sunny.")
    [choice] = (await openai.chat.completions.create(**ASK)).choices

    assert (choice.finish_reason, choice.message.content) == ("stop", "It is sunny.")


@pytest.mark.parametrize(
    ("choice", "accepted"),
    [
        (None, [CALL, "Sunny."]),
        ("auto", [CALL, "Sunny."]),
        ({"name": "get_weather"}, [CALL]),
        ({"name": "get_time"}, []),
    ],
)
async def test_the_grammar_holds_what_is_asked_for(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, choice: Any, accepted: list[str]
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, "function_call": choice})
    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    two = CALL.replace("]}", ", " + CALL.removeprefix('{"tool_calls": ['))

    texts = [CALL, "Sunny.", two]
    assert [text for text in texts if loaded.grammars.accepts(grammar, text.encode())] == accepted


async def test_without_a_choice_nothing_is_called(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    for fields in ({"function_call": "none"}, {"functions": []}, {"functions": [], "function_call": "none"}):
        response = await client.post("/v1/chat/completions", json={**ASK, **fields})
        assert response.status_code == 200, response.text
        assert executor.requests[-1].grammar is None


async def test_tools_that_are_none_may_come_with_functions(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, "tools": []})

    assert response.status_code == 200, response.text
    assert executor.requests[0].grammar is not None


async def test_calls_and_results_are_told_as_those_of_tools(client: httpx.AsyncClient) -> None:
    arguments = '{"city": "Rome"}'
    call = {"name": "get_weather", "arguments": arguments}
    older = [
        USER,
        {"role": "assistant", "content": None, "function_call": call},
        {"role": "function", "name": "get_weather", "content": "Sunny."},
    ]
    newer = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": call}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."},
    ]
    prompts = []
    for messages in (older, newer):
        body = {"model": MODEL, "messages": messages, "return_expanded_prompt": True}
        response = await client.post("/v1/chat/completions", json=body)
        prompts.append(response.json()["expanded_prompt"])

    assert prompts[0] == prompts[1]
    assert "Sunny." in prompts[0]


CALLED = {"role": "assistant", "function_call": {"name": "get_time", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("fields", "param", "named"),
    [
        ({"tools": [{"type": "function", "function": FUNCTIONS[1]}]}, "tools", "successors"),
        ({"tool_choice": "auto"}, "tool_choice", "successors"),
        ({"functions": None, "function_call": "auto"}, "function_call", "there are none"),
        ({"function_call": "required"}, "function_call", "'none' or 'auto'"),
        ({"function_call": {"name": "dance"}}, "function_call.name", "none of the 'functions': get_weather, get_time"),
        ({"functions": [{"name": "f", "parameters": {"type": "array"}}]}, "functions[0].parameters", "of 'f'"),
        ({"functions": [{"name": "f f"}]}, "functions[0].name", "matches"),
        ({"functions": [*FUNCTIONS, *FUNCTIONS]}, "functions", "same name"),
        ({"messages": [USER, {**CALLED, "role": "user"}]}, "messages[1].function_call", "'assistant'"),
        ({"messages": [{"role": "function", "name": "get_time", "content": "9"}]}, "messages[0].name", "function_call"),
        ({"messages": [CALLED, {"role": "function", "content": "9"}]}, "messages[1].name", "function_call"),
        ({"messages": [CALLED, {"role": "function", "name": "get_time"}]}, "messages[1].content", "missing"),
        (
            {"messages": [CALLED, {"role": "function", "name": "get_time", "tool_call_id": "c", "content": "9"}]},
            "messages[1].tool_call_id",
            "goes with the role 'tool'",
        ),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "get_time", "arguments": "[]"}}]},
            "messages[0].function_call.arguments",
            "JSON object",
        ),
    ],
)
async def test_what_contradicts_itself_is_refused_by_its_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str, named: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, **fields})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert named in response.json()["error"]["message"]
