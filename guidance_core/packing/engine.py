"""A compiled TensorRT engine's folder: is it whole, what was it built for, and which tokenizer goes with it.

What ``config.json`` holds: ``EngineConfig``, ``BuildConfig`` and ``PretrainedConfig`` of ``tensorrt_llm``
(``builder.py``, ``models/modeling_utils.py``), written by ``Engine.save`` beside one ``rank<N>.engine`` for each GPU.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from guidance_core.packing.capacity import kv_bytes_per_token
from guidance_core.packing.gpu import Gpu, gpu_named
from guidance_core.packing.json_files import read_json, read_json_if_there
from guidance_core.packing.package import CannotPack, Package
from guidance_core.packing.tokenizer import chat_template_sha256, tokenizer_files

FORMAT = "tensorrt-engine"

SIDE_FILES = ("rank*_managed_weights.safetensors", "quant_cfg.json", "lora/**/*")
"""What an engine may have besides ``config.json`` and ``rank<N>.engine``."""

_SMALLEST_BYTES = 1024
"""A Git LFS pointer is smaller, an engine is not."""


def engine_folder(folder: Path) -> Path | None:
    """Where the engine in ``folder`` is: there, or in ``engines/``, where text-generation-inference has it; or None."""
    for candidate in (folder, folder / "engines"):
        if any(candidate.glob("rank*.engine")):
            return candidate
    return None


def read(folder: Path, *, name: str | None = None, tokenizer: Path | None = None, gpu: Gpu | None = None) -> Package:
    """Check an engine and describe it.

    Args:
        folder: that has the engine, or has it in ``engines/``.
        name: name in the store; by default the folder's, in lower case.
        tokenizer: folder of the model that the engine was made of; by default where a ``tokenizer.json`` is: beside the
            engine, or in ``folder``.
        gpu: that it was built on; by default what its ``config.json`` says, or the name of the folder above where that
            is a GPU's: ``<GPU>/engines`` is what Optimum-NVIDIA makes for text-generation-inference.

    Raises:
        CannotPack: something is missing or damaged, or this service cannot run such an engine.
    """
    engine = engine_folder(folder)
    if engine is None:
        raise CannotPack(
            f"{folder} has no rank0.engine, nor has its engines/. Name the folder that trtllm-build wrote."
        )
    config = read_json(engine / "config.json")
    model, build = config.get("pretrained_config"), config.get("build_config")
    if not isinstance(model, dict) or not isinstance(build, dict):
        raise CannotPack(
            f"{engine}/config.json was not written by trtllm-build 0.8 or newer: it has no pretrained_config and "
            "build_config. Build the engine again with TensorRT-LLM 1.0 to 1.2."
        )
    mapping = model.get("mapping") or {}
    ranks = _ranks(engine, int(mapping.get("world_size") or 1))
    _check_servable(engine, model, build)
    tokenizer = tokenizer or next((place for place in (engine, folder) if (place / "tokenizer.json").exists()), None)
    if tokenizer is None:
        raise CannotPack(
            f"{folder} has no tokenizer: an engine has only ids. Name the folder of the checkpoint that it was made of "
            "with --tokenizer FOLDER."
        )

    side_files = [path for pattern in SIDE_FILES for path in sorted(engine.glob(pattern)) if path.is_file()]
    own_files = [engine / "config.json", *ranks, *side_files]
    generation_config, texts = _generation_config(tokenizer)
    files = {
        **{path.relative_to(engine).as_posix(): path for path in own_files},
        **tokenizer_files(tokenizer, vocab_size=model["vocab_size"]),
        **generation_config,
    }
    quantization = model.get("quantization") or {}
    quantized = str(quantization.get("quant_algo") or "none").lower()
    kv_cache = str(quantization.get("kv_cache_quant_algo") or "none").lower()
    plugins = build.get("plugin_config") or {}
    gpu = gpu or _recorded_gpu(build, engine)
    package = Package(
        name=name or folder.resolve().name.lower(),
        files=files,
        texts=texts,
        labels={
            "executor": "trtllm",
            "architecture": model["architecture"],
            "dtype": model["dtype"],
            "quantization": quantized,
        },
    )
    package.metadata.update(
        {
            "source": str(engine.resolve()),
            "format": FORMAT,
            "architecture": model["architecture"],
            "dtype": model["dtype"],
            "quantization": quantized,
            "kv_cache_quantization": kv_cache,
            "tensorrt_llm": config.get("version"),
            "gpu": gpu.name if gpu is not None else None,
            "compute_capability": gpu.compute_capability if gpu is not None else None,
            "tensor_parallel_size": int(mapping.get("tp_size") or 1),
            "pipeline_parallel_size": int(mapping.get("pp_size") or 1),
            "context_length": _context_length(build),
            "max_input_len": build.get("max_input_len"),
            "max_batch_size": build.get("max_batch_size"),
            "max_num_tokens": build.get("max_num_tokens"),
            "max_beam_width": build.get("max_beam_width"),
            "vocab_size": model["vocab_size"],
            "gather_context_logits": bool(build.get("gather_context_logits")),
            "paged_context_fmha": bool(plugins.get("use_paged_context_fmha")),
            "lora": bool(plugins.get("lora_plugin")),
            "kv_bytes_per_token": kv_bytes_per_token(model, model["dtype"] if kv_cache == "none" else kv_cache),
            "size_bytes": package.size_bytes,
            "chat_template_sha256": chat_template_sha256(tokenizer),
        }
    )
    return package


def _ranks(engine: Path, world_size: int) -> list[Path]:
    ranks = [engine / f"rank{rank}.engine" for rank in range(world_size)]
    missing = [rank.name for rank in ranks if not rank.exists()]
    if missing:
        raise CannotPack(
            f"{engine} was built for {world_size} GPUs, but {missing[0]} is missing: copy the rest of the engine, or "
            "build it again."
        )
    for rank in ranks:
        with rank.open("rb") as file:
            if rank.stat().st_size < _SMALLEST_BYTES and file.read(8) == b"version ":
                raise CannotPack(f"{rank} is a Git LFS pointer, not an engine: fetch the file itself (git lfs pull).")
    return ranks


def _check_servable(engine: Path, model: dict[str, Any], build: dict[str, Any]) -> None:
    """Refuse what the continuous batching of TensorRT-LLM's executor cannot run."""
    missing = [name for name in ("architecture", "dtype", "vocab_size") if name not in model]
    if missing:
        raise CannotPack(f"{engine}/config.json does not say {', '.join(missing)}: build the engine again.")
    plugins = build.get("plugin_config") or {}
    paged = str(build.get("kv_cache_type") or "paged").lower().endswith("paged") and plugins.get("paged_kv_cache", True)
    if not paged:
        raise CannotPack(
            f"{engine} was built without a paged KV cache, which batching needs: build it again with --kv_cache_type "
            "paged."
        )
    if plugins.get("remove_input_padding") is False:
        raise CannotPack(
            f"{engine} was built with padded inputs, which batching cannot use: build it again with "
            "--remove_input_padding enable."
        )


def _context_length(build: dict[str, Any]) -> int | None:
    """Before 0.11 an engine had a longest input and a longest output instead."""
    if build.get("max_seq_len") is None and build.get("max_output_len") is not None:
        return int(build["max_input_len"]) + int(build["max_output_len"])
    return build.get("max_seq_len")


def _recorded_gpu(build: dict[str, Any], engine: Path) -> Gpu | None:
    """Versions up to 0.20 named the GPU in a section for another purpose; later ones name it nowhere."""
    key = (build.get("auto_parallel_config") or {}).get("cluster_key")
    if key:
        return gpu_named(key)
    above = gpu_named(engine.resolve().parent.name)
    return above if above.name and above.compute_capability else None


def _generation_config(tokenizer: Path) -> tuple[dict[str, Path], dict[str, str]]:
    """``generation_config.json``, which names the end tokens: the model's file, or else one made of its config.json."""
    file = tokenizer / "generation_config.json"
    if file.exists():
        return {file.name: file}, {}
    config = read_json_if_there(tokenizer / "config.json")
    eos = (config.get("text_config") or config).get("eos_token_id")
    return {}, {} if eos is None else {file.name: json.dumps({"eos_token_id": eos}) + "\n"}
