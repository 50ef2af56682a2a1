"""`python -m benchmarks.soak`: mixed traffic against the real service; all answers are checked, all processes watched.

Every dialect and kind of constraint, always new schemas beside some that come again, clients that leave in the middle.
A 200 has to hold its promise (`jsonschema` and `re` judge), usage has to add up, and greedy answers have to be those of
a calm service. What the processes hold is printed as it goes, and so is how long a probe waits, which tells whether
the event loop stands still. The end is an exit status of 1 if anything was wrong, or if something runs on.

In float32: in bfloat16, what a step does besides can tip a near tie between two greedy tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict

import aiohttp
import psutil

from benchmarks.served import serve
from benchmarks.soak.watch import held
from benchmarks.soak.workload import Ask, Workload, texts
from guidance_core.model_store import resolve

_REPORTED_KINDS = 3
"""Of each kind of request, so many faults are told in full."""


class Soak:
    """One run.

    Args:
        session: of the service.
        workload: what is asked.
        leaving: share of the requests whose client goes away before the answer.
        seed: of when they do.
    """

    def __init__(self, session: aiohttp.ClientSession, workload: Workload, *, leaving: float, seed: int) -> None:
        self.statuses: dict[str, Counter[str]] = defaultdict(Counter)
        self.faults: list[tuple[str, str]] = []
        self.waits: list[float] = []
        self._session = session
        self._asks = iter(workload)
        self._canaries = workload.canaries()
        self._calm: list[list[str]] = []
        self._leaving = leaving
        self._random = random.Random(seed)
        self._left = 0
        self._every = 0

    async def calm(self) -> None:
        """Ask what is asked again and again under load, one after the other.

        Raises:
            RuntimeError: not even that is answered.
        """
        for canary in self._canaries:
            status, body = await self._post(canary)
            if status != 200:
                raise RuntimeError(f"The service answered {status} when calm: {body.decode()}")
            self._calm.append(texts(body))

    async def run(self, requests: int, clients: int, every: int) -> None:
        """Ask so many times, so many at once, and print what is held every so often."""
        self._left, self._every = requests, every
        watching = asyncio.create_task(self._watch())
        await asyncio.gather(*(self._client() for _ in range(clients)))
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)

    def report(self) -> None:
        """Print what the processes hold, and how long probes waited since the last time."""
        waits, self.waits = sorted(self.waits), []
        probes = ""
        if waits:
            p50, p99 = (1e3 * waits[int(share * (len(waits) - 1))] for share in (0.5, 0.99))
            probes = f" | probe p50 {p50:.0f}, p99 {p99:.0f}, max {1e3 * waits[-1]:.0f} ms"
        processes = "; ".join(str(one) for one in held(psutil.Process()) if one.role != "other")
        print(f"{self._left} to go | {processes}{probes} | {len(self.faults)} faults", flush=True)

    async def _post(self, ask: Ask) -> tuple[int, bytes]:
        async with self._session.post(ask.path, json=ask.body) as response:
            return response.status, await response.read()

    async def _watch(self) -> None:
        while True:
            started = time.perf_counter()
            async with self._session.get("/livez") as response:
                await response.read()
            self.waits.append(time.perf_counter() - started)
            await asyncio.sleep(0.05)

    async def _client(self) -> None:
        while self._left > 0:
            self._left -= 1
            if self._left % self._every == 0:
                self.report()
            if self._random.random() < 0.03:
                await self._ask_canary(self._random.randrange(len(self._canaries)))
            elif self._random.random() < self._leaving:
                await self._leave(next(self._asks))
            else:
                await self._ask(next(self._asks))

    async def _leave(self, ask: Ask) -> None:
        seconds = self._random.random() * self._random.choice([0.02, 0.2, 1.0])
        try:
            await asyncio.wait_for(self._post(ask), seconds)
        except asyncio.TimeoutError:
            self.statuses[ask.kind]["left"] += 1
        else:
            self.statuses[ask.kind]["in time"] += 1

    async def _ask(self, ask: Ask) -> bytes | None:
        try:
            status, body = await self._post(ask)
        except aiohttp.ClientError as error:
            self._fault(ask, repr(error))
            return None
        self.statuses[ask.kind][str(status)] += 1
        if ask.refused:
            if not 400 <= status < 500:
                self._fault(ask, f"{status}: {ask.judge(body)}")
        elif status == 200:
            if (wrong := ask.judge(body)) is not None:
                self._fault(ask, wrong)
            return body
        elif not (status == 422 and ask.kind == "checked"):
            self._fault(ask, f"{status}: {body.decode()[:500]}")
        return None

    async def _ask_canary(self, index: int) -> None:
        body = await self._ask(self._canaries[index])
        if body is not None and texts(body) != self._calm[index]:
            self._fault(self._canaries[index], f"{texts(body)} instead of {self._calm[index]}")

    def _fault(self, ask: Ask, what: str) -> None:
        self.faults.append((ask.kind, what))
        if sum(kind == ask.kind for kind, _ in self.faults) <= _REPORTED_KINDS:
            print(f"FAULT, {ask.kind}: {what}\n  {json.dumps(ask.body)[:600]}", flush=True)


async def soak(options: argparse.Namespace) -> int:
    """Run it; the number of faults."""
    model = resolve(options.model)
    environment = {"GUIDED_TRTLLM_MODEL__TAG": model.tag, "GUIDED_TRTLLM_TORCH__DTYPE": "float32"}
    if options.adapters is not None:
        environment |= {"GUIDED_TRTLLM_LORA__FOLDER": options.adapters, "GUIDED_TRTLLM_LORA__MAX_LOADED": "3"}
    async with serve(model.name, environment) as served:
        async with served.session.get("/v1/models") as response:
            names = [card["id"] for card in (await response.json())["data"]]
        workload = Workload(
            model.name, [name for name in names if name != model.name], options.seed, thinks=options.thinks
        )
        run = Soak(served.session, workload, leaving=options.leaving, seed=options.seed)
        await run.calm()
        await run.run(options.requests, options.clients, options.every)
        await asyncio.sleep(3)
        run.report()
        async with served.session.get("/v1/health/model") as response:
            executor = (await response.json())["executor"]
    for kind, counts in sorted(run.statuses.items()):
        print(f"{kind:20} {dict(counts)}")
    still = executor["running"] + executor["waiting"]
    print(f"{len(run.faults)} faults; when idle, {still} sequences run or wait, {executor['restarts']} restarts")
    return len(run.faults) + int(still) + int(executor["restarts"])


def main() -> None:
    """Run, and tell by the exit status whether all was well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="tag in the Bento model store")
    parser.add_argument("--adapters", help="folder with adapters of the model; more than 3, so that some make room")
    parser.add_argument("--thinks", action="store_true", help="the model thinks first: bound its thoughts, too")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--leaving", type=float, default=0.05, help="share of clients that leave before their answer")
    parser.add_argument("--every", type=int, default=200, help="requests between two lines of the report")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(min(1, asyncio.run(soak(parser.parse_args()))))


if __name__ == "__main__":
    main()
