"""`return_token_ids`, vLLM's, over the real application and OpenAI's own client."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from openai import AsyncOpenAI

from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import GenerationRequest, GuidanceTimes, TokenDelta, TokenLogprob
from guidance_core.reasoning import ReasoningMarkers
from tests.api.conftest import MODEL
from tests.api.openai.test_reasoning import markers  # noqa: F401
from tests.api.openai.test_tools import CALLS, TIME, WEATHER
from tests.api.scripted_executor import ScriptedExecutor, answer

END = 2
IDS: dict[str, Any] = {"extra_body": {"return_token_ids": True}}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def encoded(loaded: LoadedModel, text: str) -> list[int]:
    return list(loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids)


def extra(part: Any) -> dict[str, Any]:
    return part.model_extra or {}


async def streamed(stream: Any) -> tuple[dict[int, list[int]], list[Any]]:
    """The ids of each choice of a stream, and all chunks."""
    chunks = [chunk async for chunk in stream]
    ids: dict[int, list[int]] = defaultdict(list)
    for chunk in chunks:
        for choice in chunk.choices:
            ids[choice.index] += extra(choice).get("token_ids") or []
    return dict(ids), chunks


async def test_a_chat_has_the_prompts_ids_and_those_of_each_choice_with_its_end(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel, hello: str
) -> None:
    completion = await openai.chat.completions.create(**CHAT, n=2, **IDS)
    assert extra(completion)["prompt_token_ids"] == list(executor.requests[0].prompt_ids)
    assert [extra(choice)["token_ids"] for choice in completion.choices] == [[*encoded(loaded, hello), END]] * 2
    assert completion.usage is not None
    assert completion.usage.completion_tokens == sum(len(extra(choice)["token_ids"]) for choice in completion.choices)


async def test_a_streamed_chat_has_the_prompts_ids_in_each_choices_first_chunk_only(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel, hello: str
) -> None:
    ids, chunks = await streamed(await openai.chat.completions.create(**CHAT, n=2, stream=True, **IDS))
    assert ids == {0: [*encoded(loaded, hello), END], 1: [*encoded(loaded, hello), END]}
    for index in (0, 1):
        first, *others = [chunk for chunk in chunks if chunk.choices[0].index == index]
        assert extra(first)["prompt_token_ids"] == list(executor.requests[0].prompt_ids)
        assert not any("prompt_token_ids" in extra(chunk) for chunk in others)


async def test_completions_have_the_ids_of_each_choices_own_prompt(
    openai: AsyncOpenAI, loaded: LoadedModel, hello: str
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": ["Once", [504, 505]], "n": 2, **IDS}
    prompts = [encoded(loaded, "Once")] * 2 + [[504, 505]] * 2
    completion = await openai.completions.create(**asked)
    assert [extra(choice)["prompt_token_ids"] for choice in completion.choices] == prompts
    assert [extra(choice)["token_ids"] for choice in completion.choices] == [[*encoded(loaded, hello), END]] * 4

    ids, chunks = await streamed(await openai.completions.create(**asked, stream=True))
    assert ids == {index: [*encoded(loaded, hello), END] for index in range(4)}
    for index, prompt in enumerate(prompts):
        first, *others = [extra(chunk.choices[0]) for chunk in chunks if chunk.choices[0].index == index]
        assert first["prompt_token_ids"] == prompt
        assert not any("prompt_token_ids" in chunk for chunk in others)


async def test_nobody_gets_ids_who_does_not_ask(openai: AsyncOpenAI, hello: str) -> None:
    chat = await openai.chat.completions.create(**CHAT, extra_body={"return_token_ids": False})
    text = await openai.completions.create(model=MODEL, prompt="Once")
    chunks = [chunk async for chunk in await openai.chat.completions.create(**CHAT, stream=True)]
    for part in (chat, chat.choices[0], text.choices[0], *chunks, *(chunk.choices[0] for chunk in chunks)):
        assert not extra(part).keys() & {"token_ids", "prompt_token_ids"}


@pytest.mark.parametrize("included", [False, True])
async def test_the_tokens_of_a_stop_string_are_among_them_and_none_after_it(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel, included: bool
) -> None:
    ids = encoded(loaded, "one two three four")
    executor.script = lambda request, index: [TokenDelta(index=index, token_ids=tuple(ids), finish_reason="length")]
    body = {"return_token_ids": True, "include_stop_str_in_output": included}
    asked: dict[str, Any] = {"model": MODEL, "prompt": "Count:", "stop": "three", "extra_body": body}
    completion = await openai.completions.create(**asked)
    assert completion.choices[0].text == "one two three"[: None if included else -5]
    assert extra(completion.choices[0])["token_ids"] == encoded(loaded, "one two three")
    assert (await streamed(await openai.completions.create(**asked, stream=True)))[0][0] == ids[:3]


async def test_the_ids_of_text_that_is_held_back_come_at_once(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    ids = encoded(loaded, "one two three four")
    executor.script = answer(*ids)
    stream = await openai.completions.create(model=MODEL, prompt="Count:", stop="two three five", stream=True, **IDS)
    _, chunks = await streamed(stream)
    each = [(chunk.choices[0].text, extra(chunk.choices[0])["token_ids"]) for chunk in chunks]
    assert [token_ids for _, token_ids in each] == [[token_id] for token_id in (*ids, END)]
    assert [text for text, _ in each] == ["one", " ", "", "two three four", ""]


async def test_forced_tokens_are_among_them_and_an_end_that_no_token_made_is_not(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    ids = encoded(loaded, '{"name": "Ada"}')

    def script(request: GenerationRequest, index: int) -> list[TokenDelta]:
        forced = GuidanceTimes(forced_tokens=len(ids) - 1)
        return [TokenDelta(index=index, token_ids=tuple(ids), guidance=forced, finish_reason="stop")]

    executor.script = script
    completion = await openai.chat.completions.create(**CHAT, response_format={"type": "json_object"}, **IDS)
    assert extra(completion.choices[0])["token_ids"] == ids


async def test_of_calls_they_are_all_that_was_written(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    executor.script = answer(*encoded(loaded, CALLS))
    asked: dict[str, Any] = {**CHAT, "tools": [WEATHER, TIME], **IDS}
    completion = await openai.chat.completions.create(**asked)
    assert completion.choices[0].finish_reason == "tool_calls"
    assert extra(completion.choices[0])["token_ids"] == [*encoded(loaded, CALLS), END]
    ids, _ = await streamed(await openai.chat.completions.create(**asked, stream=True))
    assert ids[0] == [*encoded(loaded, CALLS), END]


async def test_thoughts_and_their_markers_are_among_them(
    openai: AsyncOpenAI, executor: ScriptedExecutor, loaded: LoadedModel, request: pytest.FixtureRequest
) -> None:
    marked: ReasoningMarkers = request.getfixturevalue("markers")
    ids = encoded(loaded, f"{marked.begin}Two and two.{marked.end}\n\nFour.")
    executor.script = answer(*ids)
    completion = await openai.chat.completions.create(**CHAT, **IDS)
    assert completion.choices[0].message.content == "Four."
    assert extra(completion.choices[0])["token_ids"] == [*ids, END]
    assert (await streamed(await openai.chat.completions.create(**CHAT, stream=True, **IDS)))[0][0] == [*ids, END]


async def test_an_echoed_prompt_is_no_part_of_a_choices_own(
    openai: AsyncOpenAI, loaded: LoadedModel, hello: str
) -> None:
    body = {"return_token_ids": True, "return_tokens_as_token_ids": True}
    completion = await openai.completions.create(model=MODEL, prompt="Once", echo=True, logprobs=0, extra_body=body)
    [choice] = completion.choices
    assert choice.text == "Once" + hello
    assert extra(choice)["token_ids"] == [*encoded(loaded, hello), END]
    # An end token has no logprobs.
    both = [*extra(choice)["prompt_token_ids"], *extra(choice)["token_ids"][:-1]]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == [f"token_id:{token_id}" for token_id in both]


async def test_of_several_candidates_those_of_the_likeliest_are_answered(
    openai: AsyncOpenAI, executor: ScriptedExecutor
) -> None:
    def script(request: GenerationRequest, index: int) -> list[TokenDelta]:
        logprob = TokenLogprob(600 + index, -0.1 if index == 1 else -0.9)
        return [TokenDelta(index=index, token_ids=(600 + index,), logprobs=(logprob,), finish_reason="length")]

    executor.script = script
    completion = await openai.completions.create(model=MODEL, prompt="Once", best_of=3, **IDS)
    assert [extra(choice)["token_ids"] for choice in completion.choices] == [[601]]
