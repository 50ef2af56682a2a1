"""Completions on the wire."""

from __future__ import annotations

import json
from typing import Any

import httpx
from openai import AsyncOpenAI

from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

ASK: dict[str, Any] = {"model": MODEL, "prompt": "Once"}


async def test_an_answer_has_exactly_openais_shape(client: httpx.AsyncClient, hello: str) -> None:
    body = (await client.post("/v1/completions", json=ASK)).json()

    assert body.pop("id").startswith("cmpl-")
    assert isinstance(body.pop("created"), int)
    assert body.pop("usage")["completion_tokens"] == 6
    assert body == {
        "object": "text_completion",
        "model": MODEL,
        "system_fingerprint": "fp_test",
        "choices": [{"index": 0, "text": hello, "logprobs": None, "finish_reason": "stop"}],
    }


async def test_a_stream_ends_with_the_reason_the_usage_and_done(client: httpx.AsyncClient, hello: str) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/completions", json={**ASK, **options})

    *data, done = [event[6:] for event in response.text.split("\n\n") if event]
    *chunks, usage = map(json.loads, data)
    assert done == "[DONE]"
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == hello
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] == usage["usage"]["prompt_tokens"] + 6


async def test_the_default_is_sixteen_tokens(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    await client.post("/v1/completions", json=ASK)

    assert executor.requests[0].sampling.max_tokens == 16


async def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(
    openai: AsyncOpenAI, executor: ScriptedExecutor
) -> None:
    executor.script = lambda request, index: answer(request.prompt_ids[0], finish_reason="length")(request, index)
    completion = await openai.completions.create(model=MODEL, prompt=[[504, 1], [505, 1]], n=2)

    texts = [choice.text for choice in completion.choices]
    assert [choice.index for choice in completion.choices] == [0, 1, 2, 3]
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (4, 4)


async def test_streams_of_several_prompts_carry_the_same_numbers(
    openai: AsyncOpenAI, executor: ScriptedExecutor
) -> None:
    executor.script = lambda request, index: answer(request.prompt_ids[0], finish_reason="length")(request, index)
    texts = {}
    async for chunk in await openai.completions.create(model=MODEL, prompt=[[504], [505]], n=2, stream=True):
        index = chunk.choices[0].index
        texts[index] = texts.get(index, "") + chunk.choices[0].text

    assert texts[0] == texts[1] != texts[2] == texts[3]


async def test_logprobs_are_parallel_lists_with_the_answered_token_among_the_likely(
    openai: AsyncOpenAI, hello: str
) -> None:
    completion = await openai.completions.create(**ASK, logprobs=2)

    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == hello
    assert logprobs.text_offset == [0, 5, 11, 12, 18]
    assert all(token in top for token, top in zip(logprobs.tokens or [], logprobs.top_logprobs or [], strict=True))
    assert logprobs.token_logprobs == [-0.5] * 5
