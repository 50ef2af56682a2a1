"""What answers look like, for the OpenAPI document and BentoML's clients. Answers themselves are written by hand."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import bentoml
from pydantic import BaseModel, Field

from guidance_core.api.openai.tools import CalledFunction, ToolCall

_TOKEN_IDS = "Only with `return_token_ids`: of all tokens that were generated, those that end the answer included."


class ErrorObject(BaseModel):
    """What is wrong, and how to mend it."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None = Field(description="The field that it is about.")
    code: str | None = Field(description="A short name for programs.")


class OpenAIError(BaseModel):
    """A failure as OpenAI writes it."""

    error: ErrorObject


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


class TokenLogprob(BaseModel):
    """A token and its log-probability."""

    token: str
    logprob: float
    bytes: list[int]


class ChosenTokenLogprob(TokenLogprob):
    """A token of the answer, with the likeliest ones at its place."""

    top_logprobs: list[TokenLogprob]


class ChatLogprobs(BaseModel):
    """The log-probabilities of an answer's tokens."""

    content: list[ChosenTokenLogprob]
    refusal: None


class PromptTokenLogprob(BaseModel):
    """What the model gave to a token of the prompt, or to a likely one at its place."""

    logprob: float
    rank: int | None
    decoded_token: str


PromptLogprobs = list[dict[str, PromptTokenLogprob] | None]
"""For each token of the prompt, by token id; null for the first one."""


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
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]
    llg_logs: str | None = Field(None, description="Only with `llg_log_level`: llguidance's reports, line by line.")
    token_ids: list[int] | None = Field(None, description=_TOKEN_IDS)


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
    prompt_logprobs: PromptLogprobs | None = Field(None, description="Only where they are asked for.")
    prompt_token_ids: list[int] | None = Field(None, description="Only with `return_token_ids`.")
    expanded_prompt: str | None = Field(None, description="Only with `return_expanded_prompt`.")


class CompletionLogprobs(BaseModel):
    """Of each token: parallel lists."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int] = Field(description="In characters of the choice's text.")


class CompletionChoice(BaseModel):
    """One of the continuations."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    prompt_logprobs: PromptLogprobs | None = Field(None, description="Only where they are asked for.")
    llg_logs: str | None = Field(None, description="Only with `llg_log_level`: llguidance's reports, line by line.")
    prompt_token_ids: list[int] | None = Field(None, description="Only with `return_token_ids`.")
    token_ids: list[int] | None = Field(None, description=_TOKEN_IDS)


class Completion(bentoml.IODescriptor):
    """The continuation of a prompt; with `stream`, server-sent `text_completion` events instead."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage


ItemStatus = Literal["completed", "incomplete", "in_progress"]
"""How far an item of a response has come."""


class ResponseText(BaseModel):
    """The text of a message."""

    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]]
    logprobs: list[ChosenTokenLogprob]


class ResponseMessage(BaseModel):
    """A message."""

    type: Literal["message"]
    id: str
    status: ItemStatus
    role: Literal["assistant"]
    content: list[ResponseText]


class ResponseThought(BaseModel):
    """The text of thoughts."""

    type: Literal["reasoning_text"]
    text: str


class ResponseReasoning(BaseModel):
    """What the model thought first, where it did."""

    type: Literal["reasoning"]
    id: str
    status: ItemStatus
    summary: list[dict[str, Any]]
    content: list[ResponseThought]


class ResponseCall(BaseModel):
    """A call of a function."""

    type: Literal["function_call"]
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = Field(description="A JSON object, as text.")


class ResponseFailure(BaseModel):
    """Why a response failed."""

    code: str
    message: str


class ResponseUsage(BaseModel):
    """Tokens of a response."""

    input_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens: int
    output_tokens_details: dict[str, int]
    total_tokens: int
    guidance: GuidanceDetails | None = Field(
        None, description="Only with `include_guidance`; null without a constraint."
    )


class ResponseObject(bentoml.IODescriptor):
    """The answer to an input; with `stream`, server-sent `response.…` events instead. Options are as they were sent."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete", "failed", "in_progress"]
    error: ResponseFailure | None
    incomplete_details: dict[str, Any] | None
    model: str
    output: list[Annotated[ResponseMessage | ResponseReasoning | ResponseCall, Field(discriminator="type")]]
    usage: ResponseUsage | None
    background: bool
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, Any]
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: str | None
    expanded_prompt: str | None = Field(None, description="Only with `return_expanded_prompt`.")
    llg_logs: str | None = Field(None, description="Only with `llg_log_level`: llguidance's reports, line by line.")


class InputTokens(bentoml.IODescriptor):
    """How many tokens an input has, with all that the chat template adds."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Executor(BaseModel):
    """What serves a model; the executor `trtllm` tells further things."""

    name: Literal["torch", "trtllm", "triton"]


class Model(BaseModel):
    """The served model, or an adapter of it."""

    id: str = Field(description="What clients send as `model`.")
    object: Literal["model"]
    created: int
    owned_by: str
    executor: Executor
    parent: str | None = Field(None, description="Of an adapter: the model that it is for.")


class ModelList(BaseModel):
    """The served model, and its adapters."""

    object: Literal["list"]
    data: list[Model]


class HealthReport(BaseModel):
    """The state of the model."""

    object: Literal["health"]
    status: Literal["starting", "ready", "restarting", "failed", "stopped"]
    message: str


class ExecutorNumbers(Executor):
    """Numbers since the service began; `running`, `waiting` and `kv_tokens` are of this moment."""

    running: int
    waiting: int
    slots: int
    kv_tokens: int
    kv_capacity: int
    steps: int
    prompt_tokens: int
    cached_tokens: int
    sampled_tokens: int
    forced_tokens: int
    grammar_hits: int
    grammar_misses: int
    grammar_evictions: int
    restarts: int


class ModelHealth(HealthReport):
    """The state of the model and of its executor."""

    model: str
    executor: ExecutorNumbers
