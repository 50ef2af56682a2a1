"""A client that goes away frees its slot, at whatever moment it goes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette

from guidance_core.api.streaming import started
from tests.api.conftest import MODEL
from tests.api.scripted_executor import ScriptedExecutor

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
COMPLETIONS: dict[str, Any] = {"model": MODEL, "prompt": ["a", "b"]}
TRITON: dict[str, Any] = {"text_input": "Hi", "max_tokens": 16}
RUN: dict[str, Any] = {
    "controller": "llguidance",
    "controller_arg": {"grammar": {"grammars": [{"lark_grammar": "start: /[A-Za-z ,!]*/"}]}},
}


class Connection:
    """One HTTP request as uvicorn presents it, which the test ends when it likes."""

    def __init__(self, app: Starlette, path: str, body: dict[str, Any]) -> None:
        self.sent: list[dict[str, Any]] = []
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._inbox.put_nowait({"type": "http.request", "body": json.dumps(body).encode(), "more_body": False})
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1",
            "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
            "root_path": "", "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "state": {},
        }  # fmt: skip
        self.task = asyncio.ensure_future(app(scope, self._inbox.get, self._send))

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def go_away(self) -> None:
        self._inbox.put_nowait({"type": "http.disconnect"})


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.001)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/completions", COMPLETIONS),
        ("/v1/completions", {**COMPLETIONS, "stream": True}),
        ("/generate", {"prompt": "Hi"}),
        ("/tgi/generate", {"inputs": "Hi"}),
        ("/tgi/generate_stream", {"inputs": "Hi"}),
        (f"/v2/models/{MODEL}/generate", TRITON),
        (f"/v2/models/{MODEL}/generate_stream", {**TRITON, "stream": True}),
        ("/v1/run", RUN),
    ],
)
async def test_before_the_first_token(
    app: Starlette, executor: ScriptedExecutor, path: str, body: dict[str, Any]
) -> None:
    executor.pause_at = 0
    connection = Connection(app, path, body)
    await until(lambda: executor.running)

    connection.go_away()
    await connection.task

    assert not executor.running
    assert [message["status"] for message in connection.sent if "status" in message] == [499]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/completions", {**COMPLETIONS, "stream": True}),
        ("/generate", {"prompt": "Hi"}),
        ("/tgi/generate_stream", {"inputs": "Hi"}),
        (f"/v2/models/{MODEL}/generate_stream", {**TRITON, "stream": True}),
        ("/v1/run", RUN),
    ],
)
async def test_in_mid_stream(
    app: Starlette, executor: ScriptedExecutor, hello: str, path: str, body: dict[str, Any]
) -> None:
    executor.pause_at = 2
    connection = Connection(app, path, body)
    await until(lambda: any(message.get("body") for message in connection.sent))
    assert executor.running

    connection.go_away()
    await connection.task

    assert not executor.running


async def test_a_stream_that_nobody_starts_to_read_is_closed_when_its_start_is_cancelled() -> None:
    closed = asyncio.Event()

    async def items() -> Any:
        try:
            await asyncio.sleep(60)
            yield 1
        finally:
            closed.set()

    task = asyncio.create_task(started(items()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed.is_set()
