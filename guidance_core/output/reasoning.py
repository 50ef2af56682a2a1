"""An answer's text → thoughts and what follows them, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

from guidance_core.reasoning import ReasoningMarkers


@dataclass(frozen=True, slots=True)
class MarkerPlaces:
    """Where markers stand in an answer as the tokens that they are.

    A grammar knows markers as tokens, and a model may write the same characters with others: read by text alone,
    thoughts that quote their own end would let what follows them pass for the answer.

    Attributes:
        begun: the answer's first token is the one that begins thoughts.
        end: where the text of the first token that ends them begins, in characters of the answer; None so far.
    """

    begun: bool
    end: int | None = None


class ReasoningParser:
    """Reads one choice.

    Without a marker at its beginning, a text has no thoughts. One that is cut off before the marker that ends them is
    all thoughts.
    """

    def __init__(self, markers: ReasoningMarkers, *, begun: bool, gap: bool = True) -> None:
        """Start at the answer's first character.

        Args:
            markers: the model's.
            begun: the prompt has begun the thoughts.
            gap: line breaks right after thoughts are no part of the answer.
        """
        self._gap = gap
        self._begin, self._end = markers.begin, markers.end
        self._begun = begun
        self._state = "thoughts" if begun else "start"
        self._buffer = ""
        self._taken = 0  # characters of the answer before the buffer

    def thinks(self, text: str, places: MarkerPlaces | None = None) -> bool:
        """Whether an answer that begins with this text begins with thoughts."""
        return self._begun or (text.startswith(self._begin) if places is None else places.begun)

    def push(self, text: str, places: MarkerPlaces | None = None) -> tuple[str, str]:
        """Take the next piece of text; what is certain: (more thoughts, more of the answer).

        Args:
            text: follows what was pushed before.
            places: where the markers are that begin in the text so far; None where only the text can tell.
        """
        self._buffer += text
        thoughts = ""
        if self._state == "start" and self._buffer:
            if (places is None or places.begun) and self._buffer.startswith(self._begin):
                self._take(len(self._begin))
                self._state = "thoughts"
            elif (places is not None and not places.begun) or not self._begin.startswith(self._buffer):
                self._state = "answer"
        if self._state == "thoughts":
            thoughts = self._take(self._certain_thoughts(places))
            if self._at_end(places):
                self._take(len(self._end))
                self._state = "gap"
        if self._state == "gap":
            if self._gap:
                self._take(len(self._buffer) - len(self._buffer.lstrip("\n")))
            if self._buffer:
                self._state = "answer"
        return thoughts, self._take() if self._state == "answer" else ""

    def finish(self) -> tuple[str, str]:
        """What is left once the answer has ended: what might have become a marker, but did not."""
        rest = self._take()
        return (rest, "") if self._state == "thoughts" else ("", rest)

    def split(self, text: str, places: MarkerPlaces | None = None) -> tuple[str, str]:
        """A whole text's (thoughts, answer)."""
        thoughts, answer = self.push(text, places)
        more, rest = self.finish()
        return thoughts + more, answer + rest

    def _certain_thoughts(self, places: MarkerPlaces | None) -> int:
        """How much of the buffer is thoughts, whatever follows."""
        if places is not None:
            return len(self._buffer) if places.end is None else max(0, places.end - self._taken)
        end = self._buffer.find(self._end)
        return len(self._buffer) - overlap(self._buffer, self._end) if end < 0 else end

    def _at_end(self, places: MarkerPlaces | None) -> bool:
        """Whether the buffer begins with the marker that ends thoughts, whole."""
        return self._buffer.startswith(self._end) and (places is None or places.end == self._taken)

    def _take(self, length: int | None = None) -> str:
        """The first characters of the buffer, or all of them."""
        taken, self._buffer = self._buffer[:length], "" if length is None else self._buffer[length:]
        self._taken += len(taken)
        return taken


def overlap(text: str, marker: str) -> int:
    """How many characters at the end of ``text`` may become ``marker``."""
    return next((n for n in range(min(len(text), len(marker) - 1), 0, -1) if marker.startswith(text[-n:])), 0)
