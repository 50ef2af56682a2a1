"""Web pages of other origins, under BentoML's own setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from simple_di import sentinel

from tests.api.conftest import MODEL

SETTING = Path(__file__).parents[3] / "deploy" / "cors.yaml"
OURS = {"origin": "https://app.example.com"}
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PATHS = ["/v1/chat/completions", "/v1/responses", "/v1/run", "/tgi/generate", "/v2/models/ensemble/generate_stream"]


@pytest.fixture(autouse=True)
def setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENTOML_CONFIG", str(SETTING))
    # Read once per process otherwise.
    monkeypatch.setattr(BentoMLContainer.access_control_options, "_cache", sentinel)


@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_may_ask_from_a_page_of_ours(client: httpx.AsyncClient, path: str) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "content-type,x-stainless-lang"}
    response = await client.options(path, headers={**OURS, **asks})

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == OURS["origin"]
    assert "POST" in response.headers["access-control-allow-methods"]
    assert "x-stainless-lang" in response.headers["access-control-allow-headers"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_of_ours_reads_answers(client: httpx.AsyncClient, hello: str, stream: bool) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": stream}, headers=OURS)

    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == OURS["origin"]
    assert "x-request-id" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tgi/generate", "/v1/nothing", "/v2/nothing"])
async def test_a_page_of_ours_reads_what_is_wrong(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={}, headers=OURS)

    assert response.status_code >= 400
    assert response.headers["access-control-allow-origin"] == OURS["origin"]


async def test_other_pages_read_nothing(client: httpx.AsyncClient) -> None:
    other = {"origin": "https://other.example.com"}
    asked = await client.options("/v1/models", headers={**other, "access-control-request-method": "GET"})
    answered = await client.get("/v1/models", headers=other)

    assert asked.status_code == 400
    assert "access-control-allow-origin" not in {**asked.headers, **answered.headers}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_TRTLLM_SERVER__API_KEYS", "one")


async def test_a_page_of_ours_asks_without_a_key_whether_it_may_ask_and_reads_that_it_needs_one(
    keys: None, client: httpx.AsyncClient
) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    asked = await client.options("/v1/chat/completions", headers={**OURS, **asks})
    refused = await client.post("/v1/chat/completions", json=CHAT, headers=OURS)

    assert asked.status_code == 200
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == OURS["origin"]
