"""Tokenising that does not hold up the event loop; all dialects share it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_LONG_PROMPT = 4_000
"""Characters from which on tokenising would hold up the event loop for a millisecond."""


async def off_the_loop(chars: int, tokenize: Callable[[], T]) -> T:
    """Tokenise here or, where it takes long, in a thread."""
    return tokenize() if chars < _LONG_PROMPT else await asyncio.to_thread(tokenize)
