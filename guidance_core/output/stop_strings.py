"""Stop strings: end an answer where one appears, however it is split over tokens.

All strings are matched at once by an Aho–Corasick automaton (Aho and Corasick 1975, "Efficient string matching"), so
the work is linear in the text, whatever the strings. Its state says how much of the text's end could still become a
stop string: exactly that much is held back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from guidance_core.errors import InvalidRequest

MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 1024
"""Longest stop string: bounds the memory of the automaton and what a matcher holds back."""


class StopStrings:
    """The stop strings of one request, compiled. Immutable; `matcher` gives each choice its own matcher."""

    def __init__(self, strings: Sequence[str]) -> None:
        """Compile.

        Args:
            strings: at most 16, each of 1 to 1024 characters.

        Raises:
            InvalidRequest: too many of them, an empty one, or one that is too long.
        """
        if len(strings) > MAX_STOP_STRINGS:
            raise InvalidRequest(
                f"stop has {len(strings)} strings; at most {MAX_STOP_STRINGS} are allowed.", param="stop"
            )
        if "" in strings:
            raise InvalidRequest("stop has an empty string, which would end every answer: remove it.", param="stop")
        if (longest := max(map(len, strings), default=0)) > MAX_STOP_CHARS:
            raise InvalidRequest(
                f"stop has a string of {longest} characters; at most {MAX_STOP_CHARS} are allowed.", param="stop"
            )
        self.strings = tuple(strings)
        # A state is a prefix of some string; state 0 is the empty one.
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._depth = [0]
        self._found: list[str | None] = [None]
        for string in self.strings:
            self._add(string)
        self._link()

    def matcher(self) -> StopMatcher:
        """A matcher at the start of a text."""
        return StopMatcher(self)

    def _add(self, string: str) -> None:
        state = 0
        for char in string:
            following = self._next[state].get(char)
            if following is None:
                following = len(self._next)
                self._next[state][char] = following
                self._next.append({})
                self._fail.append(0)
                self._depth.append(self._depth[state] + 1)
                self._found.append(None)
            state = following
        self._found[state] = string

    def _link(self) -> None:
        """Point each state to its longest proper suffix that is a state too, breadth first."""
        queue = deque(self._next[0].values())
        while queue:
            state = queue.popleft()
            if self._found[state] is None:
                self._found[state] = self._found[self._fail[state]]
            for char, following in self._next[state].items():
                self._fail[following] = self._step(self._fail[state], char)
                queue.append(following)

    def _step(self, state: int, char: str) -> int:
        while (following := self._next[state].get(char)) is None:
            if state == 0:
                return 0
            state = self._fail[state]
        return following


class StopMatcher:
    """Looks for stop strings in one text that arrives in pieces.

    The stop string that is complete first wins, as if the text came character by character; of several that end at the
    same character, the longest. So the result does not depend on how the text is cut into pieces.

    Attributes:
        hit: the stop string that was found, or None so far.
    """

    def __init__(self, strings: StopStrings) -> None:
        self._strings = strings
        self._state = 0
        self._held = ""
        self.hit: str | None = None

    def push(self, text: str) -> str:
        """Take the next piece of text; return what is now certain to be before any stop string.

        After a hit nothing more may be pushed.
        """
        strings = self._strings
        transitions, found = strings._next, strings._found
        state = self._state
        for i, char in enumerate(text):
            following = transitions[state].get(char)
            if following is None:
                if state == 0:
                    continue
                following = strings._step(strings._fail[state], char)
            state = following
            if (hit := found[state]) is not None:
                self.hit = hit
                before = self._held + text[: i + 1]
                self._held = ""
                return before[: len(before) - len(hit)]
        self._state = state
        seen = self._held + text
        certain = len(seen) - strings._depth[state]
        self._held = seen[certain:]
        return seen[:certain]

    def finish(self) -> str:
        """The text ends here: return what was held back."""
        held, self._held = self._held, ""
        return held
