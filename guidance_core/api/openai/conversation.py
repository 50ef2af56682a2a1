"""The prompt of a chat request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from guidance_core.api.openai.bodies import ChatBody, Message
from guidance_core.api.openai.constraints import FieldConstraint, JsonSchemaFormat
from guidance_core.api.openai.functions import with_tool_calls
from guidance_core.api.openai.image_parts import image_urls, with_placeholders
from guidance_core.api.openai.tools import Tool
from guidance_core.api.served_model import LoadedModel
from guidance_core.api.tokenizing import off_the_loop
from guidance_core.config import ModelSettings
from guidance_core.errors import InvalidRequest, Unsupported
from guidance_core.generation import PromptImage
from guidance_core.prompt.tools import SchemaInWords


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation as the model gets it.

    Attributes:
        ids: its tokens.
        text: as the chat template writes it, each image as one placeholder.
        images: in their places among the tokens.
    """

    ids: tuple[int, ...]
    text: str
    images: tuple[PromptImage, ...] = ()


async def prompt_of(
    model: LoadedModel,
    settings: ModelSettings,
    body: ChatBody,
    tools: Sequence[Tool],
    answer: FieldConstraint | None,
    *,
    add_special_tokens: bool = False,
) -> Prompt:
    """Write a conversation as the model's chat template does.

    Args:
        model: answers it.
        settings: of the model.
        body: the request.
        tools: what may be called.
        answer: what the answer must be.
        add_special_tokens: see `PromptTokenizer.chat`.

    Raises:
        InvalidRequest: messages that are malformed, or that the template refuses, or an image that cannot be read.
        Unsupported: what the template would drop, or images that the model does not take.
        ContextLengthExceeded: too long.
    """
    conversation = with_tool_calls(body.messages)
    _check_messages(conversation)
    _check_ending(body)
    urls = image_urls(model, conversation)
    write = partial(
        _write,
        model,
        add_special_tokens=add_special_tokens,
        tools=[
            tool.model_dump(exclude_none=True, exclude={"function": {"strict"}})
            for tool in tools
            if body.include_json_schema_in_prompt
        ],
        schema=_schema_in_words(settings, body, answer),
        add_generation_prompt=body.add_generation_prompt is not False,
        continue_final_message=body.continue_final_message,
        variables=_variables(body),
        context=model.executor.limits().max_model_len,
    )
    messages = [_as_templates_know_it(message) for message in conversation]
    if model.images is not None and urls:
        messages = with_placeholders(messages, model.images.token)
    chars = sum(len(str(message.get("content"))) for message in messages)
    prompt = await off_the_loop(chars, partial(write, messages))
    for i, message in enumerate(conversation):
        if message.name is None or message.role == "tool":
            continue  # a tool's name says no more than the call
        # Templates are free to ignore a name, and most do. Then it would be dropped silently.
        nameless = [{**other, "name": None} if i == j else other for j, other in enumerate(messages)]
        if await off_the_loop(chars, partial(write, nameless)) == prompt:
            raise Unsupported(
                f"The model's chat template ignores 'messages[{i}].name': leave it out, or write the name into the "
                "content.",
                param=f"messages[{i}].name",
            )
    if model.images is None or not urls:
        return prompt
    ids, images = model.images.place(prompt.ids, await model.images.read(urls))
    return Prompt(ids, prompt.text, images)


def _write(
    model: LoadedModel, messages: Sequence[dict[str, Any]], *, add_special_tokens: bool, **options: Any
) -> Prompt:
    text = model.tool_use.chat_text(messages, **options)
    return Prompt(model.prompts.encode_chat(text, add_special_tokens=add_special_tokens), text)


