"""What a grammar cannot hold is checked on the whole answer, whatever dialect asked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from guidance_core.api.served_model import LoadedModel
from guidance_core.generation import GenerationRequest, TokenDelta
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor, answer

SCHEMA = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
BAD, GOOD = "[1, 1]", "[1, 2]"

TGI = {"inputs": "Hi", "parameters": {"grammar": {"type": "json", "value": SCHEMA}, "max_new_tokens": 32}}
TRITON = {
    "text_input": "Hi", "max_tokens": 32, "guided_decoding_guide_type": "json_schema",
    "guided_decoding_guide": json.dumps(SCHEMA),
}  # fmt: skip
GENERATE, STREAM = (f"/v2/models/{MODEL}/{name}" for name in ("generate", "generate_stream"))
ROUTES = [
    ("/tgi/generate", TGI),
    ("/tgi/generate_stream", TGI),
    (GENERATE, TRITON),
    (STREAM, {**TRITON, "stream": True}),
]


@pytest.fixture
def attempts(executor: ScriptedExecutor, loaded: LoadedModel) -> list[str]:
    """What the executor answers, attempt by attempt; the last one for ever."""
    texts = [BAD, GOOD]

    def script(request: GenerationRequest, index: int) -> Sequence[TokenDelta | Exception]:
        text = texts[min(len(executor.requests), len(texts)) - 1]
        return answer(*loaded.prompts.tokenizer.encode(text, add_special_tokens=False).ids)(request, index)

    executor.script = script
    return texts


def text_of(path: str, response: httpx.Response) -> str:
    if "stream" not in path:
        body = response.json()
        return str(body.get("generated_text") or body.get("text_output"))
    events: list[dict[str, Any]] = [json.loads(line[6:]) for line in response.text.split("\n\n") if line]
    return str(events[-1].get("generated_text") or "".join(event["text_output"] for event in events))


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_an_answer_that_fails_its_check_is_generated_again(
    client: httpx.AsyncClient, executor: ScriptedExecutor, attempts: list[str], path: str, body: dict[str, Any]
) -> None:
    response = await client.post(path, json=body)

    assert text_of(path, response) == GOOD
    assert len(executor.requests) == 2


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_what_fails_every_time_is_an_error(
    client: httpx.AsyncClient, executor: ScriptedExecutor, attempts: list[str], path: str, body: dict[str, Any]
) -> None:
    attempts.remove(GOOD)
    response = await client.post(path, json=body)

    assert len(executor.requests) == 8
    assert f'"{BAD}"' not in response.text
    if "stream" in path:
        assert "not valid against the schema" in json.loads(response.text.split("\n\n")[-2][6:])["error"]
    else:
        assert response.status_code in (422, 424)
        assert "not valid against the schema" in response.json()["error"]


@pytest.fixture
def refused_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_TRTLLM_GUIDANCE__CHECKED_STREAMS", "refuse")


async def test_streams_of_such_answers_can_be_refused_by_configuration(
    refused_streams: None, client: httpx.AsyncClient
) -> None:
    tgi = await client.post("/tgi/generate_stream", json=TGI)
    triton = await client.post(STREAM, json={**TRITON, "stream": True})

    assert (tgi.status_code, triton.status_code) == (422, 400)
    assert "no stream" in tgi.json()["error"]
    assert "no stream" in triton.json()["error"]
