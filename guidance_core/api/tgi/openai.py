"""OpenAI's endpoints as its router has them: any ``model`` means the one that is served, an adapter's name the adapter.

In chats two fields may be written as its router reads them, too (``GrammarType`` and ``ToolType``): a
``response_format`` that is a grammar, and a ``tool_choice`` that is a function's name, or has no type.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typing_extensions import Self

from guidance_core.api.openai.bodies import ChatBody, CompletionBody, Message
from guidance_core.api.openai.chat import chat_completion
from guidance_core.api.openai.completions import completion
from guidance_core.api.openai.constraints import ResponseFormat
from guidance_core.api.openai.model_list import model_list
from guidance_core.api.openai.tools import FunctionName, NamedFunction, ToolChoice
from guidance_core.api.served_model import ServedModel
from guidance_core.api.tgi.bodies import Grammar
from guidance_core.errors import InvalidRequest
from guidance_core.prompt.messages import plain_text

_ANY_MODEL = "An adapter's name means the adapter, any other one the served model."


class UntypedTool(BaseModel):
    """A tool by its name."""

    function: NamedFunction


def _response_format(wanted: Any) -> Any:
    if not isinstance(wanted, dict) or wanted.get("value") is None:
        return wanted
    value = wanted["value"]
    match wanted.get("type"):
        case "json" | "json_object":
            return {"type": "json_schema", "json_schema": {"schema": value}}
        case "json_schema":
            if isinstance(value, dict) and value.get("schema") is None:
                raise ValueError("must have its schema in 'value.schema'")
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


class MessagesBody(ChatBody):
    """`POST /tgi/v1/chat/completions` and `POST /tgi/chat_tokenize`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TGIChatCompletionRequest")

    model: str = Field("tgi", description=_ANY_MODEL)
    response_format: (
        Annotated[ResponseFormat, BeforeValidator(_response_format, json_schema_input_type=ResponseFormat | Grammar)]
        | None
    ) = Field(None, description="What the answer must be, as OpenAI writes it or as a `grammar` is written.")
    tool_choice: (
        Annotated[
            ToolChoice, BeforeValidator(_tool_choice, json_schema_input_type=ToolChoice | FunctionName | UntypedTool)
        ]
        | None
    ) = Field(None, description="`auto` (the default with tools), `none`, `required`, or a function, also by its name.")
    tool_prompt: str | None = Field(
        None, description="With tools: what the last message ends with, after a line with `---`."
    )

    def for_chat(self, served: ServedModel) -> Self:
        """The request as OpenAI's chat completions take it.

        Raises:
            InvalidRequest: a prompt for tools that are not there.
        """
        update: dict[str, Any] = {"model": _served_name(served, self.model)}
        if self.tool_prompt:
            if not self.tools:
                raise InvalidRequest("'tool_prompt' is about 'tools', and there are none.", param="tool_prompt")
            if self.tool_choice != "none":
                update["messages"] = [*self.messages[:-1], _prompted(self.messages[-1], self.tool_prompt)]
        last = self.messages[-1]
        calls = last.tool_calls or last.function_call
        begun = last.role == "assistant" and not calls and plain_text(last.content).strip()
        if begun and self.add_generation_prompt is None:
            # Its router goes on with an assistant's message that comes last.
            update["continue_final_message"] = True
        return self.model_copy(update=update)


class TextBody(CompletionBody):
    """`POST /tgi/v1/completions`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(title="TGICompletionRequest")

    model: str = Field("tgi", description=_ANY_MODEL)
    max_tokens: int | None = Field(
        None, ge=0, description="Most tokens to answer per choice; by default the context's rest."
    )


def _prompted(message: Message, prompt: str) -> Message:
    text = f"\n---\n{prompt}"
    if isinstance(message.content, list):
        return message.model_copy(update={"content": [*message.content, {"type": "text", "text": text}]})
    return message.model_copy(update={"content": (message.content or "") + text})


def _served_name(served: ServedModel, model: str) -> str:
    adapters = served.get().adapters
    return model if adapters is not None and model in adapters else served.name


async def chat(served: ServedModel, request: Request) -> Response:
    """Answer a conversation."""
    body = await MessagesBody.from_http_request(request, None)
    return await chat_completion(served, body.for_chat(served))


async def text(served: ServedModel, request: Request) -> Response:
    """Continue a prompt."""
    body = await TextBody.from_http_request(request, None)
    named = body.model_copy(update={"model": _served_name(served, body.model)})
    return await completion(served, named, default_max_tokens=None)


async def models(served: ServedModel, request: Request) -> Response:
    """The served model, and its adapters."""
    return JSONResponse(model_list(served))
