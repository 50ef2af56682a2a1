"""A choice's text → the assistant's message: thoughts, content and calls, as OpenAI shapes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from guidance_core.api.attempt import Thinking
from guidance_core.output import TextDelta
from guidance_core.output.tool_calls import CallDelta, ContentDelta, ToolCallParser
from guidance_core.prompt.tools import new_call_id
from guidance_core.tool_format import ToolFormat


class MessageReader:
    """Reads one choice's text.

    Attributes:
        called: there are calls.
    """

    def __init__(
        self, *, tool_format: ToolFormat | None, thinking: Thinking | None, functions: Collection[str] | None = None
    ) -> None:
        """Start a message.

        Args:
            tool_format: of calls; None where there are no tools, and text is only text.
            thinking: where the model may think first.
            functions: see `ToolCallParser`.
        """
        self._format = tool_format
        self._calls = None if tool_format is None else ToolCallParser(tool_format, functions=functions)
        self._thoughts = None if thinking is None else thinking.parser()

    @property
    def called(self) -> bool:
        """See the class."""
        return self._calls is not None and self._calls.calls > 0

    def read(self, piece: TextDelta) -> list[dict[str, Any]]:
        """The next piece of text, as OpenAI's stream deltas."""
        text, last = piece.text, piece.finish_reason is not None
        thoughts = ""
        if self._thoughts is not None:
            thoughts, text = self._thoughts.push(text, piece.markers)
            if last:
                more, rest = self._thoughts.finish()
                thoughts, text = thoughts + more, text + rest
        deltas: list[dict[str, Any]] = [{"reasoning_content": thoughts}] if thoughts else []
        if self._calls is None or self._format is None:
            return [*deltas, {"content": text}] if text else deltas
        found = self._calls.push(text) + (self._calls.finish() if last else [])
        return deltas + [_delta(delta, self._format) for delta in found]


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
    calls: list[dict[str, Any]] = []
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls.append({"id": call["id"], "type": "function", "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    content = "".join(delta.get("content", "") for delta in deltas)
    thoughts = "".join(delta.get("reasoning_content", "") for delta in deltas)
    message: dict[str, Any] = {"role": "assistant", "content": (content or None) if calls else content}
    message |= {"refusal": None, "annotations": []}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = calls
    return message
