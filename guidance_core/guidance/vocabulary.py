"""A tokenizer's tokens by their bytes: which exist, and how to spell a text with the fewest of them."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
from llguidance import LLTokenizer

from guidance_core.grammar.compatibility import end_tokens

_LONGEST = 32
"""Bytes; longer tokens exist (runs of spaces, of dashes), but only make the search for spellings slower."""

_STRUCTURE = (
    frozenset(b'"}]'),
    frozenset(b"0123456789"),
    frozenset(b'":'),
    frozenset(b'",'),
    frozenset(b'"{}[]'),
    frozenset(b"-."),
)
_WORDS = (b"null", b"true", b"false")
_PUNCTUATION = b")>;.!?|/*-+=&%$#@~^_`'\\(<,: \n\t"


class Vocabulary:
    """The tokens that an answer can be spelled with: neither special nor beyond the logits.

    Args:
        tokenizer: the model's.
        size: width of the logits.
    """

    def __init__(self, tokenizer: LLTokenizer, size: int) -> None:
        self.tokenizer = tokenizer
        self.size = size
        self.ends = end_tokens(tokenizer)
        self.end = next(token for token in sorted(self.ends) if token < size)

    def index(self) -> None:
        """Do now what is done but once (0.1 s for 50,000 tokens), at the latest when something is first asked."""
        self.structure, self._by_length  # noqa: B018

    @cached_property
    def ids(self) -> dict[bytes, int]:
        """Token ids by bytes; the lowest id where several tokens have the same bytes. Takes some tens of ms once."""
        tokenizer = self.tokenizer
        ids: dict[bytes, int] = {}
        for token in range(min(self.size, tokenizer.vocab_size)):
            if token not in self.ends and not tokenizer.is_special_token(token):
                text = tokenizer.decode_bytes([token])
                if text:
                    ids.setdefault(text, token)
        return ids

    @cached_property
    def specials(self) -> tuple[int, ...]:
        """Special tokens that end no answer; grammars that name them (calls, thoughts) mostly close something so."""
        tokens = range(min(self.size, self.tokenizer.vocab_size))
        return tuple(t for t in tokens if t not in self.ends and self.tokenizer.is_special_token(t))

    @cached_property
    def structure(self) -> tuple[tuple[int, bytes], ...]:
        """(id, bytes) of the tokens that structure is made of, JSON's above all: what closes more than it opens first.

        A quote comes before a bracket, which within a string closes nothing.
        """
        groups: list[list[tuple[int, bytes]]] = [[] for _ in range(len(_STRUCTURE) + 2)]
        for text, token in self.ids.items():
            if text in _WORDS:
                groups[-2].append((token, text))
            elif len(text) <= 4:
                group = next((i for i, letters in enumerate(_STRUCTURE) if letters.issuperset(text)), None)
                if group is not None:
                    groups[group].append((token, text))
                elif len(text) == 1 and text in _PUNCTUATION:
                    groups[-1].append((token, text))
        return tuple(pair for group in groups for pair in sorted(group, key=_rank))

    @cached_property
    def _by_length(self) -> tuple[npt.NDArray[np.int64], list[bytes]]:
        """Ids and bytes of all tokens, those with the most bytes first."""
        pairs = sorted(self.ids.items(), key=lambda pair: (pair[0].isspace(), -len(pair[0]), pair[1]))
        return np.array([token for _, token in pairs]), [text for text, _ in pairs]

    def longest_allowed(self, mask: bytes, count: int) -> list[tuple[int, bytes]]:
        """(id, bytes) of the longest tokens of a mask, as `LLMatcher.compute_bitmask` gives it.

        Tokens of nothing but white space come last: they rarely lead anywhere.
        """
        tokens, texts = self._by_length
        allowed = np.unpackbits(np.frombuffer(mask, np.uint8), bitorder="little")
        return [(int(tokens[place]), texts[place]) for place in np.flatnonzero(allowed[tokens])[:count]]

    def tokenize(self, text: bytes) -> list[int]:
        """The model's own (canonical) tokens for a text, unless the logits lack one of them."""
        tokens = self.tokenizer.tokenize_bytes(text)
        return tokens if max(tokens, default=0) < self.size else self.spell(text) or tokens

    def spell(self, text: bytes) -> list[int] | None:
        """The fewest tokens that make up a text, or None where the vocabulary lacks a byte of it.

        Not always the model's own (canonical) tokens. Takes some microseconds a byte.
        """
        ids = self.ids
        best: list[tuple[int, int]] = [(0, -1)]  # for each length: how many tokens, and the last of them
        for end in range(1, len(text) + 1):
            options = (
                (best[start][0] + 1, token)
                for start in range(max(0, end - _LONGEST), end)
                if best[start][0] >= 0 and (token := ids.get(text[start:end])) is not None
            )
            best.append(min(options, default=(-1, -1)))
        if best[-1][0] < 0:
            return None
        tokens: list[int] = []
        end = len(text)
        while end:
            token = best[end][1]
            tokens.append(token)
            end -= len(self.tokenizer.decode_bytes([token]))
        return tokens[::-1]


def _rank(pair: tuple[int, bytes]) -> tuple[bool, int, int, int]:
    token, text = pair
    opened = text.count(b"{") + text.count(b"[") - text.count(b"}") - text.count(b"]")
    return (text[:1] != b'"', opened, -len(text), token)
