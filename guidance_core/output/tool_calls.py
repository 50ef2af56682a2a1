"""An answer's text → its content and its tool calls, piece by piece.

The grammar (`grammar.tools`) has made sure that the text is well-formed, so this is no repair shop: what it reads is
either exactly a `ToolFormat`'s, or the answer was cut off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from guidance_core.output.reasoning import overlap
from guidance_core.tool_format import ToolFormat


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of the message's free text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of a call.

    Attributes:
        index: which call of the message, from 0.
        name: of the function, on a call's first delta.
        arguments: more of the arguments' JSON text.
    """

    index: int
    name: str | None = None
    arguments: str = ""


Delta = ContentDelta | CallDelta
_State = Literal["start", "answer", "content", "opening", "name", "arguments", "closing", "between", "over"]


class ToolCallParser:
    """Reads one choice.

    Attributes:
        calls: how many calls have begun (their names are known).
    """

    def __init__(self, tool_format: ToolFormat, *, functions: Iterable[str] | None = None) -> None:
        """Start at the answer's first character.

        Args:
            tool_format: of calls.
            functions: given where a message without calls has a form of its own, which may resemble calls: there is a
                call only where the message begins with one of these. None where it is free text, which the grammar
                keeps apart from calls.
        """
        self.calls = 0
        self._format = tool_format
        self._openings = [(tool_format.opening(name), name) for name in functions or ()]
        self._state: _State = "content" if functions is None else "start"
        self._buffer = ""
        self._expected = ""
        self._at_start = True
        self._object = _ObjectEnd()

    @property
    def complete(self) -> bool:
        """Whether every call that has begun is closed, and the calls as a whole are."""
        if self._state == "between":
            return not self._format.end and not self._buffer
        return self._state in ("start", "answer", "content", "over")

    def push(self, text: str) -> list[Delta]:
        """Take the next piece of text; what is certain about it.

        Raises:
            ValueError: the text is not in the format.
        """
        self._buffer += text
        deltas: list[Delta] = []
        while self._step(deltas):
            pass
        return deltas

    def finish(self) -> list[Delta]:
        """What is left once the answer has ended: text that might have become a call, but did not."""
        rest, self._buffer = self._buffer, ""
        return [ContentDelta(rest)] if self._state in ("start", "content") and rest else []

    def _step(self, deltas: list[Delta]) -> bool:
        """Do one thing with the buffer; whether something was done."""
        match self._state:
            case "start":
                return self._read_start(deltas)
            case "answer":
                if self._buffer:
                    deltas.append(ContentDelta(self._buffer))
                    self._buffer = ""
                return False
            case "content":
                return self._read_content(deltas)
            case "opening" | "closing":
                return self._read_literal()
            case "name":
                name, found, rest = self._buffer.partition(self._format.middle)
                if found:
                    self._begin_call(name, rest, deltas)
                return bool(found)
            case "arguments":
                return self._read_arguments(deltas)
            case "between":
                return self._read_between()
            case "over":
                if self._buffer.strip():
                    raise ValueError(f"{self._buffer[:40]!r} follows the last tool call")
                return False

    def _read_start(self, deltas: list[Delta]) -> bool:
        for opening, name in self._openings:
            if self._buffer.startswith(opening):
                self._begin_call(name, self._buffer[len(opening) :], deltas)
                return True
        if any(opening.startswith(self._buffer) for opening, _ in self._openings):
            return False
        self._go_to("answer", self._buffer)
        return True

    def _begin_call(self, name: str, rest: str, deltas: list[Delta]) -> None:
        deltas.append(CallDelta(self.calls, name))
        self.calls += 1
        self._object = _ObjectEnd()
        self._go_to("arguments", rest)

    def _read_content(self, deltas: list[Delta]) -> bool:
        trigger = self._format.trigger
        if not self._format.anywhere and not self._at_start:
            place, certain = -1, len(self._buffer)
        elif not self._format.anywhere:
            begins = self._buffer.startswith(trigger)
            place = 0 if begins else -1
            certain = 0 if trigger.startswith(self._buffer) else len(self._buffer)
        else:
            place = self._buffer.find(trigger)
            # White space before calls is layout; whether calls follow is not known yet.
            certain = len(self._buffer[: len(self._buffer) - overlap(self._buffer, trigger)].rstrip())
        if place >= 0:
            content = self._buffer[:place].rstrip()
            if content:
                deltas.append(ContentDelta(content))
            self._expected = self._format.begin + self._format.opener
            self._go_to("opening", self._buffer[place:])
            return True
        if certain:
            deltas.append(ContentDelta(self._buffer[:certain]))
            self._buffer = self._buffer[certain:]
            self._at_start = False
        return False

    def _read_literal(self) -> bool:
        if not self._buffer.startswith(self._expected):
            if not self._expected.startswith(self._buffer):
                raise ValueError(f"{self._buffer[:40]!r} stands where {self._expected!r} was to come")
            return False
        self._go_to("name" if self._state == "opening" else "between", self._buffer[len(self._expected) :])
        return True

    def _read_arguments(self, deltas: list[Delta]) -> bool:
        if not self._buffer:
            return False
        end = self._object.find(self._buffer)
        arguments, rest = (self._buffer, "") if end is None else (self._buffer[:end], self._buffer[end:])
        deltas.append(CallDelta(self.calls - 1, arguments=arguments))
        self._buffer = rest
        if end is not None:
            self._expected = self._format.closer
            self._go_to("closing", rest)
        return end is not None

    def _read_between(self) -> bool:
        following = self._format.between + self._format.opener
        if self._buffer.startswith(following):
            self._go_to("name", self._buffer[len(following) :])
            return True
        if following.startswith(self._buffer) or not self._buffer:
            return False
        if not self._buffer.startswith(self._format.end):
            if self._format.end.startswith(self._buffer):
                return False
            raise ValueError(f"{self._buffer[:40]!r} follows a tool call")
        self._go_to("over", self._buffer[len(self._format.end) :])
        return True

    def _go_to(self, state: _State, rest: str) -> None:
        self._state = state
        self._buffer = rest


class _ObjectEnd:
    """Finds where a JSON object that comes in pieces ends."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = self._escaped = False

    def find(self, text: str) -> int | None:
        """Take the next piece; the index after the object's last character, or None where it goes on."""
        for index, character in enumerate(text):
            if self._in_string:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return index + 1
        return None
