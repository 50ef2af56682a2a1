"""Settings as arguments of ``LLM(…)``.

Names and types are those of ``BaseLlmArgs``, ``TorchLlmArgs``, ``TrtLlmArgs``, ``KvCacheConfig`` and
``SchedulerConfig`` in ``tensorrt_llm/llmapi/llm_args.py`` (1.2 and 1.3 release candidates). ``LLM.__init__`` refuses
unknown names with a `ValueError`.
"""

from __future__ import annotations

from typing import Any, Literal

from guidance_core.config import Settings
from guidance_core.executors.trtllm.adapters import LoraLimits, lora_limits
from guidance_core.executors.trtllm.installation import Installation, lora_config_class
from guidance_core.executors.trtllm.model_folder import ModelFolder

Way = Literal["batched", "engine", "processor"]
"""How grammars are enforced; see `TrtllmSettings.guidance`."""


def choose_way(folder: ModelFolder, settings: Settings) -> Way:
    """The way in which grammars are enforced.

    TensorRT-LLM calls a batched logits processor on compiled engines only (``executor/base_worker.py`` hands it to the
    C++ executor), and has llguidance on the PyTorch backend only (``_TrtLLM._build_model`` in ``llmapi/llm.py``: any
    backend but xgrammar is a `ValueError`).

    Raises:
        ValueError: the settings name one that the model's backend does not have.
    """
    wanted = settings.trtllm.guidance
    has: tuple[Way, ...] = ("batched",) if folder.kind == "engine" else ("engine", "processor")
    if wanted == "auto":
        return has[0]
    if wanted not in has:
        raise ValueError(
            f"trtllm.guidance is '{wanted}', but the model is a {_NAMES[folder.kind]}, where TensorRT-LLM has "
            f"{' and '.join(map(repr, has))} only: set it to 'auto'."
        )
    return wanted


_NAMES = {"engine": "compiled engine", "checkpoint": "checkpoint"}


def llm_arguments(
    folder: ModelFolder, settings: Settings, installation: Installation, *, way: Way, batched_processor: object
) -> dict[str, Any]:
    """The keyword arguments of ``LLM``.

    Args:
        folder: what is to be run.
        settings: of the service.
        installation: whose classes are used.
        way: how grammars are enforced.
        batched_processor: for the way ``batched``; None otherwise.

    Raises:
        ValueError: settings that contradict each other or the model.
    """
    chosen, llmapi = settings.trtllm, installation.llmapi
    scheduler: dict[str, Any] = {
        "capacity_scheduler_policy": llmapi.CapacitySchedulerPolicy[_scheduler_policy(folder, settings).upper()],
    }
    kv_cache: dict[str, Any] = {
        "enable_block_reuse": chosen.enable_kv_cache_reuse,
        "free_gpu_memory_fraction": chosen.kv_cache_free_gpu_mem_fraction,
        "max_tokens": chosen.kv_cache_max_tokens,
        "host_cache_size": chosen.kv_cache_host_memory_megabytes * 2**20 or None,
        "onboard_blocks": chosen.kv_cache_onboard_blocks,
        "secondary_offload_min_priority": chosen.secondary_offload_min_priority,
    }
    arguments: dict[str, Any] = {
        "model": str(folder.path),
        "trust_remote_code": settings.model.trust_remote_code,
        "tensor_parallel_size": chosen.tensor_parallel_size,
        "pipeline_parallel_size": chosen.pipeline_parallel_size,
        "gpus_per_node": chosen.gpus_per_node,
        "max_batch_size": slots(folder, settings),
        "max_num_tokens": chosen.max_num_tokens,
        "max_seq_len": folder.max_model_len,
        "max_beam_width": 1,
        "enable_chunked_prefill": runs_prompts_in_pieces(folder, settings),
    }
    if folder.kind == "engine":
        _refuse_for_engines(folder, settings)
        scheduler["dynamic_batch_config"] = llmapi.DynamicBatchConfig(
            enable_batch_size_tuning=chosen.enable_batch_size_tuning,
            enable_max_num_tokens_tuning=chosen.enable_max_num_tokens_tuning,
            dynamic_batch_moving_average_window=128,
        )
        # Token ids go in and come out: the engine's folder need not even have a tokenizer that transformers can read.
        arguments |= {"skip_tokenizer_init": True, "batched_logits_processor": batched_processor}
    else:
        kv_cache["dtype"] = chosen.kv_cache_dtype
        arguments |= {
            "dtype": chosen.dtype,
            "skip_tokenizer_init": way != "engine",
            "guided_decoding_backend": "llguidance" if way == "engine" else None,
            "disable_overlap_scheduler": not chosen.overlap_scheduler,
            "enable_iter_perf_stats": True,
            "speculative_config": _speculative_config(chosen.speculative, installation),
            "orchestrator_type": "ray" if chosen.orchestrator == "ray" else None,
        }
    lora = lora_limits(folder, settings.lora)
    if lora is not None:
        arguments["lora_config"] = _lora_config(lora, settings)
    arguments["kv_cache_config"] = llmapi.KvCacheConfig(**kv_cache)
    arguments["scheduler_config"] = llmapi.SchedulerConfig(**scheduler)
    ours = sorted(arguments.keys() & chosen.llm_args.keys())
    if ours:
        raise ValueError(
            f"trtllm.llm_args has {', '.join(ours)}, which other settings of the section trtllm decide: use those."
        )
    return arguments | chosen.llm_args


