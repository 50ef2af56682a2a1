"""What TensorRT-LLM's worker processes need to know: plain data that crosses process boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from guidance_core.config import GuidanceSettings
from guidance_core.executors.trtllm.link import Address
from guidance_core.generation import GenerationRequest, TokenLogprob


@dataclass(frozen=True)
class WorkerSetup:
    """The same for all requests, and hashable: a worker builds what it needs once.

    Attributes:
        model_path: folder with the tokenizer; the same path on every node.
        vocab_size: tokens of the model; logits may be wider.
        eos_token_ids: the model's own end tokens.
        guidance: how grammars are compiled.
        max_rows: most rows of one call.
        address: of the service, for tasks and reports.
    """

    model_path: Path
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    guidance: GuidanceSettings
    max_rows: int
    address: Address

    def __hash__(self) -> int:
        return hash((self.model_path, self.address))


@dataclass(frozen=True, slots=True)
class Task:
    """What our processors do for one choice.

    Attributes:
        key: unique in the service's life.
        request: the whole request.
        index: which choice.
        seed: the request's, or a fresh one: every rank of a tensor-parallel group must draw the same token.
        draws: the processor chooses the token itself, so that the engine's sampler has no choice left, and reports it;
            otherwise it only masks.
    """

    key: int
    request: GenerationRequest
    index: int
    seed: int
    draws: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What a processor drew for one token of a choice.

    Attributes:
        key: of the task.
        position: of the token in the answer.
        token_id: what was drawn.
        logprob: where the request asks for it.
        mask_seconds, wait_seconds, allowed_mass: see `GuidanceTimes`.
    """

    key: int
    position: int
    token_id: int
    logprob: TokenLogprob | None
    mask_seconds: float
    wait_seconds: float
    allowed_mass: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A choice that our processors cannot go on with.

    Attributes:
        key: of the task.
        message: why.
    """

    key: int
    message: str
