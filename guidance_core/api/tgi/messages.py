"""Its Messages API: OpenAI's chat completions, where any ``model`` means the one that is served."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import Self

from guidance_core.api.openai.bodies import ChatBody
from guidance_core.api.openai.chat import chat_completion
from guidance_core.api.served_model import ServedModel


class MessagesBody(ChatBody):
    """`POST /tgi/v1/chat/completions`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TGIChatCompletionRequest")

    @classmethod
    def parse(cls, body: object) -> Self:
        """Check a parsed body. Raises as the base class."""
        if isinstance(body, dict) and body.get("model") is None:
            body = {**body, "model": "tgi"}
        return super().parse(body)


async def chat(served: ServedModel, request: Request) -> Response:
    """Answer a conversation."""
    body = await MessagesBody.from_http_request(request, None)
    return await chat_completion(served, body.model_copy(update={"model": served.name}))
