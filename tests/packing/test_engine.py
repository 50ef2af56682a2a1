from __future__ import annotations

import json
from pathlib import Path

import pytest

from guidance_core.executors.trtllm.model_folder import read_model_folder
from guidance_core.packing import store
from guidance_core.packing.engine import engine_folder, read
from guidance_core.packing.gpu import gpu_named
from guidance_core.packing.package import CannotPack
from tests.packing.engines import make_engine


def edit_config(engine: Path, section: str, **changes: object) -> None:
    file = engine / "config.json"
    config = json.loads(file.read_text())
    config[section].update(changes)
    file.write_text(json.dumps(config))


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return make_engine(tmp_path / "Llama-H100")


def test_an_engine_is_described_by_what_it_was_built_for(engine: Path, checkpoint: Path) -> None:
    package = read(engine, tokenizer=checkpoint, gpu=gpu_named("H100"))
    assert package.name == "llama-h100"
    assert package.labels == {
        "executor": "trtllm",
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quantization": "fp8",
    }
    facts = dict(package.metadata)
    assert facts.pop("chat_template_sha256") is not None
    assert facts.pop("size_bytes") == package.size_bytes > 2048
    assert facts == {
        "source": str(engine),
        "format": "tensorrt-engine",
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "quantization": "fp8",
        "kv_cache_quantization": "fp8",
        "tensorrt_llm": "1.2.1",
        "gpu": "H100",
        "compute_capability": "9.0",
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "context_length": 64,
        "max_input_len": 48,
        "max_batch_size": 8,
        "max_num_tokens": 128,
        "max_beam_width": 1,
        "vocab_size": 32,
        "gather_context_logits": False,
        "paged_context_fmha": True,
        "lora": False,
        "kv_bytes_per_token": 2 * 2 * 1 * 8 * 1,
    }


def test_the_packed_folder_is_one_that_the_executor_reads(engine: Path, checkpoint: Path, empty_store: Path) -> None:
    (engine / "rank0_managed_weights.safetensors").write_bytes(b"weights")
    (engine / "lora" / "0").mkdir(parents=True)
    (engine / "lora" / "0" / "adapter_config.json").write_text("{}")
    (engine / "model.cache").write_bytes(b"timing cache")
    with store.workspace("some-engine") as workspace:
        tag = store.publish(read(engine, name="some-engine", tokenizer=checkpoint), workspace)
    stored = empty_store / tag.replace(":", "/")
    assert {path.relative_to(stored).as_posix() for path in stored.rglob("*") if path.is_file()} == {
        "config.json",
        "rank0.engine",
        "rank0_managed_weights.safetensors",
        "lora/0/adapter_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.yaml",
    }
    folder = read_model_folder(stored)
    assert (folder.kind, folder.max_model_len, folder.max_batch_size, folder.eos_token_ids) == ("engine", 64, 8, (1,))


def test_end_tokens_of_a_checkpoint_without_generation_config_are_kept(
    engine: Path, checkpoint: Path, empty_store: Path
) -> None:
    (checkpoint / "generation_config.json").unlink()
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "eos_token_id": [5, 7]}))
    package = read(engine, name="some-engine", tokenizer=checkpoint)
    with store.workspace("some-engine") as workspace:
        stored = empty_store / store.publish(package, workspace).replace(":", "/")
    assert read_model_folder(stored).eos_token_ids == (5, 7)


def test_other_end_tokens_are_another_version(engine: Path, checkpoint: Path, empty_store: Path) -> None:
    (checkpoint / "generation_config.json").unlink()
    versions = set()
    for eos in (5, 7):
        config = json.loads((checkpoint / "config.json").read_text())
        (checkpoint / "config.json").write_text(json.dumps({**config, "eos_token_id": eos}))
        with store.workspace("some-engine") as workspace:
            versions.add(store.publish(read(engine, name="some-engine", tokenizer=checkpoint), workspace))
    assert len(versions) == 2


def test_text_generation_inferences_folder_has_the_engine_below_and_names_the_gpu_above(
    tmp_path: Path, checkpoint: Path
) -> None:
    folder = tmp_path / "NVIDIA-L40S"
    make_engine(folder / "engines")
    assert engine_folder(folder) == folder / "engines"
    (folder / "tokenizer.json").write_bytes((checkpoint / "tokenizer.json").read_bytes())
    package = read(folder)
    assert {"config.json", "rank0.engine", "tokenizer.json"} <= set(package.files)
    assert package.metadata["compute_capability"] == "8.9"


def test_the_gpu_that_older_versions_recorded_is_found(tmp_path: Path, checkpoint: Path) -> None:
    engine = make_engine(tmp_path / "engine", auto_parallel_config={"cluster_key": "A100-SXM-80GB"})
    facts = read(engine, tokenizer=checkpoint).metadata
    assert (facts["gpu"], facts["compute_capability"]) == ("A100-SXM-80GB", "8.0")


def test_a_gpu_that_nothing_names_is_unknown_not_guessed(engine: Path, checkpoint: Path) -> None:
    facts = read(engine, tokenizer=checkpoint).metadata
    assert (facts["gpu"], facts["compute_capability"]) == (None, None)


def test_an_old_engines_longest_input_and_output_make_its_context(engine: Path, checkpoint: Path) -> None:
    edit_config(engine, "build_config", max_seq_len=None, max_output_len=16)
    assert read(engine, tokenizer=checkpoint).metadata["context_length"] == 48 + 16


def test_an_engine_without_tokenizer_is_refused_with_the_option_that_names_one(engine: Path) -> None:
    with pytest.raises(CannotPack, match=r"has no tokenizer.*--tokenizer FOLDER"):
        read(engine)


def test_another_models_tokenizer_is_refused(engine: Path, checkpoint: Path) -> None:
    edit_config(engine, "pretrained_config", vocab_size=25)
    with pytest.raises(CannotPack, match=r"tokens up to 25, but the model has only 25.*another model's"):
        read(engine, tokenizer=checkpoint)


def test_a_missing_rank_is_named(tmp_path: Path, checkpoint: Path) -> None:
    engine = make_engine(tmp_path / "engine", gpus=4)
    (engine / "rank2.engine").unlink()
    with pytest.raises(CannotPack, match=r"built for 4 GPUs, but rank2\.engine is missing"):
        read(engine, tokenizer=checkpoint)


def test_a_git_lfs_pointer_is_not_taken_for_an_engine(engine: Path, checkpoint: Path) -> None:
    (engine / "rank0.engine").write_text("version https://git-lfs.github.com/spec/v1\nsize 6063171228\n")
    with pytest.raises(CannotPack, match="Git LFS pointer"):
        read(engine, tokenizer=checkpoint)


def test_an_engine_without_paged_cache_is_refused_with_the_flag_that_makes_one(engine: Path, checkpoint: Path) -> None:
    edit_config(engine, "build_config", kv_cache_type="CONTINUOUS")
    with pytest.raises(CannotPack, match="--kv_cache_type paged"):
        read(engine, tokenizer=checkpoint)


def test_an_engine_with_padded_inputs_is_refused(engine: Path, checkpoint: Path) -> None:
    edit_config(engine, "build_config", plugin_config={"remove_input_padding": False})
    with pytest.raises(CannotPack, match="--remove_input_padding enable"):
        read(engine, tokenizer=checkpoint)


def test_an_engine_from_before_the_unified_configuration_is_refused(engine: Path, checkpoint: Path) -> None:
    (engine / "config.json").write_text('{"builder_config": {}}')
    with pytest.raises(CannotPack, match=r"not written by trtllm-build 0\.8 or newer"):
        read(engine, tokenizer=checkpoint)
