"""A Hugging Face checkpoint folder: is it whole, which files does serving need, and what is there to say about it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from guidance_core.packing.capacity import kv_bytes_per_token
from guidance_core.packing.json_files import read_json, read_json_if_there
from guidance_core.packing.package import CannotPack, Package
from guidance_core.packing.quantization import NONE, find_quantization
from guidance_core.packing.tokenizer import chat_template_sha256, tokenizer_files

FORMAT = "huggingface"

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "quant_cfg.json",
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "LICENSE*",
)
"""What a checkpoint may have besides weights and tokenizer; training state, originals, other formats stay behind."""


def read(folder: Path, *, name: str | None = None, tokenizer: Path | None = None) -> Package:
    """Check a checkpoint and describe it.

    Args:
        folder: with config.json, weights and tokenizer.json; a snapshot of the Hugging Face cache (links) will do.
        name: name in the store; by default the folder's, in lower case.
        tokenizer: folder to take the tokenizer of; by default this one.

    Raises:
        CannotPack: something is missing or damaged, or it is not a decoder-only language model.
    """
    if not folder.is_dir():
        raise CannotPack(f"{folder} is not a folder. Name the folder that holds the checkpoint's config.json.")
    config = _config(folder)
    weights = _weights(folder)
    headers = [_safetensors_header(file) for file in weights if file.suffix == ".safetensors"]
    tokenizer = tokenizer or folder
    text_config = config.get("text_config") or config
    tokens = tokenizer_files(tokenizer, vocab_size=None if tokenizer == folder else text_config.get("vocab_size"))
    side_files = [path for pattern in SIDE_FILES for path in sorted(folder.glob(pattern))]
    remote_code = (
        sorted(folder.glob("*.py"))
        if _has_remote_code(config, read_json_if_there(folder / "tokenizer_config.json"))
        else []
    )
    indexes = sorted(folder.glob(f"*{weights[0].suffix}.index.json"))
    files = {path.relative_to(folder).as_posix(): path for path in [*side_files, *remote_code, *indexes, *weights]}
    files.update(tokens)

    quantization = find_quantization(config, read_json_if_there(folder / "hf_quant_config.json"))
    architecture = (config.get("architectures") or [config["model_type"]])[0]
    dtype = config.get("dtype") or config.get("torch_dtype") or text_config.get("dtype") or _commonest_dtype(headers)
    return Package(
        name=name or folder.resolve().name.lower(),
        files=files,
        labels={
            "executor": quantization.executor or NONE,
            "architecture": architecture,
            "dtype": dtype,
            "quantization": quantization.name,
        },
        metadata={
            "source": str(folder.resolve()),
            "format": FORMAT,
            "architecture": architecture,
            "dtype": dtype,
            "quantization": quantization.name,
            "kv_cache_quantization": quantization.kv_cache,
            "context_length": _context_length(text_config),
            "vocab_size": text_config.get("vocab_size"),
            # Packed integers do not tell how many weights they hold.
            "parameters": _count_parameters(headers) if headers and quantization.name == NONE else None,
            "kv_bytes_per_token": kv_bytes_per_token(
                text_config, dtype if quantization.kv_cache == NONE else quantization.kv_cache
            ),
            "size_bytes": sum(path.stat().st_size for path in files.values()),
            "chat_template_sha256": chat_template_sha256(tokenizer),
            "needs_trust_remote_code": bool(remote_code),
        },
    )


def _config(folder: Path) -> dict[str, Any]:
    # transformers is slow to import, and only packing needs its list of models.
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise CannotPack(f"{folder}: {model_type} has an encoder; only decoder-only language models can be served.")
    known = (
        model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        or model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
        or "AutoModelForCausalLM" in config.get("auto_map", {})
    )
    if not known:
        raise CannotPack(
            f"{folder}/config.json: model_type {model_type!r} is not a language model that the installed transformers "
            "can run. A newer transformers may know it; encoders and diffusion models cannot be served."
        )
    return config


def _weights(folder: Path) -> list[Path]:
    """The weight files: safetensors where there are any, else PyTorch's."""
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin")):
        index = folder / f"{stem}{suffix}.index.json"
        files = [folder / name for name in (_shards(index) if index.exists() else [f"{stem}{suffix}"])]
        present = [file for file in files if file.exists()]
        if not present:
            continue
        missing = [file.name for file in files if file not in present]
        if missing:
            raise CannotPack(
                f"{folder}: {len(missing)} of {len(files)} weight files are missing, {missing[0]} first. "
                "Finish the download and pack again."
            )
        return files
    raise CannotPack(f"{folder} has no weights: neither model.safetensors (or its index) nor pytorch_model.bin.")


def _shards(index: Path) -> list[str]:
    """The names of the files that an index says the weights are in."""
    places = read_json(index).get("weight_map")
    shards = set(places.values()) if isinstance(places, dict) else set()
    if not shards or not all(isinstance(shard, str) and Path(shard).name == shard for shard in shards):
        raise CannotPack(f"{index} does not name the files of the weights beside it. Download it again.")
    return sorted(shards)


def _safetensors_header(file: Path) -> dict[str, Any]:
    """The tensors' descriptions, after a check that the file is as long as they say.

    Format: https://github.com/huggingface/safetensors#format
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        try:
            header: dict[str, Any] = json.loads(opened.read(length)) if length < size else {}
        except ValueError:
            header = {}
    header.pop("__metadata__", None)
    end = max((tensor["data_offsets"][1] for tensor in header.values()), default=-1)
    if size != 8 + length + end:
        raise CannotPack(f"{file} is damaged or cut off ({size} bytes). Download it again.")
    return header


def _has_remote_code(*configs: dict[str, Any]) -> bool:
    return any("auto_map" in config for config in configs)


def _context_length(config: dict[str, Any]) -> int | None:
    for field in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        if isinstance(config.get(field), int):
            return int(config[field])
    return None


def _commonest_dtype(headers: list[dict[str, Any]]) -> str:
    dtypes = [tensor["dtype"] for header in headers for tensor in header.values()]
    names = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
    commonest = max(set(dtypes), key=dtypes.count, default="unknown")
    return names.get(commonest, commonest.lower())


def _count_parameters(headers: list[dict[str, Any]]) -> int:
    return sum(math.prod(tensor["shape"]) for header in headers for tensor in header.values())
