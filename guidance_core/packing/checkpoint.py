"""A Hugging Face checkpoint folder: is it whole, which files does serving need, and what is there to say about it."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from guidance_core.packing.package import CannotPack, Package

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "processor_config.json",
    "preprocessor_config.json",
    "LICENSE*",
)
"""What a checkpoint may have besides weights; all else (training state, originals, other formats) stays behind."""


def read(folder: Path, *, name: str | None = None) -> Package:
    """Check a checkpoint and describe it.

    Args:
        folder: with config.json, weights and tokenizer.json; a snapshot of the Hugging Face cache (links) will do.
        name: name in the store; by default the folder's, in lower case.

    Raises:
        CannotPack: something is missing or damaged, or it is not a decoder-only language model.
    """
    if not folder.is_dir():
        raise CannotPack(f"{folder} is not a folder. Name the folder that holds the checkpoint's config.json.")
    config = _config(folder)
    weights = _weights(folder)
    headers = [_safetensors_header(file) for file in weights if file.suffix == ".safetensors"]
    tokenizer_config = (
        _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    )
    _check_tokenizer(folder)

    side_files = [path for pattern in SIDE_FILES for path in sorted(folder.glob(pattern))]
    remote_code = sorted(folder.glob("*.py")) if _has_remote_code(config, tokenizer_config) else []
    indexes = sorted(folder.glob(f"*{weights[0].suffix}.index.json"))
    files = {path.relative_to(folder).as_posix(): path for path in [*side_files, *remote_code, *indexes, *weights]}

    text_config = config.get("text_config") or config
    quantization = (config.get("quantization_config") or {}).get("quant_method", "none")
    architecture = (config.get("architectures") or [config["model_type"]])[0]
    dtype = config.get("dtype") or config.get("torch_dtype") or text_config.get("dtype") or _commonest_dtype(headers)
    template = _chat_template(folder, tokenizer_config)
    return Package(
        name=name or folder.resolve().name.lower(),
        files=files,
        labels={
            "executor": "torch",
            "architecture": architecture,
            "dtype": dtype,
            "quantization": quantization,
        },
        metadata={
            "source": str(folder.resolve()),
            "format": "huggingface",
            "architecture": architecture,
            "dtype": dtype,
            "quantization": quantization,
            "context_length": _context_length(text_config),
            "vocab_size": text_config.get("vocab_size"),
            # Packed integers do not tell how many weights they hold.
            "parameters": _count_parameters(headers) if headers and quantization == "none" else None,
            "size_bytes": sum(path.stat().st_size for path in files.values()),
            "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else None,
            "needs_trust_remote_code": bool(remote_code),
        },
    )


def _config(folder: Path) -> dict[str, Any]:
    # transformers is slow to import, and only packing needs its list of models.
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = _read_json(folder / "config.json")
    model_type = config.get("model_type")
    if config.get("is_encoder_decoder"):
        raise CannotPack(f"{folder}: {model_type} has an encoder; only decoder-only language models can be served.")
    known = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or "AutoModelForCausalLM" in config.get("auto_map", {})
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
        if index.exists():
            files = sorted({folder / shard for shard in _read_json(index)["weight_map"].values()})
        else:
            files = [folder / f"{stem}{suffix}"]
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


def _check_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.exists():
        raise CannotPack(
            f"{folder} has no tokenizer.json, the fast tokenizer that guidance needs. In Python, transformers' "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r}) makes one."
        )
    try:
        Tokenizer.from_file(str(file))
    except Exception as error:  # the tokenizers library raises plain Exception
        raise CannotPack(f"{file} cannot be read: {error}. Download it again.") from None


def _chat_template(folder: Path, tokenizer_config: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        return json.dumps(template, sort_keys=True)
    return template or ""


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


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CannotPack(f"{file} is missing. Name a checkpoint folder as a model hub has it.") from None
    except ValueError as error:
        raise CannotPack(f"{file} is not valid JSON ({error}). Download it again.") from None
    if not isinstance(content, dict):
        raise CannotPack(f"{file} does not hold a JSON object. Download it again.")
    return content
