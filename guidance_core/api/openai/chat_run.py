"""A checked conversation, ready to be answered: what chat completions and responses have in common."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guidance_core.api.answer import Answer
from guidance_core.api.attempt import TextOptions, Thinking
from guidance_core.api.openai.adapters import adapter_of
from guidance_core.api.openai.bodies import ChatBody
from guidance_core.api.openai.constraints import constraint_of
from guidance_core.api.openai.conversation import Prompt, prompt_of
from guidance_core.api.openai.message import MessageReader
from guidance_core.api.openai.reasoning import thoughts_of, with_thoughts
from guidance_core.api.openai.requests import (
    check_budget,
    compilation_of,
    generation_request,
    remaining_context,
    truncated,
)
from guidance_core.api.openai.tools import choose, tools_constraint
from guidance_core.api.served_model import LoadedModel, ServedModel
from guidance_core.errors import InvalidRequest
from guidance_core.grammar.compiler import Compilation


@dataclass(frozen=True, slots=True)
class ChatRun:
    """A conversation that is about to be answered.

    Attributes:
        model: answers it.
        prompt: as the model gets it.
        compilation: of what the answer must be, if anything is asked of it.
        answer: to be iterated.
        readers: by choice; each turns text into the parts of a message.
    """

    model: LoadedModel
    prompt: Prompt
    compilation: Compilation | None
    answer: Answer
    readers: list[MessageReader]


async def prepare(served: ServedModel, body: ChatBody) -> ChatRun:
    """Check a request; nothing is generated yet.

    Raises:
        RequestError: it cannot be answered.
    """
    model = served.get(body.model)
    lora = adapter_of(served, model, body)
    settings = served.settings.guidance
    max_tokens = _max_tokens(body)
    logprobs = _logprobs(body)
    tools, required, one = choose(body.tools, body.tool_choice)
    wanted = constraint_of(body)
    prompt = await prompt_of(model, served.settings.model, body, tools, wanted)
    prompt = replace(prompt, ids=truncated(model, body, prompt.ids, images=len(prompt.images)))
    remaining = remaining_context(model, len(prompt.ids), param="messages")
    thinking = None if model.reasoning is None else Thinking(model.reasoning, model.reasoning.begun(prompt.ids))
    thoughts = thoughts_of(
        thinking,
        served.settings.model.reasoning_budgets,
        effort=body.reasoning_effort,
        min_tokens=body.min_thinking_tokens,
        max_tokens=body.max_thinking_tokens,
    )
    found = wanted
    if tools:
        found = tools_constraint(
            model.tool_use,
            tools,
            body.tools,
            required=required,
            parallel=body.parallel_tool_calls and not one,
            answer=wanted,
        )
    found = with_thoughts(thoughts, found)
    compilation = await compilation_of(model, settings, found, stream=body.stream)
    if thinking is not None and compilation is not None:
        thinking = replace(thinking, gap=compilation.grammar.gap_after_thoughts)
    request = generation_request(
        model,
        served.settings.server,
        body,
        prompt_ids=prompt.ids,
        max_tokens=max_tokens,
        default_max_tokens=remaining,
        logprobs=logprobs,
        prompt_logprobs=body.prompt_logprobs,
        grammar=None if compilation is None else compilation.grammar,
        lora=lora,
        images=prompt.images,
    )
    # Calls and thoughts may begin with a special token; where there are any, the grammar allows no other one.
    marked = bool(tools) or thinking is not None
    text = TextOptions(
        skip_special_tokens=body.skip_special_tokens and not marked,
        include_stop_string=body.include_stop_str_in_output,
        thinking=thinking,
    )
    tool_format = model.tool_use.format if tools else None
    functions = None if wanted is None else [tool.function.name for tool in tools]
    readers = [MessageReader(tool_format=tool_format, thinking=thinking, functions=functions) for _ in range(body.n)]
    return ChatRun(model, prompt, compilation, Answer(model, request, text, check_budget(settings, body)), readers)


async def chat_prompt(served: ServedModel, body: ChatBody) -> Prompt:
    """The prompt of a request that is not to be answered.

    Raises:
        RequestError: as `prompt_of`.
    """
    model = served.get(body.model)
    tools, _, _ = choose(body.tools, body.tool_choice)
    prompt = await prompt_of(model, served.settings.model, body, tools, constraint_of(body))
    return replace(prompt, ids=truncated(model, body, prompt.ids, images=len(prompt.images)))


def _max_tokens(body: ChatBody) -> int | None:
    if body.max_tokens is None or body.max_completion_tokens in (None, body.max_tokens):
        return body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    raise InvalidRequest(
        f"'max_tokens' ({body.max_tokens}) and 'max_completion_tokens' ({body.max_completion_tokens}) are two names of "
        "one thing and differ: leave one out.",
        param="max_tokens",
    )


def _logprobs(body: ChatBody) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs is not None:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.", param="top_logprobs")
    return None
