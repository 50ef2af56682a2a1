"""API keys: who needs one, what those without get, and keys that change while the service runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, AuthenticationError
from starlette.applications import Starlette

from guidance_core.api.bento.authentication import OPEN
from guidance_core.config import BadSettings
from tests.api.conftest import MODEL

KEY = "sk-one.two~3"
CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def bearer(key: str, scheme: str = "Bearer") -> dict[str, str]:
    return {"authorization": f"{scheme} {key}"}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_TRTLLM_SERVER__API_KEYS", f"another, {KEY}")


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"# of the batch jobs\n{KEY}\n\n  other=  \n")
    monkeypatch.setenv("GUIDED_TRTLLM_SERVER__API_KEY_FILE", str(file))
    return file


def rewrite(file: Path, content: str | None) -> None:
    """Put another file in its place, or none."""
    if content is None:
        file.unlink()
    else:
        replacement = file.with_suffix(".new")
        replacement.write_text(content)
        os.replace(replacement, file)


async def status_of(client: httpx.AsyncClient, key: str) -> int:
    return (await client.get("/v1/models", headers=bearer(key))).status_code


async def test_openais_client_is_answered_with_a_key_and_refused_without(
    keys: None, client: httpx.AsyncClient, hello: str
) -> None:
    def openai(key: str) -> AsyncOpenAI:
        return AsyncOpenAI(base_url="http://test/v1", api_key=key, http_client=client, max_retries=0)

    for key in (KEY, "another"):
        answer = await openai(key).chat.completions.create(**CHAT)
        assert answer.choices[0].message.content == hello
    with pytest.raises(AuthenticationError) as refusal:
        await openai("sk-one").chat.completions.create(**CHAT)
    assert refusal.value.code == "invalid_api_key"
    assert "sk-one" not in str(refusal.value)


@pytest.mark.parametrize("sent", [{}, bearer(""), bearer(KEY, "Basic"), {"authorization": KEY}, {"x-api-key": KEY}])
async def test_who_sends_none_is_told_how(keys: None, client: httpx.AsyncClient, sent: dict[str, str]) -> None:
    response = await client.post("/v1/completions", json={"model": MODEL, "prompt": "Hi"}, headers=sent)

    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    if sent != bearer(""):
        assert "'Authorization: Bearer <key>'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "key", [f"{KEY}x", KEY[:-1], KEY.upper(), "Bearer " + KEY, "ключ", "\udcff", f"another, {KEY}"]
)
async def test_only_the_key_itself_is_good(keys: None, client: httpx.AsyncClient, key: str) -> None:
    sent = {b"authorization": b"Bearer " + key.encode("utf-8", "surrogateescape")}
    assert (await client.get("/v1/models", headers=sent)).status_code == 401


async def test_the_name_of_the_scheme_may_be_written_in_any_case(keys: None, client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/models", headers=bearer(KEY, "bearer"))).status_code == 200


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", {"error"}),
        ("/v1/run", {"error"}),
        ("/tgi/generate", {"error", "error_type"}),
        ("/v2/models/ensemble/generate", {"error"}),
        ("/v2/nothing", {"error"}),
        ("/nothing", {"error"}),
    ],
)
async def test_each_dialect_refuses_in_its_own_shape(
    keys: None, client: httpx.AsyncClient, path: str, shape: set[str]
) -> None:
    response = await client.post(path, json={})
    known = await client.post(path, json={}, headers=bearer(KEY))

    assert response.status_code == 401
    assert set(response.json()) == shape
    assert type(response.json()["error"]) is type(known.json()["error"])
    assert known.status_code not in (200, 401)


async def test_every_route_but_probes_metrics_and_documents_needs_a_key(
    keys: None, client: httpx.AsyncClient, app: Starlette
) -> None:
    import service

    document = service.GuidedLLM.openapi_spec.asdict()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            response = await client.request(method, path.replace("{model}", MODEL))
            assert (response.status_code == 401) == (path not in OPEN), path
            assert (operation.get("security") == []) == (path in OPEN), path
            if path not in OPEN:
                assert {"401", "default"} & operation["responses"].keys(), path
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"]["key"] == {"type": "http", "scheme": "bearer"}
    for path in OPEN:
        assert (await client.get(path)).status_code != 401, path
    page = await client.get("/")
    assert "/static_content/" in page.text
    assert (await client.get("/static_content/swagger-ui.css")).status_code == 200
    for path in ("//v1/models", "/static_content/../v1/models", "/v1/models/", "/HEALTHZ", "/healthz/x"):
        assert (await client.get(path)).status_code in (401, 404), path


async def test_without_keys_anybody_may_ask(client: httpx.AsyncClient) -> None:
    import service

    assert (await client.get("/v1/models")).status_code == 200
    assert await status_of(client, "whatever") == 200
    document = service.GuidedLLM.openapi_spec.asdict()
    assert "security" not in document
    assert "securitySchemes" not in document["components"]


async def test_a_file_of_keys_is_read_again_when_it_changes(
    key_file: Path, keys: None, client: httpx.AsyncClient
) -> None:
    assert [await status_of(client, key) for key in (KEY, "other=", "another", "#", "third")] == [
        200, 200, 200, 401, 401,
    ]  # fmt: skip
    rewrite(key_file, "third\n")
    assert [await status_of(client, key) for key in ("third", "other=", "another", KEY)] == [200, 401, 200, 200]


@pytest.mark.parametrize("content", ["", "# none\n", "a key with blanks\n", None])
async def test_a_file_that_goes_bad_leaves_the_keys_it_had(
    key_file: Path, client: httpx.AsyncClient, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR", "guidance_core")
    rewrite(key_file, content)
    assert [await status_of(client, key) for key in (KEY, "other=", "#", "third")] == [200, 200, 401, 401]
    [record] = caplog.records
    assert "go on being good" in record.getMessage()
    assert "blanks" not in record.getMessage()


@pytest.mark.parametrize(("content", "complaint"), [("", "holds no key"), ("a b\n", "consists of"), (None, "No such")])
def test_a_file_without_keys_is_refused_at_the_start(key_file: Path, content: str | None, complaint: str) -> None:
    import service

    rewrite(key_file, content)
    with pytest.raises(BadSettings, match=rf"keys: .*{complaint}.*server\.api_key_file"):
        service.GuidedLLM.to_asgi()
