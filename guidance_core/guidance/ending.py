"""An answer that ends in time: no token is taken unless a way to an end of the grammar is known to fit after it.

A sequence's `Ending` holds a *way*, tokens that were walked on a copy of its matcher and lead from where it stands to
where the grammar may end, and keeps one promise: the way costs no more than the tokens that are left. It starts with a
short whole answer (`shortest`), without which the request is refused. For every token that is sampled a way from
behind it is looked for; where none that fits is found, the known way's first token is taken instead. So the promise
holds whatever the model does and however little a search finds; a better search only leaves the model more freedom.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llguidance import LLMatcher

from guidance_core.guidance.shortest import Way, find_way, walk
from guidance_core.guidance.vocabulary import Vocabulary

_MOST_BRIDGES = 16
_LONGEST_BRIDGE = 32


class Ending:
    """Keeps one sequence within its tokens.

    Args:
        matcher: the sequence's own; it is asked, never moved.
        way: from where the matcher stands.
        left: most tokens that the answer may still take, an end token included.
        vocabulary: of the matcher's tokenizer.
        stop_token_ids: tokens that end the answer wherever they are sampled, besides the end tokens.
        plain: the grammar counts no tokens and hides no text, so that whether tokens are valid says all about them.
            Asking that takes 1 µs; walking them on a copy, as elsewhere, takes 30.

    Raises:
        ValueError: the way does not fit.
    """

    def __init__(
        self,
        matcher: LLMatcher,
        way: Way,
        left: int,
        vocabulary: Vocabulary,
        *,
        stop_token_ids: Sequence[int] = (),
        plain: bool = False,
    ) -> None:
        if way.cost > left:
            raise ValueError(f"the way takes {way.cost} tokens, and {left} are left")
        self._matcher = matcher
        self._way = way
        self._left = left
        self._vocabulary = vocabulary
        self._stop_token_ids = frozenset(stop_token_ids)
        self._plain = plain
        self._settled = way
        self._narrowed: dict[int, Way] = {}
        self._bridges: dict[tuple[int, ...], None] = {}

    def narrow(self) -> list[int] | None:
        """What may be sampled, where not a single token is to spare; else None: anything that the grammar allows.

        It is the way's own first token, and those of JSON's structure that lead to an end as soon.
        """
        self._narrowed = {}
        if self._left == self._way.cost:
            self._way = walk(self._matcher, self._way.tokens) or self._way  # perhaps it needs no end token
        if self._left > self._way.cost:
            return None
        first = self._first()
        for token, _ in self._vocabulary.structure:
            if token != first and self._matcher.validate_tokens([token]):
                way = self._quick_way(token)
                if way is not None:
                    self._narrowed[token] = way
        return [first, *self._narrowed]

    def settle(self, token: int) -> int:
        """The token to take where this one was sampled: itself, or the way's first where too little would be left.

        Changes nothing that `commit` has not seen: it can be asked again for another token.
        """
        self._settled = Way(self._way.tokens[1:], self._way.stops)
        first = self._first()
        if token == first or token in self._vocabulary.ends:
            return token
        if token in self._stop_token_ids:
            return token if self._matcher.is_accepting() else first
        way = self._narrowed.get(token) or self._quick_way(token) or self._searched_way(token)
        if way is None:
            return first
        self._settled = way
        return token

    def commit(self) -> None:
        """The matcher has consumed the token that was settled last."""
        self._left -= 1
        self._way = self._settled

    def take_forced(self, forced: Sequence[int]) -> bool:
        """Whether tokens that the grammar forces now fit; if so, they are as good as taken: the matcher must consume
        them next. Where they do not, the same text can be spelled with fewer tokens: the way's.
        """
        way = self._way_behind(forced)
        if way is None:
            return False
        self._left -= len(forced)
        self._way = way
        return True

    def _first(self) -> int:
        return self._way.tokens[0] if self._way.tokens else self._vocabulary.end

    def _quick_way(self, token: int) -> Way | None:
        """A way from behind a token that is the known one but for its beginning: some microseconds."""
        left = self._left - 1
        for rest in self._rests(token):
            if len(rest) > left or not self._stop_token_ids.isdisjoint(rest):
                continue
            if self._matcher.validate_tokens([token, *rest, self._vocabulary.end]) == len(rest) + 2:
                if self._plain and len(rest) < left:
                    return Way(tuple(rest))
                whole = walk(self._matcher, (token, *rest))
                if whole is not None and whole.cost <= self._left:
                    return Way(tuple(rest), whole.stops)
        return None

    def _rests(self, token: int) -> Iterator[Sequence[int]]:
        """What may be left of the way behind a token."""
        tokenizer, tokens = self._vocabulary.tokenizer, self._way.tokens
        text = tokenizer.decode_bytes([token])
        # It says more than the way's first token, or other things of the same length, or comes in between.
        length = place = 0
        while place < len(tokens) and length < len(text):
            length += len(tokenizer.decode_bytes([tokens[place]]))
            place += 1
        if length > len(text):
            middle = tokenizer.decode_bytes([tokens[place - 1]])[len(text) - length :]
            yield (*self._vocabulary.tokenize(middle), *tokens[place:])
        else:
            yield tokens[place:]
        yield tokens
        for bridge in reversed(self._bridges):
            yield (*bridge, *tokens)

    def _searched_way(self, token: int) -> Way | None:
        behind = self._matcher.deep_copy()
        if behind.try_consume_tokens([token]) < 1 or behind.is_error():
            return None
        way = find_way(behind, self._vocabulary, most=self._left - 1, old=self._way.tokens)
        if way is None or not self._stop_token_ids.isdisjoint(way.tokens):
            return None
        self._remember(way)
        return way

    def _remember(self, way: Way) -> None:
        """Keep what a search put before the known way: the next item of a list often wants the same."""
        new, old = way.tokens, self._way.tokens
        bridge = new[: len(new) - len(old)]
        if bridge and new[len(bridge) :] == old and len(bridge) <= _LONGEST_BRIDGE:
            self._bridges.pop(bridge, None)
            self._bridges[bridge] = None
            if len(self._bridges) > _MOST_BRIDGES:
                del self._bridges[next(iter(self._bridges))]

    def _way_behind(self, forced: Sequence[int]) -> Way | None:
        behind = self._matcher.deep_copy()
        left = self._left - len(forced)
        if left < 0 or behind.try_consume_tokens(list(forced)) < len(forced) or behind.is_error():
            return None
        tokens, count = self._way.tokens, len(forced)
        if tokens[:count] == tuple(forced):
            return Way(tokens[count:], self._way.stops)
        text, said = (self._vocabulary.tokenizer.decode_bytes(list(part)) for part in (tokens, forced))
        if text.startswith(said):
            way = walk(behind, self._vocabulary.tokenize(text[len(said) :]))
            if way is not None and way.cost <= left and self._stop_token_ids.isdisjoint(way.tokens):
                return way
        way = find_way(behind, self._vocabulary, most=left, old=tokens)
        return way if way is not None and self._stop_token_ids.isdisjoint(way.tokens) else None
