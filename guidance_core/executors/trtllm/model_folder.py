"""What a model folder holds: a compiled TensorRT engine or a checkpoint, and the limits that each has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guidance_core.prompt.model_folder import end_token_ids, load_special_tokens, load_tokenizer

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that TensorRT-LLM can be pointed at.

    Attributes:
        path: the folder, tokenizer included.
        kind: what ``LLM`` makes of it.
        vocab_size: tokens of the model; logits may be wider by padding.
        max_model_len: most tokens of prompt and answer.
        max_input_len: most tokens of a prompt, where an engine was built with less than ``max_model_len``.
        max_batch_size: most sequences that an engine was built for; None for checkpoints.
        max_num_tokens: most tokens of a step that an engine was built for; None for checkpoints.
        paged_context: attention reads a prompt's keys and values from the paged cache, so that prompts can be run in
            pieces; checkpoints always can, an engine where it was built with ``use_paged_context_fmha``.
        eos_token_ids: the model's own end tokens, at least one.
        tokenizer_eos_id: the tokenizer's end token, the only one that TensorRT-LLM's own guided decoding knows; None
            where the tokenizer names none.
    """

    path: Path
    kind: Literal["checkpoint", "engine"]
    vocab_size: int
    max_model_len: int
    max_input_len: int | None
    max_batch_size: int | None
    max_num_tokens: int | None
    paged_context: bool
    eos_token_ids: tuple[int, ...]
    tokenizer_eos_id: int | None


def read_model_folder(
    path: Path,
    *,
    max_model_len: int | None = None,
    eos_token: str | None = None,
    vocab_size: int | None = None,
) -> ModelFolder:
    """Read ``config.json`` and what lies beside it.

    An engine's has ``pretrained_config`` and ``build_config`` (``trtllm-build`` writes them, as does ``LLM.save``), a
    checkpoint's is Hugging Face's.

    Args:
        path: the folder.
        max_model_len: wanted by the settings; None for the model's own.
        eos_token: the one end token, in place of the model's own.
        vocab_size: in place of what config.json says.

    Raises:
        ValueError: it is neither, or the length does not fit; the message says how to mend it.
    """
    config = _read_json(path / "config.json")
    if not config:
        raise ValueError(f"{path} has no config.json: it is neither a checkpoint nor a compiled TensorRT engine.")
    is_engine = "pretrained_config" in config and "build_config" in config
    limit: int | None
    if is_engine:
        model, build = config["pretrained_config"], config["build_config"]
        if not any(path.glob("rank*.engine")):
            raise ValueError(f"{path} has an engine's config.json but no rank0.engine: build or copy the engine again.")
        limit = build["max_seq_len"]
    else:
        model, build = config.get("text_config") or config, {}
        limit = next((model[name] for name in _LENGTHS if isinstance(model.get(name), int)), None)
    if max_model_len is not None and limit is not None and max_model_len > limit:
        raise ValueError(
            f"trtllm.max_model_len is {max_model_len}, but the model serves {limit} tokens; set it to {limit} or less."
        )
    length = max_model_len or limit
    if length is None:
        raise ValueError(f"{path}/config.json does not say how long a context may be: set trtllm.max_model_len.")
    tokenizer_eos = _tokenizer_eos(path)
    input_limit = build.get("max_input_len")
    return ModelFolder(
        path=path,
        kind="engine" if is_engine else "checkpoint",
        vocab_size=vocab_size or model["vocab_size"],
        max_model_len=length,
        max_input_len=input_limit if input_limit is not None and input_limit < length else None,
        max_batch_size=build.get("max_batch_size"),
        max_num_tokens=build.get("max_num_tokens"),
        paged_context=not is_engine or bool((build.get("plugin_config") or {}).get("use_paged_context_fmha")),
        eos_token_ids=end_token_ids(path, eos_token) or _eos_token_ids(path, model, tokenizer_eos),
        tokenizer_eos_id=tokenizer_eos,
    )


def _eos_token_ids(path: Path, model: dict[str, Any], tokenizer_eos: int | None) -> tuple[int, ...]:
    """The order in which they win is that of `transformers`: generation_config.json, config.json, the tokenizer."""
    eos = _read_json(path / "generation_config.json").get("eos_token_id")
    eos = model.get("eos_token_id") if eos is None else eos
    eos = tokenizer_eos if eos is None else eos
    if eos is None:
        raise ValueError(
            f"{path} names no end token, so no answer would ever end: "
            'write {"eos_token_id": …} to its generation_config.json.'
        )
    return (eos,) if isinstance(eos, int) else tuple(eos)


def _tokenizer_eos(path: Path) -> int | None:
    token = load_special_tokens(path).get("eos_token")
    return None if token is None else load_tokenizer(path).token_to_id(token)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
