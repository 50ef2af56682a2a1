"""Answers that are written as they come, and stop when nobody reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Send

T = TypeVar("T")


class ClosingStream(StreamingResponse):
    """Closes its generator at once when the client goes away, not when the garbage collector finds it."""

    def __init__(self, content: AsyncGenerator[bytes, None], media_type: str) -> None:
        """Answer 200 with this content, unbuffered by proxies."""
        super().__init__(
            content, media_type=media_type, headers={"cache-control": "no-cache", "x-accel-buffering": "no"}
        )
        self._content = content

    async def stream_response(self, send: Send) -> None:
        """Write everything, then close the generator, whatever happens."""
        try:
            await super().stream_response(send)
        finally:
            with anyio.CancelScope(shield=True):
                await self._content.aclose()


async def started(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same items, once the first one has come: what fails before it raises here, while a status can still tell."""
    try:
        first = await anext(items)
    except StopAsyncIteration:
        return _after((), items)
    except BaseException:
        await items.aclose()
        raise
    return _after((first,), items)


async def _after(first: tuple[T, ...], items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    try:
        for item in first:
            yield item
        async for item in items:
            yield item
    finally:
        await items.aclose()


async def with_fillers(items: AsyncGenerator[T, None], filler: T, *, every: float) -> AsyncGenerator[T, None]:
    """The same items, with a filler whenever none has come for so many seconds."""
    upcoming: asyncio.Future[T | _End] | None = None
    try:
        while True:
            upcoming = asyncio.ensure_future(_next(items))
            while not (await asyncio.wait((upcoming,), timeout=every))[0]:
                yield filler
            item = upcoming.result()
            if isinstance(item, _End):
                return
            yield item
    finally:
        if upcoming is not None:
            await cancel(upcoming)
        await items.aclose()


class _End:
    """After the last item."""


async def _next(items: AsyncGenerator[T, None]) -> T | _End:
    return await anext(items, _End())


async def folded(chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The same bytes; chunks that are there at once come as one, and cost one write."""
    ready: list[bytes] = []
    wake = asyncio.Event()

    async def collect() -> None:
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    ready.append(chunk)
                    wake.set()
        finally:
            wake.set()

    task = asyncio.create_task(collect())
    try:
        while not task.done() or ready:
            await wake.wait()
            wake.clear()
            if ready:
                joined = b"".join(ready)
                ready.clear()
                yield joined
        await task
    finally:
        await cancel(task)


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of the work, which is cancelled if the client goes away before.

    Args:
        receive: of a request whose body has been read.
        work: what to do.

    Raises:
        ClientDisconnect: it went away; the work has ended.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        await cancel(task, gone)


async def cancel(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks and wait until they have ended, even where anyio cancels the caller again at every step."""
    for task in tasks:
        task.cancel()
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*tasks, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
