"""Tokens of an input, counted without an answer."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

TOOL: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}
LONG: Any = [{"role": "user", "content": f"turn {i} " * 20} for i in range(30)]


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Hi"},
        {"input": "Hi", "instructions": "Be kind.", "tools": [TOOL]},
        {"input": "Hi", "tools": [TOOL], "tool_choice": "none"},
        {"input": "Hi", "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
        {"input": LONG, "truncation": "auto"},
    ],
)
async def test_there_are_as_many_as_the_response_says(
    openai: AsyncOpenAI, executor: ScriptedExecutor, asked: dict[str, Any]
) -> None:
    counted = await openai.responses.input_tokens.count(model=MODEL, **asked)
    assert executor.requests == []
    response = await openai.responses.create(model=MODEL, **asked)

    assert counted.object == "response.input_tokens"
    assert response.usage is not None
    assert counted.input_tokens == response.usage.input_tokens


async def test_bad_input_is_refused_as_for_a_response(openai: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError) as refused:
        await openai.responses.input_tokens.count(model=MODEL, input=[{"role": "user", "content": 5}])  # type: ignore
    assert refused.value.param == "input[0].content"
    with pytest.raises(BadRequestError) as too_long:
        await openai.responses.input_tokens.count(model=MODEL, input="word " * 20_000)
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "input")
