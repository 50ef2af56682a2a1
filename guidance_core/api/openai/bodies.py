"""Request bodies: which fields there are, and what becomes of the others.

OpenAI's whole reference is sorted into three. Fields that are honoured, and fields that have no effect on an answer,
are declared below. Fields that would change the answer in a way that this service cannot are listed as unsupported and
refused by name, except with a value that asks for nothing. Anything else is unknown and refused too. Null means "not
given" everywhere.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import bentoml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.requests import Request
from typing_extensions import Self

from guidance_core.api.openai.constraints import ConstraintFields
from guidance_core.api.openai.json_body import read_json
from guidance_core.api.openai.nulls import NullsLeftOut, without_nulls
from guidance_core.api.openai.reasoning import ReasoningEffort
from guidance_core.api.openai.refused_fields import IN_CHAT, IN_COMPLETIONS, Refused
from guidance_core.api.openai.tools import FunctionCall, FunctionDefinition, NamedFunction, Tool, ToolCall, ToolChoice
from guidance_core.api.openai.validation import invalid_request, shown
from guidance_core.errors import InvalidRequest
from guidance_core.generation import LoadLoraWeights

MAX_TOP_LOGPROBS = 20

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


def _one_or_many(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("strings_type", "must be a string, or a list of strings")
    return [value] if isinstance(value, str) else value


Strings = Annotated[
    list[str],
    BeforeValidator(_one_or_many),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}),
]
TokenId = Annotated[int, Field(ge=0)]
RepetitionPenalty = Annotated[float, Field(ge=0.001, le=1000)]
"""Logits divided by it are finite."""


class StreamOptions(BaseModel):
    """How a stream is written."""

    model_config = _STRICT

    include_usage: bool | None = Field(None, description="One more chunk before the end, with the token usage.")
    include_obfuscation: bool | None = Field(
        None, description="Random padding in each chunk, which hides the length of tokens from eavesdroppers."
    )


class RequestBody(NullsLeftOut, bentoml.IODescriptor):
    """A JSON body that is checked to the last field."""

    model_config: ClassVar[ConfigDict] = _STRICT

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """Fields that are known and refused, by name."""
        return {}

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Self:
        """Parse a body, whatever its content type says.

        Raises:
            InvalidRequest: no JSON object, an unknown field, a wrong type or value.
            Unsupported: a field that would change the answer and is not supported.
        """
        encoding = request.headers.get("content-encoding", "identity")
        return cls.parse(read_json(await request.body(), encoding=encoding))

    @classmethod
    def parse(cls, body: object) -> Self:
        """Check a parsed body. Raises as `from_http_request`."""
        if not isinstance(body, dict):
            raise InvalidRequest(f"The body must be a JSON object, not {shown(body)}.", code="invalid_type")
        refused = cls.refused()
        given = without_nulls(body)
        for name in given.keys() - cls.model_fields.keys():
            if name not in refused:
                raise InvalidRequest(
                    f"Unknown field {name!r}{_suggestion(name, cls.model_fields)}",
                    param=name,
                    code="unknown_parameter",
                )
            if not any(_same(given[name], idle) for idle in refused[name].idle):
                raise refused[name].error(name)
            del given[name]
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise invalid_request(error, given) from None


class AnswerFields(BaseModel):
    """How to answer: what chat completions, completions and responses have in common."""

    lora_model: str | None = Field(None, description="Name of the adapter (LoRA) to answer with, as llgtrt has it.")
    load_lora_weights: LoadLoraWeights | None = Field(
        None,
        description="`auto`, if not given: read the adapter's weights where they are not loaded. `always`: read them "
        "again. `never`: fail where they are not loaded.",
    )
    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, ge=0, le=1, description="Sample from the likeliest tokens that have this share together.")
    stop: Strings | None = Field(None, max_length=16, description="Up to 16 strings that end the answer before them.")
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, description="Token id (as a string) → added to its logit."
    )
    seed: int | None = Field(None, ge=-(2**63), lt=2**64, description="The same seed gives the same answer.")
    top_k: int | None = Field(None, ge=-1, description="Sample from the k likeliest tokens; 0 and -1 mean all.")
    min_p: float = Field(
        0.0, ge=0, le=1, description="Sample from tokens with at least this share of the likeliest one's probability."
    )
    typical_p: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Sample from the tokens whose surprise is nearest to the expected one, until they have this share.",
    )
    repetition_penalty: RepetitionPenalty = Field(1.0, description="Above 1, tokens seen before become less likely.")
    min_tokens: int = Field(0, ge=0, description="The answer ends before only where its constraint must.")
    stop_token_ids: list[TokenId] | None = Field(None, description="Tokens that end the answer.")
    ignore_eos: bool = Field(False, description="The model's own end tokens do not end the answer.")
    bad_words: list[str] | None = Field(
        None,
        max_length=128,
        description="Words that do not come in the answer, written with their usual tokens; what a constraint leaves "
        "no choice about comes all the same.",
    )
    priority: int = Field(
        0, ge=-(2**31), lt=2**31, description="Of the requests that wait, those with the lowest number start first."
    )
    skip_special_tokens: bool = Field(True, description="Special tokens have no text.")
    include_stop_str_in_output: bool = Field(
        False, description="A stop string that ended the answer is part of it, except under a constraint."
    )
    llg_log_level: Literal["none", "warning", "json", "verbose"] = Field(
        "none",
        description="As llgtrt has it: with `json` and `verbose`, a choice has llguidance's reports on the answer in "
        "`llg_logs`, captures included. What it would only warn of is refused, so there are no warnings.",
    )
    check_attempts: int | None = Field(
        None,
        ge=1,
        description="Where the answer must be checked as a whole: most answers to generate for one choice; what still "
        "fails is a 422. By default, and at most, as configured.",
    )
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Use only so many tokens at the prompt's end; -1: as many as the context can hold."
    )
    fit_to_max_tokens: bool = Field(
        False,
        description="The answer ends inside its constraint within its most tokens, to be given: as they run out, "
        "only what leads to an end is allowed. A budget that no answer fits into is refused.",
    )
    user: str | None = Field(None, description="Accepted; has no effect on the answer.")


class GenerationBody(AnswerFields, ConstraintFields, RequestBody):
    """What chat completions and completions have in common."""

    model: str = Field(description="The name of the served model, or of an adapter; `GET /v1/models` tells them.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to answer per choice.")
    n: int = Field(1, ge=1, description="How many choices to answer.")
    stream: bool = Field(False, description="Answer as server-sent events.")
    stream_options: StreamOptions | None = Field(None, description="Only with `stream`.")
    prompt_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Answer log-probabilities of the prompt's tokens, with those of this many likely tokens at each "
        "place, as vLLM writes them; not with `stream`.",
    )
    return_tokens_as_token_ids: bool = Field(
        False,
        description="In `logprobs`, a token is `token_id:17` in place of its text, as vLLM writes it: several tokens "
        "may have one text.",
    )
    return_token_ids: bool = Field(
        False,
        description="Answer the ids of the prompt's tokens and of each choice's, as vLLM does: of all that were "
        "generated, those that end the answer included. A stream has the prompt's in each choice's first chunk.",
    )
    include_guidance: bool = Field(
        False,
        description="Adds `guidance` to the usage: how the constraint was kept, and what it cost. In a stream it needs "
        "`stream_options.include_usage`.",
    )


class Prediction(BaseModel):
    """What most of the answer is expected to be. It only lets OpenAI answer sooner."""

    model_config = _STRICT

    type: Literal["content"]
    content: str | list[dict[str, Any]]


def _no_citations(annotations: list[Any]) -> list[Any]:
    if annotations:
        raise ValueError("must be empty, as answers here have it: citations are not told to the model; leave it out")
    return annotations


NoAnnotations = Annotated[
    list[Any],
    AfterValidator(_no_citations),
    WithJsonSchema({"type": "array", "items": {"type": "object"}, "maxItems": 0}),
]


_ROLES = ["system", "developer", "user", "assistant", "tool", "function"]


class Message(NullsLeftOut):
    """One message of a conversation."""

    model_config = _STRICT

    role: Annotated[str, WithJsonSchema({"type": "string", "enum": _ROLES})] = Field(description="Who speaks.")
    content: Annotated[
        str | list[dict[str, Any]] | None,
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
    ] = Field(
        None,
        description="Text, or a list of parts of type `text`; of the user, and for models that take them, `image_url`.",
    )
    name: str | None = Field(
        None,
        description="Of the participant; refused where the model's template ignores it. In a message of role `tool`: "
        "of the function that was called.",
    )
    refusal: str | None = Field(None, description="What the assistant answered instead of content; read as content.")
    reasoning_content: str | None = Field(
        None,
        description="The assistant's thoughts, for templates that show them; also by vLLM's newer name `reasoning`.",
    )
    tool_calls: list[ToolCall] | None = Field(None, description="What the assistant called; as it was answered.")
    tool_call_id: str | None = Field(None, description="In a message of role `tool`: the call whose result it is.")
    function_call: FunctionCall | None = Field(
        None, description="What the assistant called, of `functions`; as it was answered."
    )
    annotations: NoAnnotations | None = Field(None, description="As answers have it: empty.")
    audio: None = Field(None, description="Not available: answers are text.")
    parsed: Any = Field(None, description="As OpenAI's client adds it to answers; has no effect.")

    @model_validator(mode="before")
    @classmethod
    def _as_answered(cls, message: Any) -> Any:
        # Clients send answers back with all the fields that they did not have.
        if not isinstance(message, dict):
            return message
        given = {
            key: value
            for key, value in message.items()
            if value is not None and not (key in ("refusal", "tool_calls") and value in ("", []))
        }
        if "reasoning" in given and "reasoning_content" not in given:
            given["reasoning_content"] = given.pop("reasoning")
        return given


class ConversationFields(BaseModel):
    """What chat completions and responses have in common besides."""

    metadata: dict[str, str] | None = Field(None, description="Accepted; has no effect on the answer.")
    safety_identifier: str | None = Field(None, description="Accepted; has no effect on the answer.")
    prompt_cache_key: str | None = Field(None, description="Accepted; prefixes are cached without it.")
    min_thinking_tokens: int | None = Field(None, ge=0, le=100_000, description="Fewest tokens of thought.")
    max_thinking_tokens: int | None = Field(
        None, ge=0, le=100_000, description="Most tokens of thought; goes before `reasoning_effort`."
    )
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Further variables of the chat template.")
    include_json_schema_in_prompt: bool = Field(
        True, description="Tell the model of the JSON schema that its answer will have to follow."
    )
    return_expanded_prompt: bool = Field(False, description="Answer the prompt as the model got it, too.")
    parallel_tool_calls: bool = Field(True, description="Whether one message may have several calls.")


class ChatBody(ConversationFields, GenerationBody):
    """`POST /v1/chat/completions`."""

    model_config = ConfigDict(**_STRICT, title="ChatCompletionRequest")

    messages: list[Message] = Field(min_length=1, description="The conversation so far.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Newer name of `max_tokens`.")
    logprobs: bool = Field(False, description="Answer the log-probability of each token.")
    top_logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="… and of the likeliest tokens besides. Needs `logprobs`."
    )
    tools: list[Tool] | None = Field(None, max_length=128, description="Functions that the model may call.")
    tool_choice: ToolChoice | None = Field(
        None, description="`auto` (the default with tools), `none`, `required`, one function, or some of them."
    )
    functions: list[FunctionDefinition] | None = Field(
        None,
        max_length=128,
        description="Older name of `tools`; a call is then answered as `function_call`.",
    )
    function_call: Literal["none", "auto"] | NamedFunction | None = Field(
        None, description="Older name of `tool_choice`, with `functions`."
    )
    reasoning_effort: ReasoningEffort | None = Field(
        None, description="How long a model that thinks first may think; `none` is not at all."
    )
    add_generation_prompt: bool | None = Field(
        None, description="Whether the prompt ends with what begins the assistant's turn; it does if not given."
    )
    prediction: Prediction | None = Field(None, description="Accepted; has no effect on the answer.")
    continue_final_message: bool = Field(
        False, description="Go on with the last message, the assistant's, instead of beginning a new one."
    )

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """See the base class."""
        return IN_CHAT


def _as_prompts(value: Any) -> Any:
    """A prompt in any of OpenAI's four forms → a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("must be a string, a list of strings, a list of token ids, or a list of such lists")
    if all(_is_token_id(item) for item in value):
        return [value]
    for item in value:
        if not (isinstance(item, str) or (isinstance(item, list) and item and all(map(_is_token_id, item)))):
            raise ValueError("must be a string, a list of strings, a list of token ids, or a list of such lists")
    return value


