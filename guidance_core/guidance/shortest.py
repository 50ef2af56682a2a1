"""Short ways from where a matcher stands to where its grammar may end.

Every way that is found here has been walked on a copy of the matcher: it is a proof that the grammar can be ended with
so many tokens. None of them is proved to be the shortest.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from guidance_core.generation import Grammar
from guidance_core.grammar.standing import has_ended
from guidance_core.guidance.shortest_json import shortest_instance
from guidance_core.guidance.shortest_match import shortest_match
from guidance_core.guidance.vocabulary import Vocabulary

_MOST_START_STATES = 2_000
_MOST_TOKENS_AT_START = 20_000
_MOST_STATES = 48
"""States that one search looks at, about 20 µs each. A count, not a time: the same answer comes every time."""

_MOST_TOKENS_IMPROVED = 500
_LONGER = 64

_FIRST_ENDINGS = 12
_LAST_ENDINGS = 24
_FIRST_BYTES = 24

_SOME = 6
"""Tokens tried of those that are no structure, where few are allowed."""

_LAYOUTS = ((",", ":"), (", ", ": "))


@dataclass(frozen=True, slots=True)
class Way:
    """Tokens that lead to an end of the grammar.

    Attributes:
        tokens: what to take; none of them ends the answer.
        stops: after them the grammar can go no further, so that no end token has to be sampled. False also where that
            is not known.
    """

    tokens: tuple[int, ...]
    stops: bool = False

    @property
    def cost(self) -> int:
        """Tokens that it takes, an end token included."""
        return len(self.tokens) + (not self.stops)


def walk(matcher: LLMatcher, tokens: Sequence[int]) -> Way | None:
    """The tokens as a way from where the matcher stands, or None where they do not lead to an end."""
    copy = matcher.deep_copy()
    if copy.try_consume_tokens(list(tokens)) < len(tokens) or copy.is_error():
        return None
    return _end(copy, tokens)


def _end(matcher: LLMatcher, tokens: Sequence[int]) -> Way | None:
    if matcher.is_stopped():
        return Way(tuple(tokens), stops=True) if has_ended(matcher) else None
    return Way(tuple(tokens)) if matcher.is_accepting() else None


def shortest_answer(matcher: LLMatcher, grammar: Grammar, vocabulary: Vocabulary) -> Way | None:
    """A short whole answer, or None where none was found within bounds.

    Takes from a millisecond to about a second. Answers come from what the grammar was made of, where that is known,
    and from a search.

    Args:
        matcher: at the grammar's start; it is not changed.
        grammar: of the matcher.
        vocabulary: of the matcher's tokenizer.
    """
    best: Way | None = None
    for text in _proposals(grammar, vocabulary):
        for tokens in (vocabulary.spell(text), vocabulary.tokenize(text)):
            if tokens is not None and (best is None or len(tokens) < len(best.tokens)):
                best = walk(matcher, tokens) or best
    if best is None:
        found = find_way(matcher.deep_copy(), vocabulary, most=_MOST_TOKENS_AT_START, states=_MOST_START_STATES)
        if found is not None:
            text = vocabulary.tokenizer.decode_bytes(list(found.tokens))
            shorter = vocabulary.spell(text)
            best = (shorter and walk(matcher, shorter)) or found
    return best and _with_longer_tokens(matcher, best, vocabulary)


def _with_longer_tokens(matcher: LLMatcher, way: Way, vocabulary: Vocabulary) -> Way:
    """The way, with tokens of more bytes where the grammar leaves open which bytes they are (01234567 in a UUID)."""
    best, here = way, matcher.deep_copy()
    for place in range(min(len(way.tokens), _MOST_TOKENS_IMPROVED)):
        if place >= len(best.tokens) - 1:
            break
        rest = vocabulary.tokenizer.decode_bytes(list(best.tokens[place:]))
        usual = len(vocabulary.tokenizer.decode_bytes([best.tokens[place]]))
        for token, text in vocabulary.longest_allowed(here.compute_bitmask(), _LONGER):
            if not usual < len(text) < len(rest):
                continue
            tokens = [token, *vocabulary.tokenize(rest[len(text) :])]
            if here.validate_tokens([*tokens, vocabulary.end]) <= len(tokens):
                continue
            tokens = [token, *(vocabulary.spell(rest[len(text) :]) or ())]
            if (
                len(tokens) < len(best.tokens) - place
                and (better := walk(matcher, (*best.tokens[:place], *tokens))) is not None
            ):
                best = better
                break
        here.try_consume_tokens([best.tokens[place]])
    return best


def _proposals(grammar: Grammar, vocabulary: Vocabulary) -> Iterator[bytes]:
    """Texts that may be short answers."""
    if grammar.kind in ("json_schema", "json_object"):
        schema = json.loads(grammar.source)["grammars"][0].get("json_schema")
        text = schema and shortest_instance(schema, lambda text: len(vocabulary.tokenizer.greedy_tokenize(text)))
        if text:
            value = json.loads(text)
            options: dict[str, Any] = schema.get("x-guidance", {})
            own = (options.get("item_separator", ","), options.get("key_separator", ":"))
            for separators in dict.fromkeys([own, *_LAYOUTS]):
                yield json.dumps(value, ensure_ascii=False, separators=separators).encode()
    elif grammar.kind == "choice":
        for option in json.loads(grammar.definition):
            yield option.encode()
    elif grammar.kind == "regex":
        match = shortest_match(grammar.definition)
        if match is not None:
            yield match.encode()


@dataclass(slots=True)
class _State:
    """Where a search is.

    Attributes:
        matcher: before ``step`` is taken.
        tokens: before ``step``.
        step: what to take next.
        detours: how far down the lists of what is best next the steps were, all together.
    """

    matcher: LLMatcher
    tokens: tuple[int, ...]
    step: tuple[int, ...]
    detours: int


def find_way(
    matcher: LLMatcher, vocabulary: Vocabulary, *, most: int, old: Sequence[int] = (), states: int = _MOST_STATES
) -> Way | None:
    """Search a way to an end: where always the best next step leads, then the ways with fewest detours from that.

    Args:
        matcher: a copy that the search may use; it is not changed.
        vocabulary: of the matcher's tokenizer.
        most: cost that a way may have.
        old: tokens of a way from an earlier state: its ends are tried as ways from every state.
        states: how many states to look at.
    """
    endings = _endings(vocabulary, old)
    order = itertools.count(step=-1)  # among equals the newest comes first: deeper before wider
    queue: list[tuple[int, int, _State]] = [(0, next(order), _State(matcher, (), (), 0))]
    for _ in range(states):
        if not queue:
            return None
        _, _, state = heapq.heappop(queue)
        here, tokens = state.matcher, state.tokens
        if state.step:
            here = here.deep_copy()
            if here.try_consume_tokens(list(state.step)) < len(state.step) or here.is_error():
                continue
            tokens = (*tokens, *state.step)
        way = _end(here, tokens) or _rejoin(here, tokens, endings, vocabulary, most)
        if way is not None and way.cost <= most:
            return way
        if here.is_stopped() or len(tokens) >= most:
            continue
        for rank, step in enumerate(_steps(here, vocabulary)):
            if len(tokens) + len(step) <= most:
                following = _State(here, tokens, step, state.detours + rank)
                heapq.heappush(queue, (following.detours, next(order), following))
    return None


def _endings(vocabulary: Vocabulary, old: Sequence[int]) -> list[list[int]]:
    """Ends of a way, shortest first: what it ends with, and what is left of it when a little is taken away."""
    old = list(old)
    starts = sorted({*range(len(old))[:_FIRST_ENDINGS], *range(len(old))[-_LAST_ENDINGS:]}, reverse=True)
    endings = [old[start:] for start in starts]
    first = vocabulary.tokenizer.decode_bytes(old[:_FIRST_ENDINGS])
    endings += [
        [*vocabulary.tokenize(first[start:]), *old[_FIRST_ENDINGS:]]
        for start in range(1, min(len(first), _FIRST_BYTES))
        if first[start] & 0xC0 != 0x80  # the middle of a character starts nothing
    ]
    return sorted(endings, key=len)


def _rejoin(
    matcher: LLMatcher, tokens: tuple[int, ...], endings: list[list[int]], vocabulary: Vocabulary, most: int
) -> Way | None:
    """The shortest of the endings that leads to an end from here, behind the tokens that lead here."""
    if matcher.is_stopped():
        return None
    for ending in endings:
        if len(tokens) + len(ending) > most:
            return None
        if matcher.validate_tokens([*ending, vocabulary.end]) > len(ending):
            rest = walk(matcher, ending)
            if rest is not None:
                return Way((*tokens, *ending), rest.stops)
    return None


def _steps(matcher: LLMatcher, vocabulary: Vocabulary) -> list[tuple[int, ...]]:
    """What to try next, best first."""
    forced = matcher.compute_ff_tokens()
    if forced and all(token < vocabulary.size and token not in vocabulary.ends for token in forced):
        return [tuple(forced)]
    mask = matcher.compute_bitmask()
    steps = [(token, text) for token, text in vocabulary.structure if mask[token >> 3] >> (token & 7) & 1]
    if not any(text[:1] in b'"}]' for _, text in steps):
        steps += vocabulary.longest_allowed(mask, _SOME)
    specials = [token for token in vocabulary.specials if mask[token >> 3] >> (token & 7) & 1]
    return [(token,) for token in (*specials, *(token for token, _ in steps))]
