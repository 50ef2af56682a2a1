from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from guidance_core.packing.gguf import convert
from guidance_core.packing.package import CannotPack

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE = 32, 4, 2, 48
# As in GPT-2's byte alphabet: Ġ is a space, Ċ a newline.
TOKENS = ["<unk>", "<s>", "</s>", "a", "1", "2", "Ġ", "Ċ", "ĊĊ", "ĠĠ"]
MERGES = ["Ċ Ċ", "Ġ Ġ"]


def write_gguf(path: Path, *, architecture: str = "llama", pre: str = "smollm") -> dict[str, np.ndarray]:
    writer = GGUFWriter(path, architecture)
    writer.add_uint32("llama.block_count", 1)
    writer.add_uint32("llama.context_length", 128)
    writer.add_uint32("llama.embedding_length", HIDDEN)
    writer.add_uint32("llama.feed_forward_length", INTERMEDIATE)
    writer.add_uint32("llama.attention.head_count", HEADS)
    writer.add_uint32("llama.attention.head_count_kv", KV_HEADS)
    writer.add_float32("llama.rope.freq_base", 5000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    shapes = {
        "token_embd": (len(TOKENS), HIDDEN),
        "output_norm": (HIDDEN,),
        "blk.0.attn_norm": (HIDDEN,),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
        "blk.0.attn_v": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_norm": (HIDDEN,),
        "blk.0.ffn_gate": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_up": (INTERMEDIATE, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, INTERMEDIATE),
    }
    generator = np.random.default_rng(0)
    tensors = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    for name, values in tensors.items():
        writer.add_tensor(f"{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    tensors = write_gguf(tmp_path / "model.gguf")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    convert(tmp_path / "model.gguf", folder)
    return folder, tensors


def test_transformers_loads_the_converted_model_without_missing_weights(
    converted: tuple[Path, dict[str, np.ndarray]],
) -> None:
    model, report = AutoModelForCausalLM.from_pretrained(converted[0], output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    assert model.config.rms_norm_eps == 1e-5
    assert model.config.tie_word_embeddings is True
    assert model.generation_config.eos_token_id == 2
    assert json.loads((converted[0] / "config.json").read_text())["rope_theta"] == 5000.0


def test_the_halves_that_a_rotary_embedding_pairs_are_put_back_in_order(
    converted: tuple[Path, dict[str, np.ndarray]],
) -> None:
    folder, tensors = converted
    weights = load_file(folder / "model.safetensors")
    query = weights["model.layers.0.self_attn.q_proj.weight"]
    stored = torch.tensor(tensors["blk.0.attn_q"], dtype=torch.bfloat16)
    head = HIDDEN // HEADS
    for row in range(head // 2):
        # llama.cpp stores row i of the first half and row i of the second half side by side, within each head.
        assert torch.equal(query[head + row], stored[head + 2 * row])
        assert torch.equal(query[head + head // 2 + row], stored[head + 2 * row + 1])
    value = weights["model.layers.0.self_attn.v_proj.weight"]
    assert torch.equal(value, torch.tensor(tensors["blk.0.attn_v"], dtype=torch.bfloat16))


def test_digits_are_split_off_before_merging(converted: tuple[Path, dict[str, np.ndarray]]) -> None:
    tokenizer = Tokenizer.from_file(str(converted[0] / "tokenizer.json"))
    assert tokenizer.encode("a\n\n12").tokens == ["a", "ĊĊ", "1", "2"]
    assert tokenizer.encode("a  1").tokens == ["a", "ĠĠ", "1"]
    assert tokenizer.encode("a</s>a").ids == [3, 2, 3]
    assert tokenizer.decode([3, 8, 4, 5]) == "a\n\n12"


@pytest.mark.parametrize("change", [{"architecture": "gpt2"}, {"pre": "llama-bpe"}])
def test_another_kind_of_file_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    write_gguf(tmp_path / "model.gguf", **change)
    with pytest.raises(CannotPack, match="only SmolLM's GGUF files"):
        convert(tmp_path / "model.gguf", tmp_path)
