"""Its Messages API: OpenAI's chat completions, where any ``model`` means the one that is served.

Two fields may be written as its router reads them, too (``GrammarType`` and ``ToolType``): a ``response_format`` that
is a grammar, and a ``tool_choice`` that is a function's name, or has no type.
"""

from __future__ import annotations

from typing import Any, ClassVar

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
        if isinstance(body, dict):
            body = {
                **body,
                "model": body.get("model") or "tgi",
                "response_format": _response_format(body.get("response_format")),
                "tool_choice": _tool_choice(body.get("tool_choice")),
            }
        return super().parse(body)


def _response_format(wanted: Any) -> Any:
    if not isinstance(wanted, dict) or wanted.get("value") is None:
        return wanted
    value = wanted["value"]
    match wanted.get("type"):
        case "json" | "json_object":
            return {"type": "json_schema", "json_schema": {"schema": value}}
        case "json_schema":
            return {"type": "json_schema", "json_schema": value}
        case "regex":
            return {"type": "regex", "regex": value}
    return wanted


def _tool_choice(choice: Any) -> Any:
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        return {"type": "function", "function": {"name": choice}}
    if isinstance(choice, dict) and "function" in choice:
        return {"type": "function", **choice}
    return choice


async def chat(served: ServedModel, request: Request) -> Response:
    """Answer a conversation."""
    body = await MessagesBody.from_http_request(request, None)
    return await chat_completion(served, body.model_copy(update={"model": served.name}))
