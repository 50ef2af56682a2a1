"""Request bodies. Null means "not given" everywhere, because its clients send every field that they know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from guidance_core.api.openai.bodies import RepetitionPenalty, RequestBody
from guidance_core.api.openai.nulls import NullsLeftOut
from guidance_core.api.openai.refused_fields import Refused

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, populate_by_name=True)


class JsonGrammar(BaseModel):
    """A JSON value that validates against a schema, which may be written as text."""

    model_config = _STRICT
    type: Literal["json", "json_object"]
    value: Annotated[
        dict[str, Any] | bool | str,
        WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "boolean"}, {"type": "string"}]}),
    ]


class RegexGrammar(BaseModel):
    """Text that matches a regular expression as a whole."""

    model_config = _STRICT
    type: Literal["regex"]
    value: str


class SchemaWithName(BaseModel):
    """A JSON schema with what OpenAI writes around it."""

    model_config = _STRICT
    name: str | None = None
    schema_: dict[str, Any] | bool = Field(alias="schema")
    strict: bool | None = Field(None, description="The schema is enforced in full, whatever is said here.")


class JsonSchemaGrammar(BaseModel):
    """A JSON value that validates against a schema."""

    model_config = _STRICT
    type: Literal["json_schema"]
    value: SchemaWithName


Grammar = Annotated[JsonGrammar | RegexGrammar | JsonSchemaGrammar, Field(discriminator="type")]


class GenerateParameters(NullsLeftOut):
    """How to generate, and what to answer."""

    model_config = _STRICT

    do_sample: bool = Field(
        False, description="Sample; without it, and without a field that samples, the likeliest token is taken."
    )
    temperature: float | None = Field(None, gt=0, description="Samples; 1 if not given.")
    top_k: int | None = Field(None, gt=0, description="Sample from the k likeliest tokens.")
    top_p: float | None = Field(
        None, gt=0, lt=1, description="Sample from the likeliest tokens that have this share together."
    )
    typical_p: float | None = Field(
        None, gt=0, le=1, description="Sample from the tokens whose surprise is nearest to the expected one."
    )
    repetition_penalty: RepetitionPenalty | None = Field(
        None, description="Above 1, tokens seen before become less likely."
    )
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    seed: int | None = Field(None, ge=0, lt=2**64, description="The same seed gives the same answer.")
    best_of: int | None = Field(
        None, ge=1, description="Generate so many answers, and return the one with the highest logprob per token."
    )
    max_new_tokens: int | None = Field(None, ge=1, description="Most tokens to answer; by default the context's rest.")
    stop: list[str] = Field(default_factory=list, description="Strings that end the answer, and are part of it.")
    truncate: int | None = Field(None, ge=1, description="Use only so many tokens of the prompt, the last ones.")
    grammar: Grammar | None = Field(None, description="What the answer must be.")
    return_full_text: bool | None = Field(None, description="Answer the prompt, too, before the answer.")
    details: bool = Field(False, description="Answer the tokens, too, and why the answer ended.")
    top_n_tokens: int | None = Field(None, ge=0, description="With the details: so many of the likeliest tokens.")
    decoder_input_details: bool = Field(
        False, description="The details, and in them the prompt's tokens with their logprobs; not in a stream."
    )
    watermark: bool = Field(False, description="Not supported.")
    adapter_id: str | None = Field(None, description="Name of the adapter (LoRA) to answer with.")


_REFUSED = {
    "messages": Refused(instead="conversations go to /tgi/v1/chat/completions"),
    "stream": Refused((False,), "POST /tgi/generate_stream streams, and so does POST /tgi with it"),
}


class TGIGenerateBody(RequestBody):
    """`POST /tgi/generate` and `POST /tgi/generate_stream`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TGIGenerateRequest")

    inputs: str = Field(min_length=1, description="The prompt.")
    # Its router samples where there are no parameters at all (`default_parameters`), and only there.
    parameters: GenerateParameters = Field(default_factory=lambda: GenerateParameters(do_sample=True))

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """See the base class."""
        return _REFUSED


class TGICompatGenerateBody(TGIGenerateBody):
    """`POST /tgi`: either of them."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TGICompatGenerateRequest")

    stream: bool = Field(False, description="Answer as server-sent events.")
