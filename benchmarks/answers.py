"""`python -m benchmarks.answers`: what an answer costs the service's process, from the executor's report to the wire.

The real service under the web server that BentoML runs, in this process, with an executor's process that only replays
(`benchmarks.replay`), a token for each choice every 10 ms; the client is another process. Each case is asked twice:
once for the CPU time of this process, and once with a heartbeat in its event loop. The longest time that it did not
beat is how long nobody else was served.

A token counts once, however many likely ones come with it. ``--digests`` prints what was answered, without what is new
in every answer: equal digests before and after a change mean that not a byte has changed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import hashlib
import http.client
import json
import multiprocessing
import re
import socket
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import uvicorn

from benchmarks import workload
from benchmarks.replay import ReplayedProcess, recorded
from guidance_core.executors.torch import executor as torch_executor
from guidance_core.generation import SamplingParams

MODEL = "smollm2-135m-instruct"
TOP_LOGPROBS = 20
_BEAT = 0.001
_PROMPT = "Tell me about the sea."
_FRESH = re.compile(
    rb'"(?:id|item_id)":"[a-z]+[-_][0-9a-f]{32}"|"(?:created|created_at)":\d+|"seed":\d+|"system_fingerprint":"\w+"'
)
"""What is new in every answer."""


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of question.

    Attributes:
        dialect: ``chat``, ``completions``, ``responses`` or ``tgi``.
        streamed: the answer is.
        n: choices of each request.
        logprobs: those of each token, and of `TOP_LOGPROBS` likely ones, are answered.
        requests: asked at once.
        guided: the answers are under a grammar.
    """

    dialect: str
    streamed: bool
    n: int = 1
    logprobs: bool = False
    requests: int = 1
    guided: bool = False

    def question(self, tokens: int) -> tuple[str, dict[str, Any]]:
        """Path and body for an answer of so many tokens a choice."""
        top = TOP_LOGPROBS if self.logprobs else None
        if self.dialect == "tgi":
            parameters = {"max_new_tokens": tokens, "details": self.logprobs, "top_n_tokens": top}
            return "/tgi/generate_stream" if self.streamed else "/tgi/generate", {
                "inputs": _PROMPT,
                "parameters": {key: value for key, value in parameters.items() if value is not None},
            }
        body: dict[str, Any] = {"model": MODEL, "stream": self.streamed}
        if self.dialect == "responses":
            include = ["message.output_text.logprobs"] if self.logprobs else []
            return "/v1/responses", body | {
                "input": _PROMPT, "max_output_tokens": tokens, "top_logprobs": top, "include": include,
            }  # fmt: skip
        body |= {"max_tokens": tokens, "n": self.n}
        if self.dialect == "completions":
            return "/v1/completions", body | {"prompt": _PROMPT, "logprobs": top}
        if self.guided:
            body["guided_json"] = workload.SCHEMA
        messages = [{"role": "user", "content": _PROMPT}]
        return "/v1/chat/completions", body | {"messages": messages, "logprobs": self.logprobs, "top_logprobs": top}

    def steps(self, tokens: int) -> list[bytes]:
        """What the executor's process reports meanwhile. TGI's tokens are made from logprobs in any case."""
        logprobs = TOP_LOGPROBS if self.logprobs else 0 if self.dialect == "tgi" else None
        sampling = SamplingParams(max_tokens=tokens, n=self.n, logprobs=logprobs)
        return recorded(sampling, requests=self.requests, guided=self.guided)


def cases(dialects: Sequence[str], many: int) -> list[Case]:
    """One request in every dialect, with one choice and with many where there are several; then many requests."""
    single = [
        Case(dialect, streamed, n, logprobs)
        for dialect in dialects
        for n in ((1, many) if dialect in ("chat", "completions") else (1,))
        for logprobs in (False, True)
        for streamed in (False, True)
    ]
    return [*single, *(Case("chat", streamed=True, requests=many, guided=guided) for guided in (False, True))]


@dataclass(frozen=True, slots=True)
class Cost:
    """What an answer cost.

    Attributes:
        cpu_seconds: of the service's process.
        stall: longest time, in seconds, that its event loop did not turn.
        size: bytes of all answers.
        digest: of the answers, without what is new in each.
    """

    cpu_seconds: float
    stall: float
    size: int
    digest: str

    def row(self, case: Case, tokens: int) -> str:
        """A row of the table."""
        each = 1e6 * self.cpu_seconds / (tokens * case.n * case.requests)
        cells = (
            f"{case.dialect}{', schema' if case.guided else ''}",
            f"{case.requests}",
            f"{case.n}",
            f"{TOP_LOGPROBS if case.logprobs else 0}",
            "yes" if case.streamed else "no",
            f"{self.size / 1e3:,.0f} kB",
            f"{each:,.0f} µs",
            f"{1e3 * self.stall:,.1f} ms",
        )
        return f"| {' | '.join(cells)} |"


