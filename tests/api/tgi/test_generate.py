"""Text-generation-inference's API on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from guidance_core.errors import GenerationFailed
from guidance_core.executors.base import Health
from guidance_core.generation import GenerationRequest, TokenDelta, TokenLogprob
from tests.api.scripted_executor import ScriptedExecutor, answer

ASK: dict[str, Any] = {"inputs": "Hi"}
HELLO = [19556, 665, 28, 905, 17]
"""``Hello``, `` there``, ``,``, `` world``, ``!``."""


def ask(**parameters: Any) -> dict[str, Any]:
    return {**ASK, "parameters": parameters}


def ends_with_its_logprob(request: GenerationRequest, index: int) -> Sequence[TokenDelta | Exception]:
    *deltas, _ = answer(*HELLO)(request, index)
    end = TokenLogprob(2, -0.125) if request.sampling.logprobs is not None else None
    return [*deltas, TokenDelta(index=index, finish_reason="stop", stop_token_id=2, stop_logprob=end)]


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = [block for block in response.text.split("\n\n") if block]
    assert all(block.startswith("data: {") for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


async def test_without_details_only_the_text_is_answered(client: httpx.AsyncClient, hello: str) -> None:
    response = await client.post("/tgi/generate", json=ASK)

    assert response.json() == {"generated_text": hello}


@pytest.mark.parametrize("path", ["/tgi", "/tgi/"])
async def test_the_base_url_answers_a_list_or_a_stream(client: httpx.AsyncClient, hello: str, path: str) -> None:
    plain = await client.post(path, json={**ASK, "stream": None})
    stream = await client.post(path, json={**ASK, "stream": True})

    assert plain.json() == [{"generated_text": hello}]
    assert events_of(stream)[-1]["generated_text"] == hello


async def test_the_details_have_exactly_its_shape(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.script = ends_with_its_logprob
    body = (await client.post("/tgi/generate", json=ask(details=True))).json()

    texts = ["Hello", " there", ",", " world", "!"]
    assert body["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": 6,
        "seed": None,
        "prefill": [],
        "tokens": [
            *(
                {"id": id, "text": text, "logprob": -0.5, "special": False}
                for id, text in zip(HELLO, texts, strict=True)
            ),
            {"id": 2, "text": "<|im_end|>", "logprob": -0.125, "special": True},
        ],
    }


async def test_the_prompts_tokens_come_with_their_logprobs_and_the_details(
    client: httpx.AsyncClient, hello: str, executor: ScriptedExecutor
) -> None:
    async def details_of(**parameters: Any) -> dict[str, Any]:
        body = {"inputs": "Once upon", "parameters": {"decoder_input_details": True, **parameters}}
        details: dict[str, Any] = (await client.post("/tgi/generate", json=body)).json()["details"]
        return details

    details = await details_of()
    assert [token["text"] for token in details["prefill"]] == ["Once", " upon"]
    assert [token["logprob"] for token in details["prefill"]] == [None, -1.0]
    assert details["prefill"][0]["id"] == executor.requests[0].prompt_ids[0]
    assert len(details["tokens"]) == 6
    best = await details_of(best_of=2, do_sample=True)
    [other] = best["best_of_sequences"]
    assert best["prefill"] == other["prefill"] == details["prefill"]
    assert [request.sampling.prompt_logprobs for request in executor.requests[1:]] == [0, None]


async def test_a_stream_has_no_place_for_the_prompts_tokens(client: httpx.AsyncClient) -> None:
    response = await client.post("/tgi/generate_stream", json=ask(decoder_input_details=True))
    assert response.status_code == 422
    assert "decoder_input_details" in response.json()["error"]


async def test_typical_p_samples_by_itself(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    for typical_p, temperature in ((0.5, 1.0), (1.0, 0.0)):
        await client.post("/tgi/generate", json=ask(typical_p=typical_p))
        assert executor.requests[-1].sampling.temperature == temperature


async def test_top_tokens_lie_beside_the_tokens(client: httpx.AsyncClient, hello: str) -> None:
    details = (await client.post("/tgi/generate", json=ask(details=True, top_n_tokens=2))).json()["details"]

    assert [len(top) for top in details["top_tokens"]] == [2] * 5
    assert details["top_tokens"][0][0] == details["tokens"][0]


async def test_a_stream_has_an_event_for_each_token_and_the_whole_text_in_the_last(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.script = ends_with_its_logprob
    events = events_of(await client.post("/tgi/generate_stream", json=ask(details=True)))

    assert [event["index"] for event in events] == [1, 2, 3, 4, 5, 6]
    assert "".join(event["token"]["text"] for event in events if not event["token"]["special"]) == "Hello there, world!"
    assert [event["generated_text"] for event in events] == [None] * 5 + ["Hello there, world!"]
    assert [event["details"] for event in events[:-1]] == [None] * 5
    assert events[-1]["details"] == {
        "finish_reason": "eos_token", "generated_tokens": 6, "seed": None, "input_length": 1,
    }  # fmt: skip


async def test_an_answer_that_is_cut_off_ends_with_its_last_token_and_says_length(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.script = answer(*HELLO[:2], finish_reason="length")
    events = events_of(await client.post("/tgi/generate_stream", json=ask(details=True)))

    assert [(event["index"], event["token"]["id"]) for event in events] == [(1, 19556), (2, 665), (2, 665)]
    assert "".join(event["token"]["text"] for event in events) == events[-1]["generated_text"] == "Hello there"
    assert events[-1]["details"]["finish_reason"] == "length"


@pytest.mark.parametrize("stop", ["there", " world?", "lo th"])
async def test_token_texts_add_up_to_the_text_whatever_a_stop_string_holds_back(
    client: httpx.AsyncClient, hello: str, stop: str
) -> None:
    events = events_of(await client.post("/tgi/generate_stream", json=ask(stop=[stop], details=True)))
    whole = (await client.post("/tgi/generate", json=ask(stop=[stop], details=True))).json()

    streamed = "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    assert streamed == events[-1]["generated_text"] == whole["generated_text"]
    assert "".join(token["text"] for token in whole["details"]["tokens"] if not token["special"]) == streamed
    assert len({event["index"] for event in events}) == len(whole["details"]["tokens"])


async def test_a_stop_string_is_part_of_the_text_and_is_the_reason(client: httpx.AsyncClient, hello: str) -> None:
    body = (await client.post("/tgi/generate", json=ask(stop=["there"], details=True))).json()

    assert body["generated_text"] == "Hello there"
    assert body["details"]["finish_reason"] == "stop_sequence"
    assert body["details"]["generated_tokens"] == len(body["details"]["tokens"]) == 2


async def test_the_full_text_begins_with_the_prompt(client: httpx.AsyncClient, hello: str) -> None:
    whole = await client.post("/tgi/generate", json=ask(return_full_text=True))
    stream = await client.post("/tgi/generate_stream", json=ask(return_full_text=True))

    assert whole.json()["generated_text"] == events_of(stream)[-1]["generated_text"] == "Hi" + hello


async def test_the_best_of_several_is_the_one_with_the_highest_logprob_per_token(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    # The second one has more tokens, and so a lower sum, but a higher mean.
    lengths = {0: (1, -2.0), 1: (4, -1.0), 2: (2, -3.0)}

    def script(request: GenerationRequest, index: int) -> Sequence[TokenDelta]:
        tokens, logprob = lengths[int(request.request_id[-1])]
        entry = (TokenLogprob(19556, logprob),)
        deltas = [TokenDelta(index=0, token_ids=(19556,), logprobs=entry) for _ in range(tokens)]
        return [*deltas, TokenDelta(index=0, finish_reason="length", logprobs=())]

    executor.script = script
    body = (await client.post("/tgi/generate", json=ask(best_of=3, do_sample=True, details=True))).json()

    assert body["generated_text"] == "Hello" * 4
    others = body["details"]["best_of_sequences"]
    assert [other["generated_text"] for other in others] == ["Hello", "Hello" * 2]
    seeds = [body["details"]["seed"], *(other["seed"] for other in others)]
    assert sorted(seeds) == sorted(request.sampling.seed or 0 for request in executor.requests)
    assert len(set(seeds)) == 3


@pytest.mark.parametrize(
    ("parameters", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 1.0}, 0.0),
        ({"do_sample": True}, 1.0),
        ({"temperature": 0.5}, 0.5),
        ({"top_k": 5}, 1.0),
        ({"top_p": 0.5}, 1.0),
    ],
)
async def test_it_samples_where_its_token_chooser_would_and_then_tells_the_seed(
    client: httpx.AsyncClient, executor: ScriptedExecutor, parameters: dict[str, Any], temperature: float
) -> None:
    body = (await client.post("/tgi/generate", json=ask(**parameters, details=True, seed=7))).json()

    assert executor.requests[0].sampling.temperature == temperature
    assert body["details"]["seed"] == (7 if temperature else None)


async def test_without_any_parameters_it_samples(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    await client.post("/tgi/generate", json=ASK)

    assert executor.requests[0].sampling.temperature == 1.0


async def test_parameters_reach_the_executor(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    parameters = {
        "do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "typical_p": 0.8, "repetition_penalty": 1.1,
        "frequency_penalty": 0.2, "seed": 2**64 - 1, "max_new_tokens": 17, "stop": ["\n"], "watermark": False,
        "decoder_input_details": None, "adapter_id": None, "best_of": 1,
    }  # fmt: skip
    response = await client.post("/tgi/generate", json={"inputs": "Hi", "parameters": parameters})

    assert response.status_code == 200, response.text
    (request,) = executor.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.typical_p) == (0.7, 9, 0.9, 0.8)
    assert (sampling.repetition_penalty, sampling.frequency_penalty) == (1.1, 0.2)
    assert (sampling.seed, sampling.max_tokens, request.stop) == (2**64 - 1, 17, ("\n",))


async def test_an_answer_may_fill_the_context(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    await client.post("/tgi/generate", json=ASK)

    assert executor.requests[0].sampling.max_tokens == 512 - len(executor.requests[0].prompt_ids)


async def test_a_prompt_is_truncated_to_its_last_tokens(
    client: httpx.AsyncClient, executor: ScriptedExecutor, loaded: LoadedModel
) -> None:
    prompt = "word " * 3000 + "and the end"
    response = await client.post("/tgi/generate", json={"inputs": prompt, "parameters": {"truncate": 3}})

    assert response.status_code == 200, response.text
    assert loaded.detokenizer.decode(executor.requests[0].prompt_ids) == " and the end"


@pytest.mark.parametrize(
    ("grammar", "kind"),
    [
        ({"type": "regex", "value": "[a-z]+"}, "regex"),
        ({"type": "json", "value": {"type": "object"}}, "json_schema"),
        ({"type": "json", "value": '{"type": "object"}'}, "json_schema"),
        ({"type": "json_object", "value": {"type": "object"}}, "json_schema"),
        ({"type": "json_schema", "value": {"name": "x", "schema": {"type": "object"}}}, "json_schema"),
    ],
)
async def test_a_grammar_reaches_the_executor(
    client: httpx.AsyncClient, executor: ScriptedExecutor, grammar: dict[str, Any], kind: str
) -> None:
    response = await client.post("/tgi/generate", json=ask(grammar=grammar))

    assert response.status_code == 200, response.text
    (request,) = executor.requests
    assert request.grammar is not None
    assert request.grammar.kind == kind


async def test_bad_input_is_a_422_that_names_the_field(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    bad: list[tuple[Any, str]] = [
        ({}, "inputs"),
        ([], "object"),
        ({"inputs": ""}, "inputs"),
        ({"inputs": 5}, "inputs"),
        ({"inputs": "word " * 5000}, "inputs"),
        ({"inputs": "word " * 600}, "inputs"),
        ({**ASK, "prompt": "Hi"}, "prompt"),
        ({**ASK, "parameters": 5}, "parameters"),
        (ask(tpo_p=0.5), "tpo_p"),
        (ask(temperature=0), "temperature"),
        (ask(top_k=0), "top_k"),
        (ask(top_p=1), "top_p"),
        (ask(top_p=0), "top_p"),
        (ask(repetition_penalty=0), "repetition_penalty"),
        (ask(frequency_penalty=3), "frequency_penalty"),
        (ask(seed=-1), "seed"),
        (ask(seed=2**64), "seed"),
        (ask(max_new_tokens=0), "max_new_tokens"),
        (ask(max_new_tokens=5000), "max_new_tokens"),
        (ask(stop="x"), "stop"),
        (ask(stop=[""]), "stop"),
        (ask(stop=["x"] * 17), "stop"),
        (ask(truncate=0), "truncate"),
        (ask(truncate=512), "truncate"),
        (ask(best_of=0), "best_of"),
        (ask(best_of=33, do_sample=True), "best_of"),
        (ask(best_of=2), "best_of"),
        (ask(top_n_tokens=21), "top_n_tokens"),
        (ask(details=1), "details"),
        (ask(return_full_text="no"), "return_full_text"),
        (ask(do_sample="yes"), "do_sample"),
        (ask(watermark=True), "watermark"),
        (ask(adapter_id="x"), "adapter_id"),
        (ask(grammar={"type": "lark", "value": "start: /a/"}), "grammar"),
        (ask(grammar={"type": "regex"}), "grammar"),
        (ask(grammar={"type": "regex", "value": "("}), "grammar"),
        (ask(grammar={"type": "json", "value": "{"}), "grammar"),
        (ask(grammar={"type": "json", "value": {"type": 5}}), "grammar"),
        (ask(grammar={"type": "json_schema", "value": {"type": "object"}}), "grammar"),
    ]
    for body, named in bad:
        for path in ("/tgi", "/tgi/generate", "/tgi/generate_stream"):
            response = await client.post(path, content=json.dumps(body))
            assert response.status_code == 422, (body, response.text)
            error = response.json()
            assert error["error_type"] == "validation"
            assert error["error"].startswith("Input validation error: ")
            assert named in error["error"].lower()
    assert not executor.requests


@pytest.mark.parametrize(
    ("path", "parameters", "named"),
    [("/tgi/generate_stream", {}, "streaming"), ("/tgi/generate", {"seed": 1}, "`seed`")],
)
async def test_best_of_cannot_be_streamed_and_has_seeds_of_its_own(
    client: httpx.AsyncClient, path: str, parameters: dict[str, Any], named: str
) -> None:
    response = await client.post(path, json=ask(best_of=2, do_sample=True, **parameters))

    assert response.status_code == 422
    assert named in response.json()["error"]


async def test_failures_have_its_statuses(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.full = True
    overloaded = await client.post("/tgi/generate_stream", json=ASK)
    executor.full = False
    executor.script = lambda request, index: [GenerationFailed("The sampler failed.")]
    failed = await client.post("/tgi/generate", json=ASK)
    executor.script = lambda request, index: [KeyError("secret")]
    broken = await client.post("/tgi/generate", json=ASK)

    assert (overloaded.status_code, overloaded.json()["error_type"]) == (429, "overloaded")
    assert overloaded.headers["retry-after"] == "2"
    assert (failed.status_code, failed.json()["error_type"]) == (424, "generation")
    assert (broken.status_code, broken.json()["error_type"]) == (500, "incomplete_generation")
    assert "secret" not in broken.text


async def test_a_failure_in_mid_stream_is_the_last_event(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.script = lambda request, index: [*answer(*HELLO)(request, index)[:2], GenerationFailed("Lost.")]
    *tokens, failure = events_of(await client.post("/tgi/generate_stream", json=ASK))

    assert len(tokens) == 2
    assert failure == {"error": "Request failed during generation: Lost.", "error_type": "generation"}


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/tgi/nope", 404), ("GET", "/tgi/generate", 405), ("POST", "/tgi/info", 405)]
)
async def test_wrong_addresses_have_its_shape(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.json().keys() == {"error", "error_type"}


async def test_a_chat_under_its_address_needs_no_model_and_fails_in_its_shape(
    client: httpx.AsyncClient, hello: str
) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    for named in ({}, {"model": None}, {"model": "tgi"}, {"model": "any"}):
        response = await client.post("/tgi/v1/chat/completions", json={**named, "messages": messages})
        assert response.json()["choices"][0]["message"]["content"] == hello
    refused = await client.post("/tgi/v1/chat/completions", json={"messages": messages, "max_tokens": 0})

    assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")
    assert "max_tokens" in refused.json()["error"]


async def test_the_info_tells_the_limits(client: httpx.AsyncClient) -> None:
    info = (await client.get("/tgi/info")).json()

    assert info["model_id"] == "smollm2-135m-instruct"
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (511, 512)
    assert (info["max_best_of"], info["max_stop_sequences"], info["max_concurrent_requests"]) == (32, 16, 264)


async def test_health_is_a_503_while_the_model_cannot_answer(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    assert (await client.get("/tgi/health")).status_code == 200
    executor.state = Health("restarting", "The executor's process died.")
    response = await client.get("/tgi/health")

    assert response.status_code == 503
    assert response.json() == {"error": "The executor's process died.", "error_type": "healthcheck"}
