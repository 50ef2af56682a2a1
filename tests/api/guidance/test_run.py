"""llgtrt's `/v1/run` on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from guidance_core.errors import GenerationFailed
from guidance_core.generation import GenerationRequest, GuidanceTimes, TokenDelta, TokenLogprob
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

LARK = 'start: "I am " name " and " age "."\nname[capture]: /[A-Z][a-z]+/\nage[capture="years"]: /[0-9]+/\n'
TEXT = "I am Bob and 42."


def ask(**fields: Any) -> dict[str, Any]:
    grammar = {"grammars": [{"lark_grammar": LARK}]}
    return {"controller": "llguidance", "controller_arg": {"grammar": grammar}, "prompt": "Who?", **fields}


@pytest.fixture(autouse=True)
def tokens(executor: ScriptedExecutor, loaded: LoadedModel) -> list[int]:
    """The executor answers `TEXT`; its first two tokens come together, as the grammar forces them."""
    tokens: list[int] = loaded.prompts.tokenizer.encode(TEXT, add_special_tokens=False).ids

    def script(request: GenerationRequest, index: int) -> Sequence[TokenDelta | Exception]:
        cuts = [tokens[:2], *([token] for token in tokens[2:])]
        return [
            TokenDelta(
                index=index,
                token_ids=tuple(cut),
                logprobs=tuple(TokenLogprob(token, -0.5) for token in cut),
                guidance=GuidanceTimes(forced_tokens=len(cut) if i == 0 else 0),
                finish_reason="stop" if i == len(cuts) - 1 else None,
            )
            for i, cut in enumerate(cuts)
        ]

    executor.script = script
    return tokens


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *events, done = [block.removeprefix("data: ") for block in response.text.split("\n\n") if block]
    assert done == "[DONE]"
    return [json.loads(event) for event in events]


def reports_of(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = "".join(run["forks"][0]["logs"] for run in runs).splitlines()
    return [json.loads(line.removeprefix("JSON-OUT: ")) for line in lines]


@pytest.mark.parametrize("path", ["/v1/run", "/guidance"])
async def test_a_run_begins_with_its_id_and_has_the_text_in_its_fork(client: httpx.AsyncClient, path: str) -> None:
    initial, *runs = events_of(await client.post(path, json=ask()))

    assert initial.pop("id").startswith("run-")
    assert isinstance(initial.pop("created"), int)
    assert initial == {"object": "initial-run", "model": MODEL}
    assert "".join(run["forks"][0]["text"] for run in runs) == TEXT
    assert {run["object"] for run in runs} == {"run"}
    assert runs[0]["forks"][0].keys() == {"index", "text", "error", "logs", "storage", "micros", "logprobs"}
    assert [run["forks"][0].get("finish_reason") for run in runs] == [None] * (len(runs) - 1) + ["stop"]


async def test_the_logs_have_the_captures_and_the_text_as_llguidance_reports_them(client: httpx.AsyncClient) -> None:
    _, *runs = events_of(await client.post("/v1/run", json=ask()))

    reports = reports_of(runs)
    captures = {report["name"]: bytes.fromhex(report["hex"]) for report in reports if report["object"] == "capture"}
    texts = [report for report in reports if report["object"] == "text"]
    assert captures == {"name": b"Bob", "years": b"42"}
    assert b"".join(bytes.fromhex(report["hex"]) for report in texts) == TEXT.encode()
    assert [report["log_prob"] for report in texts if report["num_tokens"]] == [-0.5] * len(texts)
    assert (reports[-1]["object"], reports[-1]["str"]) == ("final_text", TEXT)


async def test_a_capture_that_only_the_end_closes_is_reported_with_the_last_piece(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    ids = loaded.prompts.tokenizer.encode("abc", add_special_tokens=False).ids
    executor.script = lambda request, index: [
        TokenDelta(index=0, token_ids=tuple(ids), logprobs=tuple(TokenLogprob(i, -1.0) for i in ids)),
        TokenDelta(index=0, finish_reason="stop", stop_token_id=2),
    ]
    grammar = {"grammars": [{"lark_grammar": "start: word\nword[capture]: /[a-z]+/\n"}]}
    _, *runs = events_of(await client.post("/v1/run", json=ask(controller_arg={"grammar": grammar})))

    assert [r["str"] for r in reports_of(runs[-1:]) if r["object"] == "capture"] == ["abc"]


async def test_an_answer_that_is_cut_off_has_no_final_text(
    client: httpx.AsyncClient, executor: ScriptedExecutor, tokens: list[int]
) -> None:
    executor.script = lambda request, index: [
        TokenDelta(index=0, token_ids=(tokens[0],), logprobs=(TokenLogprob(tokens[0], -1.0),), finish_reason="length")
    ]
    _, run = events_of(await client.post("/v1/run", json=ask(max_tokens=1)))

    assert run["forks"][0]["finish_reason"] == "length"
    assert {report["object"] for report in reports_of([run])} == {"text"}


async def test_usage_counts_sampled_and_forced_tokens_apart(client: httpx.AsyncClient, tokens: list[int]) -> None:
    prompt = len((await client.post("/tokenize", json={"prompt": "Who?"})).json()["tokens"])
    _, *runs = events_of(await client.post("/v1/run", json=ask()))

    sampled, forced = len(tokens) - 2, prompt + 2
    assert runs[-1]["usage"] == {"sampled_tokens": sampled, "ff_tokens": forced, "cost": 2 * sampled + forced}


async def test_logprobs_come_with_their_tokens(client: httpx.AsyncClient, tokens: list[int]) -> None:
    _, *runs = events_of(await client.post("/v1/run", json=ask()))

    content = [entry for run in runs for entry in run["forks"][0]["logprobs"]["content"]]
    assert b"".join(bytes(entry["bytes"]) for entry in content) == TEXT.encode()
    assert len(content) == len(tokens)
    assert content[0] == {"token": "I", "logprob": -0.5, "bytes": [73], "top_logprobs": [
        {"token": "I", "logprob": -0.5, "bytes": [73]}
    ]}  # fmt: skip


async def test_parameters_reach_the_executor(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    await client.post("/v1/run", json=ask(temperature=0.5, top_p=0.25, max_tokens=7))
    await client.post("/v1/run", json=ask())

    first, second = (request.sampling for request in executor.requests)
    assert (first.temperature, first.top_p, first.max_tokens) == (0.5, 0.25, 7)
    assert (second.temperature, second.top_p) == (0.0, 1.0)
    assert second.max_tokens == 512 - len(executor.requests[1].prompt_ids)


async def test_messages_go_through_the_chat_template_and_nothing_becomes_a_space(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    messages = [{"role": "user", "content": "Who?"}]
    await client.post("/v1/run", json=ask(prompt=None, messages=messages))
    await client.post("/v1/run", json=ask(prompt=None))

    assert executor.requests[0].prompt_ids == loaded.prompts.chat(messages)
    assert loaded.detokenizer.decode(executor.requests[1].prompt_ids) == " "


async def test_bad_input_is_a_400_in_its_shape_that_names_the_field(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    bad: list[tuple[Any, str]] = [
        ({}, "controller"),
        ([], "object"),
        (ask(controller="aici"), "controller"),
        (ask(controller_arg={}), "controller_arg.grammar"),
        (ask(controller_arg={"grammar": "start: /a/"}), "controller_arg.grammar"),
        (ask(controller_arg={"grammar": {}}), "grammars"),
        (ask(controller_arg={"grammar": {"grammars": [{"lark_grammar": "start: ("}]}}), "grammar"),
        (ask(controller_arg={"grammar": {"grammars": [{"lark_grammar": LARK}], "max_tokens": 5}}), "max_tokens"),
        (ask(messages=[{"role": "user", "content": "Hi"}]), "mutually exclusive"),
        (ask(prompt=5), "prompt"),
        (ask(prompt="word " * 600), "context"),
        (ask(prompt=None, messages=[]), "messages"),
        (ask(prompt=None, messages=[{"role": "robot", "content": "Hi"}]), "role"),
        (ask(temperature=3), "temperature"),
        (ask(top_p=0), "top_p"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens=5000), "long"),
        (ask(n=2), "'n'"),
    ]
    for body, named in bad:
        response = await client.post("/v1/run", json=body)
        assert response.status_code == 400, (body, response.text)
        assert response.json().keys() == {"error"}
        assert named in response.json()["error"].lower(), (body, response.text)
    assert not executor.requests


async def test_a_failure_in_mid_stream_is_a_fork_with_an_error_and_no_done(
    client: httpx.AsyncClient, executor: ScriptedExecutor, tokens: list[int]
) -> None:
    executor.script = lambda request, index: [
        TokenDelta(index=0, token_ids=(tokens[0],), logprobs=(TokenLogprob(tokens[0], -1.0),)),
        GenerationFailed("Lost."),
    ]
    response = await client.post("/v1/run", json=ask())

    _, _, failure = [json.loads(block.removeprefix("data: ")) for block in response.text.split("\n\n") if block]
    assert failure["forks"][0]["error"] == "Lost."


async def test_a_failure_before_the_first_token_has_a_status(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.full = True
    response = await client.post("/v1/run", json=ask())

    assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert response.json().keys() == {"error"}
