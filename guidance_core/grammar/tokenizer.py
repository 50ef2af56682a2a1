"""A checkpoint's tokenizer as llguidance needs it: bytes of every token, without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llguidance import LLTokenizer

from guidance_core.grammar.compatibility import new_tokenizer

_NEVER_WRITTEN = "\U0010ffff"
"""A character that Unicode will never assign."""


def load_ll_tokenizer(model_path: Path, vocab_size: int | None, eos_token_ids: Sequence[int]) -> LLTokenizer:
    """Load ``tokenizer.json`` (about 0.2 s for 50,000 tokens).

    llguidance's default slices, which are its JSON slices, make masks inside of JSON strings cheap.

    Args:
        model_path: folder of a Hugging Face checkpoint.
        vocab_size: width of the model's logits; ids that the tokenizer does not know have no bytes, so no grammar
            ever allows them. A model narrower than its tokenizer keeps the tokenizer's size: what is beyond the
            logits cannot be sampled.
        eos_token_ids: the model's end tokens, at least one; any of them ends an answer where the grammar accepts.

    Raises:
        ValueError: there is no fast tokenizer, or an end token is outside of the vocabulary.
    """
    definition = _read_definition(model_path)
    _keep_special_tokens_out_of_text(definition)
    vocabulary = definition["model"]["vocab"]
    ids = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    known = 1 + max(*ids, *(token["id"] for token in definition["added_tokens"]))
    size = max(known, vocab_size or 0)
    if not eos_token_ids or max(eos_token_ids) >= size:
        raise ValueError(
            f"The end tokens {list(eos_token_ids)} are not in the vocabulary of {size} tokens: "
            "mend eos_token_id in the checkpoint's generation_config.json or config.json."
        )
    return new_tokenizer(json.dumps(definition), size, eos_token_ids)


def _read_definition(model_path: Path) -> dict[str, Any]:
    """``tokenizer.json`` without padding and truncation, and with the added tokens that only the config lists."""
    path = model_path / "tokenizer.json"
    if not path.is_file():
        raise ValueError(
            f"{model_path} has no tokenizer.json, which grammars need. Convert the tokenizer with "
            "transformers.AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)."
        )
    definition: dict[str, Any] = json.loads(path.read_bytes())
    definition["padding"] = definition["truncation"] = None
    added: list[dict[str, Any]] = definition.setdefault("added_tokens", [])
    config = model_path / "tokenizer_config.json"
    if config.is_file():
        present = {token["id"] for token in added}
        declared: dict[str, dict[str, Any]] = json.loads(config.read_bytes()).get("added_tokens_decoder", {})
        for token_id, token in declared.items():
            if int(token_id) not in present:
                defaults = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
                added.append({**defaults, **token, "id": int(token_id)})
        added.sort(key=lambda token: int(token["id"]))
    return definition


def _keep_special_tokens_out_of_text(definition: dict[str, Any]) -> None:
    """Have text that spells a special token tokenized as text.

    llguidance tokenizes what a grammar forces, and then allows nothing but the first token of that. Hugging Face's
    tokenizers find special tokens in text, but no text in a grammar ever matches one: a grammar that forces
    ``<|im_end|>`` as text could not be kept. Tokenizers can be told not to look for them (``encode_special_tokens``),
    but not by their definition. Special tokens are hence looked for in normalised text, as normalised themselves, by
    a normaliser that begins with `_NEVER_WRITTEN`; which llguidance takes away once the definition is loaded, as it
    does with whatever puts a space before a text.
    """
    for token in definition["added_tokens"]:
        token["normalized"] = _is_special(token)
    normalizer = definition.get("normalizer")
    first = {"type": "Prepend", "prepend": _NEVER_WRITTEN}
    definition["normalizer"] = {"type": "Sequence", "normalizers": [first, *([normalizer] if normalizer else [])]}


def _is_special(token: dict[str, Any]) -> bool:
    """Whether llguidance takes an added token for a special one (its ``toktrie_hf_tokenizers``)."""
    content: str = token["content"]
    return bool(token["special"]) or (content.startswith("<") and content.endswith(">"))
