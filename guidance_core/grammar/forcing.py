"""Which terminals can force text without end.

llguidance appends what a grammar forces byte by byte, until two bytes are possible. In ``start: A "ab"`` with
``A: /a+/`` they never are: whatever the terminal takes, the next ``a`` may still be its own, and nothing else may come.
llguidance then runs for ever (1.9.1: ``ParserState::force_bytes``), in a call that nobody can interrupt. A repetition
without an upper bound cannot do that where each of its rounds passes a place at which two characters are possible,
which is what is found out here. Repetitions of whole terminals, in rules, run into llguidance's limit of items instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """What is certain about the texts of a regular expression, or of a part of one.

    Attributes:
        branches: each text passes a place where another character could have come, and the text be in it all the same.
        inhabited: there is a text.
        first: the character that all texts begin with; empty where there is none, or none is known.
        endless: it may have a repetition without an upper bound whose rounds do not all branch.
    """

    branches: bool
    inhabited: bool
    first: str = ""
    endless: bool = False


NOTHING_KNOWN = Shape(branches=False, inhabited=False)
EMPTY = Shape(branches=False, inhabited=True)
BRANCHING = Shape(branches=True, inhabited=True)
ENDLESS = Shape(branches=False, inhabited=False, endless=True)


def literal(text: str) -> Shape:
    """Exactly one text."""
    return Shape(branches=False, inhabited=True, first=text[:1])


def sequence(parts: Sequence[Shape]) -> Shape:
    """One after the other."""
    return Shape(
        any(part.branches for part in parts),
        all(part.inhabited for part in parts),
        parts[0].first if parts else "",
        any(part.endless for part in parts),
    )


def alternatives(parts: Sequence[Shape]) -> Shape:
    """Any of them."""
    firsts = {part.first for part in parts if part.inhabited and part.first}
    return Shape(
        all(part.branches for part in parts) or len(firsts) > 1,
        any(part.inhabited for part in parts),
        parts[0].first if len({part.first for part in parts}) == 1 else "",
        any(part.endless for part in parts),
    )


def repeated(part: Shape, least: int, most: int | None) -> Shape:
    """So many times; ``most`` is None where there is no upper bound."""
    return Shape(
        part.branches and least > 0,
        part.inhabited or least == 0,
        part.first if least > 0 else "",
        part.endless or (most is None and not part.branches),
    )
