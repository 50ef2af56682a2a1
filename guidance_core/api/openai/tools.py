"""Tools in requests and calls in answers, as OpenAI shapes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from guidance_core.errors import InvalidGrammar, InvalidRequest
from guidance_core.grammar import constraint
from guidance_core.grammar.constraint import Constraint
from guidance_core.grammar.tools import Function
from guidance_core.output.tool_calls import CallDelta, ContentDelta, ToolCallParser
from guidance_core.prompt.tools import ToolUse, new_call_id
from guidance_core.tool_format import ToolFormat

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(BaseModel):
    """A function that the model may call. Its parameters are enforced in full whether `strict` is set or not."""

    model_config = _STRICT
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments; without, there are none."
    )
    strict: bool | None = None


class Tool(BaseModel):
    """A tool; functions are the only kind."""

    model_config = _STRICT
    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(BaseModel):
    """A function by its name."""

    model_config = _STRICT
    name: FunctionName


class NamedTool(BaseModel):
    """A tool by its name."""

    model_config = _STRICT
    type: Literal["function"]
    function: NamedFunction


class SomeTools(BaseModel):
    """Which of the tools may be called, and whether one must be."""

    model_config = _STRICT
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class AllowedTools(BaseModel):
    """Some of the tools."""

    model_config = _STRICT
    type: Literal["allowed_tools"]
    allowed_tools: SomeTools


ToolChoice = Literal["none", "auto", "required"] | Annotated[NamedTool | AllowedTools, Field(discriminator="type")]


class CalledFunction(BaseModel):
    """What was called."""

    model_config = _STRICT
    name: FunctionName
    arguments: str = Field(description="A JSON object, as text.")


class ToolCall(BaseModel):
    """A call that an earlier answer made."""

    model_config = _STRICT
    id: str = Field(min_length=1)
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = Field(None, description="As streams have it; has no effect.")


def choose(
    tools: Sequence[Tool] | None, choice: str | NamedTool | AllowedTools | None
) -> tuple[list[Tool], bool, bool]:
    """The tools that may be called, whether one must be, and whether it must be exactly one.

    Raises:
        InvalidRequest: the choice names tools that there are not.
    """
    if not tools:
        if choice not in (None, "none"):
            raise InvalidRequest(
                "'tool_choice' is about 'tools', and there are none: add some, or leave it out.", param="tool_choice"
            )
        return [], False, False
    match choice:
        case "none":
            return [], False, False
        case NamedTool(function=function):
            return _named(tools, [function.name], "tool_choice.function.name"), True, True
        case AllowedTools(allowed_tools=some):
            names = [tool.function.name for tool in some.tools]
            return _named(tools, names, "tool_choice.allowed_tools.tools"), some.mode == "required", False
    return list(tools), choice == "required", False


def _named(tools: Sequence[Tool], names: Sequence[str], param: str) -> list[Tool]:
    known = [tool.function.name for tool in tools]
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"{param!r} is {name!r}, which is none of the 'tools': {', '.join(known)}.", param=param
            )
    return [tool for tool in tools if tool.function.name in names]


def tools_constraint(
    use: ToolUse, tools: Sequence[Tool], *, required: bool, parallel: bool, answer: Constraint | None
) -> Constraint:
    """What a message must be that may call these tools.

    Raises:
        InvalidGrammar: two tools have one name.
    """
    try:
        return constraint.tools(
            use.format,
            [Function(tool.function.name, _parameters(tool.function)) for tool in tools],
            required=required,
            parallel=parallel,
            answer=answer,
            token_ids=use.token_ids,
        )
    except InvalidGrammar as error:
        raise InvalidGrammar(error.message, param="tools") from None


def _parameters(function: FunctionDefinition) -> dict[str, Any]:
    if function.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return function.parameters


class MessageReader:
    """One choice's text → the deltas of its message.

    Attributes:
        called: there are calls.
    """

    def __init__(self, tool_format: ToolFormat | None) -> None:
        """Start a message; without a format, all text is content."""
        self._format = tool_format
        self._parser = None if tool_format is None else ToolCallParser(tool_format)

    @property
    def called(self) -> bool:
        """See the class."""
        return self._parser is not None and self._parser.calls > 0

    def read(self, text: str, *, last: bool) -> list[dict[str, Any]]:
        """The next piece of text, as OpenAI's stream deltas.

        Args:
            text: as it came.
            last: nothing follows.
        """
        if self._parser is None or self._format is None:
            return [{"content": text}] if text else []
        found = self._parser.push(text)
        if last:
            found += self._parser.finish()
        return [_delta(delta, self._format) for delta in found]


def _delta(delta: ContentDelta | CallDelta, tool_format: ToolFormat) -> dict[str, Any]:
    if isinstance(delta, ContentDelta):
        return {"content": delta.text}
    if delta.name is None:
        return {"tool_calls": [{"index": delta.index, "function": {"arguments": delta.arguments}}]}
    function = {"name": delta.name, "arguments": delta.arguments}
    call = {"index": delta.index, "id": new_call_id(tool_format), "type": "function", "function": function}
    return {"tool_calls": [call]}


def joined_message(deltas: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A whole message out of its deltas."""
    content: list[str] = []
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        content.append(delta.get("content", ""))
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    text = "".join(content)
    message: dict[str, Any] = {"role": "assistant", "content": text or None if calls else text, "refusal": None}
    if calls:
        message["tool_calls"] = calls
    return {**message, "annotations": []}
