"""The contract of an executor: runs a model, answers token by token, and can be stopped at any time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Literal

from guidance_core.generation import GenerationRequest, TokenDelta

State = Literal["starting", "ready", "restarting", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class Health:
    """Whether requests can be served now.

    Attributes:
        state: only ``ready`` serves; ``starting`` and ``restarting`` will by themselves; ``failed`` will not.
        detail: one sentence for a human, empty when ready.
    """

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a request is checked against; known once the executor is ready.

    Attributes:
        vocab_size: width of the logits; every token id is below it.
        max_model_len: most tokens of prompt and answer together.
        eos_token_ids: the model's own end tokens.
    """

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ExecutorStats:
    """A snapshot for metrics; counters are since the start of the service.

    Attributes:
        running: sequences in the batch.
        waiting: sequences admitted but not yet in the batch.
        slots: most sequences that can run at once.
        kv_tokens: tokens held in the KV cache (live and reusable).
        kv_capacity: most tokens it can hold.
        steps: forward passes.
        prompt_tokens, cached_tokens, sampled_tokens, forced_tokens: totals.
        grammar_hits: matchers of grammars that had been compiled for an earlier one, here or in the executor's process.
        grammar_misses: grammars compiled for their first matcher, or anew for one after very many.
        grammar_evictions: grammars dropped to make room: many of them, and `guidance.cache_size` is small.
        restarts: times the executor's process was started again after a crash.
    """

    running: int = 0
    waiting: int = 0
    slots: int = 0
    kv_tokens: int = 0
    kv_capacity: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    sampled_tokens: int = 0
    forced_tokens: int = 0
    grammar_hits: int = 0
    grammar_misses: int = 0
    grammar_evictions: int = 0
    restarts: int = 0


class Executor(ABC):
    """Runs a model. All methods are called on the service's event loop and never block it.

    Every implementation passes ``tests/executors/contract.py``.
    """

    name: str
    """As configuration names it: ``torch``, ``trtllm``, ``triton``."""

    @abstractmethod
    async def start(self) -> None:
        """Load the model; returns when ready to serve. Cancelling it stops the start.

        Raises:
            ExecutorUnavailable: the model could not be loaded; the message says why.
        """

    @abstractmethod
    async def shutdown(self) -> None:
        """Fail what is in flight with `ExecutorUnavailable` and free everything. Idempotent."""

    @abstractmethod
    def limits(self) -> ModelLimits:
        """The loaded model's limits.

        Raises:
            ExecutorUnavailable: not loaded yet.
        """

    @abstractmethod
    def check(self, request: GenerationRequest) -> None:
        """Refuse what this executor cannot do, before anything is queued.

        Raises:
            InvalidRequest: a token id outside the vocabulary, an empty prompt, a value out of range.
            Unsupported: a feature that this executor does not have; the message names it.
            ContextLengthExceeded: prompt and ``max_tokens`` do not fit.
            QueueFull: no room to wait.
            ExecutorUnavailable: not ready.
        """

    @abstractmethod
    def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenDelta, None]:
        """Answer a request (after `check`, which it calls itself).

        Deltas of the n choices come interleaved; each choice ends with exactly one delta that has a ``finish_reason``;
        the generator ends after the last choice's. Closing it (``aclose()``, or cancelling the task that iterates)
        aborts the work within one step.

        Raises:
            RequestError: as `check`; `GenerationFailed` or `ExecutorUnavailable` in mid-stream.
        """

    @abstractmethod
    def finish_choice(self, request_id: str, index: int) -> None:
        """The caller needs no more of this choice (a stop string was found): free it within one step.

        The choice's stream then ends with one last delta whose ``finish_reason`` is ``stop`` and which may be ignored.
        Unknown ids are ignored: the choice may have ended meanwhile.
        """

    @abstractmethod
    def health(self) -> Health:
        """State now; never blocks."""

    @abstractmethod
    def stats(self) -> ExecutorStats:
        """The newest snapshot; never blocks."""

    def no_images(self) -> str | None:
        """Why images are refused, for the end of a sentence; None where requests may have some. Known once ready.

        Raises:
            ExecutorUnavailable: not loaded yet.
        """
        return f"the executor '{self.name}' takes text only"

    def details(self) -> dict[str, str]:
        """How it serves, as short words by name, for people who ask which model this is; empty before it is ready."""
        return {}