def _as_templates_know_it(message: Message) -> dict[str, Any]:
    """A message as JSON, with refusals as text: templates know nothing of them."""
    written = message.model_dump(exclude_none=True, exclude={"refusal"})
    if message.refusal is not None:
        written["content"] = message.refusal
    elif isinstance(message.content, list):
        written["content"] = [
            {"type": "text", "text": part.get("refusal")} if part.get("type") == "refusal" else part
            for part in message.content
        ]
    return written


def _schema_in_words(settings: ModelSettings, body: ChatBody, answer: FieldConstraint | None) -> SchemaInWords | None:
    if answer is None or answer.constraint.kind != "json_schema" or not body.include_json_schema_in_prompt:
        return None
    if not settings.json_schema_prompt:
        return None
    definition = answer.constraint.definition
    schema = json.loads(definition)
    wanted = body.response_format
    if isinstance(wanted, JsonSchemaFormat) and wanted.json_schema.description and isinstance(schema, dict):
        schema = {"description": wanted.json_schema.description, **schema}
        definition = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    return SchemaInWords(schema, settings.json_schema_prompt.replace("{schema}", definition))


def _variables(body: ChatBody) -> dict[str, Any]:
    # Templates of models that think now and then ask this variable (Qwen 3 and those after it).
    thinking = {"enable_thinking": False} if body.reasoning_effort == "none" else {}
    return thinking | (body.chat_template_kwargs or {})


def _check_ending(body: ChatBody) -> None:
    if not body.continue_final_message:
        return
    if body.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' goes on with the last message, 'add_generation_prompt' begins a new one: leave "
            "one out.",
            param="continue_final_message",
        )
    last = body.messages[-1]
    if last.role != "assistant" or last.tool_calls or last.function_call:
        raise InvalidRequest(
            "'continue_final_message' needs a last message of the role 'assistant', without calls.",
            param="continue_final_message",
        )


def _check_messages(messages: Sequence[Message]) -> None:
    """Refuse messages that are incomplete, or answer calls that nobody made."""
    called: dict[str, str] = {}
    for i, message in enumerate(messages):
        param = f"messages[{i}]"
        if message.tool_calls is not None and message.role != "assistant":
            raise InvalidRequest(
                f"'{param}.tool_calls' is for messages of the role 'assistant'.", param=f"{param}.tool_calls"
            )
        called.update((call.id, call.function.name) for call in message.tool_calls or ())
        if (message.role == "tool") != (message.tool_call_id is not None):
            raise InvalidRequest(
                f"'{param}.tool_call_id' goes with the role 'tool', and only with it.", param=f"{param}.tool_call_id"
            )
        if message.tool_call_id is not None:
            _check_result(message.tool_call_id, message.name, called, param)
        if message.refusal is not None and (message.role != "assistant" or message.content is not None):
            raise InvalidRequest(
                f"'{param}.refusal' is what an assistant answers instead of 'content': leave one out.",
                param=f"{param}.refusal",
            )
        if message.content is None and message.refusal is None and not message.tool_calls:
            raise InvalidRequest(f"'{param}.content' is missing: give it text.", param=f"{param}.content")
        _check_parts(message.content, param)


def _check_result(call_id: str, name: str | None, called: Mapping[str, str], param: str) -> None:
    if call_id not in called:
        raise InvalidRequest(
            f"'{param}.tool_call_id' is {call_id!r}; no message before has a call of that id.",
            param=f"{param}.tool_call_id",
        )
    if name not in (None, called[call_id]):
        raise InvalidRequest(
            f"'{param}.name' is {name!r}, but the call {call_id!r} is of {called[call_id]!r}: leave it out.",
            param=f"{param}.name",
        )


def _check_parts(content: str | list[dict[str, Any]] | None, param: str) -> None:
    for j, part in enumerate(content if isinstance(content, list) else ()):
        for key in part.keys() - {"type", "text"}:
            if part.get("type") == "text" and part[key] is not None:
                path = f"{param}.content[{j}].{key}"
                raise InvalidRequest(f"Unknown field {path!r}: leave it out.", param=path, code="unknown_parameter")
