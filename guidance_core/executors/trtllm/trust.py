"""Which grammars TensorRT-LLM's own llguidance may have: one that fails there in the middle of an answer ends it.

`GuidedDecoder` in ``_torch/pyexecutor/guided_decoder.py`` fails a request whose matcher refuses a sampled token or runs
into a limit; 1.2.0rc5 and older fail all in flight with it (https://github.com/NVIDIA/TensorRT-LLM/pull/9078).
"""

from __future__ import annotations

import re
from functools import lru_cache

from llguidance import LLTokenizer

from guidance_core.generation import Grammar
from guidance_core.grammar.constraint import Constraint

_CHARACTERS_BY_NUMBER = re.compile(r"\\[xuUpPc]|\[\^")
"""Escapes and classes by which a text can be spelled without its characters."""


def is_trusted(grammar: Grammar, tokenizer: LLTokenizer) -> bool:
    """Whether nothing is known by which a grammar could fail there.

    Not trusted are grammars that clients wrote in llguidance's own language or GBNF, beside functions or after thoughts
    too: in these anything can be said, such as what costs more with every token. Nor are those that may force the text
    of a special token: llguidance tokenizes forced text with the tokenizer that TensorRT-LLM gives it, allows the
    special token alone, and then refuses it, as it is no text (ours reads special tokens as text, see
    `grammar.tokenizer`).

    Args:
        grammar: of a request.
        tokenizer: of the model.
    """
    return _is_trusted(Constraint(grammar.kind, grammar.definition), tokenizer)


@lru_cache(maxsize=1024)
def _is_trusted(constraint: Constraint, tokenizer: LLTokenizer) -> bool:
    if constraint.written_for_llguidance is not None:
        return False
    if _CHARACTERS_BY_NUMBER.search(constraint.definition):
        return not _special_marks(tokenizer)
    characters = set(constraint.definition)
    return not any(marks <= characters for marks in _special_marks(tokenizer))


@lru_cache(maxsize=1)
def _special_marks(tokenizer: LLTokenizer) -> tuple[frozenset[str], ...]:
    """What must be in a definition that spells a special token: its punctuation, or all of it where it has none."""
    texts = (
        tokenizer.decode_str([token]) for token in range(tokenizer.vocab_size) if tokenizer.is_special_token(token)
    )
    # Letters may be written in another case, where a regular expression ignores it.
    return tuple({frozenset(c for c in text if not c.isalnum()) or frozenset(text) for text in texts if text})
