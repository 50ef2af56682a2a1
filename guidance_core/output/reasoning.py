"""An answer's text → thoughts and what follows them, piece by piece."""

from __future__ import annotations

from guidance_core.reasoning import ReasoningMarkers


class ReasoningParser:
    """Reads one choice.

    Without a marker at its beginning, a text has no thoughts. One that is cut off before the marker that ends them is
    all thoughts.
    """

    def __init__(self, markers: ReasoningMarkers, *, begun: bool) -> None:
        """Start at the answer's first character.

        Args:
            markers: the model's.
            begun: the prompt has begun the thoughts.
        """
        self._begin, self._end = markers.begin, markers.end
        self._state = "thoughts" if begun else "start"
        self._buffer = ""

    def push(self, text: str) -> tuple[str, str]:
        """Take the next piece of text; what is certain: (more thoughts, more of the answer)."""
        self._buffer += text
        thoughts = ""
        if self._state == "start":
            if self._buffer.startswith(self._begin):
                self._buffer = self._buffer.removeprefix(self._begin)
                self._state = "thoughts"
            elif not self._begin.startswith(self._buffer):
                self._state = "answer"
        if self._state == "thoughts":
            thoughts, found, rest = self._buffer.partition(self._end)
            if found:
                self._buffer = rest
                self._state = "gap"
            else:
                held = overlap(self._buffer, self._end)
                thoughts = self._buffer[: len(self._buffer) - held]
                self._buffer = self._buffer[len(self._buffer) - held :]
        if self._state == "gap":
            self._buffer = self._buffer.lstrip("\n")
            if self._buffer:
                self._state = "answer"
        return thoughts, self._take() if self._state == "answer" else ""

    def finish(self) -> tuple[str, str]:
        """What is left once the answer has ended: what might have become a marker, but did not."""
        rest = self._take()
        return (rest, "") if self._state == "thoughts" else ("", rest)

    def split(self, text: str) -> tuple[str, str]:
        """A whole text's (thoughts, answer)."""
        thoughts, answer = self.push(text)
        more, rest = self.finish()
        return thoughts + more, answer + rest

    def _take(self) -> str:
        taken, self._buffer = self._buffer, ""
        return taken


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` may become ``marker``."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if marker.startswith(text[-n:])), 0)
