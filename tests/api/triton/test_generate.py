"""Triton's generate extension on the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from guidance_core.errors import GenerationFailed
from guidance_core.executors.base import Health
from guidance_core.generation import GenerationRequest, TokenDelta, TokenLogprob
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

GENERATE = f"/v2/models/{MODEL}/generate"
STREAM = f"/v2/models/{MODEL}/generate_stream"
ASK: dict[str, Any] = {"text_input": "Hi", "max_tokens": 16}
HELLO = [19556, 665, 28, 905, 17]


def ask(**inputs: Any) -> dict[str, Any]:
    return {**ASK, **inputs}


def events_of(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = [block for block in response.text.split("\n\n") if block]
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


async def test_an_answer_has_tritons_shape_and_begins_with_the_prompt(client: httpx.AsyncClient, hello: str) -> None:
    response = await client.post(GENERATE, json=ask(id="42"))

    assert response.json() == {
        "id": "42",
        "model_name": MODEL,
        "model_version": "1",
        "sequence_end": False,
        "sequence_id": 0,
        "sequence_start": False,
        "batch_index": 0,
        "sequence_index": 0,
        "text_output": "Hi" + hello,
        "finish_reason": "stop",
    }


async def test_the_prompt_can_be_left_out(client: httpx.AsyncClient, hello: str) -> None:
    response = await client.post(GENERATE, json=ask(exclude_input_in_output=True))

    assert response.json()["text_output"] == hello


async def test_a_guided_answer_comes_without_the_prompt(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.script = answer(33)
    guide = {"guided_decoding_guide_type": "regex", "guided_decoding_guide": "1"}

    assert (await client.post(GENERATE, json=ask(**guide))).json()["text_output"] == "1"
    body = ask(**guide, exclude_input_in_output=False)
    assert (await client.post(GENERATE, json=body)).json()["text_output"] == "Hi1"


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/ensemble/generate",
        "/v2/models/tensorrt_llm_bls/generate",
        f"/v2/models/{MODEL}/versions/1/generate",
    ],
)
async def test_the_model_answers_to_the_names_that_clients_know(
    client: httpx.AsyncClient, hello: str, path: str
) -> None:
    response = await client.post(path, json=ASK)

    assert response.status_code == 200, response.text
    assert response.json()["model_name"] == path.split("/")[3]


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/gpt/generate",
        f"/v2/models/{MODEL}/versions/2/generate",
        "/v2/models/gpt/generate_stream",
        f"/v2/models/{MODEL}/infer",
    ],
)
async def test_another_model_version_or_address_is_a_404_in_its_shape(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=ASK)

    assert response.status_code == 404
    assert response.json().keys() == {"error"}


async def test_a_stream_has_an_event_for_each_piece_and_no_prompt(client: httpx.AsyncClient, hello: str) -> None:
    events = events_of(await client.post(STREAM, json=ask(stream=True)))

    assert "".join(event["text_output"] for event in events) == hello
    assert [event.get("finish_reason") for event in events] == [None] * 5 + ["stop"]


async def test_without_stream_generate_stream_has_one_event(client: httpx.AsyncClient, hello: str) -> None:
    (event,) = events_of(await client.post(STREAM, json=ASK))

    assert event == (await client.post(GENERATE, json=ASK)).json()


async def test_several_sequences_are_lists_or_events_with_their_index(client: httpx.AsyncClient, hello: str) -> None:
    whole = (await client.post(GENERATE, json=ask(num_return_sequences=2))).json()
    events = events_of(await client.post(STREAM, json=ask(num_return_sequences=2, stream=True)))

    assert whole["sequence_index"] == [0, 1]
    assert whole["text_output"] == ["Hi" + hello] * 2
    for index in (0, 1):
        assert "".join(event["text_output"] for event in events if event["sequence_index"] == index) == hello


async def test_logprobs_come_with_their_sum_and_that_of_the_end_token(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    def script(request: GenerationRequest, index: int) -> Sequence[TokenDelta | Exception]:
        *deltas, _ = answer(*HELLO)(request, index)
        end = TokenLogprob(2, -0.25)
        return [*deltas, TokenDelta(index=index, finish_reason="stop", stop_token_id=2, stop_logprob=end)]

    executor.script = script
    whole = (await client.post(GENERATE, json=ask(return_log_probs=True))).json()
    events = events_of(await client.post(STREAM, json=ask(return_log_probs=True, stream=True)))

    assert whole["output_log_probs"] == [-0.5] * 5 + [-0.25]
    assert whole["cum_log_probs"] == events[-1]["cum_log_probs"] == -2.75
    assert [event["output_log_probs"] for event in events] == whole["output_log_probs"]


async def test_token_counts_are_told_on_request(client: httpx.AsyncClient, hello: str) -> None:
    body = ask(return_num_input_tokens=True, return_num_output_tokens=True)
    response = (await client.post(GENERATE, json=body)).json()

    assert (response["num_input_tokens"], response["num_output_tokens"]) == (1, 6)


async def test_a_stop_word_is_part_of_the_answer(client: httpx.AsyncClient, hello: str) -> None:
    for words in ("there", ["there"], ["there", "", "nope"]):
        response = await client.post(GENERATE, json=ask(stop_words=words))
        assert response.json()["text_output"] == "HiHello there"


async def test_an_answer_that_is_cut_off_says_length(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.script = answer(*HELLO, finish_reason="length")

    assert (await client.post(GENERATE, json=ASK)).json()["finish_reason"] == "length"


async def test_inputs_reach_the_executor_wherever_they_lie_and_however_deep(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    body = {
        "text_input": ["Hi"],
        "parameters": {"max_tokens": [[20]], "temperature": 0.7, "top_k": [9], "top_p": 0.9, "stream": False},
        "repetition_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3, "min_length": 3,
        "random_seed": 2**64 - 1, "end_id": 5, "pad_id": 2, "bad_words": "", "beam_width": [1], "length_penalty": 1.0,
        "return_context_logits": False,
    }  # fmt: skip
    response = await client.post(GENERATE, json=body)

    assert response.status_code == 200, response.text
    sampling = executor.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (20, 0.7, 9, 0.9)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.1, 0.2, 0.3)
    assert (sampling.min_tokens, sampling.seed) == (3, 2**64 - 1)
    assert (sampling.stop_token_ids, sampling.ignore_eos) == ((5,), True)


@pytest.mark.parametrize(
    ("inputs", "temperature", "top_k", "top_p"),
    [
        ({}, 0.0, 0, 1.0),
        ({"temperature": 0.5}, 0.0, 0, 1.0),
        ({"top_k": 5}, 1.0, 5, 1.0),
        ({"top_p": 0.5}, 1.0, 0, 0.5),
        ({"top_k": 5, "temperature": 0}, 0.0, 5, 1.0),
    ],
)
async def test_it_samples_where_tensorrt_llm_would(
    client: httpx.AsyncClient,
    executor: ScriptedExecutor,
    inputs: dict[str, Any],
    temperature: float,
    top_k: int,
    top_p: float,
) -> None:
    await client.post(GENERATE, json=ask(**inputs))

    sampling = executor.requests[0].sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (temperature, top_k, top_p, 0)


@pytest.mark.parametrize(
    ("words", "weights", "expected"),
    [
        (["Hello there", "", " there"], [2.5, 1.0, -4], {19556: 2.5, 665: -1.5}),
        ("Hello", 3, {19556: 3.0}),
        ("", [], {}),
    ],
)
async def test_a_words_weight_is_added_to_each_of_its_tokens(
    client: httpx.AsyncClient, executor: ScriptedExecutor, words: object, weights: object, expected: dict[int, float]
) -> None:
    body = ask(embedding_bias_words=words, embedding_bias_weights=weights)
    response = await client.post(GENERATE, json=body)

    assert response.status_code == 200, response.text
    assert executor.requests[0].sampling.logit_bias == expected


@pytest.mark.parametrize(
    ("kind", "guide", "text", "refused"),
    [
        ("json", None, "[1]", "]"),
        ("json_schema", '{"type": "boolean"}', "true", "1"),
        ("regex", "[0-9]+", "17", "x"),
        ("ebnf_grammar", "root ::= [0-9]+", "17", "x"),
    ],
)
async def test_a_guide_reaches_the_executor(
    client: httpx.AsyncClient,
    executor: ScriptedExecutor,
    loaded: Any,
    kind: str,
    guide: str | None,
    text: str,
    refused: str,
) -> None:
    body = ask(guided_decoding_guide_type=kind, guided_decoding_guide=guide)
    response = await client.post(GENERATE, json=body)

    assert response.status_code == 200, response.text
    grammar = executor.requests[0].grammar
    assert grammar is not None
    assert loaded.grammars.accepts(grammar, text.encode())
    assert not loaded.grammars.accepts(grammar, refused.encode())


async def test_bad_input_is_a_400_in_its_shape_that_names_the_input(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    bad: list[tuple[Any, str]] = [
        ({}, "text_input"),
        ([], "object"),
        ({"text_input": "Hi"}, "max_tokens"),
        (ask(text_input=""), "text_input"),
        (ask(text_input=["a", "b"]), "text_input"),
        (ask(max_tokens=0), "max_tokens"),
        (ask(max_tokens=[1, 2]), "max_tokens"),
        (ask(max_tokens=5000), "long"),
        (ask(text_input="word " * 20_000), "context"),
        (ask(parameters=5), "parameters"),
        (ask(parameters={"max_tokens": 5}), "max_tokens"),
        (ask(tok_k=5), "tok_k"),
        (ask(parameters={"tok_k": 5}), "tok_k"),
        (ask(top_k=-1), "top_k"),
        (ask(top_p=1.5), "top_p"),
        (ask(temperature=-1), "temperature"),
        (ask(temperature="hot"), "temperature"),
        (ask(presence_penalty=1e308), "presence_penalty"),
        (ask(repetition_penalty=1e-320), "repetition_penalty"),
        (ask(frequency_penalty=-1e308), "frequency_penalty"),
        (ask(repetition_penalty=0), "repetition_penalty"),
        (ask(presence_penalty="x"), "presence_penalty"),
        (ask(frequency_penalty=[]), "frequency_penalty"),
        (ask(min_tokens=-1), "min_tokens"),
        (ask(min_tokens=1, min_length=1), "min_length"),
        (ask(seed=-1), "seed"),
        (ask(random_seed=2**64), "random_seed"),
        (ask(seed=1, random_seed=1), "random_seed"),
        (ask(end_id=-2), "end_id"),
        (ask(end_id=49152), "end_id"),
        (ask(pad_id="x"), "pad_id"),
        (ask(stop_words=5), "stop_words"),
        (ask(stop_words=[str(i) for i in range(17)]), "stop"),
        (ask(bad_words=[" "]), "bad_words"),
        (ask(beam_width=2), "beam_width"),
        (ask(length_penalty=2.0), "length_penalty"),
        (ask(embedding_bias_words=["x", "y"]), "embedding_bias_weights"),
        (ask(embedding_bias_words=["x", "y"], embedding_bias_weights=[1.0]), "embedding_bias_weights"),
        (ask(embedding_bias_weights=[1.0]), "embedding_bias_weights"),
        (ask(embedding_bias_words=["x", 5], embedding_bias_weights=[1.0, 1.0]), "embedding_bias_words"),
        (ask(embedding_bias_words="x", embedding_bias_weights="1"), "embedding_bias_weights"),
        (ask(embedding_bias_words="x", embedding_bias_weights=1e300), "embedding_bias_weights"),
        (ask(embedding_bias_weights=[None]), "embedding_bias_weights"),
        (ask(embedding_bias_words="x", embedding_bias_weights=True), "embedding_bias_weights"),
        (ask(lora_task_id=1), "lora_task_id"),
        (ask(return_context_logits=True), "return_context_logits"),
        (ask(return_log_probs=1), "return_log_probs"),
        (ask(num_return_sequences=0), "num_return_sequences"),
        (ask(num_return_sequences=33), "num_return_sequences"),
        (ask(exclude_input_in_output="no"), "exclude_input_in_output"),
        (ask(return_num_input_tokens="no"), "return_num_input_tokens"),
        (ask(return_num_output_tokens="no"), "return_num_output_tokens"),
        (ask(id=5), "id"),
        (ask(stream="yes"), "stream"),
        (ask(guided_decoding_guide="x"), "guided_decoding_guide_type"),
        (ask(guided_decoding_guide_type="lark"), "guided_decoding_guide_type"),
        (ask(guided_decoding_guide_type="regex"), "guided_decoding_guide"),
        (ask(guided_decoding_guide_type="json", guided_decoding_guide="{}"), "guided_decoding_guide"),
        (ask(guided_decoding_guide_type="json_schema", guided_decoding_guide="{"), "guided_decoding_guide"),
        (ask(guided_decoding_guide_type="json_schema", guided_decoding_guide='{"type": 5}'), "schema"),
        (ask(guided_decoding_guide_type="regex", guided_decoding_guide="("), "grammar"),
        (ask(guided_decoding_guide_type="ebnf_grammar", guided_decoding_guide="root ::= ("), "grammar"),
    ]
    for body, named in bad:
        for path in (GENERATE, STREAM):
            response = await client.post(path, json=body)
            assert response.status_code == 400, (body, response.text)
            assert response.json().keys() == {"error"}
            assert named in response.json()["error"].lower(), (body, response.text)
    assert not executor.requests


async def test_generate_does_not_stream(client: httpx.AsyncClient) -> None:
    response = await client.post(GENERATE, json=ask(stream=True))

    assert response.status_code == 400
    assert "exactly 1 response" in response.json()["error"]


async def test_a_full_queue_is_a_503(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.full = True
    for path in (GENERATE, STREAM):
        response = await client.post(path, json=ASK)
        assert (response.status_code, response.headers["retry-after"]) == (503, "2")


async def test_a_failure_in_mid_stream_is_the_last_event(client: httpx.AsyncClient, executor: ScriptedExecutor) -> None:
    executor.script = lambda request, index: [*answer(*HELLO)(request, index)[:2], GenerationFailed("Lost.")]
    *pieces, failure = events_of(await client.post(STREAM, json=ask(stream=True)))

    assert len(pieces) == 2
    assert failure == {"error": "Lost."}


async def test_the_model_describes_its_inputs_and_outputs(client: httpx.AsyncClient) -> None:
    metadata = (await client.get(f"/v2/models/{MODEL}")).json()
    config = (await client.get(f"/v2/models/{MODEL}/versions/1/config")).json()

    assert metadata["inputs"][0] == {"name": "text_input", "datatype": "BYTES", "shape": [1]}
    assert [tensor["name"] for tensor in metadata["inputs"] if tensor["name"] == "guided_decoding_guide"]
    assert config["input"][0] == {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1], "optional": False}
    assert config["model_transaction_policy"] == {"decoupled": True}
    assert (await client.get("/v2")).json()["name"] == "guided-trtllm"
    assert (await client.get("/v2/models/gpt")).status_code == 404


async def test_every_input_that_the_model_describes_is_a_field_and_the_other_way_round(
    client: httpx.AsyncClient,
) -> None:
    described = {tensor["name"] for tensor in (await client.get("/v2/models/ensemble")).json()["inputs"]}
    schemas = (await client.get("/docs.json")).json()["components"]["schemas"]

    assert described == schemas["TritonGenerateBody"]["properties"].keys() - {"id"}


async def test_it_is_alive_but_not_ready_while_the_model_restarts(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    paths = ["/v2/health/live", "/v2/health/ready", f"/v2/models/{MODEL}/ready"]
    assert [(await client.get(path)).status_code for path in paths] == [200, 200, 200]

    executor.state = Health("restarting", "The executor's process died.")

    assert [(await client.get(path)).status_code for path in paths] == [200, 400, 400]


async def test_the_repository_has_the_model_by_each_of_its_names(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    index = "/v2/repository/index"
    entries = (await client.post(index)).json()
    assert [entry.pop("name") for entry in entries] == [MODEL, "ensemble", "tensorrt_llm_bls"]
    assert entries == [{"version": "1", "state": "READY", "reason": ""}] * 3
    assert len((await client.post(index, json={"ready": True})).json()) == 3

    executor.state = Health("restarting", "It crashed.")
    [entry, *_] = (await client.post(index, json={})).json()
    assert entry == {"name": MODEL, "version": "1", "state": "LOADING", "reason": "It crashed."}
    executor.state = Health("failed", "It crashed.")
    assert (await client.post(index)).json()[0]["state"] == "UNAVAILABLE"
    assert (await client.post(index, json={"ready": True})).json() == []
    refused = await client.post(index, json={"raedy": True})
    assert (refused.status_code, list(refused.json())) == (400, ["error"])


@pytest.mark.parametrize(
    ("method", "path", "instead"),
    [
        ("GET", "/v2/models/stats", "GET /metrics"),
        ("GET", f"/v2/models/{MODEL}/stats", "GET /metrics"),
        ("GET", f"/v2/models/{MODEL}/versions/1/stats", "GET /metrics"),
        ("POST", f"/v2/models/{MODEL}/infer", "/generate"),
        ("POST", f"/v2/repository/models/{MODEL}/load", "one model"),
        ("GET", "/v2/trace/setting", "BentoML"),
        ("GET", "/v2/systemsharedmemory/status", "requests bring"),
    ],
)
async def test_what_triton_has_besides_is_refused_with_what_there_is_instead(
    client: httpx.AsyncClient, method: str, path: str, instead: str
) -> None:
    response = await client.request(method, path)

    assert response.status_code in (400, 404)
    assert list(response.json()) == ["error"]
    assert instead in response.json()["error"]
