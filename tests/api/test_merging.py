"""Several streams of items as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from guidance_core.api.merging import Merged


class Source:
    """Generates numbers, one each time the loop comes round."""

    def __init__(self, *numbers: int, fails: bool = False, endless: bool = False) -> None:
        self.closed = False
        self._numbers = numbers
        self._fails = fails
        self._endless = endless

    async def items(self) -> AsyncGenerator[int, None]:
        try:
            for number in self._numbers:
                await asyncio.sleep(0)
                yield number
            if self._fails:
                raise ValueError("broken")
            if self._endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def test_items_come_as_they_are_made_and_the_end_is_the_last_ones_end() -> None:
    async with Merged[int]() as merged:
        merged.add(Source(1, 2).items())
        merged.add(Source(10, 20, 30).items())
        assert [item async for item in merged] == [1, 10, 2, 20, 30]


async def test_a_generator_can_join_on_the_last_item_of_another_one() -> None:
    seen = []
    async with Merged[int]() as merged:
        merged.add(Source(1).items())
        async for item in merged:
            seen.append(item)
            if item < 3:
                merged.add(Source(item + 1).items())

    assert seen == [1, 2, 3]


async def test_a_failure_is_raised_after_what_came_before_it_and_closes_the_others() -> None:
    other = Source(7, endless=True)
    async with Merged[int]() as merged:
        merged.add(other.items())
        merged.add(Source(1, 2, fails=True).items())
        assert sorted([await anext(merged) for _ in range(3)]) == [1, 2, 7]
        with pytest.raises(ValueError, match="broken"):
            await anext(merged)

    assert other.closed


async def test_leaving_early_closes_every_generator() -> None:
    sources = [Source(1, endless=True), Source(2, endless=True)]
    async with Merged[int]() as merged:
        for source in sources:
            merged.add(source.items())
        async for _ in merged:
            break

    assert all(source.closed for source in sources)
