"""What one service process carries: ``python -m benchmarks.wire``.

The real service with an executor that answers at once (`benchmarks.wire_service`), asked over HTTP. CPU time is that of
the server's processes: unlike the rates, it does not depend on how much the client next to it takes.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import aiohttp
import psutil

from benchmarks.served import serve

MODEL = "smollm2-135m-instruct"
PROMPT = "Tell me about the sea. " * 16
"""About 100 tokens."""


@dataclass(frozen=True, slots=True)
class Load:
    """What the server did in one run.

    Attributes:
        count: requests or streamed tokens.
        seconds: from the first question to the last answer.
        cpu_seconds: of the server's processes.
    """

    count: int
    seconds: float
    cpu_seconds: float

    def row(self, what: str, clients: int) -> str:
        """A row of the table."""
        return (
            f"| {what} | {clients} | {self.count / self.seconds:,.0f} | {1e6 * self.cpu_seconds / self.count:,.0f} µs |"
        )


async def measure_requests(session: aiohttp.ClientSession, clients: int, rounds: int) -> Load:
    """Chats of one token, answered as JSON: ``clients`` at a time, ``rounds`` each."""

    async def ask() -> None:
        for _ in range(rounds):
            async with session.post("/v1/chat/completions", json=_body(1, stream=False)) as response:
                response.raise_for_status()
                await response.read()

    return await _measure(clients * rounds, [ask() for _ in range(clients)])


async def measure_events(session: aiohttp.ClientSession, clients: int, tokens: int) -> Load:
    """Streamed chats of ``tokens`` tokens, ``clients`` at once."""

    async def ask() -> None:
        events = 0
        async with session.post("/v1/chat/completions", json=_body(tokens, stream=True)) as response:
            response.raise_for_status()
            async for chunk in response.content.iter_any():
                events += chunk.count(b"data: {")
        if events < tokens:
            raise RuntimeError(f"{tokens} tokens came in {events} events: they are not streamed one by one.")

    return await _measure(clients * tokens, [ask() for _ in range(clients)])


def _body(tokens: int, *, stream: bool) -> dict[str, Any]:
    messages = [{"role": "user", "content": PROMPT}]
    return {"model": MODEL, "messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": stream}


async def _measure(count: int, work: list[Any]) -> Load:
    started, cpu = perf_counter(), _cpu_seconds()
    await asyncio.gather(*work)
    return Load(count, perf_counter() - started, _cpu_seconds() - cpu)


def _cpu_seconds() -> float:
    """CPU time of all child processes so far: of the server."""
    times = [process.cpu_times() for process in psutil.Process().children(recursive=True)]
    return float(sum(time.user + time.system for time in times))


async def run(*, quick: bool) -> list[str]:
    """Measure; the rows of the table."""
    rounds, tokens = (3, 64) if quick else (60, 1024)
    async with serve(MODEL, {}, "benchmarks.wire_service:GuidedLLM") as served:
        session = served.session
        await measure_requests(session, 8, rounds)
        rows = [(await measure_requests(session, clients, rounds)).row("requests", clients) for clients in (1, 32)]
        rows += [
            (await measure_events(session, clients, tokens)).row("streamed tokens", clients) for clients in (1, 32, 256)
        ]
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figures to rely on")
    options = parser.parse_args()
    print("| what | at once | per second | CPU time each |\n|---|---|---|---|")
    print("\n".join(asyncio.run(run(quick=options.quick))))


if __name__ == "__main__":
    main()
