"""What is in a model folder: engines, checkpoints, their limits and end tokens."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from guidance_core.executors.trtllm.model_folder import read_model_folder
from tests.executors.trtllm.conftest import compile_engine


def test_a_checkpoint_is_told_from_an_engine(checkpoint: Path, engine: Path) -> None:
    assert read_model_folder(checkpoint).kind == "checkpoint"
    assert read_model_folder(engine).kind == "engine"


def test_a_checkpoints_limits_are_its_own_or_lower(checkpoint: Path) -> None:
    assert read_model_folder(checkpoint).max_model_len == 1024
    assert read_model_folder(checkpoint, max_model_len=100).max_model_len == 100
    with pytest.raises(ValueError, match="max_model_len is 4096, but the model serves 1024"):
        read_model_folder(checkpoint, max_model_len=4096)


def test_an_engines_limits_are_those_it_was_built_for(checkpoint: Path, tmp_path: Path) -> None:
    folder = read_model_folder(compile_engine(checkpoint, tmp_path / "e", max_seq_len=300, max_input_len=200))
    assert (folder.max_model_len, folder.max_input_len) == (300, 200)
    folder = read_model_folder(compile_engine(checkpoint, tmp_path / "f", max_seq_len=300, max_batch_size=3))
    assert (folder.max_input_len, folder.max_batch_size) == (None, 3)


def test_end_tokens_come_from_the_first_file_that_names_any(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": [7, 0]}')
    assert read_model_folder(folder).eos_token_ids == (7, 0)
    assert read_model_folder(folder).tokenizer_eos_id == 0
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 5}))
    assert read_model_folder(folder).eos_token_ids == (5,)
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    assert read_model_folder(folder).eos_token_ids == (0,)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="names no end token"):
        read_model_folder(folder)


def test_other_folders_are_refused_with_what_they_lack(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a checkpoint nor a compiled"):
        read_model_folder(tmp_path)
    shutil.copytree(engine, tmp_path / "e", ignore=shutil.ignore_patterns("*.engine"))
    with pytest.raises(ValueError, match=r"no rank0\.engine"):
        read_model_folder(tmp_path / "e")


def test_end_token_and_width_can_be_set(checkpoint: Path) -> None:
    token = Tokenizer.from_file(str(checkpoint / "tokenizer.json")).id_to_token(7)
    folder = read_model_folder(checkpoint, eos_token=token, vocab_size=4096)
    assert (folder.eos_token_ids, folder.vocab_size) == ((7,), 4096)
