"""Tools in requests, as OpenAI shapes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import from_json

from guidance_core.api.openai.constraints import FieldConstraint, Strictness
from guidance_core.errors import InvalidGrammar, InvalidRequest
from guidance_core.grammar import constraint
from guidance_core.grammar.tools import Function
from guidance_core.prompt.tools import ToolUse

_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(BaseModel):
    """A function that the model may call."""

    model_config = _STRICT
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = Field(
        None, description="JSON schema of the arguments; without, there are none."
    )
    strict: Strictness = None


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


def _json_object(text: str) -> str:
    try:
        value = from_json(text or "{}", allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"must be the text of a JSON object, and is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("must be the text of a JSON object")
    return text


Arguments = Annotated[str, AfterValidator(_json_object), Field(description="A JSON object, as text.")]


class FunctionCall(BaseModel):
    """What an earlier answer called."""

    model_config = _STRICT
    name: FunctionName
    arguments: Arguments


class CalledFunction(FunctionCall):
    """What an earlier answer called, as OpenAI's client may send it back."""

    parsed_arguments: Any = Field(None, description="As OpenAI's client adds it to answers; has no effect.")


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
    use: ToolUse,
    tools: Sequence[Tool],
    given: Sequence[Tool] | None,
    *,
    required: bool,
    parallel: bool,
    answer: FieldConstraint | None,
) -> FieldConstraint:
    """What a message must be that may call these tools.

    Args:
        use: of the model.
        tools: those that may be called.
        given: all of the request's, by whose places errors name them.
        required: there must be a call.
        parallel: there may be several calls.
        answer: what a message without calls must be.

    Raises:
        InvalidGrammar: two tools have one name.
    """
    places = {tool.function.name: index for index, tool in enumerate(given or ())}
    functions = [
        Function(
            tool.function.name,
            _parameters(tool.function),
            exact=tool.function.strict == "exact",
            param=f"tools[{places[tool.function.name]}].function.parameters",
        )
        for tool in tools
    ]
    try:
        may_call = constraint.tools(
            use.format,
            functions,
            required=required,
            parallel=parallel,
            answer=None if answer is None else answer.constraint,
            token_ids=use.token_ids,
            answer_param=None if answer is None else answer.param,
        )
    except InvalidGrammar as error:
        raise InvalidGrammar(error.message, param="tools") from None
    return FieldConstraint(may_call, "tools")


def _parameters(function: FunctionDefinition) -> dict[str, Any]:
    if function.parameters is None:
        return {"type": "object", "properties": {}, "additionalProperties": False}
    return function.parameters
