"""Answers that are written as they come, and stop when nobody reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
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
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