class Heartbeat:
    """Beats in the running event loop.

    Attributes:
        longest: seconds between two beats, less those that lie between them by intention.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._loop = asyncio.get_running_loop()
        self._last = time.perf_counter()
        self._next = self._loop.call_later(_BEAT, self._beat)

    def stop(self) -> None:
        """No further beat."""
        self._next.cancel()

    def _beat(self) -> None:
        now = time.perf_counter()
        self.longest = max(self.longest, now - self._last - _BEAT)
        self._last = now
        self._next = self._loop.call_later(_BEAT, self._beat)


def ask(port: int, path: str, body: dict[str, Any], requests: int) -> tuple[int, str]:
    """Ask so many times at once, in the client's process: the answers' size in bytes, and their digest."""
    with ThreadPoolExecutor(requests) as threads:
        answers = list(threads.map(lambda _: _ask(port, path, body), range(requests)))
    # Which request is the first of its group is chance.
    fixed = sorted(_FRESH.sub(b"", answer) for answer in answers)
    return sum(map(len, answers)), hashlib.sha256(b"".join(fixed)).hexdigest()[:16]


def _ask(port: int, path: str, body: dict[str, Any]) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    connection.close()
    if response.status != 200:
        raise RuntimeError(f"{path} answered {response.status}: {answer[:500]!r}")
    return answer


@asynccontextmanager
async def serving() -> AsyncIterator[int]:
    """The service, ready, in this process; the port where it listens."""
    torch_executor.EngineProcess = ReplayedProcess  # type: ignore[assignment,attr-defined]
    import service

    # In BentoML's worker no chunk is logged either.
    config = uvicorn.Config(cast(Any, service.GuidedLLM).to_asgi(), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        task = asyncio.create_task(server.serve([listener]))
        try:
            port = listener.getsockname()[1]
            await _until_ready(port)
            yield port
        finally:
            server.should_exit = True
            await task


async def _until_ready(port: int) -> None:
    for _ in range(600):
        await asyncio.sleep(0.1)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            continue
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: service\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        if b" 200 " in answer.split(b"\r\n", 1)[0]:
            return
    raise RuntimeError("The service was not ready after a minute: its log says why.")


async def cost(client: ProcessPoolExecutor, port: int, case: Case, tokens: int) -> Cost:
    """Ask twice, and measure."""
    loop = asyncio.get_running_loop()
    ReplayedProcess.messages, ReplayedProcess.requests = case.steps(tokens), case.requests
    asked = partial(loop.run_in_executor, client, ask, port, *case.question(tokens), case.requests)
    gc.collect()
    before = time.process_time()
    size, digest = await asked()
    cpu_seconds = time.process_time() - before
    heartbeat = Heartbeat()
    await asked()
    heartbeat.stop()
    return Cost(cpu_seconds, heartbeat.longest, size, digest)


async def measure(options: argparse.Namespace) -> None:
    """Measure and print a row for each case."""
    ReplayedProcess.step_seconds = options.step
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as client:
        async with serving() as port:
            for case in cases(
                options.dialects, options.many
            ):  # what is read or made once is no part of an answer's cost
                await cost(client, port, case, 2)
            print("| dialect | requests | choices | likely tokens | streamed | answer | CPU a token | longest stall |")
            print("|---|---|---|---|---|---|---|---|")
            for case in cases(options.dialects, options.many):
                measured = await cost(client, port, case, options.tokens)
                print(
                    measured.row(case, options.tokens) + (f" {measured.digest}" if options.digests else ""), flush=True
                )


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.answers", description=__doc__)
    parser.add_argument("--tokens", type=int, default=100, help="of each choice")
    parser.add_argument("--many", type=int, default=32, help="choices, or requests, where there are several")
    parser.add_argument("--step", type=float, default=0.01, help="seconds from one token to the next")
    parser.add_argument("--dialects", nargs="+", default=["chat", "completions", "responses", "tgi"])
    parser.add_argument("--digests", action="store_true", help="print what was answered, as a hash")
    with contextlib.suppress(ImportError):  # the server has it where it can be had
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
