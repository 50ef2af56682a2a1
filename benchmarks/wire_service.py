"""The real service with an executor that costs nothing: what is left is the work per request and per streamed token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

from guidance_core.api import served_model
from guidance_core.config import Settings
from guidance_core.executors.base import Executor, ExecutorStats, Health, ModelLimits
from guidance_core.generation import GenerationRequest, TokenDelta

TOKEN_IDS = range(1000, 1064)
"""Ordinary tokens of the default model's vocabulary, answered in turn."""


class InstantExecutor(Executor):
    """Answers every request with as many tokens as it may have, each at once.

    All running answers get their next token before any gets a second one, as in a running batch.
    """

    name = "instant"

    async def start(self) -> None:
        """See `Executor.start`."""

    async def shutdown(self) -> None:
        """See `Executor.shutdown`."""

    def limits(self) -> ModelLimits:
        """See `Executor.limits`."""
        return ModelLimits(vocab_size=49152, max_model_len=8192, eos_token_ids=(2,))

    def check(self, request: GenerationRequest) -> None:
        """See `Executor.check`."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """See `Executor.generate`."""
        last = request.sampling.max_tokens - 1
        for position in range(last + 1):
            await asyncio.sleep(0)
            token_id = TOKEN_IDS[position % len(TOKEN_IDS)]
            yield TokenDelta(index=0, token_ids=(token_id,), finish_reason="length" if position == last else None)

    def finish_choice(self, request_id: str, index: int) -> None:
        """See `Executor.finish_choice`."""

    def health(self) -> Health:
        """See `Executor.health`."""
        return Health("ready")

    def stats(self) -> ExecutorStats:
        """See `Executor.stats`."""
        return ExecutorStats()


def _instant(model_path: Path, settings: Settings) -> Executor:
    return InstantExecutor()


served_model.create_executor = _instant  # type: ignore[attr-defined]

from service import GuidedLLM  # noqa: E402  # it loads the model with what stands in `served_model` then

__all__ = ["GuidedLLM"]
