"""Settings as arguments of `LLM`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guidance_core.config import Settings
from guidance_core.executors.trtllm import installation
from guidance_core.executors.trtllm.arguments import choose_way, llm_arguments, longest_prompt
from guidance_core.executors.trtllm.model_folder import read_model_folder
from tests.executors.trtllm.conftest import compile_engine

pytestmark = pytest.mark.usefixtures("tensorrt_llm")


def arguments(path: Path, **trtllm: Any) -> dict[str, Any]:
    settings = Settings.model_validate({"trtllm": trtllm})
    folder = read_model_folder(path)
    installed = installation.load(folder.kind)
    way = choose_way(folder, settings)
    made = llm_arguments(folder, settings, installed, way=way, batched_processor="ours")
    installed.llm._args_class(**made)  # refuses unknown names and wrong types
    return made


def test_a_checkpoint_is_guided_by_tensorrt_llms_own_llguidance_unless_told_otherwise(checkpoint: Path) -> None:
    made = arguments(checkpoint)
    assert (made["guided_decoding_backend"], made["skip_tokenizer_init"]) == ("llguidance", False)
    made = arguments(checkpoint, guidance="processor")
    assert (made["guided_decoding_backend"], made["skip_tokenizer_init"]) == (None, True)
    assert "batched_logits_processor" not in made


def test_an_engine_is_guided_by_the_batched_processor(engine: Path) -> None:
    made = arguments(engine)
    assert made["batched_logits_processor"] == "ours"
    assert "guided_decoding_backend" not in made


@pytest.mark.parametrize(("kind", "guidance"), [("checkpoint", "batched"), ("engine", "engine")])
def test_a_way_that_the_backend_does_not_have_is_refused(
    request: pytest.FixtureRequest, kind: str, guidance: str
) -> None:
    with pytest.raises(ValueError, match=f"trtllm.guidance is '{guidance}'.*set it to 'auto'"):
        arguments(request.getfixturevalue(kind), guidance=guidance)


def test_every_runtime_setting_arrives(checkpoint: Path) -> None:
    made = arguments(
        checkpoint,
        dtype="float16",
        max_batch_size=5,
        max_num_tokens=77,
        scheduler_policy="guaranteed_no_evict",
        enable_chunked_context=False,
        enable_kv_cache_reuse=False,
        kv_cache_free_gpu_mem_fraction=0.5,
        kv_cache_max_tokens=1000,
        kv_cache_host_memory_megabytes=3,
        kv_cache_onboard_blocks=False,
        kv_cache_dtype="fp8",
        secondary_offload_min_priority=40,
        tensor_parallel_size=2,
        pipeline_parallel_size=3,
        gpus_per_node=4,
        orchestrator="ray",
        overlap_scheduler=True,
        speculative={"decoding_type": "NGram", "max_draft_len": 4},
        llm_args={"enable_autotuner": False},
    )
    cache, scheduler, speculative = made["kv_cache_config"], made["scheduler_config"], made["speculative_config"]
    assert made["dtype"] == "float16"
    assert (made["max_batch_size"], made["max_num_tokens"], made["max_seq_len"]) == (5, 77, 1024)
    assert scheduler.capacity_scheduler_policy.name == "GUARANTEED_NO_EVICT"
    assert (made["enable_chunked_prefill"], cache.enable_block_reuse, cache.onboard_blocks) == (False, False, False)
    assert (cache.free_gpu_memory_fraction, cache.max_tokens, cache.host_cache_size) == (0.5, 1000, 3 * 2**20)
    assert (cache.dtype, cache.secondary_offload_min_priority) == ("fp8", 40)
    assert (made["tensor_parallel_size"], made["pipeline_parallel_size"], made["gpus_per_node"]) == (2, 3, 4)
    assert (made["orchestrator_type"], made["disable_overlap_scheduler"]) == ("ray", False)
    assert (type(speculative).__name__, speculative.max_draft_len) == ("NGramDecodingConfig", 4)
    assert made["enable_autotuner"] is False


def test_sequences_are_paused_only_where_their_grammar_survives_it(checkpoint: Path, engine: Path) -> None:
    def policy(made: dict[str, Any]) -> str:
        name: str = made["scheduler_config"].capacity_scheduler_policy.name
        return name

    assert policy(arguments(checkpoint)) == "GUARANTEED_NO_EVICT"
    assert policy(arguments(engine)) == "MAX_UTILIZATION"
    assert policy(arguments(engine, scheduler_policy="guaranteed_no_evict")) == "GUARANTEED_NO_EVICT"
    with pytest.raises(ValueError, match="loses the grammar of a sequence that it has paused: set it to 'auto'"):
        arguments(checkpoint, scheduler_policy="max_utilization")


def test_an_engine_without_paged_context_attention_runs_prompts_whole(
    checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    assert arguments(engine)["enable_chunked_prefill"] is True
    whole = compile_engine(
        checkpoint,
        tmp_path / "whole",
        max_seq_len=512,
        max_num_tokens=100,
        plugin_config={"use_paged_context_fmha": False},
    )
    assert arguments(whole)["enable_chunked_prefill"] is False
    folder = read_model_folder(whole)
    assert longest_prompt(folder, Settings()) == 100
    assert longest_prompt(folder, Settings.model_validate({"trtllm": {"max_num_tokens": 70}})) == 70
    assert longest_prompt(read_model_folder(engine), Settings()) == 511
    assert longest_prompt(read_model_folder(checkpoint), Settings()) is None


def test_an_engine_whose_attention_reads_the_cache_must_have_its_blocks_brought_back(
    checkpoint: Path, engine: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"kv_cache_onboard_blocks is false.*leave it out"):
        arguments(engine, kv_cache_onboard_blocks=False)
    whole = compile_engine(
        checkpoint, tmp_path / "whole", max_seq_len=512, plugin_config={"use_paged_context_fmha": False}
    )
    assert arguments(whole, kv_cache_onboard_blocks=False)["kv_cache_config"].onboard_blocks is False


def test_an_engine_takes_the_schedulers_tuning_and_no_more_slots_than_it_has(engine: Path) -> None:
    made = arguments(engine, enable_batch_size_tuning=False)
    tuning = made["scheduler_config"].dynamic_batch_config
    assert (tuning.enable_batch_size_tuning, tuning.enable_max_num_tokens_tuning) == (False, True)
    assert made["max_batch_size"] == 8
    assert arguments(engine, max_batch_size=3)["max_batch_size"] == 3


@pytest.mark.parametrize("setting", [{"dtype": "float16"}, {"kv_cache_dtype": "fp8"}, {"orchestrator": "ray"}], ids=str)
def test_what_only_checkpoints_have_is_refused_for_engines(engine: Path, setting: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"trtllm.{next(iter(setting))} is for checkpoints"):
        arguments(engine, **setting)


def test_what_settings_decide_cannot_be_overridden_behind_their_back(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="llm_args has max_seq_len"):
        arguments(checkpoint, llm_args={"max_seq_len": 3})


def test_unknown_speculation_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="decoding_type 'Oracle'"):
        arguments(checkpoint, speculative={"decoding_type": "Oracle"})


def test_adapters_are_an_argument_only_where_there_is_a_folder_of_them(checkpoint: Path, tmp_path: Path) -> None:
    assert "lora_config" not in arguments(checkpoint)

    settings = Settings.model_validate({"lora": {"folder": str(tmp_path), "max_rank": 16, "max_loaded": 3}})
    folder, installed = read_model_folder(checkpoint), installation.load("checkpoint")
    lora = llm_arguments(folder, settings, installed, way="engine", batched_processor=None)["lora_config"]
    assert (lora.max_lora_rank, lora.max_loras, lora.max_cpu_loras) == (16, 3, 3)
    assert {"attn_q", "attn_dense", "mlp_gate"} < set(lora.lora_target_modules)
