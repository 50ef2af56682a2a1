"""The parts of a message → output items, and the events that tell of them in OpenAI's order."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from guidance_core.api.json_text import Json

Event = dict[str, Any]
"""``type`` and the fields of that type, save ``sequence_number``."""

_PARTS = {"reasoning": "reasoning_text", "message": "output_text"}


class Output:
    """The items of one response, as they come. One of them is open at a time.

    Attributes:
        items: as they stand; an open one has the status ``in_progress``.
    """

    def __init__(self) -> None:
        """Start without items."""
        self.items: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None

    def add(self, delta: dict[str, Any], logprobs: Sequence[Json] = ()) -> list[Event]:
        """Take a delta of `MessageReader`.

        Args:
            delta: with one of ``reasoning_content``, ``content`` and ``tool_calls``.
            logprobs: of the tokens that came with it.
        """
        if "reasoning_content" in delta:
            return self._add_text("reasoning", delta["reasoning_content"], ())
        if "content" in delta:
            return self._add_text("message", delta["content"], logprobs)
        [call] = delta["tool_calls"]
        events: list[Event] = []
        if "id" in call:
            events += self._begin(
                {
                    "id": _new_id("fc"),
                    "type": "function_call",
                    "status": "in_progress",
                    "call_id": call["id"],
                    "name": call["function"]["name"],
                    "arguments": "",
                }
            )
        assert self._open is not None
        if arguments := call["function"]["arguments"]:
            self._open["arguments"] += arguments
            events.append(self._event("response.function_call_arguments.delta", delta=arguments))
        return events

    def finish(self, *, complete: bool) -> list[Event]:
        """Close what is open.

        Args:
            complete: the answer was not cut off.
        """
        if not self.items and complete:
            # An empty answer is a message all the same.
            return self._add_text("message", "", ()) + self._close("completed")
        return self._close("completed" if complete else "incomplete")

    def abandon(self) -> None:
        """Leave what is open as it is: the answer failed, and no event tells of its end."""
        if self._open is not None:
            self._open["status"] = "incomplete"
            self._open = None

    def _add_text(self, kind: str, text: str, logprobs: Sequence[Json]) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open["type"] != kind:
            events += self._begin(_text_item(kind))
            events.append(self._event("response.content_part.added", content_index=0, part=_part(kind)))
            assert self._open is not None
            self._open["content"].append(_part(kind))
        assert self._open is not None
        part = self._open["content"][0]
        part["text"] += text
        fields: dict[str, Any] = {"content_index": 0, "delta": text}
        if kind == "message":
            part["logprobs"] += logprobs
            fields["logprobs"] = list(logprobs)
        if text:
            events.append(self._event(f"response.{_PARTS[kind]}.delta", **fields))
        return events

    def _begin(self, item: dict[str, Any]) -> list[Event]:
        events = self._close("completed")
        self._open = item
        self.items.append(item)
        return [*events, self._item_event("response.output_item.added")]

    def _close(self, status: str) -> list[Event]:
        item = self._open
        if item is None:
            return []
        item["status"] = status
        events: list[Event] = []
        if item["type"] == "function_call":
            done = {"name": item["name"], "arguments": item["arguments"]}
            events.append(self._event("response.function_call_arguments.done", **done))
        else:
            part = item["content"][0]
            done = {"text": part["text"]} | ({"logprobs": part["logprobs"]} if item["type"] == "message" else {})
            events.append(self._event(f"response.{_PARTS[item['type']]}.done", content_index=0, **done))
            events.append(self._event("response.content_part.done", content_index=0, part=dict(part)))
        events.append(self._item_event("response.output_item.done"))
        self._open = None
        return events

    def _event(self, kind: str, **fields: Any) -> Event:
        return {"type": kind, "item_id": self.items[-1]["id"], "output_index": len(self.items) - 1, **fields}

    def _item_event(self, kind: str) -> Event:
        item = self.items[-1]
        copied = {**item, "content": [dict(part) for part in item["content"]]} if "content" in item else dict(item)
        return {"type": kind, "output_index": len(self.items) - 1, "item": copied}


def _text_item(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"id": _new_id("rs"), "type": kind, "status": "in_progress", "summary": [], "content": []}
    return {"id": _new_id("msg"), "type": kind, "status": "in_progress", "role": "assistant", "content": []}


def _part(kind: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": ""}
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []}


def _new_id(prefix: str) -> str:
    return f"{prefix}_{uuid.uuid4().hex}"
