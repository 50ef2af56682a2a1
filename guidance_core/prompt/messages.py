"""Chat messages as clients write them → as chat templates expect them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from guidance_core.errors import InvalidRequest, Unsupported

Message = Mapping[str, Any]
"""One message, as JSON: ``role``, ``content`` (a string, or a list of ``{"type": "text", "text": …}``), and whatever
else the dialect lets through to the template (``name``, ``tool_calls``, …). For models that take images, a part may be
``{"type": "image", "text": placeholder}``."""

ROLES = ("system", "developer", "user", "assistant", "tool")


def normalize_messages(messages: Sequence[Message], *, developer_role: bool) -> list[dict[str, Any]]:
    """Messages with a known role and a string as content, or a list of parts where there are images among them.

    Text parts are joined with a newline, as vLLM and llama.cpp do; keys that are null are left out, as `transformers`
    does; missing content is the empty string, because templates concatenate it.

    Args:
        messages: as the client sent them, at least one.
        developer_role: the template knows the role ``developer``; where it does not, such messages become ``system``
            (OpenAI gave the same role a new name).

    Raises:
        InvalidRequest: no messages, an unknown role, or content that is neither a string nor a list of parts.
        Unsupported: a part that is neither text nor an image.
    """
    if not messages:
        raise InvalidRequest("messages is empty: send at least one message.", param="messages")
    return [_normalize(message, f"messages[{i}]", developer_role) for i, message in enumerate(messages)]


def plain_text(content: Any) -> str:
    """A message's content as text: parts that are text, joined as `normalize_messages` does."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return content or ""
    return "\n".join(
        part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)
    )


def _normalize(message: Message, param: str, developer_role: bool) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise InvalidRequest(f"{param}.role is {role!r}; use one of {', '.join(ROLES)}.", param=f"{param}.role")
    normalized = {key: value for key, value in message.items() if value is not None}
    if role == "developer" and not developer_role:
        normalized["role"] = "system"
    normalized["content"] = _content(message.get("content"), f"{param}.content")
    return normalized


def _content(content: Any, param: str) -> str | list[dict[str, Any]]:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidRequest(f"{param} must be a string or a list of content parts.", param=param)
    texts = [_part_text(part, f"{param}[{i}]") for i, part in enumerate(content)]
    if not any(part["type"] == "image" for part in content):
        return "\n".join(texts)
    return [{"type": part["type"], "text": text} for part, text in zip(content, texts, strict=True)]


def _part_text(part: Any, param: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidRequest(f'{param} must be an object such as {{"type": "text", "text": "…"}}.', param=param)
    kind = part.get("type")
    if kind not in ("text", "image"):
        raise Unsupported(
            f"{param} has type {kind!r}; this model takes text only: send parts of type 'text'.", param=f"{param}.type"
        )
    text = part.get("text")
    if not isinstance(text, str):
        raise InvalidRequest(f"{param}.text must be a string.", param=f"{param}.text")
    return text
