"""Request bodies of the Responses API; see `openai.bodies` for what becomes of fields that are not here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from guidance_core.api.openai.bodies import (
    MAX_TOP_LOGPROBS,
    AnswerFields,
    ConversationFields,
    NoAnnotations,
    RequestBody,
)
from guidance_core.api.openai.constraints import (
    JsonObjectFormat,
    LarkFormat,
    LlguidanceFormat,
    NamedSchema,
    RegexFormat,
    Strictness,
    TextFormat,
)
from guidance_core.api.openai.nulls import NullsLeftOut
from guidance_core.api.openai.reasoning import ReasoningEffort
from guidance_core.api.openai.refused_fields import IN_RESPONSES, Refused
from guidance_core.api.openai.tools import Arguments, FunctionName

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Item(NullsLeftOut):
    model_config = _STRICT


class TextPart(_Item):
    """Text of a message."""

    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: NoAnnotations | None = Field(None, description="As answers have it: empty.")
    logprobs: list[Any] | None = Field(None, description="As answers have it; has no effect.")
    parsed: Any = Field(None, description="As OpenAI's client adds it to answers; has no effect.")


class ImagePart(_Item):
    """An image of a message, for models that take them."""

    type: Literal["input_image"]
    image_url: str = Field(description="`data:image/png;base64,…`, or a URL to fetch where the service does that.")
    detail: str | None = Field(None, description="`auto` or `high`: as the model's processor sees it.")


class RefusalPart(_Item):
    """What the assistant answered instead; read as text."""

    type: Literal["refusal"]
    refusal: str


def _as_parts(content: Any) -> Any:
    if not isinstance(content, str | list):
        raise ValueError("must be text, or a list of parts")
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


# Read as a list in any case, so that an error tells what is wrong with which part.
Text = Annotated[list[TextPart], BeforeValidator(_as_parts, json_schema_input_type=str | list[TextPart])]


Part = Annotated[TextPart | ImagePart | RefusalPart, Field(discriminator="type")]
Content = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]


class MessageItem(_Item):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    id: str | None = None
    status: str | None = None
    phase: str | None = Field(None, description="As answers have it; has no effect.")


class CallItem(_Item):
    """A call that an earlier response made."""

    type: Literal["function_call"]
    call_id: str = Field(min_length=1)
    name: FunctionName
    arguments: Arguments
    parsed_arguments: Any = Field(None, description="As OpenAI's client adds it to answers; has no effect.")
    id: str | None = None
    status: str | None = None


class ResultItem(_Item):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: str = Field(min_length=1)
    output: Text
    id: str | None = None
    status: str | None = None


class ThoughtPart(_Item):
    """Text of thoughts."""

    type: Literal["reasoning_text", "summary_text"]
    text: str


class ReasoningItem(_Item):
    """Thoughts of an earlier response, for templates that show them."""

    type: Literal["reasoning"]
    summary: list[ThoughtPart] = Field(default_factory=list)
    content: list[ThoughtPart] = Field(default_factory=list)
    id: str | None = None
    status: str | None = None


Item = Annotated[MessageItem | CallItem | ResultItem | ReasoningItem, Field(discriminator="type")]


def _as_items(value: Any) -> Any:
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError("must be text, or a list of items")
    # Messages may leave their type out.
    return [{"type": "message", **item} if isinstance(item, dict) and "role" in item else item for item in value]


class FunctionTool(BaseModel):
    """A function that the model may call."""

    model_config = _STRICT

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Strictness = None


class NamedFunctionTool(BaseModel):
    """A function by its name."""

    model_config = _STRICT

    type: Literal["function"]
    name: FunctionName


class AllowedFunctionTools(BaseModel):
    """Some of the tools, and whether one of them must be called."""

    model_config = _STRICT

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunctionTool] = Field(min_length=1)


class SchemaFormat(NamedSchema):
    """A JSON schema as the Responses API wraps it."""

    type: Literal["json_schema"]


class TextOptions(BaseModel):
    """What the text of the answer must be."""

    model_config = _STRICT

    format: (
        Annotated[
            TextFormat | JsonObjectFormat | SchemaFormat | RegexFormat | LarkFormat | LlguidanceFormat,
            Field(discriminator="type"),
        ]
        | None
    ) = None
    verbosity: Literal["medium"] | None = Field(None, description="Only `medium`: the model knows no other.")


class ReasoningOptions(BaseModel):
    """How long a model that thinks first may think."""

    model_config = _STRICT

    effort: ReasoningEffort | None = None
    summary: None = Field(None, description="Not available: thoughts are answered as they are.")


def _no_padding(wanted: bool) -> bool:
    if wanted:
        raise ValueError("must be false: events of responses are not padded")
    return wanted


_NoPadding = Annotated[bool, AfterValidator(_no_padding), WithJsonSchema({"type": "boolean", "enum": [False]})]


class ResponseStreamOptions(BaseModel):
    """How a stream is written."""

    model_config = _STRICT

    include_obfuscation: _NoPadding | None = Field(None, description="Only false.")


class ResponsesBody(ConversationFields, AnswerFields, RequestBody):
    """`POST /v1/responses`."""

    model_config = ConfigDict(**_STRICT, title="ResponsesRequest")

    model: str = Field(description="The name of the served model, or of an adapter; `GET /v1/models` tells them.")
    input: Annotated[
        list[Item], BeforeValidator(_as_items, json_schema_input_type=str | Annotated[list[Item], Field(min_length=1)])
    ] = Field(description="Text, or messages, calls, their results, and thoughts.")
    instructions: str | None = Field(None, description="What a system message says.")
    max_output_tokens: int | None = Field(None, ge=1, description="Most tokens to answer.")
    text: TextOptions | None = Field(None, description="What the text must be: any, JSON, JSON of a schema, …")
    tools: list[FunctionTool] | None = Field(None, max_length=128, description="Functions that the model may call.")
    tool_choice: (
        Literal["none", "auto", "required"]
        | Annotated[NamedFunctionTool | AllowedFunctionTools, Field(discriminator="type")]
        | None
    ) = Field(None, description="`auto` (the default), `none`, `required`, one function, or some of them.")
    reasoning: ReasoningOptions | None = None
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        None,
        description="What to answer besides. Thoughts come as they are, not encrypted, and may be sent back so.",
    )
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=MAX_TOP_LOGPROBS,
        description="Likeliest tokens at each place, with `include`d log-probabilities.",
    )
    truncation: Literal["auto", "disabled"] = Field(
        "disabled",
        description="`auto`: where the context has no room for the input, leave out the oldest items. The last message "
        "of the user stays, with all that follows, and so do system messages. For the answer there stays "
        "`max_output_tokens`, or a quarter of the context.",
    )
    max_tool_calls: int | None = Field(
        None, ge=1, description="Most calls of built-in tools. There are none, so it always holds."
    )
    stream: bool = Field(False, description="Answer as server-sent events.")
    stream_options: ResponseStreamOptions | None = None
    include_guidance: bool = Field(
        False, description="Adds `guidance` to the usage: how the constraint was kept, and what it cost."
    )

    @property
    def with_logprobs(self) -> bool:
        """Whether log-probabilities are to be answered."""
        return "message.output_text.logprobs" in (self.include or ())

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """See the base class."""
        return IN_RESPONSES
