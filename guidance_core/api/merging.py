"""Several streams of items as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Generic, TypeVar

from typing_extensions import Self

from guidance_core.api.streaming import cancel

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Ended:
    """A generator has ended, or failed."""

    error: Exception | None = None


class Merged(Generic[T]):
    """The items of several generators as they come; more generators may join while it is iterated.

    Use as an async context manager: leaving it stops and closes every generator. The first failure of one is raised
    from the iteration.
    """

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[T | _Ended] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []
        self._unfinished = 0

    def add(self, items: AsyncGenerator[T, None]) -> None:
        """Run one more generator, from now on."""
        self._unfinished += 1
        self._tasks.append(asyncio.create_task(self._run(items)))

    async def _run(self, items: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(items):
                async for item in items:
                    self._arrived.put_nowait(item)
            self._arrived.put_nowait(_Ended())
        except Exception as error:
            self._arrived.put_nowait(_Ended(error))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while self._unfinished:
            item = await self._arrived.get()
            if not isinstance(item, _Ended):
                return item
            if item.error is not None:
                raise item.error
            self._unfinished -= 1
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await cancel(*self._tasks)
