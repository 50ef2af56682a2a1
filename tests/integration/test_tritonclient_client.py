"""Triton's own client, and the generate extension as its documentation calls it, against the running service."""

from __future__ import annotations

import json
import re

import httpx
import pytest
from tritonclient.http import InferenceServerClient
from tritonclient.utils import InferenceServerException

from tests.integration.conftest import MODEL, Server


@pytest.fixture(scope="module")
def client(server: Server) -> InferenceServerClient:
    return InferenceServerClient(server.url.removeprefix("http://"))


def test_the_client_sees_a_server_and_a_model_that_are_ready(client: InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready("ensemble", "1")
    assert not client.is_model_ready("gpt")


def test_the_client_reads_the_metadata(client: InferenceServerClient) -> None:
    assert client.get_server_metadata()["name"] == "guided-trtllm"
    metadata = client.get_model_metadata(MODEL)
    assert {tensor["name"] for tensor in metadata["inputs"]} >= {"text_input", "max_tokens", "guided_decoding_guide"}
    assert client.get_model_config(MODEL)["max_batch_size"] > 0
    assert {model["state"] for model in client.get_model_repository_index()} == {"READY"}
    with pytest.raises(InferenceServerException, match="unknown model"):
        client.get_model_metadata("gpt")
    for model in ("", MODEL):
        with pytest.raises(InferenceServerException, match="GET /metrics"):
            client.get_inference_statistics(model)


def test_generate_answers_as_the_ensemble_does(server: Server) -> None:
    body = {
        "text_input": "The capital of France is", "max_tokens": 6, "bad_words": "", "stop_words": "", "end_id": 2,
        "return_log_probs": True,
    }  # fmt: skip
    response = httpx.post(f"{server.url}/v2/models/ensemble/generate", json=body, timeout=60).json()

    assert "Paris" in response["text_output"]
    assert response["text_output"].startswith("The capital of France is")
    assert len(response["output_log_probs"]) == 6
    assert sum(response["output_log_probs"]) == pytest.approx(response["cum_log_probs"])


def test_a_guided_stream_is_the_same_answer_in_pieces(server: Server) -> None:
    body = {
        "text_input": "An ISO date: ", "max_tokens": 16, "top_k": 5, "seed": 7,
        "guided_decoding_guide_type": "regex", "guided_decoding_guide": "[0-9]{4}-[0-9]{2}",
    }  # fmt: skip
    whole = httpx.post(f"{server.url}/v2/models/ensemble/generate", json=body, timeout=60).json()
    with httpx.stream(
        "POST", f"{server.url}/v2/models/ensemble/generate_stream", json={**body, "stream": True}, timeout=60
    ) as response:
        events = [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line]

    text = "".join(event["text_output"] for event in events)
    assert re.fullmatch("[0-9]{4}-[0-9]{2}", text)
    assert text == whole["text_output"]
    assert events[-1]["finish_reason"] == whole["finish_reason"] == "stop"
