"""A GGUF file → a Hugging Face checkpoint folder, for Llama models with SmolLM's tokenizer.

`transformers` reads GGUF too, but takes 20 s for what takes 5 here, and gives this tokenizer the wrong pre-tokenizer:
digits are not split off, so that two newlines and a digit become other tokens than those it was trained on.

Names and meanings: the GGUF specification (ggml-org/ggml, docs/gguf.md); the order of the rows of ``attn_q`` and
``attn_k``: llama.cpp's ``convert_hf_to_gguf.py`` (``LlamaModel.permute``), undone here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from guidance_core.packing.package import CannotPack

CONTROL_TOKEN = 3
"""GGUF's token type of special tokens."""

LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TENSORS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def convert(source: Path, folder: Path) -> None:
    """Write config, generation config, bfloat16 weights, tokenizer and chat template of ``source`` into ``folder``.

    Raises:
        CannotPack: another architecture or tokenizer than the ones above.
    """
    reader = GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kinds = (fields["general.architecture"], fields.get("tokenizer.ggml.model"), fields.get("tokenizer.ggml.pre"))
    if kinds != ("llama", "gpt2", "smollm") or any(name.startswith("llama.rope.scaling") for name in fields):
        raise CannotPack(f"{source.name}: only SmolLM's GGUF files can be converted; this one says {kinds}.")

    _write_json(
        folder / "config.json", _config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
    )
    _write_json(
        folder / "generation_config.json",
        {f"{name}_token_id": token for name, token in _special_ids(fields).items() if name != "unk"},
    )
    _write_tokenizer(fields, folder)
    weights = folder / "model.safetensors"
    save_file(
        {
            _tensor_name(tensor.name): _tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type), fields)
            for tensor in reader.tensors
        },
        weights,
        metadata={"format": "pt"},
    )
    # safetensors makes it readable to its owner only; a container may serve it as another user.
    weights.chmod(0o644)


def _config(fields: dict[str, Any], *, tied: bool) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        # At the top level, where transformers 4 and 5 both look for it.
        "rope_theta": _decimal(fields["llama.rope.freq_base"]),
        "rms_norm_eps": _decimal(fields["llama.attention.layer_norm_rms_epsilon"]),
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        **{f"{name}_token_id": token for name, token in _special_ids(fields).items() if name != "unk"},
    }


def _special_ids(fields: dict[str, Any]) -> dict[str, int]:
    return {
        "bos": fields["tokenizer.ggml.bos_token_id"],
        "eos": fields["tokenizer.ggml.eos_token_id"],
        "pad": fields["tokenizer.ggml.padding_token_id"],
        "unk": fields["tokenizer.ggml.unknown_token_id"],
    }


def _decimal(value: float) -> float:
    """The shortest decimal of a number stored in 32 bits: 1e-05, not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def _tensor_name(name: str) -> str:
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("blk."):
        _, layer, part = stem.split(".")
        return f"model.layers.{layer}.{LAYER_TENSORS[part]}.{kind}"
    return f"{TENSORS[stem]}.{kind}"


def _tensor(name: str, values: NDArray[np.float32], fields: dict[str, Any]) -> torch.Tensor:
    part = name.split(".")[-2]
    if part in ("attn_q", "attn_k"):
        heads = fields["llama.attention.head_count" if part == "attn_q" else "llama.attention.head_count_kv"]
        rows, columns = values.shape
        # llama.cpp interleaves the two halves that a rotary embedding rotates into each other.
        values = values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    return torch.tensor(values, dtype=torch.bfloat16)


def _write_tokenizer(fields: dict[str, Any], folder: Path) -> None:
    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    # What llama.cpp calls "smollm": digits one by one, the rest as GPT-2.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": fields["llama.context_length"],
            **{f"{name}_token": tokens[token] for name, token in _special_ids(fields).items()},
        },
    )
    (folder / "chat_template.jinja").write_text(fields["tokenizer.chat_template"], encoding="utf-8")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
