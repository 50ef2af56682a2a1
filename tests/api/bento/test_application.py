"""What the application answers around the dialects: probes, lookups, errors of routing, metrics, documents."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import bentoml
import httpx
import pytest
from bentoml._internal.container import BentoMLContainer
from bentoml._internal.server.metrics.prometheus import PrometheusClient

from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.config import Settings
from guidance_core.executors.base import Health
from guidance_core.model_store import ModelNotInStore
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
PROBES = ["/readyz", "/v1/health/ready", "/health", "/health_check"]


async def test_models_lists_the_one_that_is_served(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    one = await client.get(f"/v1/models/{MODEL}")

    assert (await client.get("/v1/models/")).json() == listed
    assert listed["object"] == "list"
    assert listed["data"] == [one.json()]
    assert one.json()["id"] == MODEL
    assert one.json().keys() == {"id", "object", "created", "owned_by", "executor"}
    assert one.json()["executor"] == {"name": "torch"}


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/models/gpt-4", 404, "model_not_found"),
        ("GET", "/v1/model", 404, "unknown_url"),
        ("POST", "/v1/embeddings", 404, "unknown_url"),
        ("GET", "/v1/chat/completions", 405, None),
        ("POST", "/v1/models", 405, None),
    ],
)
async def test_wrong_addresses_get_openais_error_object(
    client: httpx.AsyncClient, method: str, path: str, status: int, code: str | None
) -> None:
    response = await client.request(method, path)

    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_another_model_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={**CHAT, "model": "gpt-4"} if "chat" in path else {
        "model": "gpt-4", "prompt": "Hi"
    })  # fmt: skip

    assert response.status_code == 404
    assert response.json()["error"]["param"] == "model"


async def test_a_full_queue_is_a_429_that_says_when_to_come_back(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.full = True
    response = await client.post("/v1/chat/completions", json={**CHAT, "stream": True})

    assert response.status_code == 429
    assert response.headers["retry-after"] == "2"
    assert response.json()["error"]["type"] == "rate_limit_error"


@pytest.fixture
def small_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GUIDED_TRTLLM_SERVER__MAX_BODY_BYTES", "1000")


async def test_a_body_that_is_too_large_is_refused_whether_its_length_is_declared_or_not(
    small_bodies: None, client: httpx.AsyncClient
) -> None:

    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 100

    for content in (b" " * 1001, chunks()):
        response = await client.post("/v1/completions", content=content)
        assert response.status_code == 413
        assert response.json()["error"]["code"] == "request_too_large"


async def test_each_dialect_refuses_a_body_that_is_too_large_in_its_own_shape(
    small_bodies: None, client: httpx.AsyncClient
) -> None:
    tokenize = await client.post("/tokenize", content=b" " * 1001)
    tgi = await client.post("/tgi/generate", content=b" " * 1001)
    triton = await client.post(f"/v2/models/{MODEL}/generate", content=b" " * 1001)
    run = await client.post("/v1/run", content=b" " * 1001)

    assert (tokenize.status_code, tokenize.json()["error"]["code"]) == (413, "request_too_large")
    assert (tgi.status_code, tgi.json()["error_type"]) == (422, "validation")
    assert (triton.status_code, triton.json().keys()) == (413, {"error"})
    assert (run.status_code, run.json().keys()) == (413, {"error"})


async def test_an_unexpected_error_is_a_500_that_tells_nothing_about_the_inside(
    client: httpx.AsyncClient, executor: ScriptedExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    executor.script = lambda request, index: [KeyError("secret")]
    response = await client.post("/v1/chat/completions", json=CHAT)

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "secret" in caplog.text


async def test_pickles_are_refused_in_openais_shape(client: httpx.AsyncClient) -> None:
    headers = {"content-type": "application/vnd.bentoml+pickle"}
    response = await client.post("/v1/completions", content=b"x", headers=headers)

    assert response.status_code == 415
    assert "pickle" in response.json()["error"]["message"]


async def test_a_ready_model_passes_every_probe(client: httpx.AsyncClient) -> None:
    for path in ("/livez", "/healthz", "/v1/health/live", "/v1/health/model", *PROBES):
        assert (await client.get(path)).status_code == 200, path


async def test_while_the_executor_restarts_the_service_is_alive_but_not_ready(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    executor.state = Health("restarting", "The executor's process died and is being started again.")

    for path in PROBES:
        assert (await client.get(path)).status_code == 503
    assert (await client.get("/livez")).status_code == 200
    assert (await client.get("/v1/health/live")).json()["status"] == "restarting"


async def test_the_health_of_the_model_has_the_executors_numbers(
    client: httpx.AsyncClient, executor: ScriptedExecutor
) -> None:
    body = (await client.get("/v1/health/model")).json()

    assert body["status"] == "ready"
    assert (body["executor"]["slots"], body["executor"]["steps"]) == (8, 41)


class TestLoading:
    """Before the model is there, and when it never will be."""

    @pytest.fixture
    async def loading(self) -> asyncio.Future[LoadedModel]:
        return asyncio.get_running_loop().create_future()

    @pytest.fixture
    async def client(self, monkeypatch: pytest.MonkeyPatch, loading: asyncio.Future[LoadedModel]) -> Any:
        import service

        async def load(settings: Settings) -> LoadedModel:
            return await loading

        monkeypatch.setattr(service, "ServedModel", lambda settings: ServedModel(settings, load))
        app = service.GuidedLLM.to_asgi()
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            yield client

    async def test_requests_are_told_to_come_back(self, client: httpx.AsyncClient) -> None:
        response = await client.post("/v1/chat/completions", json=CHAT)

        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert response.json()["error"]["code"] == "engine_unavailable"

    async def test_the_service_is_alive_but_not_ready_until_the_model_has_come(
        self, client: httpx.AsyncClient, loading: asyncio.Future[LoadedModel], loaded: LoadedModel
    ) -> None:
        assert [(await client.get(path)).status_code for path in ("/livez", *PROBES)] == [200, *[503] * len(PROBES)]
        loading.set_result(loaded)
        await asyncio.sleep(0)
        assert [(await client.get(path)).status_code for path in ("/livez", *PROBES)] == [200] * (1 + len(PROBES))

    async def test_a_model_that_cannot_be_loaded_makes_the_service_dead_with_the_reason(
        self, client: httpx.AsyncClient, loading: asyncio.Future[LoadedModel]
    ) -> None:
        loading.set_exception(ModelNotInStore("No model 'x' in the store."))
        await asyncio.sleep(0)

        assert (await client.get("/livez")).status_code == 503
        assert "No model 'x'" in (await client.get("/v1/health/live")).json()["message"]
        response = await client.post("/v1/chat/completions", json=CHAT)
        assert response.status_code == 503
        assert "retry-after" not in response.headers


@pytest.fixture
def metrics_of_one_process() -> Iterator[None]:
    """As `bentoml serve` has them in a folder that it makes; here there is none."""
    BentoMLContainer.metrics_client.set(PrometheusClient(multiproc=False))
    yield
    BentoMLContainer.metrics_client.reset()


@pytest.mark.usefixtures("metrics_of_one_process")
async def test_metrics_count_requests_by_route_and_show_the_executors_state(
    client: httpx.AsyncClient, hello: str
) -> None:
    await client.post("/v1/chat/completions", json={**CHAT, "guided_regex": "a"})
    await client.get("/some/path/nobody/has")
    text = (await client.get("/metrics")).text

    assert 'guided_http_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert 'guided_http_requests_total{route="other",status="404"}' in text
    assert "nobody" not in text
    assert 'guided_executor_state{state="ready"} 1.0' in text
    assert "guided_executor_slots 8.0" in text
    assert "guided_executor_grammar_misses_total 2.0" in text
    assert "guided_time_to_first_token_seconds_bucket" in text
    assert 'guided_grammar_compile_seconds_count{kind="regex"}' in text


async def test_the_schema_tells_bentomls_clients_that_generate_is_a_stream(client: httpx.AsyncClient) -> None:
    routes = {route["name"]: route for route in (await client.get("/schema.json")).json()["routes"]}

    assert routes["generate"]["output"]["is_stream"] is True
    assert list(routes["generate"]["input"]["properties"]) == ["prompt", "system_prompt", "max_tokens"]


async def test_generate_streams_plain_text(client: httpx.AsyncClient, executor: ScriptedExecutor, hello: str) -> None:
    response = await client.post("/generate", json={"prompt": "Hi", "system_prompt": "Be nice.", "max_tokens": 9})

    assert response.text == hello
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert executor.requests[0].sampling.max_tokens == 9


@pytest.mark.parametrize(
    ("body", "param"),
    [({}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": "Hi", "max_tokens": 0}, "max_tokens"),
     ({"prompt": "Hi", "temperature": 0}, "temperature"), ({"prompt": "Hi", "max_tokens": 5000}, "max_tokens")],
)  # fmt: skip
async def test_generate_refuses_in_openais_shape(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post("/generate", json=body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


def test_the_installed_bentoml_is_one_whose_hooks_were_looked_at() -> None:
    assert bentoml.__version__.startswith("1.4.")
