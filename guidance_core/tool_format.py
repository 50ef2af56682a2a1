"""How a model writes tool calls: what `prompt`, `grammar` and `output` must agree on.

A message with calls is: free text (where the format admits any), `ToolFormat.begin`, calls with `between` between them,
and `end`. A call is ``opener``, the function's name, ``middle``, the arguments as a JSON object, ``closer``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

ToolFormatName = Literal["hermes", "llama3_json", "mistral", "mistral_args", "json"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way to write calls.

    Attributes:
        name: as settings name it.
        trigger: once the model has written this, what it writes is a call; the first part of ``begin + opener``.
        anywhere: free text may come before the first call; otherwise a message with calls begins with them.
        begin: before the first call.
        opener: before a call's name.
        middle: between name and arguments.
        closer: after a call's arguments.
        between: between two calls.
        end: after the last call.
        special_tokens: parts of the above that may be special tokens of the model.
        call_id: letters and digits in the id of a call that the template shows to the model; Mistral's want nine.
    """

    name: ToolFormatName
    trigger: str
    anywhere: bool
    begin: str
    opener: str
    middle: str
    closer: str
    between: str
    end: str
    special_tokens: tuple[str, ...] = ()
    call_id: int = 24

    def opening(self, function: str) -> str:
        """What a message that begins with a call of this function has before the arguments."""
        return self.begin + self.opener + function + self.middle


HERMES = ToolFormat(
    name="hermes",
    trigger="<tool_call>",
    anywhere=True,
    begin="",
    opener='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    closer="}\n</tool_call>",
    between="\n",
    end="",
    special_tokens=("<tool_call>", "</tool_call>"),
)
"""Hermes 2 Pro and 3, Qwen 2.5 and 3 (https://github.com/NousResearch/Hermes-Function-Calling)."""

LLAMA3_JSON = ToolFormat(
    name="llama3_json",
    trigger='{"name": "',
    anywhere=False,
    begin="",
    opener='{"name": "',
    middle='", "parameters": ',
    closer="}",
    between="; ",
    end="",
)
"""Llama 3.1 to 3.3, JSON based (https://www.llama.com/docs/model-cards-and-prompt-formats/llama3_1/)."""

MISTRAL = ToolFormat(
    name="mistral",
    trigger="[TOOL_CALLS]",
    anywhere=True,
    begin="[TOOL_CALLS][",
    opener='{"name": "',
    middle='", "arguments": ',
    closer="}",
    between=", ",
    end="]",
    special_tokens=("[TOOL_CALLS]",),
    call_id=9,
)
"""Mistral 7B v0.3, Nemo, Large and Small up to tokenizer v7 (https://docs.mistral.ai/capabilities/function_calling/)."""

MISTRAL_ARGS = ToolFormat(
    name="mistral_args",
    trigger="[TOOL_CALLS]",
    anywhere=True,
    begin="",
    opener="[TOOL_CALLS]",
    middle="[ARGS]",
    closer="",
    between="",
    end="",
    special_tokens=("[TOOL_CALLS]", "[ARGS]"),
    call_id=9,
)
"""Mistral's models since tokenizer v11 (`mistral_common`'s ``InstructTokenizerV11``)."""

JSON = ToolFormat(
    name="json",
    trigger='{"tool_calls": [',
    anywhere=False,
    begin='{"tool_calls": [',
    opener='{"name": "',
    middle='", "arguments": ',
    closer="}",
    between=", ",
    end="]}",
)
"""For models whose template knows nothing of tools: they are told in words, and the grammar does the rest."""

FORMATS: dict[ToolFormatName, ToolFormat] = {
    tool_format.name: tool_format for tool_format in (HERMES, LLAMA3_JSON, MISTRAL, MISTRAL_ARGS, JSON)
}


def detect(template: str) -> ToolFormat:
    """The format that a chat template shows its model; `JSON` where it shows none that is known.

    Args:
        template: the Jinja source.
    """
    if "tools" not in template:
        return JSON
    if "[TOOL_CALLS]" in template:
        if "[ARGS]" in template:
            return MISTRAL_ARGS
        spaced = "[TOOL_CALLS] [" in template  # tokenizer v3
        return replace(MISTRAL, begin="[TOOL_CALLS] [") if spaced else MISTRAL
    if "<tool_call>" in template and '"arguments"' in template.replace("\\", ""):
        return HERMES
    if "<|python_tag|>" in template and '"parameters"' in template.replace("\\", ""):
        return LLAMA3_JSON
    return JSON


def after_token(tool_format: ToolFormat, token: str) -> ToolFormat:
    """A format of plain JSON whose calls come after a special token, which tells them from answers.

    Args:
        tool_format: `LLAMA3_JSON` or `JSON`.
        token: such as ``<|python_tag|>``.

    Raises:
        ValueError: the format has a mark of its own.
    """
    if not tool_format.trigger.startswith("{"):
        raise ValueError(
            f"model.json_start_token is for tool calls that are plain JSON, but this model's are {tool_format.name!r}: "
            "leave it out, or set model.tool_format to llama3_json or json."
        )
    return replace(tool_format, trigger=token, begin=token + tool_format.begin, special_tokens=(token,))
