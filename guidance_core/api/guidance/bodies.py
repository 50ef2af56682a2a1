"""The request body."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import Self

from guidance_core.api.openai.bodies import Message, RequestBody
from guidance_core.errors import InvalidRequest


class ControllerArgument(BaseModel):
    """What the controller is told."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    grammar: dict[str, Any] = Field(description="Llguidance's serialised grammar, an object with `grammars`.")


class RunBody(RequestBody):
    """`POST /v1/run`. The defaults are those that llgtrt declares."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="RunRequest")

    controller: Literal["llguidance"] = Field(description="What guides the answer.")
    controller_arg: ControllerArgument
    prompt: str | None = Field(None, description="The prompt; this or `messages`, or neither.")
    messages: list[Message] | None = Field(None, min_length=1, description="The conversation so far.")
    temperature: float = Field(0.0, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float = Field(1.0, gt=0, le=1, description="Sample from the likeliest tokens with this share together.")
    max_tokens: int | None = Field(None, ge=1, description="Most tokens to answer; by default the context's rest.")

    @classmethod
    def parse(cls, body: object) -> Self:
        """Check a parsed body. Raises as the base class."""
        parsed = super().parse(body)
        if parsed.prompt is not None and parsed.messages is not None:
            raise InvalidRequest("'prompt' and 'messages' are mutually exclusive: give one of them.", param="messages")
        return parsed