def _is_token_id(value: object) -> bool:
    return type(value) is int and value >= 0


_TOKEN_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


class CompletionBody(GenerationBody):
    """`POST /v1/completions`."""

    model_config = ConfigDict(**_STRICT, title="CompletionRequest")

    prompt: Annotated[
        list[str | list[int]],
        BeforeValidator(_as_prompts),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    _TOKEN_IDS,
                    {"type": "array", "items": _TOKEN_IDS, "minItems": 1},
                ]
            }
        ),
    ] = Field(description="What to continue: text or token ids, or a list of prompts.")
    max_tokens: int | None = Field(
        None, ge=0, description="Most tokens to answer per choice; 16 if not given. 0 is for who asks about the prompt."
    )
    logprobs: int | None = Field(
        None, ge=0, le=MAX_TOP_LOGPROBS, description="Answer log-probabilities, with those of this many likely tokens."
    )
    echo: bool = Field(
        False, description="Answer the prompt, too, before its continuation; with `logprobs`, those of its tokens, too."
    )
    add_special_tokens: bool = Field(
        True, description="A prompt of text begins with what the tokenizer adds by itself, such as BOS."
    )
    suffix: str | None = Field(
        None, description="What follows the gap that the answer fills, for models with tokens for that."
    )
    best_of: int | None = Field(
        None, ge=1, description="Generate so many choices and answer the `n` likeliest per token; not with `stream`."
    )

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """See the base class."""
        return IN_COMPLETIONS


def _same(value: object, other: object) -> bool:
    # In Python, False == 0 and True == 1; in JSON they are not.
    return type(value) is type(other) and value == other


def _suggestion(name: str, fields: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else ": leave it out."
