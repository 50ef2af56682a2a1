"""Text → where a matcher stands behind it, however the text was cut into tokens."""

from __future__ import annotations

import re
from functools import cache

from llguidance import LLMatcher, LLTokenizer

from guidance_core.grammar.compatibility import end_tokens


def consume_text(matcher: LLMatcher, tokenizer: LLTokenizer, text: bytes) -> bool:
    """Move a matcher on by a text; whether the grammar allows it (if not, the matcher stands somewhere inside of it).

    What spells a special token is that token where the grammar allows it, and text otherwise; end tokens have no text.
    """
    special, ids = _special_tokens(tokenizer)
    for piece in special.split(text):
        token = ids.get(piece)
        if token is not None and matcher.validate_tokens([token]) == 1:
            matcher.consume_token(token)
            continue
        tokens = tokenizer.tokenize_bytes(piece)
        if matcher.try_consume_tokens(tokens) < len(tokens):
            return False
    return not matcher.is_error()


@cache
def _special_tokens(tokenizer: LLTokenizer) -> tuple[re.Pattern[bytes], dict[bytes, int]]:
    """A pattern that finds them in text, and the id of each; some milliseconds for the largest vocabularies."""
    special = [token for token in range(tokenizer.vocab_size) if tokenizer.is_special_token(token)]
    ids = {tokenizer.decode_bytes([token]): token for token in special if token not in end_tokens(tokenizer)}
    # Byte-level vocabularies have a token of the byte 0xFF, which llguidance takes for a special one without text.
    ids.pop(b"", None)
    longest_first = sorted(ids, key=len, reverse=True)
    return re.compile(b"(" + b"|".join(map(re.escape, longest_first)) + b")" if ids else b"(?!)"), ids
