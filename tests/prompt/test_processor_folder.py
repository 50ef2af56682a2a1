"""Processors of transformers, loaded as far as images need them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from guidance_core.prompt.processor_folder import load_processor
from tests.vision_models import picture, save_qwen2_vl, save_smolvlm


def load(folder: Path) -> Any:
    return load_processor(folder, AutoConfig.from_pretrained(folder), trust_remote_code=False)


def test_a_processor_that_takes_videos_too_is_loaded_with_its_options(tmp_path: Path) -> None:
    processor = load(save_smolvlm(tmp_path))
    assert processor.image_seq_len == 4
    written = processor(text=["<image>"], images=[picture(1, width=20, height=20)])["input_ids"][0]
    assert written.count(processor.image_token_id) == 17 * 4
    assert type(processor).__name__ == "SmolVLMProcessor"


def test_a_folder_need_not_describe_the_processor_itself(tmp_path: Path) -> None:
    """As Qwen2-VL's: its parts are there, and the configuration tells the class."""
    save_qwen2_vl(tmp_path)
    (tmp_path / "processor_config.json").unlink()
    parts = tmp_path / "preprocessor_config.json"
    parts.write_text(json.dumps({**json.loads(parts.read_text()), "image_processor_type": "Qwen2VLImageProcessorFast"}))
    outputs = load(tmp_path)(text=["<|image_pad|>"], images=[picture(1)])
    assert len(outputs["input_ids"][0]) == outputs["image_grid_thw"][0].prod() // 4


def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    save_qwen2_vl(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match="its processor cannot be loaded"):
        load(tmp_path)
