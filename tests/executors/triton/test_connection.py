"""Servers that are not there, break, hang, are full, or want certificates."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from grpc import StatusCode

from guidance_core.config import Settings, TritonSettings
from guidance_core.errors import ExecutorUnavailable, GenerationFailed, QueueFull, RequestError
from guidance_core.executors.triton.connection import Connection
from guidance_core.executors.triton.executor import TritonExecutor
from guidance_core.generation import TokenDelta
from tests.executors.asking import answer, choices, make_request
from tests.executors.triton import repository
from tests.executors.triton.engine_process import Engine
from tests.executors.triton.fixtures import idle, in_state, started, until_failure
from tests.executors.triton.server import TritonServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = [(i * 37) % 250 + 2 for i in range(50)]
LONG = {"max_tokens": 450, "ignore_eos": True}


@pytest.fixture
def own_server(triton_engine: Engine, triton_server: TritonServer, tmp_path: Path) -> Iterator[TritonServer]:
    """A server that a test may hurt; not started."""
    repository.write_token_model(tmp_path / "models", engine="tiny")
    server = TritonServer(tmp_path / "models", environment={"ENGINE_PORT": str(triton_engine.port)})
    yield server
    server.kill()


async def begun(executor: TritonExecutor) -> asyncio.Task[list[TokenDelta]]:
    """A request that is being answered."""
    first = asyncio.Event()

    async def read() -> list[TokenDelta]:
        found = []
        async for delta in executor.generate(make_request(PROMPT, **LONG)):
            found.append(delta)
            first.set()
        return found

    task = asyncio.create_task(read())
    await first.wait()
    return task


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("nobody", "no model 'nobody', but .*ensemble.*set triton.model"),
        ("demanding", "asks for image, which"),
        ("in_one_piece", "decoupled_mode"),
        ("preprocessing", "those of no language model"),
    ],
)
async def test_a_model_that_cannot_be_used_ends_the_start_with_a_reason(
    tiny_llama: Path, triton_server: TritonServer, model: str, says: str
) -> None:
    with pytest.raises(ExecutorUnavailable, match=says):
        await started(tiny_llama, triton_server, model, start_timeout=0.3)


async def test_the_start_waits_for_the_server_but_not_for_ever(tiny_llama: Path, own_server: TritonServer) -> None:
    with pytest.raises(ExecutorUnavailable, match=r"cannot be reached.*triton\.start_timeout"):
        await started(tiny_llama, own_server, "tensorrt_llm", start_timeout=0.5)
    starting = asyncio.create_task(started(tiny_llama, own_server, "tensorrt_llm", longest_backoff=0.2))
    await asyncio.sleep(0.3)
    assert not starting.done()
    await asyncio.to_thread(own_server.start)
    executor = await starting
    assert (await answer(executor, PROMPT)).finish_reason is not None
    await executor.shutdown()


async def test_a_server_killed_in_mid_stream_is_answered_for_and_found_again(
    tiny_llama: Path, own_server: TritonServer
) -> None:
    await asyncio.to_thread(own_server.start)
    executor = await started(tiny_llama, own_server, "tensorrt_llm", longest_backoff=0.3)
    try:
        expected = await answer(executor, PROMPT)
        running = [await begun(executor) for _ in range(2)]
        await asyncio.to_thread(own_server.kill)
        for failure in await asyncio.gather(*running, return_exceptions=True):
            assert isinstance(failure, ExecutorUnavailable)
            assert failure.retry_after is not None
        await in_state(executor, "restarting")
        with pytest.raises(ExecutorUnavailable, match="cannot be reached") as refusal:
            executor.check(make_request(PROMPT))
        assert refusal.value.retry_after is not None
        await asyncio.to_thread(own_server.start)
        await in_state(executor, "ready")
        assert (await answer(executor, PROMPT)).token_ids == expected.token_ids
        assert executor.stats().restarts == 1
    finally:
        await executor.shutdown()


async def test_a_server_that_is_gone_is_noticed_without_requests(tiny_llama: Path, own_server: TritonServer) -> None:
    await asyncio.to_thread(own_server.start)
    executor = await started(tiny_llama, own_server, "tensorrt_llm", probe_interval=0.05)
    try:
        await asyncio.to_thread(own_server.kill)
        await in_state(executor, "restarting")
    finally:
        await executor.shutdown()
    assert executor.health().state == "stopped"


async def test_an_answer_that_does_not_get_on_is_given_up(tiny_llama: Path, own_server: TritonServer) -> None:
    await asyncio.to_thread(own_server.start)
    executor = await started(tiny_llama, own_server, "tensorrt_llm", response_timeout=0.5)
    try:
        running = await begun(executor)
        own_server.freeze()
        with pytest.raises(GenerationFailed, match=r"nothing for 0\.5 s \(triton\.response_timeout\)"):
            await running
        own_server.thaw()
        assert (await answer(executor, PROMPT)).finish_reason is not None
    finally:
        own_server.thaw()
        await executor.shutdown()


async def test_an_answer_that_takes_too_long_is_ended_there_too(
    tiny_llama: Path, triton_server: TritonServer, triton_engine: Engine
) -> None:
    executor = await started(tiny_llama, triton_server, "tiny", request_timeout=0.15)
    try:
        with pytest.raises(GenerationFailed, match=r"within 0\.15 s \(triton\.request_timeout\)"):
            await choices(executor, make_request(PROMPT, n=4, temperature=1.0, **LONG))
        await idle(triton_engine, "tiny")
    finally:
        await executor.shutdown()


async def test_a_failure_of_the_model_is_its_own_requests_only(tiny_llama: Path, triton_server: TritonServer) -> None:
    breaking = await started(tiny_llama, triton_server, "breaking")
    try:
        shown, failure = await until_failure(breaking, make_request(PROMPT, **LONG))
        assert isinstance(failure, GenerationFailed)
        assert "the engine broke down" in failure.message
        assert len(shown) == 3
        assert breaking.health().state == "ready"
        assert len((await answer(breaking, PROMPT, max_tokens=2, ignore_eos=True)).token_ids) == 2
    finally:
        await breaking.shutdown()


async def test_a_full_queue_on_the_server_is_said_to_be_full(tiny_llama: Path, triton_server: TritonServer) -> None:
    busy = await started(tiny_llama, triton_server, "busy", max_concurrency=8)
    try:
        ends = await asyncio.gather(
            *(answer(busy, PROMPT, max_tokens=3, ignore_eos=True) for _ in range(8)), return_exceptions=True
        )
        refused = [end for end in ends if isinstance(end, QueueFull)]
        assert refused
        assert all(end.retry_after is not None for end in refused)
        answered = [end for end in ends if not isinstance(end, BaseException)]
        assert len(answered) + len(refused) == 8
        assert answered
        assert busy.health().state == "ready"
    finally:
        await busy.shutdown()


@pytest.mark.parametrize(
    ("code", "details", "error"),
    [
        (StatusCode.UNAVAILABLE, "Request for x: Exceeds maximum queue size", QueueFull),
        (StatusCode.INTERNAL, "Maximum queue size of 2 has been reached, please try again later", QueueFull),
        (StatusCode.UNAVAILABLE, "Socket closed", ExecutorUnavailable),
        (StatusCode.INTERNAL, "Assertion failed\nAt:\n  /models/model.py(3): execute", GenerationFailed),
        (StatusCode.CANCELLED, "", GenerationFailed),
    ],
)
async def test_each_failure_is_told_as_what_it_is(code: StatusCode, details: str, error: type[RequestError]) -> None:
    connection = Connection(TritonSettings())
    try:
        failure = connection.failure(details, code)
    finally:
        await connection.close()
    assert type(failure) is error
    assert "model.py" not in failure.message, "the server's own code is none of the client's business"


async def test_shutting_down_fails_what_is_in_flight_and_stops_the_work(
    tiny_llama: Path, triton_server: TritonServer, triton_engine: Engine
) -> None:
    executor = await started(tiny_llama, triton_server, "tiny")
    running = await begun(executor)
    await executor.shutdown()
    await executor.shutdown()
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await running
    with pytest.raises(ExecutorUnavailable):
        executor.check(make_request(PROMPT))
    await idle(triton_engine, "tiny")


async def test_a_start_that_a_shutdown_overtakes_does_not_get_ready(
    tiny_llama: Path, triton_server: TritonServer
) -> None:
    settings = TritonSettings(url=triton_server.url, model="tiny")
    executor = TritonExecutor(tiny_llama, Settings(executor="triton", triton=settings))
    starting = asyncio.create_task(executor.start())
    await asyncio.sleep(0)
    assert executor._connection is None, "it reads the tokenizer first"
    await executor.shutdown()
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await starting
    assert executor.health().state == "stopped"
    assert not executor._tasks


async def test_shutting_down_ends_a_start_that_waits(tiny_llama: Path, own_server: TritonServer) -> None:
    section = {"url": own_server.url, "longest_backoff": 0.1}
    executor = TritonExecutor(tiny_llama, Settings.model_validate({"executor": "triton", "triton": section}))
    starting = asyncio.create_task(executor.start())
    await asyncio.sleep(0.4)
    assert executor.health().state == "starting"
    assert "cannot be reached" in executor.health().detail
    await executor.shutdown()
    with pytest.raises(ExecutorUnavailable, match="shutting down"):
        await starting
    assert executor.health().state == "stopped"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate authority, and a server's and a client's certificate of it."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not installed.")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "rsa:2048", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Test authority")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    for name in ("server", "client"):
        openssl("req", *key[:3], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


@pytest_asyncio.fixture(loop_scope="module")
async def secure_server(
    triton_engine: Engine, triton_server: TritonServer, certificates: Path, tmp_path: Path
) -> AsyncIterator[TritonServer]:
    """A server that talks to clients with a certificate only."""
    repository.write_token_model(tmp_path / "models", engine="tiny")
    arguments = [
        "--grpc-use-ssl=true",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={certificates / 'server.pem'}",
        f"--grpc-server-key={certificates / 'server.key'}",
        f"--grpc-root-cert={certificates / 'ca.pem'}",
    ]
    environment = {"ENGINE_PORT": str(triton_engine.port)}
    server = TritonServer(tmp_path / "models", environment=environment, arguments=arguments)
    await asyncio.to_thread(server.start)
    yield server
    server.kill()


async def test_certificates_are_checked_and_shown(
    tiny_llama: Path, secure_server: TritonServer, certificates: Path
) -> None:
    ours = {
        "tls": True,
        "tls_root_certificates": str(certificates / "ca.pem"),
        "tls_client_certificate": str(certificates / "client.pem"),
        "tls_client_key": str(certificates / "client.key"),
    }
    executor = await started(tiny_llama, secure_server, "tensorrt_llm", **ours)
    assert (await answer(executor, PROMPT)).finish_reason is not None
    await executor.shutdown()
    for missing in ("tls_root_certificates", "tls_client_certificate"):
        fewer = {**ours, missing: None}
        if missing == "tls_client_certificate":
            fewer["tls_client_key"] = None
        with pytest.raises(ExecutorUnavailable, match="cannot be reached"):
            await started(tiny_llama, secure_server, "tensorrt_llm", start_timeout=0.3, **fewer)
    with pytest.raises(ExecutorUnavailable, match=r"nowhere\.pem, a certificate.*No such file"):
        await started(tiny_llama, secure_server, "tensorrt_llm", **{**ours, "tls_root_certificates": "/nowhere.pem"})
