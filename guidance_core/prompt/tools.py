"""Tools and earlier calls, as a chat template takes them, or in words where it takes none."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guidance_core.errors import InvalidRequest
from guidance_core.prompt.messages import Message, plain_text
from guidance_core.prompt.tokenizer import PromptTokenizer
from guidance_core.tool_format import JSON, ToolFormat, after_token, detect

Tool = Mapping[str, Any]
"""A tool in OpenAI's shape: ``{"type": "function", "function": {"name", "description", "parameters"}}``."""


@dataclass(frozen=True, slots=True)
class SchemaInWords:
    """A JSON schema that the model is told of.

    Attributes:
        schema: for templates that have the variable ``json_schema``, as llgtrt's have.
        text: for all others.
    """

    schema: Any
    text: str


class ToolUse:
    """How one model is told of tools, and how it writes calls.

    Attributes:
        format: of its calls.
        token_ids: of those parts of the format that are special tokens of the model.
    """

    def __init__(
        self, prompts: PromptTokenizer, tool_format: ToolFormat | None = None, *, json_start_token: str | None = None
    ) -> None:
        """Find out.

        Args:
            prompts: the model's tokenizer and templates.
            tool_format: use this one; by default, what the chat template shows.
            json_start_token: special token that begins calls, if their format is plain JSON.

        Raises:
            ValueError: the format is another one, or the token is no special token of the model.
        """
        template = prompts.template(for_tools=True)
        shown = JSON if template is None or not template.takes_tools else detect(template.source)
        self.format = tool_format or shown
        self._in_template = JSON not in (shown, self.format)
        if json_start_token is not None:
            self.format = after_token(self.format, json_start_token)
        special = prompts.tokenizer.get_added_tokens_decoder()
        self.token_ids = {
            token.content: token_id
            for token_id, token in special.items()
            if token.special and token.content in self.format.special_tokens
        }
        if json_start_token is not None and json_start_token not in self.token_ids:
            raise ValueError(
                f"model.json_start_token is {json_start_token!r}, which is no special token of this model: name one of "
                "its tokenizer.json."
            )
        self._prompts = prompts
        self._template_shows_schemas = template is not None and "json_schema" in template.variables
        self._system_role = template is None or template.knows_role("system")

    def chat_text(
        self, messages: Sequence[Message], tools: Sequence[Tool], *, schema: SchemaInWords | None = None, **options: Any
    ) -> str:
        """A conversation with tools, with earlier calls, or with a schema that the answer will have to follow.

        Args:
            messages: in OpenAI's shape.
            tools: what may be called; may be empty.
            schema: to be told to the model.
            options: see `PromptTokenizer.chat_text`, which raises the errors too.
        """
        if schema is not None and self._template_shows_schemas:
            options["variables"] = {"json_schema": schema.schema, **(options.get("variables") or {})}
        elif schema is not None:
            messages = told(messages, schema.text, system_role=self._system_role)
        if self._in_template:
            return self._prompts.chat_text(for_template(messages, self.format), tools=tools or None, **options)
        in_text = in_words(messages, tools, self.format, system_role=self._system_role)
        return self._prompts.chat_text(in_text, **options)


_ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_call_id(tool_format: ToolFormat) -> str:
    """A fresh id for a call, which the model's template will take back."""
    prefix = "" if tool_format.call_id < 24 else "call_"
    return prefix + "".join(secrets.choice(_ALPHANUMERIC) for _ in range(tool_format.call_id))


def for_template(messages: Sequence[Message], tool_format: ToolFormat) -> list[dict[str, Any]]:
    """Messages as templates that know tools expect them: arguments as objects, ids of the length they insist on.

    Args:
        messages: in OpenAI's shape, where arguments are JSON text.
        tool_format: the model's.

    Raises:
        InvalidRequest: arguments that are not a JSON object.
    """
    return [_for_template(message, f"messages[{i}]", tool_format) for i, message in enumerate(messages)]


