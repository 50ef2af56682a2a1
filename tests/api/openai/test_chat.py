"""Chat completions on the wire, over the real application and OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from guidance_core.api.served_model import LoadedModel
from guidance_core.errors import GenerationFailed
from guidance_core.generation import TokenDelta
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}

LARK = '%llguidance {}\nstart: "a" | "(" start ")"'


def events(body: str) -> list[Any]:
    lines = [line for line in body.split("\n\n") if line and not line.startswith(":")]  # but comments
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


async def test_an_answer_has_exactly_openais_shape(client: httpx.AsyncClient, hello: str) -> None:
    response = await client.post("/v1/chat/completions", json=ASK)

    body = response.json()
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": MODEL,
        "service_tier": "default",
        "system_fingerprint": "fp_test",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": hello, "refusal": None, "annotations": []},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 31,
            "completion_tokens": 6,
            "total_tokens": 37,
            "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


async def test_a_stream_gives_the_role_once_then_text_then_the_reason_then_done(
    client: httpx.AsyncClient, hello: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True})

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    *chunks, done = events(response.text)
    assert done == "[DONE]"
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert all("usage" not in chunk for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert all(choice["delta"].keys() == {"content"} for choice in choices[1:-1])
    assert "".join(choice["delta"]["content"] for choice in choices[1:-1]) == hello
    assert choices[-1] == {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}


async def test_include_usage_gives_null_on_all_chunks_but_one_that_has_no_choice(
    client: httpx.AsyncClient, hello: str
) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    response = await client.post("/v1/chat/completions", json={**ASK, **options})

    *chunks, last, _ = events(response.text)
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6


async def test_obfuscation_gives_short_chunks_one_length(client: httpx.AsyncClient, hello: str) -> None:
    options = {"stream": True, "stream_options": {"include_obfuscation": True}}
    response = await client.post("/v1/chat/completions", json={**ASK, **options})

    assert len({len(event) for event in response.text.split("\n\n") if '"content"' in event}) == 1


async def test_several_choices_are_streamed_side_by_side(client: httpx.AsyncClient, hello: str) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True, "n": 3})

    texts = {0: "", 1: "", 2: ""}
    for chunk in events(response.text)[:-1]:
        choice = chunk["choices"][0]
        texts[choice["index"]] += choice["delta"].get("content", "")
    assert set(texts.values()) == {hello}


async def test_logprobs_come_with_bytes_and_as_many_alternatives_as_asked(openai: AsyncOpenAI, hello: str) -> None:
    completion = await openai.chat.completions.create(**ASK, logprobs=True, top_logprobs=2)

    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.refusal is None
    assert "".join(entry.token for entry in logprobs.content) == hello
    assert all(bytes(entry.bytes or ()).decode() == entry.token for entry in logprobs.content)
    assert {len(entry.top_logprobs) for entry in logprobs.content} == {2}


async def test_the_stream_helper_of_the_client_rebuilds_the_answer_with_its_logprobs(
    openai: AsyncOpenAI, hello: str
) -> None:
    async with openai.chat.completions.stream(**ASK, logprobs=True) as stream:
        completion = await stream.get_final_completion()

    assert completion.choices[0].message.content == hello
    assert len(completion.choices[0].logprobs.content) == 5


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_can_be_called_by_their_ids(
    client: httpx.AsyncClient, loaded: LoadedModel, hello: str, stream: bool
) -> None:
    fields = {"logprobs": True, "top_logprobs": 1, "return_tokens_as_token_ids": True, "stream": stream}
    response = await client.post("/v1/chat/completions", json={**ASK, **fields})

    choices = [chunk["choices"][0] for chunk in (events(response.text)[:-1] if stream else [response.json()])]
    entries = [entry for choice in choices if choice["logprobs"] for entry in choice["logprobs"]["content"]]
    ids = loaded.prompts.tokenizer.encode(hello, add_special_tokens=False).ids
    assert [entry["token"] for entry in entries] == [f"token_id:{token_id}" for token_id in ids]
    assert all(top["token"].startswith("token_id:") for entry in entries for top in entry["top_logprobs"])
    assert bytes(byte for entry in entries for byte in entry["bytes"]).decode() == hello


async def test_the_stop_string_is_answered_on_demand(client: httpx.AsyncClient, hello: str) -> None:
    asked = {"stop": "there,", "include_stop_str_in_output": True}
    chat = (await client.post("/v1/chat/completions", json={**ASK, **asked})).json()
    completion = (await client.post("/v1/completions", json={"model": MODEL, "prompt": "Once", **asked})).json()

    assert chat["choices"][0]["message"]["content"] == "Hello there,"
    assert completion["choices"][0]["text"] == "Hello there,"


async def test_a_stop_string_ends_the_answer_and_frees_its_choice(
    openai: AsyncOpenAI, executor: ScriptedExecutor, hello: str
) -> None:
    completion = await openai.chat.completions.create(**ASK, stop="there,")

    assert completion.choices[0].message.content == "Hello "
    assert completion.choices[0].finish_reason == "stop"
    assert executor.finished_choices == [(executor.requests[0].request_id, 0)]
    assert not executor.running


async def test_every_sampling_field_reaches_the_executor(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    fields = {
        "max_completion_tokens": 7,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 2,
        "stop": ["a", "b"],
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "logit_bias": {"17": -100},
        "seed": 42,
        "top_k": 40,
        "min_p": 0.05,
        "typical_p": 0.7,
        "repetition_penalty": 1.1,
        "min_tokens": 3,
        "stop_token_ids": [5],
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 4,
        "prompt_logprobs": 5,
    }
    await client.post("/v1/chat/completions", json={**ASK, **fields})

    sampling = executor.requests[0].sampling
    assert (sampling.max_tokens, sampling.min_tokens, sampling.n) == (7, 3, 2)
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.05)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (0.1, 0.2, 1.1)
    assert (sampling.logit_bias, sampling.seed, sampling.stop_token_ids) == ({17: -100}, 42, (5,))
    assert (sampling.ignore_eos, sampling.logprobs, sampling.prompt_logprobs) == (True, 4, 5)
    assert sampling.typical_p == 0.7
    assert executor.requests[0].stop == ("a", "b")


async def test_without_a_limit_the_answer_may_fill_the_context(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    await client.post("/v1/chat/completions", json=ASK)

    request = executor.requests[0]
    assert request.sampling.max_tokens == 512 - len(request.prompt_ids)
    assert (request.sampling.temperature, request.sampling.top_p, request.sampling.top_k) == (1, 1, 0)


@pytest.mark.parametrize(
    ("field", "right", "wrong"),
    [
        ({"response_format": {"type": "json_object"}}, "{}", "[]"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}}},
            "17",
            "1.5",
        ),
        ({"response_format": {"type": "regex", "regex": "[a-z]+"}}, "ab", "a1"),
        ({"response_format": {"type": "lark_grammar", "lark_grammar": LARK}}, "((a))", "((a)"),
        (
            {"response_format": {"type": "llguidance", "grammar": {"grammars": [{"json_schema": {"type": "null"}}]}}},
            "null",
            "0",
        ),
        ({"guided_json": {"type": "integer"}}, "17", "1.5"),
        ({"guided_json": '{"type": "integer"}'}, "17", "1.5"),
        ({"guided_regex": "[a-z]+"}, "ab", "a1"),
        ({"guided_choice": ["yes", "no"]}, "no", "yesno"),
        ({"guided_grammar": 'root ::= "a" | "(" root ")"'}, "((a))", "((a)"),
        ({"structured_outputs": {"json": {"type": "integer"}}}, "17", "1.5"),
        ({"structured_outputs": {"regex": "[a-z]+"}}, "ab", "a1"),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes", "y"),
        ({"structured_outputs": {"grammar": LARK}}, "(a)", "()"),
        ({"structured_outputs": {"json_object": True}}, "{}", "[]"),
    ],
    ids=str,
)
async def test_every_way_to_write_a_constraint_reaches_the_executor_as_its_grammar(
    client: httpx.AsyncClient,
    executor: ScriptedExecutor,
    loaded: LoadedModel,
    field: dict[str, Any],
    right: str,
    wrong: str,
) -> None:
    response = await client.post("/v1/chat/completions", json={**ASK, **field})

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert loaded.grammars.accepts(grammar, right.encode())
    assert not loaded.grammars.accepts(grammar, wrong.encode())


async def test_a_failure_in_mid_stream_is_an_error_event_and_no_done(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.script = lambda request, index: [
        TokenDelta(index=index, token_ids=(19556,)),
        GenerationFailed("The matcher failed."),
    ]
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True})

    *_, last = events(response.text)
    assert response.status_code == 200
    assert last == {
        "error": {
            "message": "The matcher failed.",
            "type": "server_error",
            "param": None,
            "code": "generation_failed",
        }
    }


async def test_an_unexpected_error_in_mid_stream_tells_the_client_nothing_about_the_inside(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.script = lambda request, index: [TokenDelta(index=index, token_ids=(19556,)), KeyError("secret")]
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True})

    assert events(response.text)[-1]["error"]["code"] == "internal_error"
    assert "secret" not in response.text


async def test_a_failure_before_the_first_token_of_a_stream_is_a_plain_status(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.script = lambda request, index: [GenerationFailed("The matcher failed.")]
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True})

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "generation_failed"


async def test_text_with_line_separators_survives_clients_that_split_lines_there(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    text = "a\u2028b\x85c"
    executor.script = answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids)
    response = await client.post("/v1/chat/completions", json={**ASK, "stream": True})

    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line and "DONE" not in line]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text


async def test_the_conversations_tokens_have_logprobs_in_vllms_shape(
    client: httpx.AsyncClient, executor: ScriptedExecutor, hello: str
) -> None:
    body = (await client.post("/v1/chat/completions", json={**ASK, "prompt_logprobs": 0})).json()
    prompt_ids = executor.requests[0].prompt_ids
    first, *others = body["prompt_logprobs"]
    assert first is None
    assert [list(entry) for entry in others] == [[str(token_id)] for token_id in prompt_ids[1:]]
    assert [entry[str(token_id)]["logprob"] for entry, token_id in zip(others, prompt_ids[1:], strict=True)] == [
        -float(i) for i in range(1, len(prompt_ids))
    ]
    assert "prompt_logprobs" not in (await client.post("/v1/chat/completions", json=ASK)).json()
