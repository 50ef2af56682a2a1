"""A choice in the engine is let go of as soon as the engine has, and no sooner."""

from __future__ import annotations

import asyncio
from typing import Any

from guidance_core.errors import GenerationFailed
from guidance_core.executors.trtllm.flight import Counts, Flight
from guidance_core.executors.trtllm.task import Task
from tests.executors.asking import make_request


class Result:
    """As ``GenerationResult``: what failed in the engine never says that it is finished, and says nothing more."""

    request_id = 1
    finished = False

    def __init__(self, *said: Exception) -> None:
        self._said = list(said)
        self._aborts = 0

    def __aiter__(self) -> Result:
        return self

    async def __anext__(self) -> Any:
        if self._said:
            raise self._said.pop()
        if self._aborts:
            raise StopAsyncIteration
        await asyncio.sleep(60)

    def abort(self) -> None:
        self._aborts += 1

    def aborted(self) -> bool:
        return self._aborts > 0


async def fly(result: Result, *, released: bool = False) -> tuple[float, list[Any]]:
    """How many seconds it took to land, and what the caller was told."""
    deltas: asyncio.Queue[Any] = asyncio.Queue()
    landed = asyncio.Event()
    flight = Flight(
        Task(1, make_request((5, 6)), 0, seed=1, draws=False),
        result,
        end_ids=(0,),
        proof=None,
        deltas=deltas,
        counts=Counts(),
        abort_timeout=30,
        explain=lambda error: GenerationFailed(str(error)),
    )
    started = asyncio.get_running_loop().time()
    flight.start(lambda _: landed.set())
    if released:
        await asyncio.sleep(0)
        flight.release()
    await asyncio.wait_for(landed.wait(), 20)
    told = [deltas.get_nowait() for _ in range(deltas.qsize())]
    return asyncio.get_running_loop().time() - started, told


async def test_what_failed_in_the_engine_is_neither_aborted_nor_waited_for() -> None:
    result = Result(RuntimeError("Guided decoding error: refused"))
    seconds, [told] = await fly(result)
    assert isinstance(told, GenerationFailed)
    assert "refused" in told.message
    assert not result.aborted()
    assert seconds < 10


async def test_what_nobody_waits_for_is_aborted() -> None:
    result = Result()
    _, told = await fly(result, released=True)
    assert result.aborted()
    assert told == []