def in_words(
    messages: Sequence[Message], tools: Sequence[Tool], tool_format: ToolFormat, *, system_role: bool
) -> list[dict[str, Any]]:
    """Messages for a template that knows nothing of tools: descriptions, calls and results are written as text.

    Args:
        messages: in OpenAI's shape.
        tools: what may be called; none, and only earlier calls and results are written out.
        tool_format: how the model is to write calls.
        system_role: the template knows the role ``system``; where it does not, the first message of the user tells.

    Raises:
        InvalidRequest: arguments that are not a JSON object.
    """
    written = [_as_text(message, f"messages[{i}]", tool_format) for i, message in enumerate(messages)]
    return told(written, _description(tools, tool_format), system_role=system_role) if tools else written


def told(messages: Sequence[Message], text: str, *, system_role: bool) -> list[dict[str, Any]]:
    """Messages that tell the model something besides: at the end of its system message, or of a new one.

    Args:
        messages: in OpenAI's shape.
        text: what to tell.
        system_role: see `in_words`.
    """
    changed = [dict(message) for message in messages]
    roles = ("system", "developer") if system_role else ("user",)
    for message in changed:
        if message["role"] in roles:
            content = plain_text(message.get("content"))
            parts = [content, text] if system_role else [text, content]
            message["content"] = "\n\n".join(filter(None, parts))
            return changed
    return [{"role": roles[0], "content": text}, *changed]


def call_id(given: str, tool_format: ToolFormat) -> str:
    """A call's id as the template takes it: another id of the right length where the client's own has a wrong one."""
    if tool_format.call_id == 24 or (len(given) == tool_format.call_id and given.isalnum()):
        return given
    number = int.from_bytes(hashlib.sha256(given.encode()).digest(), "big")
    digits = []
    for _ in range(tool_format.call_id):
        number, digit = divmod(number, len(_ALPHANUMERIC))
        digits.append(_ALPHANUMERIC[digit])
    return "".join(digits)


def _for_template(message: Message, param: str, tool_format: ToolFormat) -> dict[str, Any]:
    changed = dict(message)
    if message.get("tool_calls"):
        changed["tool_calls"] = [
            {
                "id": call_id(call["id"], tool_format),
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": arguments},
            }
            for call, arguments in _calls(message, param)
        ]
    if message.get("tool_call_id") is not None:
        changed["tool_call_id"] = call_id(message["tool_call_id"], tool_format)
    return changed


def _as_text(message: Message, param: str, tool_format: ToolFormat) -> dict[str, Any]:
    if message["role"] == "tool":
        return {
            "role": "user",
            "content": f"Result of {message['tool_call_id']}:\n{plain_text(message.get('content'))}",
        }
    if not message.get("tool_calls"):
        return dict(message)
    calls = [
        f"{tool_format.opener}{call['function']['name']}{tool_format.middle}"
        f"{json.dumps(arguments, ensure_ascii=False)}{tool_format.closer}"
        for call, arguments in _calls(message, param)
    ]
    text = tool_format.begin + tool_format.between.join(calls) + tool_format.end
    return {
        **{key: value for key, value in message.items() if key != "tool_calls"},
        "content": "\n".join(filter(None, [plain_text(message.get("content")), text])),
    }


def _calls(message: Message, param: str) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
    """Each call with its arguments as an object."""
    calls = []
    for i, call in enumerate(message["tool_calls"]):
        place = f"{param}.tool_calls[{i}].function.arguments"
        try:
            arguments = json.loads(call["function"]["arguments"] or "{}")
        except ValueError as error:
            raise InvalidRequest(f"'{place}' is not valid JSON: {error}.", param=place) from None
        if not isinstance(arguments, dict):
            raise InvalidRequest(f"'{place}' must be the text of a JSON object.", param=place)
        calls.append((call, arguments))
    return calls


def _description(tools: Sequence[Tool], tool_format: ToolFormat) -> str:
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    form = (
        f"{tool_format.begin}{tool_format.opener}<name>{tool_format.middle}<arguments as a JSON object>"
        f"{tool_format.closer}{tool_format.end}"
    )
    return (
        f"You can call these functions:\n\n{functions}\n\n"
        f"To call them, answer with nothing but this:\n\n{form}\n\n"
        "You will be told the results. Answer in words when no call is needed."
    )
