"""Completions on the wire."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import GenerationRequest, TokenDelta, TokenLogprob
from guidance_core.prompt import PromptTokenizer
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer, prompt_logprobs

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


async def test_the_prompt_is_echoed(openai: AsyncOpenAI, hello: str, loaded: LoadedModel) -> None:
    ids = loaded.prompts.tokenizer.encode("Twice", add_special_tokens=False).ids
    completion = await openai.completions.create(model=MODEL, prompt=["Once", "Twice"], echo=True)
    assert [choice.text for choice in completion.choices] == ["Once" + hello, "Twice" + hello]
    stream = await openai.completions.create(model=MODEL, prompt=ids, echo=True, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == "Twice" + hello


@pytest.mark.parametrize("as_ids", [False, True])
async def test_an_echoed_prompt_has_logprobs_too(
    openai: AsyncOpenAI, hello: str, loaded: LoadedModel, as_ids: bool
) -> None:
    texts = ["Once upon a time é", "The end"]
    ids = [loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    completion = await openai.completions.create(model=MODEL, prompt=ids if as_ids else texts, echo=True, logprobs=2)
    for choice, text, prompt_ids in zip(completion.choices, texts, ids, strict=True):
        assert choice.text == text + hello
        logprobs = choice.logprobs
        assert logprobs is not None
        size = len(prompt_ids)
        assert logprobs.token_logprobs == [None, *(-float(i) for i in range(1, size)), *[-0.5] * 5]
        assert logprobs.tokens is not None
        assert "".join(logprobs.tokens[:size]) == text
        assert logprobs.top_logprobs is not None
        assert logprobs.top_logprobs[0] is None
        assert [len(top) for top in logprobs.top_logprobs[1:size]] == [3] * (size - 1)
        assert logprobs.text_offset is not None
        for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
            assert choice.text[offset:].startswith(token)


async def test_tokens_can_be_called_by_their_ids(client: httpx.AsyncClient, loaded: LoadedModel, hello: str) -> None:
    body = {**ASK, "prompt": "The end", "echo": True, "logprobs": 2, "return_tokens_as_token_ids": True}
    logprobs = (await client.post("/v1/completions", json=body)).json()["choices"][0]["logprobs"]

    ids = loaded.prompts.tokenizer.encode("The end" + hello, add_special_tokens=False).ids
    assert logprobs["tokens"] == [f"token_id:{token_id}" for token_id in ids]
    for name, top in zip(logprobs["tokens"][1:], logprobs["top_logprobs"][1:], strict=True):
        assert name in top
        assert all(other.startswith("token_id:") for other in top)


async def test_a_prompt_is_scored_without_an_answer(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.script = lambda request, index: [
        TokenDelta(index=index, finish_reason="length", prompt_logprobs=prompt_logprobs(request))
    ]
    ids = [504] * 512  # as many as the context holds
    body = {"model": MODEL, "prompt": [ids, [504, 505]], "max_tokens": 0, "echo": True, "logprobs": 1}
    completion = (await client.post("/v1/completions", json=body)).json()
    whole, short = completion["choices"]
    assert len(whole["logprobs"]["tokens"]) == 512
    assert short["text"] == "".join(short["logprobs"]["tokens"])
    assert short["finish_reason"] == "length"
    assert completion["usage"]["completion_tokens"] == 0


async def test_a_streams_first_chunk_has_the_prompts_logprobs_and_later_offsets_go_on(
    openai: AsyncOpenAI, executor: ScriptedExecutor, hello: str
) -> None:
    scripted = executor.script

    def late(request: GenerationRequest, index: int) -> list[TokenDelta | Exception]:
        """The other choice begins first."""
        return [*([TokenDelta(index=index)] if index == 0 else []), *scripted(request, index)]

    executor.script = late
    whole = await openai.completions.create(**ASK, echo=True, logprobs=1, n=2)
    stream = await openai.completions.create(**ASK, echo=True, logprobs=1, n=2, stream=True)
    streamed: list[dict[str, list[Any]]] = [{}, {}]
    async for chunk in stream:
        [choice] = chunk.choices
        if choice.logprobs is not None:
            for name, values in choice.logprobs.model_dump().items():
                streamed[choice.index].setdefault(name, []).extend(values)
    assert streamed == [choice.logprobs.model_dump() for choice in whole.choices if choice.logprobs is not None]


async def test_tokens_that_a_tokenizer_adds_have_no_place_in_the_echo(
    client: httpx.AsyncClient, loaded: LoadedModel, executor: ScriptedExecutor, hello: str
) -> None:
    tokenizer = Tokenizer.from_str(loaded.prompts.tokenizer.to_str())
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    object.__setattr__(loaded, "prompts", PromptTokenizer(tokenizer, {}))  # frozen for all but this test
    body = {**ASK, "prompt": "Once upon", "echo": True, "logprobs": 0}
    [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["text"] == "Once upon" + hello
    assert choice["logprobs"]["tokens"][:3] == ["<|im_start|>", "Once", " upon"]
    assert choice["logprobs"]["text_offset"][:4] == [0, 0, 4, 9]


async def test_prompt_logprobs_have_vllms_shape(client: httpx.AsyncClient, hello: str) -> None:
    body = {**ASK, "prompt": [504, 600, 700], "prompt_logprobs": 1, "n": 2, "echo": True, "logprobs": 2}
    choices = (await client.post("/v1/completions", json=body)).json()["choices"]
    for choice in choices:
        first, second, third = choice["prompt_logprobs"]
        assert first is None
        assert list(second) == ["600", "601"]
        assert second["600"] == {"logprob": -1.0, "rank": 3, "decoded_token": " comm"}
        assert second["601"]["logprob"] == -0.5
        assert second["601"]["rank"] == 1
        assert list(third) == ["700", "701"]


async def test_an_improbable_token_has_a_finite_logprob_and_the_likeliest_of_one_text_is_told(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    broken = [id for id in range(300) if loaded.detokenizer.spelling(id).text == "\ufffd"][:2]
    scored = TokenLogprob(broken[0], -math.inf, ((broken[1], -0.25),), rank=9)
    executor.script = lambda request, index: [
        TokenDelta(index=index, finish_reason="length", prompt_logprobs=(scored,))
    ]
    body = {**ASK, "prompt": [504, broken[0]], "max_tokens": 0, "echo": True, "logprobs": 1}
    [choice] = (await client.post("/v1/completions", json=body)).json()["choices"]
    assert choice["logprobs"]["token_logprobs"] == [None, -9999.0]
    assert choice["logprobs"]["top_logprobs"] == [None, {"\ufffd": -0.25}]


async def test_the_likeliest_choices_are_answered(openai: AsyncOpenAI, executor: ScriptedExecutor) -> None:
    def script(request: GenerationRequest, index: int) -> list[TokenDelta]:
        logprob = TokenLogprob(504 + index, [-2.0, -0.5, -9.0, -1.0][index])
        assert request.sampling.logprobs == 0
        return [TokenDelta(index=index, token_ids=(504 + index,), logprobs=(logprob,), finish_reason="length")]

    executor.script = script
    completion = await openai.completions.create(**ASK, best_of=4, n=2)
    executor.script = lambda request, index: answer(504 + [1, 3][index], finish_reason="length")(request, index)
    expected = await openai.completions.create(**ASK, n=2)
    assert [choice.text for choice in completion.choices] == [choice.text for choice in expected.choices]
    assert all(choice.logprobs is None for choice in completion.choices)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 4  # all that was generated


async def test_a_model_with_infill_tokens_fills_gaps(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    response = await client.post("/v1/completions", json={**ASK, "suffix": "the end."})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "suffix"
    coder = Tokenizer.from_str(loaded.prompts.tokenizer.to_str())
    coder.add_special_tokens(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"])
    object.__setattr__(loaded, "prompts", PromptTokenizer(coder, {}))  # frozen for all but this test
    response = await client.post("/v1/completions", json={**ASK, "suffix": "the end."})
    assert response.status_code == 200
    asked = coder.decode(executor.requests[-1].prompt_ids, skip_special_tokens=False)
    assert asked == "<|fim_prefix|>Once<|fim_suffix|>the end.<|fim_middle|>"


async def test_a_prompt_can_be_without_the_tokens_that_the_tokenizer_adds(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Tokenizer.from_str(loaded.prompts.tokenizer.to_str())
    tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    monkeypatch.setattr(loaded.prompts, "tokenizer", tokenizer)
    for add in (True, False):
        await client.post("/v1/completions", json={**ASK, "add_special_tokens": add})

    (begun, plain) = (request.prompt_ids for request in executor.requests)
    assert begun == (1, *plain)


async def test_a_prompt_can_be_cut_to_its_end(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    for tokens, kept in ((2, 2), (-1, 512 - 16), (9999, 600)):
        body = {"model": MODEL, "prompt": [504] * 600, "max_tokens": 16, "truncate_prompt_tokens": tokens}
        response = await client.post("/v1/completions", json=body)
        if kept < 512:
            assert response.status_code == 200, response.text
            assert len(executor.requests[-1].prompt_ids) == kept
        else:
            assert response.status_code == 400
    chat = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "truncate_prompt_tokens": 3}
    await client.post("/v1/chat/completions", json=chat)
    assert len(executor.requests[-1].prompt_ids) == 3


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"best_of": 3, "stream": True}, "best_of"),
        ({"best_of": 1000}, "best_of"),
        ({"echo": True, "logprobs": 1, "suffix": "x"}, "logprobs"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"typical_p": 0.0}, "typical_p"),
        ({"suffix": "x", "prompt": [1, 2]}, "suffix"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
    ],
)
async def test_what_contradicts_itself_is_refused(
    client: httpx.AsyncClient, options: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/completions", json={**ASK, **options})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
