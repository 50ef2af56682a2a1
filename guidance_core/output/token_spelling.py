"""How a token is written: as bytes, as text, and as JSON; found out once for each token."""

from __future__ import annotations

from dataclasses import dataclass
from json.encoder import encode_basestring, encode_basestring_ascii

from typing_extensions import Self


@dataclass(frozen=True, slots=True)
class TokenSpelling:
    """A token of the vocabulary.

    Attributes:
        token_id: its id.
        text: its text; where its bytes are no UTF-8 of their own (part of a character), with U+FFFD in their place.
        raw: its exact bytes.
        json: ``text`` as a JSON string.
        json_ascii: the same in ASCII.
        json_bytes: ``raw`` as a JSON list of numbers.
    """

    token_id: int
    text: str
    raw: bytes
    json: str
    json_ascii: str
    json_bytes: str

    @classmethod
    def of(cls, token_id: int, raw: bytes) -> Self:
        """Write a token of these bytes."""
        text = raw.decode("utf-8", "replace")
        json, json_ascii = encode_basestring(text), encode_basestring_ascii(text)
        if json == json_ascii:
            json = json_ascii  # one object in place of two: there is one for most tokens of a vocabulary
        return cls(token_id, text, raw, json, json_ascii, f"[{','.join(map(str, raw))}]")
