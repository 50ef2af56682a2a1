"""Token ids → text, piece by piece.

Almost every decoder-only model's tokenizer spells text as bytes: byte-level BPE, and SentencePiece's pieces with byte
fallback. There each token stands for fixed bytes, and the text is the UTF-8 of their concatenation: what llguidance
takes a token to mean, so that an answer under a grammar is, byte for byte, what the grammar accepted. Other decoders
(WordPiece, …) are asked for the text of a small window of tokens.

What the tokenizer's Python wrapper may do to finished text (``clean_up_tokenization_spaces``) is never done: it would
alter answers.
"""

from __future__ import annotations

import codecs
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import lru_cache

from tokenizers import Tokenizer

from guidance_core.output.token_bytes import SpellingRules, spelling_rules
from guidance_core.output.token_spelling import TokenSpelling

_SPELLINGS = 65_536
"""Most tokens whose spelling is kept, at some 300 bytes each."""


class Detokenizer:
    """A model's tokenizer, read backwards. Shared by all choices; safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Wrap a tokenizer, whose vocabulary must not change any more."""
        self._tokenizer = tokenizer
        self._rules = spelling_rules(tokenizer)
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(id for id, token in added.items() if token.special)
        # Added tokens are matched in raw text, before it is spelled in the vocabulary's alphabet.
        self._raw_ids = frozenset(
            id for id, token in added.items() if tokenizer.model.token_to_id(token.content) is None
        )
        self._bytes: dict[int, bytes] = {}
        self.spelling = lru_cache(_SPELLINGS)(self._spelling)
        """How a token of this id is written; what it costs is that of a look-up, except for the first time."""

    def stream(self, *, skip_special_tokens: bool = True, keep_leading_space: bool = True) -> DecodeStream:
        """A decoder for one choice.

        Args:
            skip_special_tokens: special tokens have no text.
            keep_leading_space: SentencePiece writes the space between words at a word's front. Kept, the answer
                continues the prompt's text byte for byte, as a grammar and a plain completion need; dropped, it equals
                ``tokenizer.decode``, as a chat shows it. No difference for byte-level tokenizers; WordPiece and the
                like always drop it.
        """
        skipped = self.special_ids if skip_special_tokens else frozenset()
        if self._rules is None:
            return _WindowStream(self._tokenizer, skipped)
        return _ByteStream(self, skipped, None if keep_leading_space else self._rules)

    def decode(self, token_ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of a whole list of tokens, as `stream` would give it piece by piece."""
        stream = self.stream(skip_special_tokens=skip_special_tokens)
        return "".join([stream.push(token_id) for token_id in token_ids]) + stream.finish()

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text; a special token's are its name. Empty for an id without token."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._spell(token_id)
        return found

    def _spelling(self, token_id: int) -> TokenSpelling:
        return TokenSpelling.of(token_id, self.token_bytes(token_id))

    def count(self, text: str) -> int:
        """How many tokens a text has by itself."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def _spell(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.special_ids:
            return token.encode()
        if self._rules is not None:
            return self._rules.spell(token, raw=token_id in self._raw_ids)
        # Between two tokens of its own kind, so that the space between words shows.
        return self._tokenizer.decode([token_id, token_id], skip_special_tokens=False)[
            len(self._tokenizer.decode([token_id], skip_special_tokens=False)) :
        ].encode()


class DecodeStream(ABC):
    """Decodes one choice. Each call returns whole characters only, and the pieces add up to the whole text."""

    @abstractmethod
    def push(self, token_id: int) -> str:
        """The text that this token completes; empty inside a character."""

    @abstractmethod
    def finish(self) -> str:
        """The text ends here: U+FFFD if it ends inside a character."""


class _ByteStream(DecodeStream):
    """For tokenizers that spell text as bytes."""

    def __init__(self, detokenizer: Detokenizer, skipped: frozenset[int], first: SpellingRules | None) -> None:
        self._detokenizer = detokenizer
        self._bytes = detokenizer._bytes
        self._skipped = skipped
        self._first = first
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        if token_id in self._skipped:
            return ""
        spelled = self._bytes.get(token_id)
        if spelled is None:
            spelled = self._detokenizer.token_bytes(token_id)
        if self._first is not None and spelled:
            spelled = self._first.at_start(spelled)
            self._first = None
        return self._utf8.decode(spelled)

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


_LONGEST_CHARACTER = 4
"""Bytes, and so tokens, that a UTF-8 character can have."""


class _WindowStream(DecodeStream):
    """For any other decoder: the text of a window of tokens, less the text of its beginning.

    The window starts at a token whose text is complete, because the decoders at hand look back one token at most.
    """

    def __init__(self, tokenizer: Tokenizer, skipped: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self._skipped = skipped
        self._window: list[int] = []
        self._done = 0
        self._done_text = ""

    def push(self, token_id: int) -> str:
        if token_id in self._skipped or self._tokenizer.id_to_token(token_id) is None:
            return ""
        self._window.append(token_id)
        text = self._decode(self._window)
        held = len(self._window) - self._done
        if text.endswith("\ufffd") and held < _LONGEST_CHARACTER:
            return ""
        return self._advance(text)

    def finish(self) -> str:
        return self._advance(self._decode(self._window))

    def _advance(self, text: str) -> str:
        new = text[len(self._done_text) :]
        self._window = self._window[self._done :]
        self._done = len(self._window)
        self._done_text = self._decode(self._window)
        return new

    def _decode(self, token_ids: list[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text
