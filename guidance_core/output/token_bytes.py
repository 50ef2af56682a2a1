"""How a tokenizer spells bytes in its tokens, read from its decoder."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

from tokenizers import Tokenizer

FirstToken = Literal["keep", "strip one", "strip all"]


class SpellingRules(ABC):
    """Token ↔ bytes, for decoders in which that does not depend on the neighbours."""

    @abstractmethod
    def spell(self, token: str, *, raw: bool) -> bytes:
        """The bytes of a token inside a text. ``raw``: an added token, which is written as itself."""

    def at_start(self, spelled: bytes) -> bytes:
        """The bytes of the same token where a text starts with it."""
        return spelled


def spelling_rules(tokenizer: Tokenizer) -> SpellingRules | None:
    """The rules of a tokenizer, or None where its decoder is of another kind."""
    if tokenizer.decoder is None:
        return None
    decoder = json.loads(tokenizer.decoder.__getstate__())
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return ByteLevelRules()
    return _sentencepiece_rules(steps)


class ByteLevelRules(SpellingRules):
    """Byte-level BPE (GPT-2, Llama 3, Qwen, …): each character of a token is one byte."""

    def spell(self, token: str, *, raw: bool) -> bytes:
        if not raw:
            try:
                return bytes([_BYTE_OF_CHARACTER[char] for char in token])
            except KeyError:
                pass
        return token.encode()


def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 characters are themselves, other bytes follow in order from U+0100."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_BYTE_OF_CHARACTER = _byte_of_character()


@dataclass(frozen=True)
class SentencePieceRules(SpellingRules):
    """SentencePiece and its like (Llama 2, Mistral, Gemma, …): text with a visible space, ``<0x0A>`` for a lone byte.

    Attributes:
        replacements: (what a token has, what it means), in order; usually ``("▁", " ")``.
        byte_fallback: ``<0x0A>`` is a byte.
        first_token: what a text that starts with a token loses of that token's spaces.
    """

    replacements: tuple[tuple[str, str], ...]
    byte_fallback: bool
    first_token: FirstToken

    def spell(self, token: str, *, raw: bool) -> bytes:
        if self.byte_fallback and (byte := _BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        for written, meant in self.replacements:
            token = token.replace(written, meant)
        return token.encode()

    def at_start(self, spelled: bytes) -> bytes:
        if self.first_token == "strip one":
            return spelled.removeprefix(b" ")
        return spelled if self.first_token == "keep" else spelled.replace(b" ", b"")


_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _sentencepiece_rules(steps: list[dict[str, Any]]) -> SentencePieceRules | None:
    replacements: list[tuple[str, str]] = []
    byte_fallback = fused = False
    first_token: FirstToken = "keep"
    for step in steps:
        # Before Fuse a step sees single tokens, after it the whole text: each is understood on one side only.
        match step:
            case {"type": "Replace", "pattern": {"String": str(written)}, "content": str(meant)} if not fused:
                replacements.append((written, meant))
            case {"type": "Metaspace", "replacement": str(written)} if not fused:
                replacements.append((written, " "))
                if step.get("prepend_scheme") != "never":
                    first_token = "strip all"
            case {"type": "ByteFallback"} if not fused:
                byte_fallback = True
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": 1, "stop": 0} if fused:
                first_token = "strip one"
            case _:
                return None
    return SentencePieceRules(tuple(replacements), byte_fallback, first_token)
