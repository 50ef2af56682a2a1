"""`truncation: "auto"` over the real application and OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError

from guidance_core.api.served_model import LoadedModel
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor


async def told(openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel, **fields: Any) -> str:
    """The prompt of a request that leaves out what does not fit."""
    response = await openai.responses.create(model=MODEL, truncation="auto", **fields)
    assert response.truncation == "auto"
    return loaded.prompts.tokenizer.decode(executor.requests[-1].prompt_ids, skip_special_tokens=False)


async def test_the_oldest_items_are_left_out_where_the_context_is_full(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    turns: list[Any] = [{"role": "user" if i % 2 == 0 else "assistant", "content": f"turn-{i} " * 8} for i in range(21)]
    conversation = [{"role": "system", "content": "Be brief."}, *turns]
    options: dict[str, Any] = {"input": conversation, "instructions": "Be kind.", "max_output_tokens": 100}
    prompt = await told(openai, executor, loaded, **options)
    kept = [i for i in range(21) if f"turn-{i} " in prompt]

    assert "Be kind." in prompt
    assert "Be brief." in prompt
    assert kept == list(range(kept[0], 21))
    assert 0 < kept[0] < 20
    with_one_more = [conversation[0], *turns[kept[0] - 1 :]]
    with pytest.raises(BadRequestError, match="Too long"):
        await openai.responses.create(model=MODEL, **{**options, "input": with_one_more})

    prompt = await told(openai, executor, loaded, input=conversation)
    assert len(executor.requests[-1].prompt_ids) <= 512 - 128
    assert "turn-20 " in prompt
    assert "turn-3 " in await told(openai, executor, loaded, input=turns[3:6])


async def test_a_result_is_left_out_with_its_call(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    items: list[Any] = [
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": json.dumps({"city": "o" * 1500})},
        {"type": "function_call_output", "call_id": "c", "output": "25 degrees"},
        {"role": "user", "content": "Why?"},
    ]
    prompt = await told(openai, executor, loaded, input=items, max_output_tokens=300)

    assert "25 degrees" not in prompt
    assert "Why?" in prompt


async def test_what_must_stay_may_be_too_long(openai: AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "word " * 600}]
    with pytest.raises(BadRequestError) as refused:
        await openai.responses.create(model=MODEL, input=items, truncation="auto")

    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
