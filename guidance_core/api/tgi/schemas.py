"""What answers look like, for the OpenAPI document."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

FinishReason = Literal["length", "eos_token", "stop_sequence"]


class TGIError(BaseModel):
    """A failure as text-generation-inference writes it."""

    error: str
    error_type: str


class TGIPrefillToken(BaseModel):
    """A token of the prompt."""

    id: int
    text: str
    logprob: float | None = Field(description="Null for the first one.")


class TGIToken(BaseModel):
    """A token of the answer."""

    id: int
    text: str
    logprob: float | None
    special: bool = Field(description="It is no part of the text.")


class TGISequence(BaseModel):
    """How an answer came about."""

    finish_reason: FinishReason
    generated_tokens: int
    seed: int | None
    prefill: list[TGIPrefillToken]
    tokens: list[TGIToken]
    top_tokens: list[list[TGIToken]] | None = Field(None, description="Only with `top_n_tokens`.")


class TGIOtherSequence(TGISequence):
    """One of the answers that `best_of` did not choose."""

    generated_text: str


class TGIDetails(TGISequence):
    """How the answer came about."""

    best_of_sequences: list[TGIOtherSequence] | None = Field(None, description="Only with `best_of`.")


class TGIGenerated(BaseModel):
    """An answer."""

    generated_text: str
    details: TGIDetails | None = Field(None, description="Only where they are asked for.")


class TGISimpleToken(BaseModel):
    """A token of a text, and where it lies, in bytes of UTF-8."""

    id: int
    text: str
    start: int
    stop: int


class TGIChatTokenized(BaseModel):
    """What the chat template makes of a conversation."""

    tokenize_response: list[TGISimpleToken]
    templated_text: str


class TGIInfo(BaseModel):
    """What is served, and its limits."""

    model_id: str
    model_sha: str | None
    model_pipeline_tag: str | None
    max_concurrent_requests: int
    max_best_of: int
    max_stop_sequences: int
    max_input_tokens: int
    max_total_tokens: int
    validation_workers: int
    max_client_batch_size: int
    router: str
    version: str
    sha: str | None
    docker_label: str | None
