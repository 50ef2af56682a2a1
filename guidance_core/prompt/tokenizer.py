"""Prompts in any form → token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from guidance_core.errors import ContextLengthExceeded, InvalidRequest
from guidance_core.prompt.chat_template import ChatTemplate
from guidance_core.prompt.messages import Message, plain_text
from guidance_core.prompt.model_folder import (
    chat_template_sources,
    is_template,
    load_special_tokens,
    load_tokenizer,
    token_id,
)

if TYPE_CHECKING:
    from guidance_core.prompt.history_template import HistoryTemplate

    Template = ChatTemplate | HistoryTemplate


class PromptTokenizer:
    """A model's tokenizer and chat template.

    Its methods are synchronous and thread-safe. Tokenising releases the GIL and takes about 0.3 µs per character, so
    callers on an event loop hand long prompts to a thread.

    Special tokens that are spelled out in a prompt or in a message (``<|im_end|>``) become those special tokens, as in
    `transformers` and the servers built on it: whoever puts foreign text into messages must remove them first.

    Attributes:
        tokenizer: the `tokenizers.Tokenizer`, for `output`.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        templates: Mapping[str, Template],
        *,
        bos_token: str | None = None,
        first_token: str | None = None,
    ) -> None:
        """Put together from parts; `from_folder` is the usual way.

        Args:
            tokenizer: without truncation and padding.
            templates: by name: ``default``, and ``tool_use`` where the model has one of its own for tools.
            bos_token: the token that starts every text, if the model has one.
            first_token: what texts get in place of all that the tokenizer adds by itself; empty for nothing.

        Raises:
            ValueError: the model has no such first token.
        """
        self.tokenizer = tokenizer
        self._templates = dict(templates)
        self._bos_id: int | None = tokenizer.token_to_id(bos_token) if bos_token is not None else None
        self._adds_own = first_token is None
        self._first = (token_id(tokenizer, first_token, "model.bos_token"),) if first_token else ()
        self._longest_token = max(map(len, tokenizer.get_vocab()), default=1)

    @classmethod
    def from_folder(
        cls,
        folder: Path | str,
        *,
        chat_template: Path | str | None = None,
        history_template: Path | str | None = None,
        bos_token: str | None = None,
        eos_token: str | None = None,
    ) -> PromptTokenizer:
        """Read a Hugging Face model folder.

        Args:
            folder: has ``tokenizer.json`` and, usually, ``tokenizer_config.json`` and ``chat_template.jinja``.
            chat_template: a file to use instead of the model's own templates, or a template's text.
            history_template: a file with a Liquid template to use instead of those.
            bos_token: see the setting ``model.bos_token``.
            eos_token: see the setting ``model.eos_token``.

        Raises:
            FileNotFoundError: no ``tokenizer.json``, or no such template.
            ValueError: a template is not valid, or a token is none of the model's; the message says which.
        """
        folder = Path(folder)
        overrides = {"bos_token": bos_token, "eos_token": eos_token}
        overrides = {name: token for name, token in overrides.items() if token is not None}
        special_tokens = {name: token for name, token in {**load_special_tokens(folder), **overrides}.items() if token}
        templates: dict[str, Template]
        if history_template is not None:
            if chat_template is not None:
                raise ValueError("model.chat_template and model.history_template exclude each other: leave one out.")
            templates = {"default": _read_history_template(Path(history_template), special_tokens)}
        else:
            setting = None if chat_template is None else str(chat_template)
            origin = folder if setting is None else "model.chat_template" if is_template(setting) else setting
            templates = {
                name: _compile(source, special_tokens, f"{origin} ({name})")
                for name, source in chat_template_sources(folder, setting).items()
            }
        tokenizer = load_tokenizer(folder, special_tokens)
        return cls(tokenizer, templates, bos_token=special_tokens.get("bos_token"), first_token=bos_token)

    def template(self, *, for_tools: bool = False) -> Template | None:
        """The chat template, if the model has one; for tools, its own one for them where it has that."""
        default = self._templates.get("default")
        return self._templates.get("tool_use", default) if for_tools else default

    def chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        add_special_tokens: bool = False,
        variables: Mapping[str, Any] | None = None,
        context: int | None = None,
    ) -> tuple[int, ...]:
        """The token ids of a conversation.

        Args:
            messages: see `chat_text`.
            tools: see `chat_text`.
            add_generation_prompt: see `chat_text`.
            add_special_tokens: let the tokenizer add what it adds by itself, on top of what the template writes: a
                second BOS harms most models.
            variables: see `chat_text`.
            context: see `chat_text`.

        Raises:
            InvalidRequest: as `chat_text`, or the messages hold a lone surrogate.
            Unsupported, ContextLengthExceeded: as `chat_text`.
        """
        text = self.chat_text(
            messages, tools=tools, add_generation_prompt=add_generation_prompt, variables=variables, context=context
        )
        return self.encode_chat(text, add_special_tokens=add_special_tokens)

    def chat_text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
        context: int | None = None,
    ) -> str:
        """A conversation as the chat template writes it.

        Args:
            messages: the conversation, as JSON.
            tools: tool descriptions, as JSON schemas in OpenAI's shape.
            add_generation_prompt: end with what starts the assistant's turn.
            continue_final_message: end within the last message, right after its text, for the model to go on with it.
            variables: further template variables (vLLM's ``chat_template_kwargs``).
            context: the model's context in tokens: what cannot fit by far is refused before it is tokenised.

        Raises:
            InvalidRequest: the model has no chat template, or the template refuses the messages, or drops the text of
                a message that is to be continued.
            Unsupported: a content part that is not text.
            ContextLengthExceeded: the messages cannot fit into ``context``.
        """
        template = self.template(for_tools=tools is not None)
        if template is None:
            raise InvalidRequest(
                "This model has no chat template. Use /v1/completions with a plain prompt, or name a template file in "
                "the setting model.chat_template.",
                param="messages",
            )
        if not (add_generation_prompt or continue_final_message or template.can_leave_the_answer_out):
            raise InvalidRequest(
                "The history template always begins the answer: leave add_generation_prompt out, or let the template "
                "ask for the variable add_generation_prompt.",
                param="add_generation_prompt",
            )
        if context is not None and len(messages) > context:
            # Templates may compare messages with each other: their number is bounded, not only their length.
            raise ContextLengthExceeded(
                f"There are {len(messages)} messages, more than the model's context of {context} tokens can hold: "
                "drop some of them.",
                param="messages",
            )
        text = template.render(
            _with_mark(messages) if continue_final_message else messages,
            tools=tools,
            add_generation_prompt=add_generation_prompt and not continue_final_message,
            variables=variables,
            max_chars=None if context is None else context * self._longest_token,
        )
        return _cut_at_mark(text, plain_text(messages[-1].get("content"))) if continue_final_message else text

    def encode_chat(self, text: str, *, add_special_tokens: bool = False) -> tuple[int, ...]:
        """The token ids of what `chat_text` wrote; the argument and the errors are those of `chat`."""
        return self._encode(text, add_special_tokens=add_special_tokens, param="messages")

    def instruction(
        self, prompt: str, *, system_prompt: str | None = None, context: int | None = None
    ) -> tuple[int, ...]:
        """The token ids of one user message, after a system message if there is one. Raises as `chat`."""
        messages = [{"role": "user", "content": prompt}]
        if system_prompt is not None:
            messages.insert(0, {"role": "system", "content": system_prompt})
        return self.chat(messages, context=context)

    def completion(
        self, prompt: str | Sequence[int], *, add_special_tokens: bool = True, context: int | None = None
    ) -> tuple[int, ...]:
        """The token ids of a plain prompt.

        Text gets the special tokens that the tokenizer adds by itself, except a second BOS where the text already
        starts with one; ids pass through unchanged.

        Args:
            prompt: text, or token ids.
            add_special_tokens: false leaves the text as it is.
            context: as in `chat`.

        Raises:
            InvalidRequest: the text holds a lone surrogate.
            ContextLengthExceeded: the text cannot fit into ``context``.
        """
        if not isinstance(prompt, str):
            return tuple(prompt)
        if context is not None and len(prompt) > context * self._longest_token:
            raise ContextLengthExceeded(
                f"The prompt has {len(prompt)} characters, more than the model's context of {context} tokens can "
                "hold: shorten it.",
                param="prompt",
            )
        ids = self._encode(prompt, add_special_tokens=add_special_tokens, param="prompt")
        if add_special_tokens and self._bos_id is not None and ids[:2] == (self._bos_id, self._bos_id):
            return ids[1:]
        return ids

    def completion_spans(self, prompt: str, *, add_special_tokens: bool = True) -> list[tuple[int, int, int]]:
        """The token ids of a plain prompt, as `completion` gives them, each with where it begins and ends in the text.

        In characters; (0, 0) for tokens that the text does not spell. Tokens that share a character each have it whole.

        Args:
            prompt: text.
            add_special_tokens: as in `completion`; without them, the tokens are those of `encode_chat`.

        Raises:
            InvalidRequest: the text holds a lone surrogate.
        """
        ids = self.completion(prompt, add_special_tokens=add_special_tokens)
        [encoding] = self.tokenizer.encode_batch([prompt], add_special_tokens=add_special_tokens and self._adds_own)
        # The two may differ by what stands before the text.
        missing = len(ids) - len(encoding.ids)
        spans = [(0, 0)] * max(missing, 0) + encoding.offsets[max(-missing, 0) :]
        return [(token_id, start, end) for token_id, (start, end) in zip(ids, spans, strict=True)]

    def _encode(self, text: str, *, add_special_tokens: bool, param: str) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            # JSON can spell half of a surrogate pair; no tokenizer can.
            raise InvalidRequest(
                f"{param} has a lone surrogate ({text[error.start]!r}), which is not a character: remove it.",
                param=param,
            ) from error
        # Of the encode methods only those for batches release the GIL; the fast one leaves out offsets.
        adds_own = add_special_tokens and self._adds_own
        ids = tuple(self.tokenizer.encode_batch_fast([text], add_special_tokens=adds_own)[0].ids)
        if add_special_tokens and ids[: len(self._first)] != self._first:
            return self._first + ids
        return ids


