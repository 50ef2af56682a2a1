"""A model's limits, from a folder without weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidance_core.errors import ExecutorUnavailable
from guidance_core.executors.base import ModelLimits
from guidance_core.executors.triton.checkpoint import read_limits

CONFIG = {"vocab_size": 100, "max_position_embeddings": 4096, "eos_token_id": 7}


def write(folder: Path, name: str, content: dict[str, object]) -> None:
    (folder / name).write_text(json.dumps(content))


def test_limits_are_the_configurations(tmp_path: Path) -> None:
    write(tmp_path, "config.json", CONFIG)
    assert read_limits(tmp_path, None) == ModelLimits(100, 4096, (7,))
    assert read_limits(tmp_path, 512) == ModelLimits(100, 512, (7,))
    write(tmp_path, "generation_config.json", {"eos_token_id": [8, 9]})
    assert read_limits(tmp_path, None) == ModelLimits(100, 4096, (8, 9))


def test_a_language_model_inside_of_another_one_is_found(tmp_path: Path) -> None:
    write(tmp_path, "config.json", {"eos_token_id": 3, "text_config": {**CONFIG, "eos_token_id": 4}})
    assert read_limits(tmp_path, None) == ModelLimits(100, 4096, (4,))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExecutorUnavailable, match="vocab_size, max_position_embeddings, eos_token_id"):
        read_limits(tmp_path, None)
    write(tmp_path, "config.json", {"vocab_size": 5, "eos_token_id": 0})
    with pytest.raises(ExecutorUnavailable, match=r"does not say max_position_embeddings: .*triton\.max_model_len"):
        read_limits(tmp_path, None)
    assert read_limits(tmp_path, 16) == ModelLimits(5, 16, (0,))


def test_end_token_and_width_can_be_set(tmp_path: Path, model_path: Path) -> None:
    write(tmp_path, "config.json", CONFIG)
    (tmp_path / "tokenizer.json").write_bytes((model_path / "tokenizer.json").read_bytes())
    assert read_limits(tmp_path, None, eos_token="<|im_start|>", vocab_size=128) == ModelLimits(128, 4096, (1,))
    with pytest.raises(ValueError, match=r"model\.eos_token is '<nope>', which is no token of this model"):
        read_limits(tmp_path, None, eos_token="<nope>")
