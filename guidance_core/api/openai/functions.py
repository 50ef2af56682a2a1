"""Functions as OpenAI's requests had them before there were tools: `functions`, `function_call`, the role `function`.

They become tools, and the one call of an answer is told as such clients read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from guidance_core.api.openai.bodies import ChatBody, Message
from guidance_core.api.openai.tools import CalledFunction, NamedFunction, NamedTool, Tool, ToolCall
from guidance_core.errors import InvalidRequest, RequestError

_NAMES = {"tools": "functions", "tool_choice.function.name": "function_call.name"}


def with_tools(body: ChatBody) -> ChatBody:
    """The request with tools in place of functions; as it is where it has none.

    Raises:
        InvalidRequest: fields that contradict each other.
    """
    if not body.functions:
        if body.function_call not in (None, "none"):
            raise InvalidRequest(
                "'function_call' is about 'functions', and there are none: add some, or leave it out.",
                param="function_call",
            )
        return body
    for name in ("tools", "tool_choice"):
        if getattr(body, name):
            raise InvalidRequest(
                f"{name!r} and 'functions' exclude each other: use 'tools' and 'tool_choice', their successors.",
                param=name,
            )
    choice = body.function_call
    return body.model_copy(
        update={
            "tools": [Tool(type="function", function=function) for function in body.functions],
            "tool_choice": NamedTool(type="function", function=choice) if isinstance(choice, NamedFunction) else choice,
            "parallel_tool_calls": False,
        }
    )


def rename(error: RequestError) -> None:
    """Let an error about tools speak of the functions that they were."""
    if error.param is None:
        return
    name = _NAMES.get(error.param, error.param)
    if name.startswith("tools["):
        name = name.replace("tools[", "functions[", 1).replace(".function.", ".", 1)
    error.message = error.message.replace(repr(error.param), repr(name)).replace("'tools'", "'functions'")
    error.param = name


def called(delta: dict[str, Any]) -> dict[str, Any]:
    """A delta of `MessageReader` whose calls, if it has any, are one ``function_call``."""
    if "tool_calls" not in delta:
        return delta
    [call] = delta["tool_calls"]
    return {"function_call": call["function"]}


def called_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message of `joined_message` whose calls, if it has any, are one ``function_call``."""
    if "tool_calls" not in message:
        return message
    [call] = message["tool_calls"]
    others = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**others, "function_call": call["function"]}


def with_tool_calls(messages: Sequence[Message]) -> list[Message]:
    """Messages with calls and results of tools in place of those of functions, each at its place.

    Raises:
        InvalidRequest: a call that is not the assistant's, or a result of a function that nobody called.
    """
    ids: dict[str, str] = {}
    written: list[Message] = []
    for i, message in enumerate(messages):
        param = f"messages[{i}]"
        if (function := message.function_call) is not None:
            if message.role != "assistant" or message.tool_calls is not None:
                raise InvalidRequest(
                    f"'{param}.function_call' is for messages of the role 'assistant', without 'tool_calls'.",
                    param=f"{param}.function_call",
                )
            ids[function.name] = f"call_{i}"
            call = CalledFunction(name=function.name, arguments=function.arguments)
            calls = [ToolCall(id=f"call_{i}", function=call)]
            message = message.model_copy(update={"function_call": None, "tool_calls": calls})
        elif message.role == "function" and message.tool_call_id is None:
            if message.name not in ids:
                raise InvalidRequest(
                    f"'{param}.name' must be the function whose result this is, as a 'function_call' of a message "
                    "before names it.",
                    param=f"{param}.name",
                )
            update = {"role": "tool", "name": None, "tool_call_id": ids[message.name]}
            message = message.model_copy(update=update)
        written.append(message)
    return written
