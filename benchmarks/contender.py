"""What all three contenders have in common."""

from __future__ import annotations

from typing import Protocol

from benchmarks.streams import Stream


class Contender(Protocol):
    """Something that answers prompts."""

    name: str

    async def run(self, prompts: list[list[int]], max_tokens: int, *, constrained: bool) -> list[Stream]:
        """Answer all prompts (token ids) at once, greedily, with ``max_tokens`` tokens each."""
        ...
