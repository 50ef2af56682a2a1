"""Regular expressions of schemas under a time limit, as Python reads them and as the specification does (ECMA-262)."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import regex

_SECONDS = 1.0
_ALL_SECONDS = 5.0
"""For one answer: there may be thousands of patterns, and of strings that each is tried on."""

_deadline: ContextVar[float] = ContextVar("deadline")


@contextmanager
def shared_time() -> Iterator[None]:
    """All patterns that are tried within share a time limit."""
    deadline = _deadline.set(time.monotonic() + _ALL_SECONDS)
    try:
        yield
    finally:
        _deadline.reset(deadline)


def limits() -> str:
    """What the limits are, for messages."""
    return f"{_SECONDS} s each or {_ALL_SECONDS} s together"


def matches(pattern: str, text: str, *, exact: bool) -> bool:
    """Whether a pattern matches anywhere in a text.

    Args:
        pattern: one that `compiled` takes.
        text: of an answer.
        exact: as the specification reads it.

    Raises:
        TimeoutError: it takes too long.
    """
    left = _deadline.get(math.inf) - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return compiled(pattern, exact).search(text, timeout=min(_SECONDS, left)) is not None


@lru_cache(maxsize=1024)
def compiled(pattern: str, exact: bool) -> Any:
    """A pattern, kept for the answers to come.

    Raises:
        regex.error: it cannot be read.
    """
    if not exact:
        return regex.compile(pattern)
    # In ECMA-262 classes are (mostly) ASCII, and $ is the very end.
    parts = regex.findall(r"\\.|\[(?:\\.|[^\]\\])*\]|.", pattern, flags=regex.DOTALL)
    return regex.compile("".join(r"\Z" if part == "$" else part for part in parts), flags=regex.ASCII)
