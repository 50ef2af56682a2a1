"""Random answers: tokens drawn from the masks until the grammar ends, as a model without any sense would."""

from __future__ import annotations

import random

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar.compatibility import end_tokens

CLOSING = {b"}", b"]", b'"', b",", b":", b"{", b"[", b"0", b"1", b"a", b'"}', b'"]', b"]}", b"}}", b'":', b'",'}


class Walker:
    """Draws random answers with one tokenizer."""

    def __init__(self, tokenizer: LLTokenizer, seed: int) -> None:
        self._tokenizer = tokenizer
        self._random = random.Random(seed)
        self._eos = set(end_tokens(tokenizer))
        self._closing = [t for t in range(tokenizer.vocab_size) if tokenizer.decode_bytes([t]) in CLOSING]

    def walk(self, grammar: str, *, most_tokens: int = 150) -> bytes | None:
        """One answer, or None if it was not complete after so many tokens.

        Later tokens are more and more those that close things, so that most walks come to an end.
        """
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        tokens: list[int] = []
        for step in range(most_tokens):
            packed = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            assert not matcher.is_error(), matcher.get_error()
            allowed = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
            may_end = self._eos.intersection(allowed.tolist())
            if may_end and (len(allowed) == len(may_end) or self._random.random() < 0.5):
                return self._tokenizer.decode_bytes(tokens)
            choices = allowed[~np.isin(allowed, list(self._eos))]
            closing = np.intersect1d(choices, self._closing)
            if len(closing) and self._random.random() < 0.2 + 0.8 * step / most_tokens:
                choices = closing
            token = int(self._random.choice(choices))
            assert matcher.consume_token(token), matcher.get_error()
            tokens.append(token)
            if matcher.is_stopped():
                return self._tokenizer.decode_bytes(tokens)
        return None
