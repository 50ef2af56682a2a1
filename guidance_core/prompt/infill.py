"""Prompts that leave a gap between a prefix and a suffix, for models that were trained to fill it.

The order is prefix, suffix, middle (https://arxiv.org/abs/2207.14255), as StarCoder, Code Llama, Qwen Coder, CodeGemma,
DeepSeek Coder and Codestral's relatives have it.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer

from guidance_core.prompt.tokenizer import PromptTokenizer

_MARKERS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
)


@dataclass(frozen=True, slots=True)
class InfillTokens:
    """The ids of the tokens before the prefix, before the suffix, and before what is to be filled in."""

    prefix: int
    suffix: int
    middle: int


def find_infill_tokens(tokenizer: Tokenizer) -> InfillTokens | None:
    """The tokens of a model that can fill gaps, or None."""
    for names in _MARKERS:
        ids = [token for name in names if (token := tokenizer.token_to_id(name)) is not None]
        if len(ids) == len(names):
            return InfillTokens(*ids)
    return None


def infill_prompt(
    prompts: PromptTokenizer, tokens: InfillTokens, prefix: str, suffix: str, *, context: int | None = None
) -> tuple[int, ...]:
    """The token ids that ask for what is between two texts.

    Args:
        prompts: the model's tokenizer.
        tokens: of `find_infill_tokens`.
        prefix: before the gap.
        suffix: after the gap.
        context: see `PromptTokenizer.completion`, which raises the errors too.
    """
    before = prompts.completion(prefix, add_special_tokens=False, context=context)
    after = prompts.completion(suffix, add_special_tokens=False, context=context)
    return (*prompts.completion(""), tokens.prefix, *before, tokens.suffix, *after, tokens.middle)
