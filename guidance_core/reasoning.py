"""How a model that thinks first marks its thoughts: what `prompt`, `grammar` and `output` must agree on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

_MARKERS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<|START_THINKING|>", "<|END_THINKING|>"))
"""DeepSeek R1, Qwen 3, QwQ and many others; Magistral; Command A."""


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    """The tokens between which a model thinks.

    Attributes:
        begin, end: their text.
        begin_id, end_id: their ids.
        special_ids: the model's special tokens, which are no part of thoughts.
    """

    begin: str
    end: str
    begin_id: int
    end_id: int
    special_ids: tuple[int, ...]

    def begun(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt has already begun the thoughts, as some templates do."""
        for token in reversed(prompt_ids):
            if token in (self.begin_id, self.end_id):
                return token == self.begin_id
        return False


def find_markers(tokenizer: Tokenizer, template: str | None) -> ReasoningMarkers | None:
    """The markers of a model whose chat template speaks of them and whose vocabulary has a token for each.

    Args:
        tokenizer: the model's.
        template: source of its chat template.
    """
    for begin, end in _MARKERS:
        begin_id, end_id = tokenizer.token_to_id(begin), tokenizer.token_to_id(end)
        if template is not None and end in template and begin_id is not None and end_id is not None:
            added = tokenizer.get_added_tokens_decoder()
            special = tuple(sorted(token_id for token_id, token in added.items() if token.special))
            return ReasoningMarkers(begin, end, begin_id, end_id, special)
    return None
