"""A Responses request → the chat request that asks for the same."""

from __future__ import annotations

import re
from typing import Any

from guidance_core.api.openai.bodies import AnswerFields, ChatBody, ConversationFields
from guidance_core.api.openai.responses.bodies import (
    AllowedFunctionTools,
    CallItem,
    ImagePart,
    MessageItem,
    NamedFunctionTool,
    ReasoningItem,
    RefusalPart,
    ResponsesBody,
    ResultItem,
    SchemaFormat,
    TextPart,
)
from guidance_core.errors import InvalidRequest, RequestError

_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema.schema": "text.format.schema",
    "response_format.value": "text.format.value",
    "reasoning_effort": "reasoning.effort",
    "tool_choice.function.name": "tool_choice.name",
    "tool_choice.allowed_tools.tools": "tool_choice.tools",
}


def chat_body(body: ResponsesBody) -> ChatBody:
    """The chat request.

    Raises:
        InvalidRequest: what only shows when it is put together.
    """
    if body.top_logprobs and not body.with_logprobs:
        raise InvalidRequest(
            "'top_logprobs' needs 'include': [\"message.output_text.logprobs\"].", param="top_logprobs"
        )
    fields: dict[str, Any] = {
        **{name: getattr(body, name) for name in (*AnswerFields.model_fields, *ConversationFields.model_fields)},
        "model": body.model,
        "messages": messages(body),
        "max_completion_tokens": body.max_output_tokens,
        "stream": body.stream,
        # The last event of a stream has the usage, whether it is asked for or not.
        "stream_options": {"include_usage": True} if body.stream else None,
        "include_guidance": body.include_guidance,
        "logprobs": body.with_logprobs,
        "top_logprobs": body.top_logprobs or None,
        "tools": [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in body.tools or ()
        ],
        "tool_choice": _tool_choice(body),
        "response_format": _response_format(body),
        "reasoning_effort": None if body.reasoning is None else body.reasoning.effort,
    }
    return ChatBody.parse(fields)


def messages(body: ResponsesBody) -> list[dict[str, Any]]:
    """The conversation: thoughts, text and calls that follow each other are one message of the assistant."""
    return [message for message, _ in _conversation(body)]


def _conversation(body: ResponsesBody) -> list[tuple[dict[str, Any], int | None]]:
    """Each message, and the place of the item that begins it; None for the instructions."""
    written: list[dict[str, Any]] = []
    places: list[int | None] = []
    if body.instructions is not None:
        written.append({"role": "system", "content": body.instructions})
        places.append(None)
    for place, item in enumerate(body.input):
        match item:
            case ResultItem():
                written.append({"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)})
            case MessageItem() if item.role != "assistant":
                written.append({"role": item.role, "content": _content(item.content)})
            case MessageItem():
                _assistant(written, "content")["content"] = _content(item.content)
            case ReasoningItem():
                text = "".join(part.text for part in item.content or item.summary)
                _assistant(written, "reasoning_content")["reasoning_content"] = text
            case CallItem():
                call = {"id": item.call_id, "function": {"name": item.name, "arguments": item.arguments}}
                _assistant(written).setdefault("tool_calls", []).append(call)
        if len(written) > len(places):
            places.append(place)
    for message in written:
        if message.keys() <= {"role", "reasoning_content"}:
            message["content"] = ""  # thoughts that were cut off before an answer
    return list(zip(written, places, strict=True))


def rename(error: RequestError, body: ResponsesBody) -> None:
    """Let the error of a chat request speak of the field under the name that it has here."""
    if error.param is None:
        return
    name = _renamed(error.param, body)
    # Names that are words of the language, too, are only meant where they are quoted.
    plain = "[" in error.param or "_" in error.param
    pattern = rf"(?<![\w.]){re.escape(error.param)}(?![\w.])" if plain else re.escape(repr(error.param))
    error.message = re.sub(pattern, lambda _: name if plain else repr(name), error.message)
    if ".content[" in error.param:
        error.message = error.message.replace("'image_url'", "'input_image'").replace("'text'", "'input_text'")
    error.param = name


def _renamed(param: str, body: ResponsesBody) -> str:
    if (found := re.fullmatch(r"messages\[(\d+)\](.*)", param)) is not None:
        message, place = _conversation(body)[int(found[1])]
        if place is None:
            return "instructions"
        rest = found[2]
        match message["role"]:
            case "assistant":
                rest = ""  # several items may be in it
            case "tool":
                rest = rest.replace(".tool_call_id", ".call_id").replace(".content", ".output")
        return f"input[{place}]{rest}"
    if param.startswith("tools["):
        return param.replace(".function.", ".")
    return _NAMES.get(param, param)


def _assistant(written: list[dict[str, Any]], without: str | None = None) -> dict[str, Any]:
    """The assistant's message that the last items are part of, or a new one."""
    if (
        not written
        or written[-1]["role"] != "assistant"
        or without in written[-1]
        or (without is not None and "tool_calls" in written[-1])
    ):
        written.append({"role": "assistant"})
    return written[-1]


def _text(parts: list[TextPart]) -> str:
    return "\n".join(part.text for part in parts)


def _content(parts: list[TextPart | ImagePart | RefusalPart]) -> str | list[dict[str, Any]]:
    texts = [part for part in parts if isinstance(part, TextPart)]
    if len(texts) == len(parts):
        return _text(texts)
    return [_part(part) for part in parts]


def _part(part: TextPart | ImagePart | RefusalPart) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "text": text}
        case RefusalPart(refusal=refusal):
            return {"type": "refusal", "refusal": refusal}
        case ImagePart():
            return {"type": "image_url", "image_url": {"url": part.image_url, "detail": part.detail}}


def _tool_choice(body: ResponsesBody) -> Any:
    match body.tool_choice:
        case NamedFunctionTool(name=name):
            return {"type": "function", "function": {"name": name}}
        case AllowedFunctionTools(mode=mode, tools=tools):
            named = [{"type": "function", "function": {"name": tool.name}} for tool in tools]
            return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}
    return None if body.tool_choice == "auto" and not body.tools else body.tool_choice


def _response_format(body: ResponsesBody) -> dict[str, Any] | None:
    wanted = None if body.text is None else body.text.format
    if wanted is None:
        return None
    if isinstance(wanted, SchemaFormat):
        schema = wanted.model_dump(exclude={"type"}, exclude_unset=True, by_alias=True)
        return {"type": "json_schema", "json_schema": schema}
    return wanted.model_dump(exclude_none=True)
