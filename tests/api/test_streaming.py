"""How streams are written: what comes at once costs one write, and silence is filled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from guidance_core.api.streaming import folded, with_fillers


async def test_chunks_that_are_there_at_once_come_as_one() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for step in (b"ab", b"c", b"def"):
            await asyncio.sleep(0.01)
            for byte in step:
                yield bytes([byte])

    assert [chunk async for chunk in folded(chunks())] == [b"ab", b"c", b"def"]


async def test_a_failure_comes_after_the_chunks_before_it() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        yield b"a"
        raise ValueError("broken")

    stream = folded(chunks())
    assert await anext(stream) == b"a"
    with pytest.raises(ValueError, match="broken"):
        await anext(stream)


async def test_a_slow_reader_gets_everything() -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for byte in b"abcdef":
            await asyncio.sleep(0)
            yield bytes([byte])

    text = b""
    async for chunk in folded(chunks()):
        await asyncio.sleep(0.005)
        text += chunk
    assert text == b"abcdef"


async def test_fillers_come_in_silence_only() -> None:
    async def items() -> AsyncGenerator[str, None]:
        yield "a"
        yield "b"
        await asyncio.sleep(0.1)
        yield "c"

    seen = [item async for item in with_fillers(items(), "-", every=0.03)]
    assert seen[:3] == ["a", "b", "-"]
    assert seen[-1] == "c"
    assert set(seen[2:-1]) == {"-"}


@pytest.mark.parametrize("wrapped", ["folded", "with_fillers"])
async def test_closing_closes_what_is_inside(wrapped: str) -> None:
    closed = asyncio.Event()

    async def chunks() -> AsyncGenerator[bytes, None]:
        try:
            yield b"a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    stream = folded(chunks()) if wrapped == "folded" else with_fillers(chunks(), b"-", every=0.01)
    assert await anext(stream) == b"a"
    await stream.aclose()
    assert closed.is_set()
