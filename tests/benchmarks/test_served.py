from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from benchmarks.served import Served


def event(text: str = "", usage: int | None = None) -> dict[str, Any]:
    return {
        "choices": [] if usage is not None else [{"text": text}],
        "usage": None if usage is None else {"completion_tokens": usage},
    }


async def stream_of(events: list[dict[str, Any]], *, status: int = 200, constrained: bool = False) -> tuple[Any, Any]:
    """What the client makes of a server that streams ``events``, and what it asked."""
    asked: dict[str, Any] = {}

    async def complete(request: web.Request) -> web.StreamResponse:
        asked.update(await request.json())
        if status != 200:
            return web.Response(status=status, text="no such field")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for content in events:
            await response.write(f"data: {json.dumps(content)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    async with TestServer(app) as server, ClientSession(server.make_url("/")) as session:
        streams = await Served(session, "tiny").run([[1, 2, 3]], 4, constrained=constrained)
    return streams, asked


async def test_chunks_are_arrivals_and_usage_says_how_many_tokens_they_were() -> None:
    (stream,), asked = await stream_of([event("a"), event("bcd"), event(""), event(usage=4)])
    assert len(stream.arrivals) == 2
    assert sum(stream.pieces) == 4
    assert stream.started < stream.arrivals[0] <= stream.arrivals[1]
    assert asked["model"] == "tiny"
    assert asked["prompt"] == [1, 2, 3]
    assert asked["max_tokens"] == 4
    assert asked["ignore_eos"] is True
    assert "response_format" not in asked


async def test_a_constrained_question_names_the_schema() -> None:
    _, asked = await stream_of([event("["), event(usage=1)], constrained=True)
    assert asked["response_format"]["json_schema"]["schema"]["type"] == "array"


async def test_an_error_of_the_server_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="400: no such field"):
        await stream_of([], status=400)
    with pytest.raises(RuntimeError, match="engine died"):
        await stream_of([event("a"), {"error": {"message": "engine died"}}])
