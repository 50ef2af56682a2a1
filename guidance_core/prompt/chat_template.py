"""A model's chat template: messages → the prompt's text.

The dialect of Jinja is the one that Hugging Face defines for chat templates
(https://huggingface.co/docs/transformers/main/en/chat_templating_writing): a sandbox whose inputs are immutable,
trimmed blocks, ``raise_exception``, ``strftime_now``, ``tojson`` without HTML escapes, ``break`` and ``continue``, and
``{% generation %}`` blocks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from guidance_core.errors import ContextLengthExceeded, InvalidRequest
from guidance_core.prompt.messages import Message, normalize_messages, plain_text
from guidance_core.prompt.template_variables import check_variables

RESERVED = frozenset({"messages", "tools", "add_generation_prompt"})
"""Template variables that are parameters of their own."""


class _GenerationBlock(jinja2.ext.Extension):
    """``{% generation %} … {% endgeneration %}`` marks what the assistant wrote, for training; here it only scopes."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance attribute)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatTemplate:
    """A compiled chat template with the model's special tokens. Immutable; safe to share between threads.

    Attributes:
        source: the template's text.
        can_leave_the_answer_out: it can end before the answer's start (``add_generation_prompt``).
        takes_tools: it may have its own words for tools.
        variables: names that it asks for.
    """

    can_leave_the_answer_out = True
    takes_tools = True

    def __init__(self, source: str, *, special_tokens: Mapping[str, str] | None = None) -> None:
        """Compile a template.

        Args:
            source: the template's text.
            special_tokens: variables such as ``bos_token`` and ``eos_token``.

        Raises:
            ValueError: the template is not valid Jinja.
        """
        try:
            environment = _environment()
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"The chat template is not valid Jinja (line {error.lineno}): {error.message}") from error
        self.source = source
        self.variables = frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source)))
        self._special_tokens = dict(special_tokens or {})
        self._developer_role = "developer" in source
        self._content_as_parts = not self._shows([{"role": "user", "content": _PROBE}]) and self._shows(
            [{"role": "user", "content": [{"type": "text", "text": _PROBE}]}]
        )
        self._shows_images = self._writes_images()

    def knows_role(self, role: str) -> bool:
        """Whether messages of a role are rendered, before one of the user."""
        return self._shows([{"role": role, "content": _PROBE}, {"role": "user", "content": "Hello"}])

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        max_chars: int | None = None,
    ) -> str:
        """The prompt's text.

        Args:
            messages: the conversation, as JSON.
            tools: tool descriptions, as JSON schemas in OpenAI's shape.
            add_generation_prompt: end with what starts the assistant's turn.
            variables: further template variables (``enable_thinking``, ``documents``, …).
            max_chars: refuse a longer prompt, without rendering all of it.

        Raises:
            InvalidRequest: the messages are malformed, or the template refuses them (in its own words).
            Unsupported: a content part that is not text, or a variable that the template does not ask for.
            ContextLengthExceeded: longer than ``max_chars``.
        """
        variables = variables or {}
        check_variables(variables, reserved=RESERVED, read=self.variables)
        chat = normalize_messages(messages, developer_role=self._developer_role)
        if max_chars is not None:
            _check_length(sum(len(plain_text(message["content"])) for message in chat), max_chars)
        chat = [{**message, "content": self._as_shown(message["content"])} for message in chat]
        try:
            return self._run(
                {
                    "documents": None,
                    **self._special_tokens,
                    **variables,
                    "messages": chat,
                    "tools": list(tools) if tools is not None else None,
                    "add_generation_prompt": add_generation_prompt,
                },
                max_chars,
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template refuses these messages: {error.message or type(error).__name__}",
                param="messages",
            ) from error
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            raise InvalidRequest(
                f"The model's chat template cannot render these messages: {error}", param="messages"
            ) from error

    def _as_shown(self, content: str | list[dict[str, Any]]) -> str | list[dict[str, Any]]:
        """A message's content in the form that the template goes through."""
        if isinstance(content, list) and self._shows_images:
            return [{"type": "image"} if part["type"] == "image" else part for part in content]
        text = plain_text(content)
        return [{"type": "text", "text": text}] if self._content_as_parts else text

    def _run(self, variables: Mapping[str, Any], max_chars: int | None) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if max_chars is not None:
                _check_length(length, max_chars)
        return "".join(pieces)

    def _writes_images(self) -> bool:
        """Whether the template writes anything for a content part that is an image."""
        text = [{"type": "text", "text": _PROBE}]
        without, with_image = (
            self._rendered([{"role": "user", "content": content}]) for content in (text, [{"type": "image"}, *text])
        )
        return _PROBE in with_image and with_image != without

    def _shows(self, chat: list[dict[str, Any]]) -> bool:
        """Whether the template renders this chat with the probe in it."""
        return _PROBE in self._rendered(chat)

    def _rendered(self, chat: list[dict[str, Any]]) -> str:
        """What the template makes of a chat with a probe in it; nothing where it refuses it."""
        try:
            variables = {**self._special_tokens, "messages": chat, "add_generation_prompt": False}
            return self._run(variables, max_chars=_PROBE_CHARS)
        except Exception:
            # A template may refuse the probe for reasons of its own; then nothing is known about its content format.
            return ""


_PROBE = "content-format-probe"
_PROBE_CHARS = 100_000
"""Far more than a template writes around one message."""


def _check_length(chars: int, max_chars: int) -> None:
    if chars > max_chars:
        raise ContextLengthExceeded(
            f"The messages are longer than {max_chars} characters, more than the model's context can hold: "
            "shorten or drop some of them.",
            param="messages",
        )
