"""Request bodies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, Field
from typing_extensions import Self

from guidance_core.api.openai.bodies import ChatBody, Message, RequestBody, TokenId
from guidance_core.api.openai.refused_fields import IN_CHAT, Refused
from guidance_core.api.openai.tools import Tool
from guidance_core.errors import InvalidRequest

_OF_CHAT = ("add_generation_prompt", "continue_final_message", "chat_template_kwargs", "tools")

_REFUSED = {name: IN_CHAT[name] for name in ("chat_template", "media_io_kwargs", "mm_processor_kwargs")}


class TokenizeBody(RequestBody):
    """`POST /tokenize`: a prompt as `/v1/completions` takes it, or messages as `/v1/chat/completions` takes them."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TokenizeRequest")

    model: str | None = Field(None, description="The name of the served model, if at all.")
    prompt: str | None = Field(None, description="Text to tokenise. Either this or `messages`.")
    messages: list[Message] | None = Field(None, min_length=1, description="A conversation to tokenise.")
    add_special_tokens: bool | None = Field(
        None, description="Add what the tokenizer adds by itself, such as BOS: by default to a `prompt` only."
    )
    add_generation_prompt: bool | None = Field(
        None, description="End `messages` with what starts the assistant's turn; true if not given."
    )
    continue_final_message: bool | None = Field(None, description="End within the last message, right after its text.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="Further variables of the chat template.")
    tools: list[Tool] | None = Field(None, description="What the model may call.")
    return_token_strs: bool = Field(False, description="Answer the tokens as the vocabulary spells them, too.")

    @classmethod
    def refused(cls) -> Mapping[str, Refused]:
        """See the base class."""
        return _REFUSED

    @classmethod
    def parse(cls, body: object) -> Self:
        """Check a parsed body. Raises as the base class."""
        parsed = super().parse(body)
        if (parsed.prompt is None) == (parsed.messages is None):
            raise InvalidRequest("Give either 'prompt' or 'messages'.", param="prompt")
        if parsed.messages is None:
            for name in _OF_CHAT:
                if getattr(parsed, name) is not None:
                    raise InvalidRequest(f"{name!r} needs 'messages': a prompt has no chat template.", param=name)
        return parsed

    def conversation(self, model: str) -> ChatBody:
        """The chat request whose prompt this is."""
        return ChatBody(
            model=model,
            messages=self.messages or [],
            tools=self.tools,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message is True,
            chat_template_kwargs=self.chat_template_kwargs,
        )


class DetokenizeBody(RequestBody):
    """`POST /detokenize`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="DetokenizeRequest")

    model: str | None = Field(None, description="The name of the served model, if at all.")
    tokens: list[TokenId] = Field(description="Token ids.")
