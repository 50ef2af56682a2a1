from __future__ import annotations

from pathlib import Path

import pytest

from guidance_core.executors.triton.checkpoint import read_limits
from guidance_core.packing import store
from guidance_core.packing.package import CannotPack
from guidance_core.packing.triton_repository import read, repository_folder
from tests.packing.engines import make_engine


def parameter(key: str, value: str) -> str:
    return f'parameters: {{\n  key: "{key}"\n  value: {{\n    string_value: "{value}"\n  }}\n}}\n'


def write_repository(folder: Path, *, engine_dir: str, tokenizer_dir: str) -> Path:
    """A filled-in repository with the models that tensorrtllm_backend has."""
    tokens = 'backend: "python"\nmax_batch_size: 64\n' + parameter("tokenizer_dir", tokenizer_dir)
    configs = {
        "preprocessing": 'name: "preprocessing"\n' + tokens,
        "postprocessing": 'name: "postprocessing"\n' + tokens,
        "tensorrt_llm": 'name: "tensorrt_llm"\nbackend: "tensorrtllm"\nmax_batch_size: 64\n'
        "model_transaction_policy {\n  decoupled: True\n}\n"
        + parameter("gpt_model_path", engine_dir)
        + parameter("max_tokens_in_paged_kv_cache", "${max_tokens_in_paged_kv_cache}"),
        "ensemble": 'name: "ensemble"\nplatform: "ensemble"\nmax_batch_size: 64\n',
    }
    for model, config in configs.items():
        (folder / model / "1").mkdir(parents=True)
        (folder / model / "config.pbtxt").write_text(config)
    (folder / "preprocessing" / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    return folder


@pytest.fixture
def example(tmp_path: Path, checkpoint: Path) -> Path:
    """Laid out as BentoML's example: the engine inside of the repository, paths relative to the example's folder."""
    folder = tmp_path / "example"
    inside = "tensorrtllm_backend/all_models/inflight_batcher_llm/tensorrt_llm/1"
    folder.mkdir()
    checkpoint.rename(folder / "model")
    write_repository(
        folder / "tensorrtllm_backend/all_models/inflight_batcher_llm", engine_dir=inside, tokenizer_dir="model"
    )
    (folder / inside).rmdir()
    make_engine(folder / inside)
    return folder


def test_bentomls_layout_is_packed_with_all_that_serving_needs_and_paths_that_hold_in_the_store(
    example: Path, empty_store: Path
) -> None:
    package = read(example, name="some-repository")
    with store.workspace("some-repository") as workspace:
        stored = empty_store / store.publish(package, workspace).replace(":", "/")
    repository = stored / "triton_model_repository"
    assert 'string_value: "."' in (repository / "preprocessing" / "config.pbtxt").read_text()
    config = (repository / "tensorrt_llm" / "config.pbtxt").read_text()
    assert 'string_value: "triton_model_repository/tensorrt_llm/1"' in config
    assert "${max_tokens_in_paged_kv_cache}" in config
    assert (stored / "triton_model_repository/tensorrt_llm/1/rank0.engine").exists()
    assert (repository / "preprocessing" / "1" / "model.py").exists()
    assert not (stored / "model.safetensors").exists()
    limits = read_limits(stored, None)
    assert (limits.vocab_size, limits.max_model_len, limits.eos_token_ids) == (32, 64, (1,))


def test_a_repository_is_described(example: Path) -> None:
    package = read(example)
    assert package.labels == {"executor": "triton", "architecture": "LlamaForCausalLM"}
    facts = package.metadata
    assert facts["format"] == "triton-repository"
    assert facts["models"] == ["ensemble", "postprocessing", "preprocessing", "tensorrt_llm"]
    assert facts["triton_model"] == "tensorrt_llm"
    assert (facts["tensorrt_llm"], facts["context_length"], facts["max_batch_size"]) == ("1.2.1", 64, 8)


def test_an_engine_outside_of_the_repository_comes_along(tmp_path: Path, checkpoint: Path) -> None:
    engine = make_engine(tmp_path / "engines" / "llama")
    repository = write_repository(tmp_path / "repository", engine_dir=str(engine), tokenizer_dir=str(checkpoint))
    assert repository_folder(repository) == repository
    package = read(repository)
    assert package.files["engine/rank0.engine"] == engine / "rank0.engine"
    assert 'string_value: "engine"' in package.texts["triton_model_repository/tensorrt_llm/config.pbtxt"]


def test_a_named_tokenizer_wins(example: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("tokenizer.json", "config.json"):
        (other / name).write_bytes((example / "model" / name).read_bytes())
    assert read(example, tokenizer=other).files["tokenizer.json"] == other / "tokenizer.json"


def edit(example: Path, model: str, old: str, new: str) -> None:
    file = example / "tensorrtllm_backend/all_models/inflight_batcher_llm" / model / "config.pbtxt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("model", "old", "new", "message"),
    [
        ("tensorrt_llm", "max_batch_size: 64", "max_batch_size: ${triton_max_batch_size}", "triton_max_batch_size"),
        ("preprocessing", '"model"', '"${tokenizer_dir}"', r"not filled in \(tokenizer_dir\).*fill_template\.py"),
        ("tensorrt_llm", "decoupled: True", "decoupled: False", "decoupled_mode:True"),
        ("preprocessing", '"model"', '"/models/gone"', "tokenizer_dir: /models/gone, and there is no such folder"),
    ],
)
def test_what_triton_could_not_serve_is_refused_with_the_way_to_mend_it(
    example: Path, model: str, old: str, new: str, message: str
) -> None:
    edit(example, model, old, new)
    with pytest.raises(CannotPack, match=message):
        read(example)


def test_a_repository_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "resnet").mkdir()
    (tmp_path / "resnet" / "config.pbtxt").write_text('name: "resnet"\n')
    with pytest.raises(CannotPack, match="has resnet, but none of tensorrt_llm"):
        read(tmp_path)


def test_a_folder_without_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CannotPack, match="no Triton model repository"):
        read(tmp_path)
