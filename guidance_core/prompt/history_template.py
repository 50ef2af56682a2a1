"""Liquid templates for conversations, as openai_trtllm has them (its ``src/history/mod.rs`` and ``templates/``).

Such a template gets the list ``items``, one item for each message: ``identity`` (``System``, ``User``, ``Assistant``,
``Tool``), ``content`` and ``name``, which may be nil. As in Rust's Liquid, an unknown variable is an error where it is
written, and false where it is tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import liquid
from liquid.exceptions import LiquidError, TemplateNotFoundError

from guidance_core.errors import ContextLengthExceeded, InvalidRequest
from guidance_core.prompt.messages import Message, normalize_messages, plain_text
from guidance_core.prompt.template_variables import check_variables

RESERVED = frozenset({"items", "tools", "add_generation_prompt"})
"""Template variables that a request has fields for."""

_PROBE = "history-probe"


class HistoryTemplate:
    """A compiled Liquid template. Immutable; safe to share between threads. It stands in for a `ChatTemplate`.

    Attributes:
        source: the template's text.
        can_leave_the_answer_out: it asks for the variable ``add_generation_prompt``.
        takes_tools: never: tools, calls and results are written into the messages in words.
        variables: names that it asks for.
    """

    takes_tools = False

    def __init__(self, source: str, *, special_tokens: Mapping[str, str] | None = None) -> None:
        """Compile a template, and try it on a message of the user.

        Args:
            source: the template's text.
            special_tokens: variables such as ``bos_token`` and ``eos_token``.

        Raises:
            ValueError: it is not valid Liquid, or does not write the message.
        """
        self.source = source
        self.can_leave_the_answer_out = "add_generation_prompt" in source
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = liquid.Environment(undefined=liquid.FalsyStrictUndefined).from_string(source)
            probe = self._run([{"role": "user", "content": _PROBE}], {"add_generation_prompt": True})
        except TemplateNotFoundError as error:
            raise ValueError(
                f"The history template includes {error.message!r}, but a history template is one file: write that into "
                "it."
            ) from error
        except LiquidError as error:
            raise ValueError(f"The history template is not valid Liquid: {error.message}{_line(error)}") from error
        self.variables = frozenset(self._template.global_variables())
        if _PROBE not in probe:
            raise ValueError(
                "The history template does not write the messages: it must go through `items` and write each one's "
                "`content`."
            )

    def knows_role(self, role: str) -> bool:
        """Whether messages of a role are rendered, before one of the user."""
        try:
            chat = [{"role": role, "content": _PROBE}, {"role": "user", "content": "Hello"}]
            return _PROBE in self._run(chat, {"add_generation_prompt": True})
        except LiquidError:
            return False

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        max_chars: int | None = None,
    ) -> str:
        """The prompt's text; arguments and errors as `ChatTemplate.render`. ``tools`` are another variable.

        Raises:
            InvalidRequest: the messages are malformed, or the template cannot render them.
            Unsupported: a content part that is not text, or a variable that the template does not ask for.
            ContextLengthExceeded: longer than ``max_chars``.
        """
        check_variables(variables or {}, reserved=RESERVED, read=self.variables)
        chat = normalize_messages(messages, developer_role=False)
        given = {**(variables or {}), "tools": tools, "add_generation_prompt": add_generation_prompt}
        try:
            text = self._run(chat, given)
        except LiquidError as error:
            raise InvalidRequest(
                f"The model's history template cannot render these messages: {error.message}", param="messages"
            ) from error
        if max_chars is not None and len(text) > max_chars:
            raise ContextLengthExceeded(
                f"The messages are longer than {max_chars} characters, more than the model's context can hold: "
                "shorten or drop some of them.",
                param="messages",
            )
        return text

    def _run(self, chat: Sequence[Mapping[str, Any]], variables: Mapping[str, Any]) -> str:
        items = [
            {
                "identity": message["role"].capitalize(),
                "content": plain_text(message["content"]),
                "name": message.get("name"),
            }
            for message in chat
        ]
        try:
            return self._template.render(**{**self._special_tokens, **variables, "items": items})
        except (ValueError, ArithmeticError) as error:
            # Some filters (base64_decode, sum) let these through.
            raise LiquidError(str(error), token=None) from error


def _line(error: LiquidError) -> str:
    token = error.token
    return "" if token is None else f" (line {token.source.count(chr(10), 0, token.start_index) + 1})"
