"""Content parts of messages that are images (``image_url``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.api.openai.bodies import Message
from guidance_core.api.served_model import LoadedModel
from guidance_core.errors import InvalidRequest, Unsupported


def image_urls(model: LoadedModel, messages: Sequence[Message]) -> list[tuple[str, str]]:
    """The URLs of the images of a conversation, in order, each with the field that has it.

    Raises:
        InvalidRequest: a part that is malformed.
        Unsupported: a model that takes no images, a part of another type, or an image of another role than the user's.
    """
    return [
        _url(model, message.role, part, f"messages[{i}].content[{j}]")
        for i, message in enumerate(messages)
        for j, part in enumerate(message.content if isinstance(message.content, list) else ())
        if part.get("type") not in ("text", "refusal")
    ]


def with_placeholders(messages: Sequence[dict[str, Any]], token: str) -> list[dict[str, Any]]:
    """Messages with images as chat templates know them, and what stands for one where a template knows text only."""
    image = {"type": "image", "text": token}
    return [
        {**message, "content": [image if part.get("type") == "image_url" else part for part in message["content"]]}
        if isinstance(message.get("content"), list)
        else message
        for message in messages
    ]


def _url(model: LoadedModel, role: str, part: dict[str, Any], param: str) -> tuple[str, str]:
    kind = part.get("type")
    if kind is None:
        raise InvalidRequest(
            f"Missing required field '{param}.type'.", param=f"{param}.type", code="missing_required_parameter"
        )
    if kind != "image_url" or model.images is None:
        why, taken = "this model takes text and images only", "'text' and 'image_url'"
        if model.images is None:
            why, taken = model.no_images, "'text'"
        raise Unsupported(f"'{param}.type' is {kind!r}; {why}: send parts of type {taken}.", param=f"{param}.type")
    if role != "user":
        raise Unsupported(
            f"'{param}' is an image in a message of the role {role!r}: send images in messages of the role 'user'.",
            param=param,
        )
    image = part.get("image_url")
    if isinstance(image, str):
        image = {"url": image}  # older clients
    if not isinstance(image, dict) or not isinstance(image.get("url"), str):
        raise InvalidRequest(
            f"'{param}.image_url' must be an object with a 'url', such as {{\"url\": \"data:image/png;base64,…\"}}.",
            param=f"{param}.image_url",
        )
    _check_keys(part, {"type", "image_url"}, param)
    _check_keys(image, {"url", "detail"}, f"{param}.image_url")
    if image.get("detail") not in (None, "auto", "high"):
        raise Unsupported(
            f"'{param}.image_url.detail' is {image['detail']!r}, but the model's processor has one way to see an "
            "image: leave it out, or make it 'auto' or 'high'; a smaller image costs fewer tokens with some models.",
            param=f"{param}.image_url.detail",
        )
    return image["url"], f"{param}.image_url.url"


def _check_keys(given: dict[str, Any], known: set[str], param: str) -> None:
    for key in given.keys() - known:
        if given[key] is not None:
            path = f"{param}.{key}"
            raise InvalidRequest(f"Unknown field {path!r}: leave it out.", param=path, code="unknown_parameter")