_MARK = "the-answer-goes-on-here"
"""Written behind the text of a message that is to be continued: what a template writes after it may hold that text
again, as ``<|im_end|>`` holds ``end``."""


def _with_mark(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages with `_MARK` right behind the last one's text, less the white space there, which templates trim."""
    *before, last = messages
    content = last.get("content")
    if isinstance(content, str):
        return [*before, {**last, "content": content.rstrip() + _MARK}]
    if not isinstance(content, Sequence) or not content or not isinstance(content[-1], Mapping):
        return messages
    *parts, part = content
    text = part.get("text")
    marked = {**part, "text": text.rstrip() + _MARK} if isinstance(text, str) and part.get("type") == "text" else part
    return [*before, {**last, "content": [*parts, marked]}]


def _cut_at_mark(text: str, content: str) -> str:
    """A rendered chat up to the end of its last message's text."""
    before, found, _ = text.rpartition(_MARK)
    content = content.strip()
    if not content or not found or not before.endswith(content):
        raise InvalidRequest(
            "The last message cannot be continued: it has no text, or the model's chat template does not write it as "
            "it is.",
            param="continue_final_message",
        )
    return before


def _read_history_template(path: Path, special_tokens: Mapping[str, str]) -> HistoryTemplate:
    from guidance_core.prompt.history_template import HistoryTemplate  # brings a library that few need

    try:
        return HistoryTemplate(path.read_text(encoding="utf-8"), special_tokens=special_tokens)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _compile(source: str, special_tokens: Mapping[str, str], origin: str) -> ChatTemplate:
    try:
        return ChatTemplate(source, special_tokens=special_tokens)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
