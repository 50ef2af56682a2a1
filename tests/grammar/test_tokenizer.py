from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher

from guidance_core.grammar.tokenizer import load_ll_tokenizer


def test_text_survives_and_the_tokenization_is_the_models_own(tokenizer_folder: Path) -> None:
    tokenizer = load_ll_tokenizer(tokenizer_folder, None, [0])
    text = 'Ada "é" 😀\n'
    assert tokenizer.decode_str(tokenizer.tokenize_str(text)) == text
    assert tokenizer.is_canonical
    assert tokenizer.eos_token == 0


def test_ids_beyond_the_tokenizer_are_never_allowed(tokenizer_folder: Path) -> None:
    known = load_ll_tokenizer(tokenizer_folder, None, [0]).vocab_size
    tokenizer = load_ll_tokenizer(tokenizer_folder, known + 100, [0])
    assert tokenizer.vocab_size == known + 100
    matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_regex("(?s:.*)"))
    allowed = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
    assert allowed[:known].any()
    assert not allowed[known:].any()


def test_a_model_narrower_than_its_tokenizer_loads(tokenizer_folder: Path) -> None:
    assert load_ll_tokenizer(tokenizer_folder, 10, [0]).vocab_size > 10


def test_any_of_several_end_tokens_ends_an_answer(tokenizer_folder: Path) -> None:
    tokenizer = load_ll_tokenizer(tokenizer_folder, None, [0, 1])
    for end in (0, 1):
        matcher = LLMatcher(tokenizer, LLMatcher.grammar_from_regex("a*"))
        assert matcher.consume_token(end)
        assert matcher.is_stopped()


def test_tokens_that_only_the_config_adds_are_known(tokenizer_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tokenizer_folder, tmp_path, dirs_exist_ok=True)
    new = load_ll_tokenizer(tmp_path, None, [0]).vocab_size
    config = {"added_tokens_decoder": {str(new): {"content": "<|tool|>", "special": True}}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_ll_tokenizer(tmp_path, None, [0])
    assert tokenizer.is_special_token(new)
    assert tokenizer.tokenize_str("<|tool|>", parse_special=True) == [new]


def test_what_does_not_load_says_why(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_ll_tokenizer(tmp_path, None, [0])
    for ends in ([], [10**6]):
        with pytest.raises(ValueError, match="eos_token_id"):
            load_ll_tokenizer(tokenizer_folder, None, ends)


@pytest.mark.parametrize("normalizer", [None, {"type": "Replace", "pattern": {"String": "x"}, "content": "y"}])
def test_text_that_spells_a_special_token_can_be_forced(
    normalizer: dict[str, Any] | None, tokenizer_folder: Path, tmp_path: Path
) -> None:
    definition = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    definition["normalizer"] = normalizer
    definition["added_tokens"].append(
        {**definition["added_tokens"][0], "id": _size(definition), "content": "<think>", "special": False}
    )
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    tokenizer = load_ll_tokenizer(tmp_path, None, [0])
    for text in ("<|end|>", "<|user|>", "a<|user|><|end|>", "<think>"):
        matcher = LLMatcher(tokenizer, f"start: {json.dumps(text)}")
        forced = matcher.compute_ff_tokens()
        assert matcher.try_consume_tokens(forced) == len(forced)
        assert matcher.is_accepting()
        assert tokenizer.decode_str(forced) == text
    matcher = LLMatcher(tokenizer, 'start: <|user|> "a" <think>')
    assert matcher.try_consume_tokens(matcher.compute_ff_tokens()) == 3


def test_added_tokens_that_are_not_special_are_found_in_text(tokenizer_folder: Path, tmp_path: Path) -> None:
    definition = json.loads((tokenizer_folder / "tokenizer.json").read_text())
    added = {
        **definition["added_tokens"][0],
        "id": _size(definition),
        "content": "[word]",
        "special": False,
        "normalized": True,
    }
    definition["added_tokens"].append(added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    assert load_ll_tokenizer(tmp_path, None, [0]).tokenize_str("a[word]")[-1] == added["id"]


def _size(definition: dict[str, Any]) -> int:
    return len(definition["model"]["vocab"])
