"""What answers look like, for the OpenAPI document and BentoML's clients. Answers themselves are written by hand."""

from __future__ import annotations

from typing import Any, Literal

import bentoml
from pydantic import BaseModel, Field

from guidance_core.api.openai.tools import CalledFunction, ToolCall


class Microseconds(BaseModel):
    """Of the steps of one choice; percentiles are nearest-rank."""

    p50: float = Field(description="Median, in µs.")
    p99: float = Field(description="99th percentile, in µs.")
    total: float = Field(description="Sum, in µs.")


class AllowedMass(BaseModel):
    """Probability, from 0 to 1, that the model itself gave to what the grammar allowed at a sampled token."""

    mean: float
    min: float


class SurpriseBits(BaseModel):
    """−log₂ of the allowed mass: how hard the grammar pushed. 0 where the model would have kept to it by itself."""

    total: float
    max: float


class ChoiceDetails(BaseModel):
    """What guidance did for one choice; all but the first three fields are about the answered text alone."""

    index: int
    attempts: int = Field(description="Answers generated until one passed its check; 1 where there is none.")
    discarded_tokens: int = Field(description="Tokens of the rejected ones; not in `completion_tokens`.")
    forced_tokens: int = Field(description="Tokens that the grammar forced: appended without sampling.")
    mask_us: Microseconds | None = Field(description="Computing the mask, per step.")
    wait_us: Microseconds | None = Field(description="The part of it that the forward pass did not hide, per step.")
    allowed_mass: AllowedMass | None
    surprise_bits: SurpriseBits | None


class GuidanceDetails(BaseModel):
    """How the constraint was kept, and what it cost."""

    kind: str = Field(description="What the request named: `json_schema`, `regex`, …")
    route: Literal["exact", "rewritten", "checked"] = Field(
        description="`exact`: the grammar is the constraint as it was written. `rewritten`: parts were replaced by "
        "equivalent ones. `checked`: the grammar allows more, and the whole answer was checked afterwards."
    )
    notes: list[str] = Field(description="What was rewritten or checked, and where.")
    compile_ms: float = Field(description="From the constraint to its grammar, in ms.")
    cached: bool = Field(description="The grammar had been compiled for an earlier request.")
    choices: list[ChoiceDetails]


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int]
    completion_tokens_details: dict[str, int]
    guidance: GuidanceDetails | None = Field(
        None, description="Only with `include_guidance`; null without a constraint."
    )


class ChatMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"]
    content: str | None = Field(description="Null where there are calls and no text.")
    refusal: str | None
    annotations: list[dict[str, Any]]
    reasoning_content: str | None = Field(None, description="What the model thought first, where it did.")
    tool_calls: list[ToolCall] | None = Field(None, description="Only where there are any.")
    function_call: CalledFunction | None = Field(None, description="The call, where the request had `functions`.")


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: ChatMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class ChatCompletion(bentoml.IODescriptor):
    """The answer to a conversation; with `stream`, server-sent `chat.completion.chunk` events instead."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    service_tier: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    prompt_logprobs: list[dict[str, Any] | None] | None = Field(None, description="Only where they are asked for.")


class CompletionChoice(BaseModel):
    """One of the continuations."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]
    prompt_logprobs: list[dict[str, Any] | None] | None = Field(None, description="Only where they are asked for.")


class Completion(bentoml.IODescriptor):
    """The continuation of a prompt; with `stream`, server-sent `text_completion` events instead."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


class ResponseObject(bentoml.IODescriptor):
    """The answer to an input; with `stream`, server-sent `response.…` events instead."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    model: str
    output: list[dict[str, Any]] = Field(description="Items of the types `reasoning`, `message` and `function_call`.")
    usage: dict[str, Any] | None


class InputTokens(bentoml.IODescriptor):
    """How many tokens an input has, with all that the chat template adds."""

    object: Literal["response.input_tokens"]
    input_tokens: int