def slots(folder: ModelFolder, settings: Settings) -> int:
    """Most sequences that run at once."""
    wanted = settings.trtllm.max_batch_size
    return wanted if folder.max_batch_size is None else min(wanted, folder.max_batch_size)


def runs_prompts_in_pieces(folder: ModelFolder, settings: Settings) -> bool:
    """Whether prompts may be longer than a step.

    An engine whose attention cannot read the paged cache does not even load with chunked context
    (``cpp/tensorrt_llm/batch_manager/trtGptModelInflightBatching.cpp``), whereas block reuse is merely left out.
    """
    return settings.trtllm.enable_chunked_context and folder.paged_context


def longest_prompt(folder: ModelFolder, settings: Settings) -> int | None:
    """Most tokens of a prompt where an engine takes fewer than ``max_model_len``.

    Without chunked context that is a step (``maxInputLen`` in ``cpp/tensorrt_llm/batch_manager/trtGptModel.h``).
    """
    limits = [] if folder.max_input_len is None else [folder.max_input_len]
    if folder.kind == "engine" and not runs_prompts_in_pieces(folder, settings):
        limits.append(min(settings.trtllm.max_num_tokens, folder.max_num_tokens or settings.trtllm.max_num_tokens))
    return min(limits, default=None)


def _scheduler_policy(folder: ModelFolder, settings: Settings) -> str:
    """As the settings say, where that is possible.

    A sequence that is paused goes on as a prompt. The C++ executor of engines then calls our processor as before. The
    PyTorch backend leaves processors out of that step (``_execute_logit_post_processors`` in
    ``_torch/pyexecutor/model_engine.py`` and its successors: ``py_orig_prompt_len < len(token_ids)``), and its own
    guided decoding begins the grammar anew (https://github.com/NVIDIA/TensorRT-LLM/issues/18891).
    """
    wanted = settings.trtllm.scheduler_policy
    if folder.kind == "engine":
        return "max_utilization" if wanted == "auto" else wanted
    if wanted == "max_utilization":
        raise ValueError(
            "trtllm.scheduler_policy is 'max_utilization', but on a checkpoint TensorRT-LLM loses the grammar of a "
            "sequence that it has paused: set it to 'auto' or 'guaranteed_no_evict'."
        )
    return "guaranteed_no_evict"


def _lora_config(limits: LoraLimits, settings: Settings) -> object:
    """The caches on the GPU and on the host are made for so many adapters, each of the largest rank on all modules."""
    return lora_config_class()(
        lora_target_modules=list(limits.modules),
        max_lora_rank=limits.max_rank,
        max_loras=settings.lora.max_loaded,
        max_cpu_loras=settings.lora.max_loaded,
    )


def _speculative_config(fields: dict[str, Any] | None, installation: Installation) -> object:
    """An instance of the class that ``decoding_type`` names.

    1.2 does not take dictionaries here, whereas both lines export the classes: ``llmapi/__init__.py``.
    """
    if fields is None:
        return None
    name = str(fields.get("decoding_type")).replace("_", "")
    found = getattr(installation.llmapi, f"{name}DecodingConfig", None)
    if found is None:
        raise ValueError(
            f"trtllm.speculative has the decoding_type {fields.get('decoding_type')!r}, which TensorRT-LLM "
            f"{installation.version} does not know; one that it knows is 'NGram'."
        )
    return found(**{key: value for key, value in fields.items() if key != "decoding_type"})


def _refuse_for_engines(folder: ModelFolder, settings: Settings) -> None:
    """Refuse what is decided when an engine is built, or what only the PyTorch backend has."""
    if folder.paged_context and not settings.trtllm.kv_cache_onboard_blocks:
        raise ValueError(
            "trtllm.kv_cache_onboard_blocks is false, which engines with paged context attention do not load with: "
            "leave it out."
        )
    fields = type(settings.trtllm).model_fields
    for name in ("dtype", "kv_cache_dtype", "orchestrator", "overlap_scheduler", "speculative"):
        if getattr(settings.trtllm, name) != fields[name].default:
            raise ValueError(f"trtllm.{name} is for checkpoints, but the model is a compiled engine: leave it out.")
