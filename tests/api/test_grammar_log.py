"""llgtrt's `llg_logs`: what llguidance reports on an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import GenerationRequest, TokenDelta, TokenLogprob
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

LARK = 'start: "I am " name "."\nname[capture]: /[A-Z][a-z]+/\n'
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Who?"}], "guided_grammar": LARK}
COMPLETION: dict[str, Any] = {"model": MODEL, "prompt": ["Who?", "And you?"], "guided_grammar": LARK}


@pytest.fixture(autouse=True)
def names(executor: ScriptedExecutor, loaded: LoadedModel) -> None:
    """Choice 0 is Bob, choice 1 is Ann."""

    def script(request: GenerationRequest, index: int) -> Sequence[TokenDelta]:
        text = f"I am {('Bob', 'Ann')[index]}."
        tokens = loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids
        wanted = request.sampling.logprobs is not None
        return [
            *(
                TokenDelta(index=index, token_ids=(id,), logprobs=(TokenLogprob(id, -0.5),) if wanted else None)
                for id in tokens
            ),
            TokenDelta(index=index, finish_reason="stop"),
        ]

    executor.script = script


def captured(logs: str) -> list[str]:
    reports = [json.loads(line.removeprefix("JSON-OUT: ")) for line in logs.splitlines()]
    return [report["str"] for report in reports if report["object"] == "capture"]


@pytest.mark.parametrize("level", ["json", "verbose"])
async def test_each_choice_of_a_chat_has_its_captures(client: httpx.AsyncClient, level: str) -> None:
    body = {**CHAT, "n": 2, "llg_log_level": level}
    choices = (await client.post("/v1/chat/completions", json=body)).json()["choices"]

    assert [captured(choice["llg_logs"]) for choice in choices] == [["Bob"], ["Ann"]]
    assert [choice["logprobs"] for choice in choices] == [None, None]


async def test_the_chunks_of_a_stream_have_them_piece_by_piece(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/v1/chat/completions", json={**CHAT, "llg_log_level": "json"})).json()
    stream = await client.post("/v1/chat/completions", json={**CHAT, "llg_log_level": "json", "stream": True})

    chunks = [json.loads(block[6:]) for block in stream.text.split("\n\n") if block.startswith("data: {")]
    logs = "".join(chunk["choices"][0].get("llg_logs", "") for chunk in chunks)
    assert captured(logs) == ["Bob"]
    assert len(logs.splitlines()) == len(whole["choices"][0]["llg_logs"].splitlines())
    assert {chunk["choices"][0]["logprobs"] for chunk in chunks} == {None}


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_of_several_prompts_have_them_too(client: httpx.AsyncClient, stream: bool) -> None:
    body = {**COMPLETION, "n": 2, "llg_log_level": "json", "stream": stream}
    response = await client.post("/v1/completions", json=body)

    logs = [""] * 4
    blocks = response.text.split("\n\n") if stream else [f"data: {response.text}"]
    for block in blocks:
        if block.startswith("data: {"):
            for choice in json.loads(block[6:])["choices"]:
                logs[choice["index"]] += choice.get("llg_logs", "")
                assert choice["logprobs"] is None
    assert [captured(each) for each in logs] == [["Bob"], ["Ann"], ["Bob"], ["Ann"]]


async def test_a_stop_string_inside_a_token_leaves_no_final_text(client: httpx.AsyncClient) -> None:
    body = {**CHAT, "llg_log_level": "json", "stop": ["m B"], "guided_grammar": "start: /[A-Za-z .]*/"}
    (choice,) = (await client.post("/v1/chat/completions", json=body)).json()["choices"]

    assert choice["message"]["content"] == "I a"
    assert "JSON-OUT" in choice["llg_logs"]


@pytest.mark.parametrize(
    "fields",
    [{}, {"llg_log_level": "none"}, {"llg_log_level": "warning"}, {"llg_log_level": "json", "guided_grammar": None}],
)
async def test_there_are_no_logs_unless_they_are_asked_for_and_there_is_a_grammar(
    client: httpx.AsyncClient, executor: ScriptedExecutor, fields: dict[str, Any]
) -> None:
    (choice,) = (await client.post("/v1/chat/completions", json={**CHAT, **fields})).json()["choices"]

    assert "llg_logs" not in choice
    assert executor.requests[0].sampling.logprobs is None


async def test_an_unknown_level_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "llg_log_level": "loud"})

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "llg_log_level"
