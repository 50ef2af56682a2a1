"""Contender: the whole service, over HTTP, as a client sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp

from benchmarks.streams import Stream
from benchmarks.workload import response_format

READY_SECONDS = 300.0
ROOT = Path(__file__).parent.parent


class Served:
    """A running server and a client of it."""

    name = "served"

    def __init__(self, session: aiohttp.ClientSession, model: str) -> None:
        """Talk to the server that ``session`` has as its base, which serves ``model``."""
        self.session = session
        self._model = model

    async def run(self, prompts: list[list[int]], max_tokens: int, *, constrained: bool) -> list[Stream]:
        """Stream an answer of ``max_tokens`` to each prompt (token ids), all at once."""
        return list(await asyncio.gather(*(self._stream(prompt, max_tokens, constrained) for prompt in prompts)))

    async def _stream(self, prompt: list[int], max_tokens: int, constrained: bool) -> Stream:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if constrained:
            body["response_format"] = response_format()
        stream = Stream(perf_counter())
        tokens = 0
        async with self.session.post("/v1/completions", json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"The server answered {response.status}: {await response.text()}")
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                arrival = perf_counter()
                event = json.loads(line[6:])
                if "error" in event:
                    raise RuntimeError(f"The server ended a stream with {event['error']}")
                if event.get("usage"):
                    tokens = event["usage"]["completion_tokens"]
                if event["choices"] and event["choices"][0]["text"]:
                    stream.add(arrival, 1)
        # A chunk may hold several tokens; the usage at the end says how many there were in all.
        stream.pieces[-1] += tokens - len(stream.pieces)
        return stream


@asynccontextmanager
async def serve(model: str, environment: dict[str, str], service: str = ".") -> AsyncIterator[Served]:
    """Start ``bentoml serve`` on a free port, wait until it is ready, and stop it at the end.

    Args:
        model: the name under which it serves the model.
        environment: its settings, besides this process's own environment.
        service: what is served.

    Raises:
        RuntimeError: it ended or was not ready in time; the message names its log.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = ROOT / "benchmarks" / "out" / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port)),
            cwd=ROOT,
            env={**os.environ, "BENTOML_DO_NOT_TRACK": "True", **environment},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        timeout = aiohttp.ClientTimeout(total=None, sock_read=READY_SECONDS)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=timeout, connector=connector) as session:
            await _wait_until_ready(session, process, log)
            yield Served(session, model)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), 20)
            except asyncio.TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)


async def _wait_until_ready(session: aiohttp.ClientSession, process: Process, log: Path) -> None:
    deadline = perf_counter() + READY_SECONDS
    while perf_counter() < deadline and process.returncode is None:
        try:
            async with session.get("/readyz", timeout=aiohttp.ClientTimeout(total=5)) as response:
                if response.status == 200:
                    return
        except (aiohttp.ClientError, asyncio.TimeoutError):
            pass
        await asyncio.sleep(0.2)
    state = "ended" if process.returncode is not None else f"was not ready after {READY_SECONDS:.0f} s"
    raise RuntimeError(f"The server {state}; {log} says why.")
